"""Results in sentences: which arm wins by how much, whether it is significant, and whether the parser caused it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from cuecard.domain.outcome import LatencyKind
from cuecard.evals.analysis.acceptance import SharedError
from cuecard.evals.analysis.comparisons import BASELINE, NO_CARD, Difference, Pays, p_value, signed
from cuecard.evals.analysis.examples import Gallery
from cuecard.evals.analysis.results import ArmResults, RunResults, TaskResults
from cuecard.evals.judging import ListedReply, judges
from cuecard.report import formatting
from cuecard.report.html import KeyResult
from cuecard.stats import Interval

VERDICTS: Mapping[Pays, tuple[str, Literal["good", "bad", "open"]]] = {
    Pays.YES: ("It pays", "good"),
    Pays.NO: ("It does not pay", "bad"),
    Pays.OPEN: ("Not shown to pay", "open"),
}


def share(value: float | None) -> str:
    """0.9667 -> `96.7%`."""
    return "–" if value is None else f"{100 * value:.1f}%"


def points(value: float) -> str:
    """A difference of shares: 0.0123 -> `+1.2 points`."""
    return f"{signed(100 * value)} point{'' if abs(round(100 * value, 1)) == 1 else 's'}"


def between(interval: Interval, scale: float = 100, form: str = ".1f") -> str:
    """The ends of an interval: `91.1 to 99.7`; or the reason why there are none."""
    if interval.low is None or interval.high is None:
        return "no interval"
    if not has_spread(interval):
        return "no spread"
    return f"{scale * interval.low:{form}} to {scale * interval.high:{form}}".replace("-", "−")


def has_spread(interval: Interval) -> bool:
    """Whether an interval has two ends. If all scores are equal, the bootstrap has no spread, which is no certainty."""
    return interval.low is not None and interval.low != interval.high


def times(interval: Interval) -> str:
    """`3.52 times (3.10 to 3.91)`."""
    return f"{interval.estimate:.2f} times ({between(interval, 1, '.2f')})"


def units(task: TaskResults) -> str:
    """The number of scored units: `6 groups of rotations`, `1 question`."""
    first, _, rest = task.unit.partition(" ")
    return f"{task.units:,} {first}{'' if task.units == 1 else 's'} {rest}".strip()


def lead(results: RunResults) -> str:
    """What the verdicts leave out, in one sentence per task."""
    lines = []
    for task in results.tasks:
        if not task.best:
            lines.append(f"{task.task}: nothing is scored.")
            continue
        sentence = f"On {task.task} ({units(task)}) {_best(task)}"
        difference = task.difference(task.leading) if task.leading else None
        if difference is not None:
            sentence += f"; {difference.arm} reaches {share(accuracy(task.arms[difference.arm]))}"
            if difference.times_faster is not None:
                sentence += f" at {times(difference.times_faster)} the speed of {difference.against}, {difference.kind}"
        lines.append(sentence + ".")
    return " ".join(lines)


def pays(task: TaskResults) -> str:
    """Whether the pair pays, by how much and how certain that is, for a task with a verdict."""
    assert task.verdict is not None
    return f"{task.verdict.sentence(task.task)}{_beside_baseline(task)}"


def verdict(task: TaskResults) -> KeyResult:
    """The verdict for the first screen: whether the pair pays, by how much, and how certain that is."""
    question = f"Does the pair pay on {task.task}?"
    if task.verdict is None:
        why = "Every single model of this run takes longer, or seconds are not known." if task.best else "Not scored."
        return KeyResult(question, "No verdict", why, "")
    answer, tone = VERDICTS[task.verdict.pays]
    _, _, gain = pays(task).partition(": ")
    certainty = "The interval has 0 in it unless the adjusted test, which it belongs to, rejects that."
    return KeyResult(question, answer, gain, certainty, tone)


def _beside_baseline(task: TaskResults) -> str:
    """Speed and accuracy of the verdict's strategy against the baseline."""
    assert task.verdict is not None
    whole = task.difference(task.verdict.shown.arm)
    if whole is None or whole.times_faster is None:
        return ""
    alone = f"the large model reasoning for itself ({BASELINE})" if whole.against == BASELINE else whole.against
    difference = f"{points(whole.accuracy.difference.estimate)} ({between(whole.interval)})"
    return f" Against {alone} it is {times(whole.times_faster)} as fast, at {difference} of accuracy."


def comparison(results: RunResults) -> str:
    """The caption of the table of comparisons."""
    return (
        f"Against {results.baseline}: points of accuracy with their interval, which has 0 in it unless the adjusted"
        " test rejects that; questions that are better and worse; p adjusted by Holm's method; whether all extractors"
        f" agree; whether it is shown that the arm loses less than {100 * results.margin:g} in 100; the ratio of mean"
        " latencies, and of those end to end where composed arms were run so too."
    )


