"""One arm against another on the questions that both answered: accuracy, speed, tokens; and if the parser did it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from cuecard.domain.outcome import LatencyKind
from cuecard.evals.analysis.units import Bench, counted, family, generated, genuine, timed, whole
from cuecard.evals.arm import LIVE, Arm
from cuecard.evals.scoring.extractors import EXTRACTORS
from cuecard.evals.storage.database import Record
from cuecard.stats.bootstrap import Interval, ratio_interval
from cuecard.stats.inference import (
    NonInferiority,
    PairedComparison,
    compare,
    difference_interval,
    holm,
    non_inferiority,
)

LEVEL = 0.05
NO_CARD = "short:large"
FAMILIES = {
    "arms": "every arm against the baseline",
    "cards": "every strategy of both models against the large model's short answer",
    "placebos": "every placebo against the same arm with the card that was written",
    "cuts": "every cut card against the same arm with the whole card",
    "single": "every strategy of both models against the most accurate single model that takes no longer",
}


@dataclass(frozen=True)
class ByExtractor:
    """The same comparison with the answers read by another extractor."""

    difference: float
    p: float


@dataclass(frozen=True)
class Difference:
    """Arm less `against`. Scores are compared by unit, seconds and tokens by question, over those that both have."""

    task: str
    family: str
    """A key of `FAMILIES`: p-values are adjusted over one family of the whole run."""
    arm: str
    against: str
    pairs: int
    accuracy: PairedComparison
    p_adjusted: float
    """Holm's."""
    not_worse: NonInferiority
    extractors: Mapping[str, ByExtractor]
    survives: bool
    """Every extractor says the same: the same sign and significant, or else not significant (p not adjusted)."""
    times_faster: Interval | None
    """Mean seconds of `against` over the arm's, both as `kind` says; None where they are not known."""
    kind: LatencyKind | None
    times_faster_live: Interval | None
    """The same of both arms run end to end."""
    tokens: Interval | None
    """Generated tokens a question, of all models together: arm less `against`; None where they are not known."""

    @property
    def significant(self) -> bool:
        return self.p_adjusted <= LEVEL


def differences(
    bench: Bench, told: Mapping[str, Sequence[Record]], arms: Mapping[str, Arm], baseline: str | None, margin: float
) -> list[Difference]:
    """Every comparison that a task's arms allow; p-values not adjusted yet."""
    found = []
    for which, arm, against in [*_wanted(arms, baseline), *_singles(bench, told, arms)]:
        if arm in told and against in told:
            made = _difference(bench, which, (arm, against), told, margin)
            found += [made] if made is not None else []
    return found


def adjusted(found: Sequence[Difference]) -> list[Difference]:
    """With the p-values of each family adjusted."""
    p = {(each.family, each.task, each.arm): each for each in found}
    told = {}
    for which in FAMILIES:
        members = {"\n".join(key): each.accuracy.p for key, each in p.items() if key[0] == which}
        told.update(holm(members))
    return [replace(each, p_adjusted=told["\n".join(key)]) for key, each in p.items()]


def _wanted(arms: Mapping[str, Arm], baseline: str | None) -> list[tuple[str, str, str]]:
    composed = {name: family(arm) for name, arm in arms.items() if not name.endswith(LIVE)}
    wanted: list[tuple[str, str, str | None]]
    wanted = [("arms", name, baseline) for name, of in composed.items() if baseline and of != "placebo"]
    wanted += [("cards", name, NO_CARD) for name, of in composed.items() if of == "paper" and NO_CARD in composed]
    wanted += [("placebos", name, genuine(arms, name)) for name, of in composed.items() if of == "placebo"]
    cut = (name for name, of in composed.items() if of != "placebo" and arms[name].policy.cut is not None)
    wanted += [("cuts", name, whole(arms, name)) for name in cut]
    return [(which, arm, against) for which, arm, against in wanted if against and against != arm]


