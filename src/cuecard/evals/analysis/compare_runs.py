"""Two runs, arm by arm, on the questions that both have: accuracy, seconds and tokens, paired; and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cuecard.disk import differences
from cuecard.domain.errors import BadInput
from cuecard.evals.analysis.differences import ByExtractor, by_extractor, clusters_of, paired, times_faster
from cuecard.evals.analysis.results import plain
from cuecard.evals.analysis.units import Bench, benches, by_arm, counted, generated, timed
from cuecard.evals.arm import LIVE
from cuecard.evals.storage.database import Record, Store
from cuecard.stats.bootstrap import Interval, flip_p
from cuecard.stats.inference import PairedComparison, compare, difference_interval, holm

VERSION = 1
ALIKE = ("text", "options", "kind", "golds", "images", "scorer")
"""What two items of one name have in common if they are the same question."""
SAID = ("accuracy", "seconds", "tokens")


@dataclass(frozen=True)
class Change:
    """A mean of the second run less that of the first, a question."""

    first: float
    second: float
    difference: Interval
    p: float
    """Two-sided, by sign flips of clusters."""


@dataclass(frozen=True)
class ArmContrast:
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
    """Questions that an imported run cannot tell; those left are the easy ones."""
    same_answer: float
    same_route: float
    errors: tuple[int, int]
    p_adjusted: Mapping[str, float]
    """Holm's, of accuracy, seconds and tokens, each over all arms and tasks."""


@dataclass(frozen=True)
class Contrast:
    """Both runs. `left_out`: by task, questions of one name that are not the same in both."""

    arms: tuple[ArmContrast, ...]
    configuration: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    left_out: Mapping[str, int]

    def as_object(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"version": VERSION, **plain(asdict(self))}


def contrast(first: tuple[Mapping[str, Any], Store], second: tuple[Mapping[str, Any], Store]) -> Contrast:
    """(configuration, rows) of each run. Raises BadInput where they have nothing in common, MissingExtra."""
    there = [{bench.name: bench for bench in benches(c["tasks"], s.items())} for c, s in (first, second)]
    answers = [list(store.answers()) for _, store in (first, second)]
    notes = first[1].notes(), second[1].notes()
    told, left_out = list[ArmContrast](), dict[str, int]()
    names: list[set[str]] = [set(), set()]
    for task in dict.fromkeys((*there[0], *there[1])):
        sides = [by_arm(own, task) for own in answers]
        for known, side in zip(names, sides, strict=True):
            known |= {f"{task} {arm}" for arm in side}
        if task not in there[0] or task not in there[1]:
            continue
        bench, other = there[0][task], there[1][task]
        strange = {id for id in bench.items if id in other.items and not _alike(bench.items[id], other.items[id])}
        if strange:
            left_out[task] = len(strange)
        for arm in (arm for arm in _in_order(first[0], sides[0]) if arm in sides[1]):
            one, two = (len(own.get(f"unresolved {task} {arm}") or ()) for own in notes)
            made = _contrast(
                bench, (arm, one, two), *([a for a in side[arm] if a["id"] not in strange] for side in sides)
            )
            told += [made] if made is not None else []
    if not told:
        raise BadInput("the runs have no arm on a question in common", "compare runs of the same tasks and strategies")
    ways = tuple(differences(first[0], second[0]))
    return Contrast(
        _adjusted(told), ways, tuple(sorted(names[0] - names[1])), tuple(sorted(names[1] - names[0])), left_out
    )


def _in_order(config: Mapping[str, Any], there: Mapping[str, Sequence[Record]]) -> list[str]:
    """The arms as the run names them, then those run end to end."""
    return [arm for arm in (*config["arms"], *(arm + LIVE for arm in config["arms"])) if arm in there]


def _alike(one: Record, other: Record) -> bool:
    return all(one.get(name) == other.get(name) for name in ALIKE)


def _contrast(
    bench: Bench, named: tuple[str, int, int], ones: Sequence[Record], others: Sequence[Record]
) -> ArmContrast | None:
    arm, *lacking = named
    both = paired(ones, others)
    if not both:
        return None
    first, second = [one for one, _ in both], [other for _, other in both]
    before, after = bench.graded(first), bench.graded(second)
    units = [unit for unit in before if unit in after]
    scores = [after[unit] for unit in units], [before[unit] for unit in units]
    return ArmContrast(
        bench.name,
        arm,
        len(both),
        compare(*scores, bench.clusters(units)) if units else None,
        sum(scores[1]) / len(units) if units else None,
        sum(scores[0]) / len(units) if units else None,
        by_extractor(bench, second, first),
        _change(bench, both, *([each["latency"]["total_s"] for each in side] for side in (first, second)))
        if timed([*first, *second])
        else None,
        times_faster(bench, [(other, one) for one, other in both]),
        (first[0]["latency"]["kind"], second[0]["latency"]["kind"]),
        _change(bench, both, *([float(generated(each)) for each in side] for side in (first, second)))
        if counted([*first, *second])
        else None,
        (lacking[0], lacking[1]),
        sum(one["answer"] == other["answer"] for one, other in both) / len(both),
        sum(one["route"] == other["route"] for one, other in both) / len(both),
        (sum(one["status"] == "error" for one in first), sum(other["status"] == "error" for other in second)),
        {},
    )


def _change(
    bench: Bench, both: Sequence[tuple[Record, Record]], first: Sequence[float], second: Sequence[float]
) -> Change:
    clusters = clusters_of(bench, both)
    gains = [after - before for before, after in zip(first, second, strict=True)]
    return Change(
        sum(first) / len(first),
        sum(second) / len(second),
        difference_interval(second, first, clusters),
        flip_p(gains, clusters),
    )


def _adjusted(told: Sequence[ArmContrast]) -> tuple[ArmContrast, ...]:
    adjusted: list[dict[str, float]] = [{} for _ in told]
    for what in SAID:
        family = {str(place): p for place, each in enumerate(told) if (p := _p(each, what)) is not None}
        for place, p in holm(family).items():
            adjusted[int(place)][what] = p
    return tuple(replace(each, p_adjusted=own) for each, own in zip(told, adjusted, strict=True))


def _p(each: ArmContrast, what: str) -> float | None:
    match what:
        case "accuracy":
            return None if each.accuracy is None else each.accuracy.p
        case "seconds":
            return None if each.seconds is None else each.seconds.p
        case _:
            return None if each.tokens is None else each.tokens.p
