"""Whether a pair of models pays on a task: its strategies against the best single model at equal or lower cost.

A single model counts as no more costly if it is not shown to take longer. Means alone do not decide that: for two arms
of about the same latency they differ by chance.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cuecard.domain.outcome import Route
from cuecard.evals.analysis.comparisons import Difference, arms_of_run, differences, paired
from cuecard.evals.analysis.scores import ScoredTask, succeeded, timed
from cuecard.evals.database import Record

SINGLE = "single"
"""The family of comparisons that a verdict uses."""
BASELINE = "reason:large"
MARGIN = 0.01
"""In score points: a gain that is shown to be smaller does not count."""
FEWEST = 20
"""Minimum number of scored questions for a verdict other than OPEN."""


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
