"""One arm against another on the questions that both answered: accuracy by every extractor, speed, tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from cuecard.domain.outcome import LatencyKind
from cuecard.evals.analysis.units import ScoredTask, counted, family, generated, original_arm, timed, uncut_arm
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
    task: ScoredTask,
    answers: Mapping[str, Sequence[Record]],
    arms: Mapping[str, Arm],
    baseline: str | None,
    margin: float,
) -> list[Difference]:
    """Every comparison that a task's arms allow; p-values not adjusted yet."""
    found = []
    for which, arm, against in [*_wanted(arms, baseline), *_singles(task, answers, arms)]:
        if arm in answers and against in answers:
            difference = _difference(task, which, (arm, against), answers, margin)
            found += [difference] if difference is not None else []
    return found


def adjusted(found: Sequence[Difference]) -> list[Difference]:
    """With the p-values of each family adjusted."""
    p = {(each.family, each.task, each.arm): each for each in found}
    adjusted_p = {}
    for which in FAMILIES:
        members = {"\n".join(key): each.accuracy.p for key, each in p.items() if key[0] == which}
        adjusted_p.update(holm(members))
    return [replace(each, p_adjusted=adjusted_p["\n".join(key)]) for key, each in p.items()]


def _wanted(arms: Mapping[str, Arm], baseline: str | None) -> list[tuple[str, str, str]]:
    composed = {name: family(arm) for name, arm in arms.items() if not name.endswith(LIVE)}
    wanted: list[tuple[str, str, str | None]]
    wanted = [("arms", name, baseline) for name, of in composed.items() if baseline and of != "placebo"]
    wanted += [("cards", name, NO_CARD) for name, of in composed.items() if of == "paper" and NO_CARD in composed]
    wanted += [("placebos", name, original_arm(arms, name)) for name, of in composed.items() if of == "placebo"]
    cut = (name for name, of in composed.items() if of != "placebo" and arms[name].policy.cut is not None)
    wanted += [("cuts", name, uncut_arm(arms, name)) for name in cut]
    return [(which, arm, against) for which, arm, against in wanted if against and against != arm]


def _singles(
    task: ScoredTask, answers: Mapping[str, Sequence[Record]], arms: Mapping[str, Arm]
) -> list[tuple[str, str, str]]:
    """Every strategy of both models, against the most accurate arm of one model whose mean latency is no greater."""
    known = {name: own for name, own in answers.items() if own and timed(own) and not name.endswith(LIVE)}
    took = {name: mean(answer["latency"]["total_s"] for answer in own) for name, own in known.items()}
    right = {name: mean(scores) for name, own in known.items() if (scores := task.graded(own).values())}
    alone = [name for name in right if family(arms[name]) in ("small", "large")]
    wanted = []
    for name in (name for name in right if family(arms[name]) == "paper"):
        as_fast = [each for each in alone if took[each] <= took[name]]
        if as_fast:
            wanted.append(("single", name, max(as_fast, key=lambda each: (right[each], -took[each]))))
    return wanted


def _difference(
    task: ScoredTask, which: str, names: tuple[str, str], answers: Mapping[str, Sequence[Record]], margin: float
) -> Difference | None:
    arm, against = names
    scores = [task.graded(answers[name]) for name in names]
    units = [unit for unit in scores[0] if unit in scores[1]]
    both = paired(answers[arm], answers[against])
    if not units or not both:
        return None
    ones, others = ([side[unit] for unit in units] for side in scores)
    clusters = task.clusters(units)
    accuracy = compare(ones, others, clusters)
    extractors = by_extractor(task, answers[arm], answers[against])
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
        _agree(accuracy, extractors),
        times_faster(task, both),
        kind_of(both[0][0]),
        times_faster(task, paired(*live)) if all(live) and paired(*live) else None,
        more_tokens(task, both),
    )


def paired(ones: Sequence[Record], others: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Answers to the same questions, failed ones too: their seconds and tokens were spent."""
    of = {answer["id"]: answer for answer in others}
    return [(answer, of[answer["id"]]) for answer in ones if answer["id"] in of]


def kind_of(answer: Record) -> LatencyKind | None:
    kind = answer["latency"]["kind"]
    return None if kind is None else LatencyKind(kind)


def more_tokens(task: ScoredTask, both: Sequence[tuple[Record, Record]]) -> Interval | None:
    """What the first generated a question more than the second."""
    if not counted(answer for pair in both for answer in pair):
        return None
    ones, others = [generated(one) for one, _ in both], [generated(other) for _, other in both]
    return difference_interval(ones, others, task.clusters_of(one for one, _ in both))


def times_faster(task: ScoredTask, both: Sequence[tuple[Record, Record]]) -> Interval | None:
    """Mean seconds of the second over those of the first."""
    if not timed(answer for pair in both for answer in pair):
        return None
    tops = [other["latency"]["total_s"] for _, other in both]
    return ratio_interval(
        tops, [one["latency"]["total_s"] for one, _ in both], task.clusters_of(one for one, _ in both)
    )


def by_extractor(task: ScoredTask, ones: Sequence[Record], others: Sequence[Record]) -> dict[str, ByExtractor]:
    """The comparison of accuracies by every extractor that scored both arms."""
    result, known = {}, dict[tuple[tuple[float, float], ...], PairedComparison]()
    for name in EXTRACTORS:
        one, other = task.graded(ones, name), task.graded(others, name)
        units = [unit for unit in one if unit in other]
        if units:
            pairs = tuple((one[unit], other[unit]) for unit in units)
            if pairs not in known:  # the scores of most extractors are the same
                known[pairs] = compare([a for a, _ in pairs], [b for _, b in pairs], task.clusters(units))
            result[name] = ByExtractor(known[pairs].difference.estimate, known[pairs].p)
    return result


def _agree(accuracy: PairedComparison, extractors: Mapping[str, ByExtractor]) -> bool:
    estimate = accuracy.difference.estimate
    if accuracy.p > LEVEL:
        return all(each.p > LEVEL for each in extractors.values())
    return all(each.p <= LEVEL and each.difference * estimate > 0 for each in extractors.values())