def _best(task: TaskResults) -> str:
    """The most accurate arm, with ties."""
    first, *others = task.best
    tie = f", at a tie with {', '.join(others)}" if others else ""
    return f"{first} is right most often{tie}: {_right(task.arms[first])}"


def summary(task: TaskResults, results: RunResults) -> list[str]:
    """The results of one task besides its verdict, one sentence per line."""
    lines = [f"{_best(task)}."] if task.best else []
    baseline = task.arms.get(results.baseline or "")
    if baseline is not None:
        lines.append(f"The baseline, {baseline.arm}: {_right(baseline)}, in {_took(baseline)}.")
    else:
        lines.append("The run has no baseline, so arms are not compared: name one with --against.")
    lines += [against(each, task) for arm in task.paper if (each := task.difference(arm)) is not None]
    lines += [_fastest(task, results)] if baseline is not None and baseline.latency is not None else []
    lines += [_cards(each) for each in task.differences if each.family == "cards" and each.arm == task.leading]
    if unfinished := _unfinished(task):
        lines.append(unfinished)
    return lines


def stale(scorer: Mapping[str, Any]) -> str | None:
    """A warning if answers were scored by another version of the scorers, else None."""
    if not scorer["stale"]:
        return None
    counts = ", ".join(f"{count:,} by {version}" for version, count in scorer["stale"].items())
    return (
        f"Scores are stale: scorers and extractors are at version {scorer['version']}, and answers were scored"
        f" {counts}. `cuecard rescore` scores the stored replies again."
    )


def against(each: Difference, task: TaskResults) -> str:
    """One comparison in full."""
    return f"{each.arm}: {_right(task.arms[each.arm])}. {_differs(each)} {swap(each)} {not_worse(each)} {faster(each)}"


def _differs(each: Difference) -> str:
    """The size of a difference, and whether it is significant."""
    compared = each.accuracy
    if not compared.better and not compared.worse:
        return f"No question is scored otherwise than by {each.against}."
    verdict = "significant" if each.significant else "not significant"
    return (
        f"Against {each.against} {points(compared.difference.estimate)} ({between(each.interval)};"
        f" {compared.better} better, {compared.worse} worse), {verdict}: adjusted {p_value(each.p_adjusted)}"
        f" ({compared.test})."
    )


def swap(each: Difference) -> str:
    """Whether the other extractors agree."""
    if not each.extractors:
        return "By other extractors nothing is known."
    differences = [one.difference for one in each.extractors.values()]
    low, high = signed(100 * min(differences)), signed(100 * max(differences))
    span = f"{points(differences[0])} by each of {len(differences)}" if low == high else f"{low} to {high} points"
    return f"This {'survives' if each.survives else 'does not survive'} the swap of the extractor ({span})."


def not_worse(each: Difference) -> str:
    """Whether non-inferiority is shown."""
    margin = f"{100 * each.not_worse.margin:g} point{'' if each.not_worse.margin == 0.01 else 's'}"
    shown = "shown" if each.not_worse.shown else "not shown"
    return f"That it loses less than {margin} is {shown} (one-sided {p_value(each.not_worse.p)})."


def faster(each: Difference) -> str:
    if each.times_faster is None:
        return "Seconds are not known."
    sentence = f"Its speed is {times(each.times_faster)} that of {each.against}, {each.kind}"
    if each.times_faster_live is not None and each.kind is not LatencyKind.MEASURED:
        sentence += f"; {times(each.times_faster_live)} measured end to end"
    return sentence + "."


def card(gallery: Gallery, task: TaskResults) -> str:
    """How many answers the card changed from wrong to right, and from right to wrong."""
    helped, misled = len(gallery.helped), len(gallery.misled)
    each = task.difference(gallery.arm, "cards")
    tested = f" ({each.accuracy.test}: {p_value(each.accuracy.p)})" if each is not None else ""
    return (
        f"Against the large model's short answer, the card that {gallery.arm} hands over turned {helped} wrong answers"
        f" into right ones and {misled} right ones into wrong ones{tested}."
    )


def accuracy(arm: ArmResults) -> float:
    return 0.0 if arm.accuracy is None else arm.accuracy.estimate


