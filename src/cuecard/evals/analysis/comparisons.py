"""Comparisons of two arms, and of two runs, on the questions that both answered."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cuecard import disk
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import LatencyKind
from cuecard.evals.analysis.scores import (
    ScoredTask,
    counted,
    family,
    generated,
    original_arm,
    plain,
    scored_tasks,
    succeeded,
    timed,
    uncut_arm,
)
from cuecard.evals.arm import LIVE, Arm, base_of, parse, policies_of
from cuecard.evals.database import Record, Store
from cuecard.evals.scorers import EXTRACTORS
from cuecard.stats import (
    Interval,
    NonInferiority,
    PairedComparison,
    compare,
    holm,
    mean,
    mean_difference,
    non_inferiority,
    ratio_interval,
)

LEVEL = 0.05
NO_CARD = "short:large"
FAMILIES = {
    "arms": "every arm against the baseline",
    "cards": "every strategy of both models against the large model's short answer",
    "placebos": "every placebo against the same arm with the card that was written",
    "cuts": "every cut card against the same arm with the whole card",
    "single": "every strategy of both models against the most accurate single model not shown to take longer",
}
VERSION = 1
ALIKE = ("text", "options", "kind", "golds", "images", "scorer")
"""Fields that must be equal in two items with the same id for them to be the same question."""
MEASURED = ("accuracy", "seconds", "tokens")


@dataclass(frozen=True)
class ByExtractor:
    """The comparison of accuracies with the scores of one extractor."""

    difference: float
    p: float


@dataclass(frozen=True)
class Difference:
    """Arm - `against`. Scores are compared per unit, seconds and tokens per question, on those that both have."""

    task: str
    family: str
    """A key of `FAMILIES`: p-values are adjusted within a family over the whole run."""
    arm: str
    against: str
    pairs: int
    accuracy: PairedComparison
    p_adjusted: float
    """p of `accuracy`, adjusted by Holm's method."""
    not_worse: NonInferiority
    extractors: Mapping[str, ByExtractor]
    survives: bool
    """Every extractor gives the same result: significant with the same sign, or not significant (p not adjusted)."""
    times_faster: Interval | None
    """Mean seconds of `against` / mean seconds of the arm, both of latency kind `kind`; None if unknown."""
    kind: LatencyKind | None
    times_faster_live: Interval | None
    """The same for both arms run end to end; None if they were not."""
    tokens: Interval | None
    """Generated tokens per question, over all models: arm - `against`; None if unknown."""

    @property
    def significant(self) -> bool:
        """The adjusted test rejects "no difference", and the interval of this comparison excludes 0."""
        return self.p_adjusted <= LEVEL and not includes_zero(self.accuracy.difference)

    @property
    def interval(self) -> Interval:
        """Interval of the difference in accuracy, widened to include 0 unless `significant`."""
        alone = self.accuracy.difference
        if self.significant or alone.low is None or alone.high is None:
            return alone
        return replace(alone, low=min(alone.low, 0.0), high=max(alone.high, 0.0))


def includes_zero(interval: Interval) -> bool:
    """Whether the interval contains 0; True if it has no bounds."""
    return interval.low is None or interval.high is None or interval.low <= 0 <= interval.high


def differences(
    tasks: Iterable[ScoredTask],
    arms: Mapping[str, Arm],
    baseline: str | None,
    margin: float,
    families: Collection[str] = FAMILIES,
) -> list[Difference]:
    """All comparisons of these families that a run allows, with p-values adjusted within each family (Holm)."""
    found = []
    for task in tasks:
        answers = task.comparable
        for which, arm, against in [*_wanted(arms, baseline), *_singles(task, arms)]:
            if which in families and arm in answers and against in answers:
                difference = _difference(task, which, (arm, against), margin)
                found += [difference] if difference is not None else []
    p = dict[str, float]()
    for which in families:
        p |= holm({str(place): each.accuracy.p for place, each in enumerate(found) if each.family == which})
    return [replace(each, p_adjusted=p[str(place)]) for place, each in enumerate(found)]


def arms_of_run(config: Mapping[str, Any], tasks: Iterable[ScoredTask]) -> dict[str, Arm]:
    """The arms that have answers, by name, in the order of the run; those run end to end are last."""
    base, policies = base_of(config), policies_of(config)
    present = {arm for task in tasks for arm in task.answers}
    order = (*config["arms"], *(arm + LIVE for arm in config["arms"]))
    return {name: parse(name.removesuffix(LIVE), base, policies) for name in order if name in present}


