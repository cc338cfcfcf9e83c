"""findings.json: what answers show beyond `summary.json`: intervals, differences, routes, fronts, rules, ledger.

What a report draws is computed here and in the modules beside it. Accuracies are by unit (`bench`), seconds and tokens
by question; an answer that failed has no score, and its seconds and tokens are in every mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cuecard.domain.outcome import LatencyKind, Route
from cuecard.evals import acceptance
from cuecard.evals.acceptance import RuleTold, SharedError
from cuecard.evals.arms import LIVE, Arm
from cuecard.evals.bench import PAPER, Bench, benches, by_arm, family, generated, named, parsed, spent
from cuecard.evals.candidates import base_of
from cuecard.evals.differences import Difference, adjusted, differences
from cuecard.evals.extractors import EXTRACTORS
from cuecard.evals.ledger import Ledger, LedgerError, Price, ledger, route_of
from cuecard.evals.resampling import Interval, mean_interval
from cuecard.evals.statistics import share_interval
from cuecard.evals.store import Record, Store
from cuecard.evals.summary import latency, mean, share

VERSION = 1
BASELINE = "reason:large"
MARGIN = 0.01
MEASURES = ("latency", "tokens", "price")


@dataclass(frozen=True)
class RouteFound:
    """One route of an arm; routes sum to the arm's answers. Tokens: generated a question, by role."""

    route: str
    questions: int
    share: float
    accuracy: float | None
    tokens: Mapping[str, float]
    mean_s: float


@dataclass(frozen=True)
class ArmFound:
    """One arm on one task. Means are a question."""

    arm: str
    family: str
    answered: int
    errors: int
    units: int
    """That have a score."""
    accuracy: Interval | None
    generated: Interval
    by_role: Mapping[str, float]
    """Generated tokens."""
    spent: float
    """Prompt and generated tokens."""
    latency: Interval
    p50_s: float
    p90_s: float
    handoff_mean_s: float | None
    kind: LatencyKind
    price: float | None
    """In the currency of the prices given; None as soon as one model that was called has none."""
    unparsed: float | None
    truncated: float | None
    extractors: Mapping[str, float]
    """Accuracy by extractor."""
    routes: tuple[RouteFound, ...]
    fronts: tuple[str, ...]
    """Of `MEASURES` those by which no other arm is at least as accurate and costs no more."""
    ledger: Ledger

    @property
    def span(self) -> tuple[float, float]:
        """Between which accuracies the extractors lie."""
        return min(self.extractors.values()), max(self.extractors.values())

    def cost(self, measure: str) -> float | None:
        return {"latency": self.latency.estimate, "tokens": self.spent, "price": self.price}[measure]


@dataclass(frozen=True)
class TaskFound:
    """One task. `leading`: of the strategies of both models the most accurate, at a tie the faster one."""

    task: str
    items: int
    units: int
    unit: str
    """What is scored as one: `question`, or `group of rotations`."""
    arms: Mapping[str, ArmFound]
    differences: tuple[Difference, ...]
    best: tuple[str, ...]
    """Of all arms to choose from the most accurate, at a tie all of them, the faster ones first."""
    paper: tuple[str, ...]
    """Of each strategy of the paper the arm that is most accurate, at a tie the faster one."""
    leading: str | None
    rules: tuple[RuleTold, ...]
    shared: SharedError | None

    @property
    def composed(self) -> list[ArmFound]:
        """Arms without those run end to end."""
        return [arm for arm in self.arms.values() if not arm.arm.endswith(LIVE)]

    @property
    def plain(self) -> list[ArmFound]:
        """The same without placebos."""
        return [arm for arm in self.composed if arm.family != "placebo"]

    def difference(self, arm: str, which: str = "arms") -> Difference | None:
        return next((each for each in self.differences if (each.arm, each.family) == (arm, which)), None)


