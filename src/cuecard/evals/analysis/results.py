"""findings.json: results beyond `summary.json`: intervals, differences, routes, fronts, rules, ledger; and two runs.

Everything that a report shows is computed here and in the modules of this package. Accuracies are per unit (`scores`),
seconds and tokens per question. Failed answers are in no mean; they are counted (`errors`), and in the ledger's sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cuecard import disk
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import LatencyKind, Route
from cuecard.evals.analysis import acceptance
from cuecard.evals.analysis.acceptance import RuleResults, SharedError
from cuecard.evals.analysis.comparisons import (
    BASELINE,
    MARGIN,
    ByExtractor,
    Difference,
    PairVerdict,
    arms_of_run,
    by_extractor,
    differences,
    kind_of,
    pair_verdict,
    paired,
    times_faster,
)
from cuecard.evals.analysis.ledger import Ledger, Price, check_models, ledger, route_of
from cuecard.evals.analysis.scores import (
    PAPER,
    ScoredTask,
    arm_named,
    beats,
    by_role,
    counted,
    family,
    generated,
    plain,
    scored_tasks,
    spent,
    succeeded,
    timed,
)
from cuecard.evals.analysis.summary import latency
from cuecard.evals.arm import LIVE, Arm, base_of
from cuecard.evals.database import Record, Store
from cuecard.evals.scorers import EXTRACTORS
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.stats import (
    Interval,
    PairedComparison,
    compare,
    holm,
    mean,
    mean_difference,
    mean_interval,
    share,
    share_interval,
)

VERSION = 1
ALIKE = ("text", "options", "kind", "golds", "images", "scorer")
"""Fields that must be equal in two items with the same id for them to be the same question."""
MEASURED = ("accuracy", "seconds", "tokens")
MEASURES = ("latency", "tokens", "price")

# --- one arm ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RouteResults:
    """One route of an arm; the routes sum to the arm's answers. `tokens`: generated per question, by role."""

    route: str
    questions: int
    share: float
    accuracy: float | None
    tokens: Mapping[str, float]
    mean_s: float | None


