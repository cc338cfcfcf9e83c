"""Comparisons of arms on the questions that both answered, and the verdict: whether a pair of models pays on a task.

The verdict compares the strategies of both models with the best single model at equal or lower cost. A single model
counts as no more costly if it is not shown to take longer. Means alone do not decide that: for two arms of about the
same latency they differ by chance.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from cuecard.domain.outcome import LatencyKind, Route
from cuecard.evals.analysis.scores import (
    ScoredTask,
    counted,
    family,
    generated,
    original_arm,
    succeeded,
    timed,
    uncut_arm,
)
from cuecard.evals.arm import LIVE, Arm, base_of, parse, policies_of
from cuecard.evals.database import Record
from cuecard.evals.scorers import EXTRACTORS
from cuecard.stats import (
    Interval,
    NonInferiority,
    PairedComparison,
    compare,
    holm,
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
SINGLE = "single"
"""The family of comparisons that a verdict uses."""
BASELINE = "reason:large"
MARGIN = 0.01
"""In score points: a gain that is shown to be smaller does not count."""
FEWEST = 20
"""Minimum number of scored questions for a verdict other than OPEN."""


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


# --- the verdict ------------------------------------------------------------------------------------------------------


class Pays(StrEnum):
    """The result of the comparison with the best single model."""

    YES = "pays"
    """A strategy of both models is significantly more accurate."""
    NO = "does not pay"
    """Every strategy is significantly less accurate, or shown to gain less than `MARGIN`."""
    OPEN = "is not shown to pay"
    """Neither is shown, or there are too few questions."""


@dataclass(frozen=True)
class PairVerdict:
    """Whether the pair pays. `shown`: the comparison of the strategy with the largest gain."""

    pays: Pays
    shown: Difference
    right: tuple[float, float]
    """Mean scores of the strategy and of the single model, on the units that both answered."""
    questions: int
    """Units of the task, including those without a score of both, which are in no mean here."""
    settled: float
    """Share of the strategy's answers that were settled without reasoning."""
    seconds_a_right_answer: float | None
    """Extra seconds compared with the single model, per additional right answer; 0 if the pair takes no longer."""
    settled_from: float | None
    """Share of questions settled without reasoning from which the pair is as fast as `BASELINE`; 0: at any share.

    None: there is no break-even, or it is unknown; the same for the seconds.
    """

    def sentence(self, task: str) -> str:
        """The verdict in one sentence: the gain, its uncertainty, its cost, and the break-even."""
        shown, (ours, theirs) = self.shown, self.right
        gain = shown.accuracy.difference.estimate
        parts = [
            f"{shown.arm} is right on {100 * ours:.1f}%, {shown.against}, the most accurate single model not shown to"
            f" take longer, on {100 * theirs:.1f}%: {signed(100 * gain)} points ({self._sure()})",
            *self._cost(),
            self._break_even(),
        ]
        return f"On {task} the pair {self.pays}: {'; '.join(parts)}."

    def _sure(self) -> str:
        shown = self.shown
        low, high = shown.interval.low, shown.interval.high
        ends = "no interval"
        if low is not None and high is not None:
            ends = f"95% interval {signed(100 * low)} to {signed(100 * high)}"
        few = f": too few to tell, at least {FEWEST} are needed" if shown.pairs < FEWEST else ""
        of = "" if shown.pairs == self.questions else f" of {self.questions:,}"
        noun = "question" if (self.questions if of else shown.pairs) == 1 else "questions"
        test = f"{shown.accuracy.test}, adjusted {p_value(shown.p_adjusted)}"
        return f"{ends}, {shown.pairs:,}{of} {noun}{few}; {test}"

    def _cost(self) -> list[str]:
        times = self.shown.times_faster
        if times is None or not times.estimate:
            return []
        slower = f"it takes {1 / times.estimate:.2f} times as long"
        if times.low and times.high:
            slower += f" ({1 / times.high:.2f} to {1 / times.low:.2f}, {times.method})"
        return [f"{slower}, {self.shown.kind}"]

    def _break_even(self) -> str:
        cost, from_share = self.seconds_a_right_answer, self.settled_from
        if cost is None:
            first = "no break-even: it is not more accurate"
        elif not cost:
            first = "break-even: it takes no longer"
        else:
            first = f"break-even: a further right answer costs {cost:.3g} s"
        settles = f"it settles {100 * self.settled:.1f}% of the questions without reasoning"
        if from_share is None:
            return f"{first}; {settles}"
        where = "at any share" if not from_share else f"from {100 * from_share:.1f}% on"
        return f"{first}; {settles}, and is as fast as {BASELINE} {where}"

    def as_object(self, task: str) -> dict[str, Any]:
        """Plain data, for JSON."""
        shown, interval = self.shown, self.shown.interval
        return {
            "pays": str(self.pays),
            "sentence": self.sentence(task),
            "arm": shown.arm,
            "against": shown.against,
            "questions": shown.pairs,
            "right": self.right[0],
            "right_against": self.right[1],
            "difference": interval.estimate,
            "low": interval.low,
            "high": interval.high,
            "p_adjusted": shown.p_adjusted,
            "test": shown.accuracy.test,
            "times_faster": None if shown.times_faster is None else shown.times_faster.estimate,
            "latency": shown.kind and str(shown.kind),
            "settled": self.settled,
            "break_even": {"seconds_a_right_answer": self.seconds_a_right_answer, "settled": self.settled_from},
        }