@dataclass(frozen=True)
class Findings:
    """A whole run. `margin`: score points within which an arm counts as not worse."""

    baseline: str | None
    margin: float
    tasks: tuple[TaskFound, ...]

    def as_object(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        told = asdict(self)
        for task, found in zip(told["tasks"], self.tasks, strict=True):
            for name, arm in found.arms.items():
                task["arms"][name]["ledger"] = arm.ledger.as_object()
            for each, made in zip(task["differences"], found.differences, strict=True):
                each["significant"] = made.significant
        return {"version": VERSION, **plain(told)}


def plain(value: Any) -> Any:
    """What is not a number (a ratio to no seconds at all) is not known: JSON has no word for it."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def findings(
    config: Mapping[str, Any],
    store: Store,
    against: str | None = None,
    margin: float = MARGIN,
    prices: Mapping[str, Price] | None = None,
) -> Findings:
    """`against`: the baseline, `reason:large` where the run has it. Raises BadInput, MissingExtra, LedgerError."""
    base, answers = base_of(config), list(store.answers())
    present = dict.fromkeys(answer["arm"] for answer in answers)
    order = [*config["arms"], *(arm + LIVE for arm in config["arms"])]
    arms = parsed((name for name in order if name in present), base)
    composed = {name: arm for name, arm in arms.items() if not name.endswith(LIVE)}
    baseline = named(composed, against, base) if against else BASELINE if BASELINE in composed else None
    found, compared = [], list[Difference]()
    for bench in benches(config["tasks"], store.items()):
        told = by_arm(answers, bench.name)
        found.append(_task(bench, told, arms, prices))
        compared += differences(bench, told, arms, baseline, margin)
    whole = adjusted(compared)
    tasks = (_with(task, [each for each in whole if each.task == task.task]) for task in found)
    return Findings(baseline, margin, tuple(tasks))


def _task(
    bench: Bench, told: Mapping[str, Sequence[Record]], arms: Mapping[str, Arm], prices: Mapping[str, Price] | None
) -> TaskFound:
    plain = {name: _arm(bench, name, arms[name], told[name], prices) for name in arms if name in told}
    whole = {name: _with_fronts(arm, plain) for name, arm in plain.items()}
    short = acceptance.from_records(bench.items.values(), told.get("short:small", ()), told.get("short:large", ()))
    return TaskFound(
        bench.name,
        len(bench.items),
        len({bench.unit(id) for id in bench.items}),
        "group of rotations" if bench.aggregate == "circular" else "question",
        whole,
        (),
        _most_accurate(whole.values()),
        tuple(best[0] for strategy in PAPER if (best := _most_accurate(_of(strategy, whole, arms)))),
        next(iter(_most_accurate(arm for arm in whole.values() if arm.family == "paper")), None),
        tuple(acceptance.told(rule, short) for rule in acceptance.RULES) if short else (),
        acceptance.shared_error(short),
    )


def _with(task: TaskFound, compared: Sequence[Difference]) -> TaskFound:
    return replace(task, differences=tuple(compared))


def _arm(bench: Bench, name: str, arm: Arm, answers: Sequence[Record], prices: Mapping[str, Price] | None) -> ArmFound:
    scores, clusters = bench.graded(answers), bench.clusters_of(answers)
    given, took, books = (
        [each for each in answers if each["status"] != "error"],
        latency(answers),
        ledger(answers, prices),
    )
    roles = roles_of(answers)
    by = {extractor: mean(bench.graded(answers, extractor).values()) for extractor in EXTRACTORS}
    return ArmFound(
        name,
        family(arm),
        len(answers),
        len(answers) - len(given),
        len(scores),
        share_interval(list(scores.values()), bench.clusters(scores)) if scores else None,
        mean_interval([generated(answer) for answer in answers], clusters),
        {role: tokens_of(answers, role) for role in roles},
        mean(spent(answer) for answer in answers) or 0.0,
        mean_interval([answer["latency"]["total_s"] for answer in answers], clusters),
        took["p50_s"],
        took["p90_s"],
        took["handoff_mean_s"],
        LatencyKind(took["kind"]),
        None if books.price is None or not prices else books.price / len(answers),
        share(sum(not answer["parsed"] for answer in given), len(given)),
        share(sum(answer["truncated"] for answer in given), len(given)),
        {extractor: value for extractor, value in by.items() if value is not None},
        routes(answers),
        (),
        books,
    )


def routes(answers: Sequence[Record]) -> tuple[RouteFound, ...]:
    """Every route that occurs, in the order of `Route`, then errors. Raises LedgerError if they do not sum up."""
    of: dict[str, list[Record]] = {route: [] for route in (*map(str, Route), "error")}
    for answer in answers:
        of[route_of(answer)].append(answer)
    found = tuple(_route(route, own, len(answers)) for route, own in of.items() if own)
    if sum(each.questions for each in found) != len(answers):
        raise LedgerError(f"routes sum to {sum(each.questions for each in found)}, not to {len(answers)} answers")
    return found


def _route(route: str, own: Sequence[Record], whole: int) -> RouteFound:
    roles = roles_of(own)
    return RouteFound(
        route,
        len(own),
        len(own) / whole,
        mean(answer["score"] for answer in own if answer["score"] is not None),
        {role: tokens_of(own, role) for role in roles},
        mean(answer["latency"]["total_s"] for answer in own) or 0.0,
    )


def roles_of(answers: Iterable[Record]) -> list[str]:
    """Who was called: the small model first, the large one last."""
    found = {call["role"] for answer in answers for call in answer["calls"]}
    return sorted(found, key=lambda role: (role == "large", role != "small", role))


def tokens_of(answers: Sequence[Record], role: str) -> float:
    """Generated by one role, mean a question."""
    calls = (call for answer in answers for call in answer["calls"] if call["role"] == role)
    return sum(call["completion_tokens"] or 0 for call in calls) / len(answers)


def _with_fronts(arm: ArmFound, arms: Mapping[str, ArmFound]) -> ArmFound:
    rivals = [other for other in arms.values() if competes(other)]
    fronts = tuple(measure for measure in MEASURES if competes(arm) and on_front(arm, rivals, measure))
    return replace(arm, fronts=fronts)


def competes(arm: ArmFound) -> bool:
    """Whether it is one of the arms to choose from: no placebo, composed, scored."""
    return arm.family != "placebo" and not arm.arm.endswith(LIVE) and arm.accuracy is not None


def on_front(arm: ArmFound, rivals: Iterable[ArmFound], measure: str) -> bool:
    """No rival is at least as accurate for no more, and better in one of the two."""
    cost = arm.cost(measure)
    if cost is None or arm.accuracy is None:
        return False
    for rival in rivals:
        theirs = rival.cost(measure)
        if theirs is None or rival.accuracy is None:
            continue
        gain, saving = rival.accuracy.estimate - arm.accuracy.estimate, cost - theirs
        if gain >= 0 and saving >= 0 and (gain > 0 or saving > 0):
            return False
    return True


def _of(strategy: str, told: Mapping[str, ArmFound], arms: Mapping[str, Arm]) -> list[ArmFound]:
    return [arm for name, arm in told.items() if arms[name].strategy == strategy]


def _most_accurate(arms: Iterable[ArmFound]) -> tuple[str, ...]:
    found = sorted(
        (-arm.accuracy.estimate, arm.latency.estimate, arm.arm) for arm in arms if arm.accuracy and competes(arm)
    )
    return tuple(name for least, _, name in found if least == found[0][0])