@dataclass(frozen=True)
class ArmResults:
    """One arm on one task. Means are per question, over the answers that did not fail."""

    arm: str
    family: str
    answered: int
    errors: int
    units: int
    """Units with a score."""
    accuracy: Interval | None
    unresolved: int
    """Questions without an answer because the imported files lack a call that the arm needs."""
    bounds: tuple[float, float] | None
    """Accuracy with all unresolved questions wrong, and right; None if there are none (then `accuracy` is known)."""
    generated: Interval | None
    """Generated tokens; None if not counted."""
    by_role: Mapping[str, float]
    """Generated tokens by role."""
    spent: float | None
    """Prompt and generated tokens; None if not counted."""
    latency: Interval | None
    """Seconds; None if unknown."""
    p50_s: float | None
    p90_s: float | None
    handoff_mean_s: float | None
    kind: LatencyKind | None
    price: float | None
    """Per question, in the currency of the given prices; None if any called model has no price."""
    unparsed: float | None
    truncated: float | None
    extractors: Mapping[str, float]
    """Accuracy by extractor."""
    routes: tuple[RouteResults, ...]
    fronts: tuple[str, ...]
    """The `MEASURES` of cost in which the arm is on the Pareto front of accuracy and cost."""
    ledger: Ledger | None

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest accuracy over the extractors."""
        return min(self.extractors.values()), max(self.extractors.values())

    def cost(self, measure: str) -> float | None:
        seconds = None if self.latency is None else self.latency.estimate
        return {"latency": seconds, "tokens": self.spent, "price": self.price}[measure]

    @property
    def competes(self) -> bool:
        """Whether the arm takes part in the ranking and the fronts: no placebo, composed, scored."""
        return self.family != "placebo" and not self.arm.endswith(LIVE) and self.accuracy is not None


def arm_results(
    task: ScoredTask,
    arm: str,
    family: str,
    prices: Mapping[str, Price] | None,
    powers: Mapping[str, float] | None = None,
) -> ArmResults:
    """Results of one arm. Raises LedgerError."""
    answers, lacking = task.answers[arm], len(task.unresolved[arm])
    scores, whole = task.graded(answers), succeeded(answers)
    clusters = task.clusters_of(whole)
    known, numbered = timed(answers) and bool(whole), counted(answers) and bool(whole)
    took = latency(whole) if known else {}
    costs = ledger(answers, prices, powers=powers) if timed(answers) else None
    price = ledger(whole, prices).price if known and prices else None
    by = {extractor: mean(task.graded(answers, extractor).values()) for extractor in EXTRACTORS}
    right, of = sum(scores.values()), len(scores) + lacking
    sure = share_interval(list(scores.values()), task.clusters(scores)) if scores and not lacking else None
    return ArmResults(
        arm,
        family,
        len(answers),
        len(answers) - len(whole),
        len(scores),
        sure,
        lacking,
        (right / of, (right + lacking) / of) if lacking else None,
        mean_interval([generated(answer) for answer in whole], clusters) if numbered else None,
        by_role(whole) if numbered else {},
        mean(spent(answer) for answer in whole) if numbered else None,
        mean_interval([answer["latency"]["total_s"] for answer in whole], clusters) if known else None,
        took.get("p50_s"),
        took.get("p90_s"),
        took.get("handoff_mean_s"),
        kind_of(answers[0]),
        None if price is None else price / len(whole),
        share(sum(not answer["parsed"] for answer in whole), len(whole)),
        share(sum(bool(answer["truncated"]) for answer in whole), len(whole)),
        {extractor: value for extractor, value in by.items() if value is not None and not lacking},
        routes(answers),
        (),
        costs,
    )


def routes(answers: Sequence[Record]) -> tuple[RouteResults, ...]:
    """Results of every route that occurs, in the order of `Route`; errors last."""
    of: dict[str, list[Record]] = {route: [] for route in (*map(str, Route), "error")}
    for answer in answers:
        of[route_of(answer)].append(answer)
    return tuple(
        RouteResults(
            route,
            len(own),
            len(own) / len(answers),
            mean(answer["score"] for answer in own if answer["score"] is not None),
            by_role(own) if counted(own) else {},
            mean(answer["latency"]["total_s"] for answer in own) if timed(own) else None,
        )
        for route, own in of.items()
        if own
    )


def on_front(arms: Iterable[ArmResults], measure: str) -> set[str]:
    """The competing arms that no other one beats in both accuracy and cost."""
    points = {
        arm.arm: (cost, arm.accuracy.estimate)
        for arm in arms
        if arm.accuracy is not None and arm.competes and (cost := arm.cost(measure)) is not None
    }
    return {arm for arm, point in points.items() if not any(beats(rival, point) for rival in points.values())}


def most_accurate(arms: Iterable[ArmResults]) -> tuple[str, ...]:
    """The most accurate competing arms: several if tied, the faster ones first."""
    ranked = sorted(
        (-arm.accuracy.estimate, math.inf if arm.latency is None else arm.latency.estimate, arm.arm)
        for arm in arms
        if arm.accuracy and arm.competes
    )
    return tuple(name for least, _, name in ranked if least == ranked[0][0])


# --- a task, a run ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskResults:
    """One task. `leading`: the most accurate strategy of both models; if tied, the fastest."""

    task: str
    items: int
    units: int
    unit: str
    """The unit of scoring: `question` or `group of rotations`."""
    arms: Mapping[str, ArmResults]
    differences: tuple[Difference, ...]
    best: tuple[str, ...]
    """The most accurate competing arms: several if tied, the faster ones first."""
    paper: tuple[str, ...]
    """For each strategy of the paper, its most accurate arm; if tied, the fastest."""
    leading: str | None
    rules: tuple[RuleResults, ...]
    shared: SharedError | None
    verdict: PairVerdict | None
    """None if seconds are unknown, or no single model is as fast."""

    @property
    def composed(self) -> list[ArmResults]:
        """The arms that were not run end to end."""
        return [arm for arm in self.arms.values() if not arm.arm.endswith(LIVE)]

    @property
    def plain(self) -> list[ArmResults]:
        """The composed arms without placebos."""
        return [arm for arm in self.composed if arm.family != "placebo"]

    def difference(self, arm: str, which: str = "arms") -> Difference | None:
        return next((each for each in self.differences if (each.arm, each.family) == (arm, which)), None)


@dataclass(frozen=True)
class RunResults:
    """A whole run. `margin`: in score points; an arm that loses less than this counts as not worse."""

    baseline: str | None
    margin: float
    tasks: tuple[TaskResults, ...]

    def as_object(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        values = asdict(self)
        for task, results in zip(values["tasks"], self.tasks, strict=True):
            task["verdict"] = results.verdict and results.verdict.as_object(results.task)
            for name, arm in results.arms.items():
                task["arms"][name]["ledger"] = None if arm.ledger is None else arm.ledger.as_object()
            for each, difference in zip(task["differences"], results.differences, strict=True):
                each["significant"], each["interval"] = difference.significant, asdict(difference.interval)
        return {"version": VERSION, **plain(values)}


def run_results(
    config: Mapping[str, Any],
    store: Store,
    against: str | None = None,
    margin: float = MARGIN,
    prices: Mapping[str, Price] | None = None,
    powers: Mapping[str, float] | None = None,
) -> RunResults:
    """Results of a run. `against`: baseline, by default `reason:large`. Raises BadInput, MissingExtra, LedgerError."""
    tasks = scored_tasks(config, store)
    for option, given in (("--price", prices), ("--watts", powers)):
        check_models(option, given or {}, (answer for task in tasks for answer in task.all_answers))
    arms, base = arms_of_run(config, tasks), base_of(config)
    composed = {name: arm for name, arm in arms.items() if not name.endswith(LIVE)}
    baseline = arm_named(composed, against, base) if against else BASELINE if BASELINE in composed else None
    compared = differences(tasks, arms, baseline, margin)
    found = []
    for task in tasks:
        own = [arm_results(task, name, family(arms[name]), prices, powers) for name in arms if name in task.answers]
        found.append(_task(task, own, arms, compared, base.table))
    return RunResults(baseline, margin, tuple(found))


def _task(
    task: ScoredTask,
    alone: Sequence[ArmResults],
    arms: Mapping[str, Arm],
    compared: Sequence[Difference],
    table: AcceptanceTable | None,
) -> TaskResults:
    """Results of a task. `alone`: its arms, whose fronts are not known yet; `compared`: of the whole run."""
    fronts = {measure: on_front(alone, measure) for measure in MEASURES}
    results = [replace(arm, fronts=tuple(each for each in MEASURES if arm.arm in fronts[each])) for arm in alone]
    of_strategy = [[arm for arm in results if arms[arm.arm].strategy == strategy] for strategy in PAPER]
    short = acceptance.short_answers(task)
    return TaskResults(
        task.name,
        len(task.items),
        len({task.unit(id) for id in task.items}),
        "group of rotations" if task.aggregate == "circular" else "question",
        {arm.arm: arm for arm in results},
        tuple(each for each in compared if each.task == task.name),
        most_accurate(results),
        tuple(best[0] for own in of_strategy if (best := most_accurate(own))),
        next(iter(most_accurate(arm for arm in results if arm.family == "paper")), None),
        tuple(acceptance.rule_results(rule, short, table) for rule in acceptance.rules_for(short, table)),
        acceptance.shared_error(short),
        pair_verdict(task, compared),
    )


# --- two runs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """The mean per question in both runs, and their difference: second - first."""

    first: float
    second: float
    difference: Interval
    p: float
    """Two-sided, by the test that the interval inverts."""
    test: str


@dataclass(frozen=True)
class ArmComparison:
    """One arm of one task in both runs, on `questions` that both answered. Differences are second - first."""

    task: str
    arm: str
    questions: int
    accuracy: PairedComparison | None
    """None if no unit is scored in both."""
    first_accuracy: float | None
    second_accuracy: float | None
    extractors: Mapping[str, ByExtractor]
    seconds: Change | None
    """None if unknown in one of the runs; the same for `tokens`."""
    times_faster: Interval | None
    """Mean seconds of the first / mean seconds of the second."""
    kinds: tuple[str | None, str | None]
    tokens: Change | None
    """Generated tokens, over all models."""
    unresolved: tuple[int, int]
    """Questions without an answer in an imported run; the remaining questions are easier."""
    same_answer: float
    same_route: float
    errors: tuple[int, int]
    """Failed answers in each run; their questions are left out."""
    p_adjusted: Mapping[str, float]
    """Holm's adjustment, for accuracy, seconds and tokens, each over all arms and tasks."""