def pair_verdict(task: ScoredTask, compared: Sequence[Difference]) -> PairVerdict | None:
    """The verdict from a run's comparisons; None if seconds are unknown, or no single model is as fast."""
    own = [each for each in compared if each.family == SINGLE and each.task == task.name]
    if not own:
        return None
    answers = task.comparable
    took = {name: _mean_s(answers[name]) for each in own for name in (each.arm, each.against)}

    def gain(each: Difference) -> tuple[float, float]:
        """Sort key: gain in accuracy, then speed."""
        return each.accuracy.difference.estimate, -(took[each.arm] or 0.0)

    gains = [each for each in own if each.significant and each.accuracy.difference.estimate > 0]
    shown = max(gains or own, key=gain)
    pays = Pays.YES if gains else Pays.NO if all(map(_no_gain, own)) else Pays.OPEN
    arm, against = answers[shown.arm], answers[shown.against]
    _, ours, theirs = task.graded_both(arm, against)
    return PairVerdict(
        Pays.OPEN if shown.pairs < FEWEST else pays,
        shown,
        (statistics.mean(ours), statistics.mean(theirs)),
        len({task.unit(id) for id in task.items}),
        statistics.mean(answer["route"] == Route.AGREED for answer in succeeded(arm)),
        _seconds_a_right_answer(arm, against, shown),
        _settled_from(arm, answers.get(BASELINE, ())),
    )


def verdicts(config: Mapping[str, Any], tasks: Sequence[ScoredTask]) -> dict[str, PairVerdict | None]:
    """The verdicts on all tasks of a run, by task. Raises BadInput, MissingExtra."""
    compared = differences(tasks, arms_of_run(config, tasks), None, MARGIN, (SINGLE,))
    return {task.name: pair_verdict(task, compared) for task in tasks}


def _no_gain(each: Difference) -> bool:
    """Whether the strategy is shown to be worse, or to gain less than `MARGIN`, given that none gains significantly."""
    high = each.interval.high
    return each.significant or (high is not None and high < MARGIN)


def _seconds_a_right_answer(ones: Sequence[Record], others: Sequence[Record], shown: Difference) -> float | None:
    gain, both = shown.accuracy.difference.estimate, paired(ones, others)
    if gain <= 0:
        return None
    more_s: float = statistics.mean(one["latency"]["total_s"] - other["latency"]["total_s"] for one, other in both)
    return max(0.0, more_s) / gain


def _settled_from(ones: Sequence[Record], alone: Sequence[Record]) -> float | None:
    """The share s with s * (mean seconds of settled questions) + (1 - s) * (mean of the others) = baseline's mean."""
    base_s = _mean_s(alone)
    settled = [each for each in succeeded(ones) if each["route"] == Route.AGREED]
    settled_s, rest_s = _mean_s(settled), _mean_s([each for each in ones if each["route"] != Route.AGREED])
    if base_s is None or rest_s is None:
        return None
    if rest_s <= base_s:
        return 0.0
    return None if settled_s is None or settled_s >= base_s else (rest_s - base_s) / (rest_s - settled_s)


def _mean_s(answers: Sequence[Record]) -> float | None:
    whole = succeeded(answers)
    return statistics.mean(each["latency"]["total_s"] for each in whole) if whole and timed(whole) else None


def signed(value: float) -> str:
    """A difference with its sign: `+1.2`, `−0.3`, `0.0`."""
    shown = f"{value:+.1f}".replace("-", "−")
    return "0.0" if shown in ("+0.0", "−0.0") else shown


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
