"""Two runs, arm by arm, on the questions that both have: accuracy, seconds and tokens, paired; and what differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cuecard.disk import differences
from cuecard.domain.errors import BadInput
from cuecard.evals.analysis.differences import ByExtractor, by_extractor, paired, times_faster
from cuecard.evals.analysis.results import plain
from cuecard.evals.analysis.units import ScoredTask, by_arm, counted, generated, scored_tasks, timed
from cuecard.evals.arm import LIVE
from cuecard.evals.storage.database import Record, Store
from cuecard.stats.bootstrap import Interval, flip_p
from cuecard.stats.inference import PairedComparison, compare, difference_interval, holm, mean

VERSION = 1
ALIKE = ("text", "options", "kind", "golds", "images", "scorer")
"""What two items of one name have in common if they are the same question."""
MEASURED = ("accuracy", "seconds", "tokens")


@dataclass(frozen=True)
class Change:
    """A mean of the second run less that of the first, a question."""

    first: float
    second: float
    difference: Interval
    p: float
    """Two-sided, by sign flips of clusters."""


@dataclass(frozen=True)
class ArmComparison:
    """One arm of one task in both runs, on `questions` that both answered. Differences: the second less the first."""

    task: str
    arm: str
    questions: int
    accuracy: PairedComparison | None
    """None where nothing is scored in both."""
    first_accuracy: float | None
    second_accuracy: float | None
    extractors: Mapping[str, ByExtractor]
    seconds: Change | None
    """None where they are not known in both, as tokens."""
    times_faster: Interval | None
    """Mean seconds of the first over those of the second."""
    kinds: tuple[str | None, str | None]
    tokens: Change | None
    """Generated, of all models together."""
    unresolved: tuple[int, int]
    """Questions without an answer in an imported run; those left are the easy ones."""
    same_answer: float
    same_route: float
    errors: tuple[int, int]
    p_adjusted: Mapping[str, float]
    """Holm's, of accuracy, seconds and tokens, each over all arms and tasks."""


@dataclass(frozen=True)
class RunComparison:
    """Both runs. `left_out`: by task, questions of one name that are not the same in both."""

    arms: tuple[ArmComparison, ...]
    configuration: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    left_out: Mapping[str, int]

    def as_object(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"version": VERSION, **plain(asdict(self))}


def compare_runs(first: tuple[Mapping[str, Any], Store], second: tuple[Mapping[str, Any], Store]) -> RunComparison:
    """(configuration, rows) of each run. Raises BadInput where they have nothing in common, MissingExtra."""
    tasks = [{task.name: task for task in scored_tasks(c["tasks"], s.items())} for c, s in (first, second)]
    answers = [list(store.answers()) for _, store in (first, second)]
    notes = first[1].notes(), second[1].notes()
    order = (*first[0]["arms"], *(arm + LIVE for arm in first[0]["arms"]))
    compared, left_out = list[ArmComparison](), dict[str, int]()
    names: list[set[str]] = [set(), set()]
    for name in dict.fromkeys((*tasks[0], *tasks[1])):
        sides = [by_arm(own, name) for own in answers]
        for known, side in zip(names, sides, strict=True):
            known |= {f"{name} {arm}" for arm in side}
        if name not in tasks[0] or name not in tasks[1]:
            continue
        task, other = tasks[0][name], tasks[1][name]
        differing = {id for id in task.items if id in other.items and not _alike(task.items[id], other.items[id])}
        if differing:
            left_out[name] = len(differing)
        for arm in (arm for arm in order if arm in sides[0] and arm in sides[1]):
            ones, others = ([each for each in side[arm] if each["id"] not in differing] for side in sides)
            if both := paired(ones, others):
                unresolved = tuple(len(own.get(f"unresolved {name} {arm}") or ()) for own in notes)
                compared.append(_compared(task, arm, both, (unresolved[0], unresolved[1])))
    if not compared:
        raise BadInput("the runs have no arm on a question in common", "compare runs of the same tasks and strategies")
    only_first, only_second = (tuple(sorted(names[i] - names[1 - i])) for i in (0, 1))
    ways = tuple(differences(first[0], second[0]))
    return RunComparison(_adjusted(compared), ways, only_first, only_second, left_out)


def _alike(one: Record, other: Record) -> bool:
    return all(one.get(name) == other.get(name) for name in ALIKE)


def _compared(
    task: ScoredTask, arm: str, both: Sequence[tuple[Record, Record]], unresolved: tuple[int, int]
) -> ArmComparison:
    first, second = [one for one, _ in both], [other for _, other in both]
    before, after = task.graded(first), task.graded(second)
    units = [unit for unit in before if unit in after]
    scores = [after[unit] for unit in units], [before[unit] for unit in units]
    return ArmComparison(
        task.name,
        arm,
        len(both),
        compare(*scores, task.clusters(units)) if units else None,
        mean(scores[1]),
        mean(scores[0]),
        by_extractor(task, second, first),
        _change(task, first, second, lambda each: each["latency"]["total_s"]) if timed([*first, *second]) else None,
        times_faster(task, [(other, one) for one, other in both]),
        (first[0]["latency"]["kind"], second[0]["latency"]["kind"]),
        _change(task, first, second, generated) if counted([*first, *second]) else None,
        unresolved,
        sum(one["answer"] == other["answer"] for one, other in both) / len(both),
        sum(one["route"] == other["route"] for one, other in both) / len(both),
        (sum(one["status"] == "error" for one in first), sum(other["status"] == "error" for other in second)),
        {},
    )


def _change(
    task: ScoredTask, first: Sequence[Record], second: Sequence[Record], value: Callable[[Record], float]
) -> Change:
    before, after, clusters = list(map(value, first)), list(map(value, second)), task.clusters_of(first)
    return Change(
        sum(before) / len(before),
        sum(after) / len(after),
        difference_interval(after, before, clusters),
        flip_p([two - one for one, two in zip(before, after, strict=True)], clusters),
    )


def _adjusted(compared: Sequence[ArmComparison]) -> tuple[ArmComparison, ...]:
    adjusted: list[dict[str, float]] = [{} for _ in compared]
    for what in MEASURED:
        family = {str(i): each.p for i, arm in enumerate(compared) if (each := getattr(arm, what)) is not None}
        for i, p in holm(family).items():
            adjusted[int(i)][what] = p
    return tuple(replace(each, p_adjusted=own) for each, own in zip(compared, adjusted, strict=True))