@dataclass(frozen=True)
class RunComparison:
    """Comparison of two runs. `left_out`: by task, the number of ids that stand for different questions."""

    arms: tuple[ArmComparison, ...]
    configuration: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    left_out: Mapping[str, int]

    def as_object(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"version": VERSION, **plain(asdict(self))}


def compare_runs(first: tuple[Mapping[str, Any], Store], second: tuple[Mapping[str, Any], Store]) -> RunComparison:
    """Compare two runs, each given as (configuration, store). Raises BadInput if nothing is in common, MissingExtra."""
    tasks = [{task.name: task for task in scored_tasks(*run)} for run in (first, second)]
    order = (*first[0]["arms"], *(arm + LIVE for arm in first[0]["arms"]))
    compared, left_out = list[ArmComparison](), dict[str, int]()
    for name in (name for name in tasks[0] if name in tasks[1]):
        task, other = tasks[0][name], tasks[1][name]
        differing = {id for id in task.items if id in other.items and not _alike(task.items[id], other.items[id])}
        if differing:
            left_out[name] = len(differing)
        for arm in (arm for arm in order if arm in task.answers and arm in other.answers):
            ones, others = ([each for each in of.answers[arm] if each["id"] not in differing] for of in (task, other))
            if both := paired(ones, others):
                unknown = len(task.unresolved[arm]), len(other.unresolved[arm])
                failed = len(ones) - len(succeeded(ones)), len(others) - len(succeeded(others))
                compared.append(_compared(task, arm, both, unknown, failed))
    if not compared:
        raise BadInput("the runs have no arm on a question in common", "compare runs of the same tasks and strategies")
    names = [{f"{name} {arm}" for name, task in run.items() for arm in task.answers} for run in tasks]
    only_first, only_second = (tuple(sorted(names[i] - names[1 - i])) for i in (0, 1))
    ways = tuple(disk.differences(first[0], second[0]))
    return RunComparison(_adjusted(compared), ways, only_first, only_second, left_out)