def shared(error: SharedError) -> str:
    """The correlation of both models' errors."""
    explained = "" if error.explained is None else f", {share(error.explained)} of which chance explains"
    alike = error.alike_given_wrong
    given = "" if alike is None else f", and say the same on {share(alike.estimate)} of these ({between(alike)})"
    return (
        f"On {error.questions:,} questions the short answers of all models are wrong on {share(error.beta.estimate)}"
        f" ({between(error.beta)}; beta){given}, where agreement cannot tell. The small model is wrong on"
        f" {share(error.small_wrong)}, the large one on {share(error.large_wrong)}: both would be on"
        f" {share(error.both_independent)} if their errors were independent. Both say the same wrong thing on"
        f" {share(error.wrong_alike)}{explained}, an excess of {points(error.excess.estimate)}"
        f" ({between(error.excess)})."
    )


def listed(replies: Sequence[ListedReply], most: int) -> str:
    """The caption of the list of unparsed replies."""
    more = f" The first {most:,} of {len(replies):,}; all are in tables/unparsed.csv." if len(replies) > most else ""
    names = judges(replies)
    by = f" Judged by {names}, which was not given the right answers: kept apart, in no other figure." if names else ""
    return f"No answer was found in these replies, and each counts as wrong.{more}{by}"


def graded(replies: Sequence[ListedReply]) -> str:
    """The caption of the table of grades."""
    names = judges(replies)
    return (
        f"Grades from 0 to 1, given by {names}, which was given the right answers: kept apart, in no other figure. The"
        " mean is over the graded answers; failed ones have no grade. A question of several categories counts in each."
    )


def seconds(value: float | None) -> str:
    return "–" if value is None else formatting.duration(value)


def right(arm: ArmResults) -> str:
    """Accuracy, or its bounds if answers are unresolved."""
    if arm.bounds is not None:
        return f"{share(arm.bounds[0])} to {share(arm.bounds[1])}"
    return "–" if arm.accuracy is None else share(arm.accuracy.estimate)


def kinds(arms: Iterable[ArmResults]) -> str:
    """The origin of these arms' latencies: `composed (put together from calls timed in this run)`."""
    results = dict.fromkeys(arm.kind for arm in arms)
    return "; ".join("not known" if kind is None else f"{kind} ({formatting.HOW[kind]})" for kind in results)


def _right(arm: ArmResults) -> str:
    if arm.accuracy is None:
        return "not scored"
    kind = "95% interval " if has_spread(arm.accuracy) else ""
    return f"{share(arm.accuracy.estimate)} ({kind}{between(arm.accuracy)})"


def _took(arm: ArmResults) -> str:
    spent = "" if arm.generated is None else f" and {arm.generated.estimate:.1f} generated tokens a question"
    took = "seconds that are not known" if arm.latency is None else formatting.duration(arm.latency.estimate)
    return f"{took}{spent}{f', {arm.kind}' if arm.kind else ''}"


def _fastest(task: TaskResults, results: RunResults) -> str:
    shown = [each for each in task.differences if each.family == "arms" and each.not_worse.shown]
    quicker = [(each.times_faster, each.arm) for each in shown if each.times_faster and each.times_faster.estimate > 1]
    margin = f"{100 * results.margin:g} point{'' if results.margin == 0.01 else 's'}"
    if not quicker:
        return f"Of no arm that is faster than {results.baseline} is it shown that it loses less than {margin}."
    best, arm = max(quicker, key=lambda each: each[0].estimate)
    return f"Of the arms shown to lose less than {margin}, {arm} is the fastest: {times(best)}."


def _cards(each: Difference) -> str:
    verdict = "significant" if each.significant else "not significant"
    difference = each.accuracy.difference
    return (
        f"What the card gives: {each.arm} differs from {NO_CARD}, the large model without a card, by"
        f" {points(difference.estimate)} ({between(each.interval)}), {verdict} (adjusted {p_value(each.p_adjusted)})."
    )


def _unfinished(task: TaskResults) -> str | None:
    absent = {arm.arm: task.items - arm.answered - arm.unresolved for arm in task.arms.values()}
    lacking = {arm: count for arm, count in absent.items() if count > 0}
    unknown = [
        f"{arm.arm} {right(arm)} ({arm.unresolved} of {task.items} questions)" for arm in task.plain if arm.unresolved
    ]
    failed = [f"{arm.arm} {arm.errors:,} of {arm.answered:,}" for arm in task.arms.values() if arm.errors]
    lines = [
        f"Not answered yet: {_counted(lacking)}." if lacking else "",
        f"Between all that cannot be resolved wrong and all of it right: {', '.join(unknown)}." if unknown else "",
        f"Answers that failed, and are in no mean (accuracy, seconds, tokens): {', '.join(failed)}." if failed else "",
    ]
    return " ".join(filter(None, lines)) or None


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{arm} {count}" for arm, count in counts.items())