def _singles(bench: Bench, told: Mapping[str, Sequence[Record]], arms: Mapping[str, Arm]) -> list[tuple[str, str, str]]:
    """Every strategy of both models, against the most accurate arm of one model whose mean latency is no greater."""
    known = {name: own for name, own in told.items() if own and timed(own) and not name.endswith(LIVE)}
    took = {name: mean(answer["latency"]["total_s"] for answer in own) for name, own in known.items()}
    right = {name: mean(scores) for name, own in known.items() if (scores := bench.graded(own).values())}
    alone = [name for name in right if family(arms[name]) in ("small", "large")]
    wanted = []
    for name in (name for name in right if family(arms[name]) == "paper"):
        as_fast = [each for each in alone if took[each] <= took[name]]
        if as_fast:
            wanted.append(("single", name, max(as_fast, key=lambda each: (right[each], -took[each]))))
    return wanted


def _difference(
    bench: Bench, which: str, names: tuple[str, str], told: Mapping[str, Sequence[Record]], margin: float
) -> Difference | None:
    arm, against = names
    scores = [bench.graded(told[name]) for name in names]
    units = [unit for unit in scores[0] if unit in scores[1]]
    both = paired(told[arm], told[against])
    if not units or not both:
        return None
    ones, others = ([side[unit] for unit in units] for side in scores)
    clusters = bench.clusters(units)
    accuracy = compare(ones, others, clusters)
    extractors = by_extractor(bench, told[arm], told[against])
    live = [told.get(name + LIVE, ()) for name in names]
    return Difference(
        bench.name,
        which,
        arm,
        against,
        len(units),
        accuracy,
        accuracy.p,
        non_inferiority(ones, others, margin, clusters),
        extractors,
        _agree(accuracy, extractors),
        times_faster(bench, both),
        kind_of(both[0][0]),
        times_faster(bench, paired(*live)) if all(live) and paired(*live) else None,
        more_tokens(bench, both),
    )


def paired(ones: Sequence[Record], others: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Answers to the same questions, failed ones too: their seconds and tokens were spent."""
    of = {answer["id"]: answer for answer in others}
    return [(answer, of[answer["id"]]) for answer in ones if answer["id"] in of]


def kind_of(answer: Record) -> LatencyKind | None:
    kind = answer["latency"]["kind"]
    return None if kind is None else LatencyKind(kind)


def more_tokens(bench: Bench, both: Sequence[tuple[Record, Record]]) -> Interval | None:
    """What the first generated a question more than the second."""
    if not counted(answer for pair in both for answer in pair):
        return None
    ones, others = [generated(one) for one, _ in both], [generated(other) for _, other in both]
    return difference_interval(ones, others, clusters_of(bench, both))


def times_faster(bench: Bench, both: Sequence[tuple[Record, Record]]) -> Interval | None:
    """Mean seconds of the second over those of the first."""
    if not timed(answer for pair in both for answer in pair):
        return None
    tops = [other["latency"]["total_s"] for _, other in both]
    return ratio_interval(tops, [one["latency"]["total_s"] for one, _ in both], clusters_of(bench, both))


def clusters_of(bench: Bench, both: Sequence[tuple[Record, Record]]) -> list[str]:
    return bench.clusters_of(one for one, _ in both)


def by_extractor(bench: Bench, ones: Sequence[Record], others: Sequence[Record]) -> dict[str, ByExtractor]:
    """The comparison of accuracies by every extractor that scored both arms."""
    found, known = {}, dict[tuple[tuple[float, float], ...], PairedComparison]()
    for name in EXTRACTORS:
        one, other = bench.graded(ones, name), bench.graded(others, name)
        units = [unit for unit in one if unit in other]
        if units:
            pairs = tuple((one[unit], other[unit]) for unit in units)
            if pairs not in known:  # most replies are read alike by all
                known[pairs] = compare([a for a, _ in pairs], [b for _, b in pairs], bench.clusters(units))
            made = known[pairs]
            found[name] = ByExtractor(made.difference.estimate, made.p)
    return found


def _agree(accuracy: PairedComparison, extractors: Mapping[str, ByExtractor]) -> bool:
    estimate = accuracy.difference.estimate
    if accuracy.p > LEVEL:
        return all(each.p > LEVEL for each in extractors.values())
    return all(each.p <= LEVEL and each.difference * estimate > 0 for each in extractors.values())