def _alike(one: Record, other: Record) -> bool:
    return all(one.get(name) == other.get(name) for name in ALIKE)


def _compared(
    task: ScoredTask,
    arm: str,
    both: Sequence[tuple[Record, Record]],
    unresolved: tuple[int, int],
    errors: tuple[int, int],
) -> ArmComparison:
    first, second = [one for one, _ in both], [other for _, other in both]
    units, before, after = task.graded_both(first, second)
    return ArmComparison(
        task.name,
        arm,
        len(both),
        compare(after, before, task.clusters(units)) if units else None,
        mean(before),
        mean(after),
        by_extractor(task, second, first),
        _change(task, first, second, lambda each: each["latency"]["total_s"]) if timed([*first, *second]) else None,
        times_faster(task, [(other, one) for one, other in both]),
        (first[0]["latency"]["kind"], second[0]["latency"]["kind"]),
        _change(task, first, second, generated) if counted([*first, *second]) else None,
        unresolved,
        sum(one["answer"] == other["answer"] for one, other in both) / len(both),
        sum(one["route"] == other["route"] for one, other in both) / len(both),
        errors,
        {},
    )


def _change(
    task: ScoredTask, first: Sequence[Record], second: Sequence[Record], value: Callable[[Record], float]
) -> Change:
    before, after, clusters = list(map(value, first)), list(map(value, second)), task.clusters_of(first)
    found = mean_difference(after, before, clusters)
    return Change(sum(before) / len(before), sum(after) / len(after), found.interval, found.p, found.test)


def _adjusted(compared: Sequence[ArmComparison]) -> tuple[ArmComparison, ...]:
    adjusted: list[dict[str, float]] = [{} for _ in compared]
    for what in MEASURED:
        family = {str(i): each.p for i, arm in enumerate(compared) if (each := getattr(arm, what)) is not None}
        for i, p in holm(family).items():
            adjusted[int(i)][what] = p
    return tuple(replace(each, p_adjusted=own) for each, own in zip(compared, adjusted, strict=True))