def _wanted(arms: Mapping[str, Arm], baseline: str | None) -> list[tuple[str, str, str]]:
    composed = {name: family(arm) for name, arm in arms.items() if not name.endswith(LIVE)}
    wanted: list[tuple[str, str, str | None]]
    wanted = [("arms", name, baseline) for name, of in composed.items() if baseline and of != "placebo"]
    wanted += [("cards", name, NO_CARD) for name, of in composed.items() if of == "paper" and NO_CARD in composed]
    wanted += [("placebos", name, original_arm(arms, name)) for name, of in composed.items() if of == "placebo"]
    cut = (name for name, of in composed.items() if of != "placebo" and arms[name].policy.cut is not None)
    wanted += [("cuts", name, uncut_arm(arms, name)) for name in cut]
    return [(which, arm, against) for which, arm, against in wanted if against and against != arm]


def _singles(task: ScoredTask, arms: Mapping[str, Arm]) -> list[tuple[str, str, str]]:
    """Each strategy of both models against the most accurate single-model arm that is not shown to take longer.

    Means alone do not decide which arm takes longer: for two arms of about the same latency they differ by chance.
    """
    whole = {name: succeeded(own) for name, own in task.comparable.items() if not name.endswith(LIVE)}
    known = {name: own for name, own in whole.items() if own and timed(own)}
    took = {name: statistics.mean(answer["latency"]["total_s"] for answer in own) for name, own in known.items()}
    right = {name: statistics.mean(scores) for name, own in known.items() if (scores := task.graded(own).values())}
    alone = [name for name in right if family(arms[name]) in ("small", "large")]
    wanted = []
    for name in (name for name in right if family(arms[name]) == "paper"):
        as_fast = [each for each in alone if took[each] <= took[name] or not _slower(task, known[each], known[name])]
        if as_fast:
            wanted.append(("single", name, max(as_fast, key=lambda each: (right[each], -took[each]))))
    return wanted


def _slower(task: ScoredTask, ones: Sequence[Record], others: Sequence[Record]) -> bool:
    """Whether `ones` are shown to take longer than `others`, by the interval of the ratio of mean seconds."""
    ratio = times_faster(task, paired(others, ones))
    return ratio is not None and ratio.low is not None and ratio.low > 1


def _difference(task: ScoredTask, which: str, names: tuple[str, str], margin: float) -> Difference | None:
    (arm, against), answers = names, task.comparable
    units, ones, others = task.graded_both(answers[arm], answers[against])
    both = paired(answers[arm], answers[against])
    if not units or not both:
        return None
    clusters = task.clusters(units)
    accuracy = compare(ones, others, clusters)
    extractors = by_extractor(task, answers[arm], answers[against])
    sign, others_p = accuracy.difference.estimate, [each.p for each in extractors.values()]
    agree = all(each.p <= LEVEL and each.difference * sign > 0 for each in extractors.values())
    spent = [[generated(one) for one, _ in both], [generated(other) for _, other in both]]
    known, of_pairs = counted(each for pair in both for each in pair), task.clusters_of(one for one, _ in both)
    live = [answers.get(name + LIVE, ()) for name in names]
    return Difference(
        task.name,
        which,
        arm,
        against,
        len(units),
        accuracy,
        accuracy.p,
        non_inferiority(ones, others, margin, clusters),
        extractors,
        agree if accuracy.p <= LEVEL else min(others_p, default=1.0) > LEVEL,
        times_faster(task, both),
        kind_of(both[0][0]),
        times_faster(task, paired(*live)) if all(live) and paired(*live) else None,
        mean_difference(spent[0], spent[1], of_pairs).interval if known else None,
    )


def paired(ones: Sequence[Record], others: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Pairs of answers to the same questions, without those on which either failed."""
    of = {answer["id"]: answer for answer in succeeded(others)}
    return [(answer, of[answer["id"]]) for answer in succeeded(ones) if answer["id"] in of]


def kind_of(answer: Record) -> LatencyKind | None:
    kind = answer["latency"]["kind"]
    return None if kind is None else LatencyKind(kind)


def times_faster(task: ScoredTask, both: Sequence[tuple[Record, Record]]) -> Interval | None:
    """Mean seconds of the second / mean seconds of the first; None if unknown."""
    if not timed(answer for pair in both for answer in pair):
        return None
    tops = [other["latency"]["total_s"] for _, other in both]
    return ratio_interval(
        tops, [one["latency"]["total_s"] for one, _ in both], task.clusters_of(one for one, _ in both)
    )


def by_extractor(task: ScoredTask, ones: Sequence[Record], others: Sequence[Record]) -> dict[str, ByExtractor]:
    """The comparison of accuracies by each extractor that scored both arms."""
    result, known = {}, dict[tuple[tuple[float, float], ...], PairedComparison]()
    for name in EXTRACTORS:
        units, one, other = task.graded_both(ones, others, name)
        if units:
            pairs = tuple(zip(one, other, strict=True))
            if pairs not in known:  # the scores of most extractors are the same
                known[pairs] = compare(one, other, task.clusters(units))
            result[name] = ByExtractor(known[pairs].difference.estimate, known[pairs].p)
    return result


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
