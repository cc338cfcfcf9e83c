"""Acceptance rules on stored short answers: accepted answers, false accepts, and errors that both models share."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cuecard.answers import agree, extract
from cuecard.domain.call import FinishReason, Mode, Usage, confidence_in
from cuecard.domain.question import AnswerKind, Question
from cuecard.evals import scorers
from cuecard.evals.requests import TOKENS
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.stats import Interval, by_cluster, numpy, resampled, share_interval, wilson
from cuecard.strategies.policy import Acceptance, AcceptanceRule, Calibrated, single_rules

Record = Mapping[str, Any]
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
RULES = (Acceptance(True, None), *(Acceptance(both, level) for both in (True, False) for level in LEVELS))
CALIBRATED_RULES = tuple(map(Calibrated, (0.9, 0.95, 0.97, 0.98, 0.99)))
"""Further rules if the two models have an acceptance table."""


@dataclass(frozen=True)
class ShortAnswers:
    """The short answers of both models to one question."""

    cluster: str
    small_right: bool
    large_right: bool
    same: bool
    """Whether both give the same answer; False if one cannot be parsed."""
    readable: bool
    """Whether the large model's answer can be parsed and is not truncated."""
    confidence: float | None
    """The large model's probability of its own answer; None if it gives no probabilities."""
    others: int | None = None
    """Number of possible wrong answers: options - 1; None if unknown."""
    small_text: str = ""
    large_text: str = ""
    pool: str = ""
    """Questions in one pool take the same type of answer: a category, else an answer kind."""
    kind: str = AnswerKind.SHORT_TEXT
    small_confidence: float | None = None
    """The small model's probability of its own answer; None if it gives no probabilities."""


@dataclass(frozen=True)
class RuleResults:
    """One rule on all questions: accepted answers, the wrong ones among them, and those that both models share."""

    rule: str
    questions: int
    accepted: int
    wrong: int
    shared: int
    false_accepts: Interval
    """Share of the accepted answers that are wrong, by Wilson: questions count as independent."""


@dataclass(frozen=True)
class SharedError:
    """How often both models give the same wrong answer, compared with independent errors.

    `beta`: share of questions that both models get wrong; no choice between their answers is right there.
    `alike_given_wrong`: share of these with the same answer from both; agreement cannot detect these errors.
    `both_independent`: P(small wrong) * P(large wrong), the share of questions that both would get wrong if errors were
    independent. `wrong_alike`: share of questions with the same wrong answer from both. `by_chance`: `both_independent`
    times the probability that two wrong answers are the same: for options 1 / (number of wrong options), else the
    frequency with which wrong answers of the two models to questions of one pool are the same (too low if every
    question has its own vocabulary). `excess`: `wrong_alike` - `by_chance`; above 0 the errors are correlated, because
    of what both models have learnt or because of questions that mislead both.
    """

    questions: int
    small_wrong: float
    large_wrong: float
    beta: Interval
    alike_given_wrong: Interval | None
    """None if no question is wrong in both."""
    both_independent: float
    wrong_alike: float
    by_chance: float
    excess: Interval
    explained: float | None
    """Share of `wrong_alike` that chance explains, at most 1; None if no answers are wrong alike."""


def rules_for(answers: Sequence[ShortAnswers], table: AcceptanceTable | None = None) -> tuple[AcceptanceRule, ...]:
    """The rules that can differ on these answers: without probabilities, every rule decides by agreement alone."""
    if not answers:
        return ()
    if all(each.confidence is None for each in answers):
        return RULES[:1]
    return RULES if table is None else (*RULES, *CALIBRATED_RULES)


def rule_results(
    rule: AcceptanceRule, answers: Sequence[ShortAnswers], table: AcceptanceTable | None = None
) -> RuleResults:
    """The answers that a rule accepts, and how many of them are wrong. `table`: needed by calibrated rules."""
    taken = [each for each in answers if accepts(rule, each, table)]
    wrong = [each for each in taken if not each.large_right]
    shared = sum(each.same for each in wrong)
    interval = wilson(len(wrong), len(taken))
    return RuleResults(str(rule), len(answers), len(taken), len(wrong), shared, interval)


def accepts(rule: AcceptanceRule, answers: ShortAnswers, table: AcceptanceTable | None = None) -> bool:
    """Decides as `strategies.acceptance.accepted_short`: without probabilities, by agreement alone."""
    if not answers.readable:
        return False
    if (sure := answers.confidence) is None:
        return answers.same

    def by(single: Acceptance | Calibrated) -> bool:
        match single:
            case Acceptance(agreement, confidence):
                return (answers.same or not agreement) and (confidence is None or sure >= confidence)
            case Calibrated(least):
                assert table is not None, "a calibrated rule needs a table"
                return table.allows(least, answers.kind, answers.same, sure, answers.small_confidence)

    return any(map(by, single_rules(rule)))


def shared_error(answers: Sequence[ShortAnswers]) -> SharedError | None:
    """The shared error of two models; None if there are no answers. Intervals are by bootstrap over whole clusters."""
    if not answers:
        return None
    np, same = numpy(), coincidence(answers)
    both = [each for each in answers if not each.small_right and not each.large_right]
    wrong = [float(not each.small_right and not each.large_right) for each in answers]
    columns = [
        [float(not each.small_right) for each in answers],
        [float(not each.large_right) for each in answers],
        [float(_alike(each)) for each in answers],
        [1.0] * len(answers),
    ]
    sums = np.stack(by_cluster([each.cluster for each in answers], *columns), axis=1)

    def excess(totals: Any) -> Any:
        small, large, alike, count = totals.T
        return alike / count - same * small * large / count**2

    small, large, alike, count = (float(total) for total in sums.sum(axis=0))
    independent = small * large / count**2
    return SharedError(
        len(answers),
        small / count,
        large / count,
        share_interval(wrong, [each.cluster for each in answers]),
        share_interval([float(each.same) for each in both], [each.cluster for each in both]) if both else None,
        independent,
        alike / count,
        same * independent,
        resampled(sums, excess),
        min(1.0, same * independent * count / alike) if alike else None,
    )


def coincidence(answers: Sequence[ShortAnswers]) -> float:
    """Mean probability that wrong answers of the two models are the same by chance."""
    small, large = defaultdict[str, Counter[str]](Counter), defaultdict[str, Counter[str]](Counter)
    for each in answers:
        small[each.pool][each.small_text] += not each.small_right
        large[each.pool][each.large_text] += not each.large_right

    def of_pool(name: str) -> float:
        pairs = small[name].total() * large[name].total()
        return sum(count * large[name][says] for says, count in small[name].items() if says) / pairs if pairs else 0.0

    pools = {each.pool: of_pool(each.pool) for each in answers}
    return sum(1 / each.others if each.others else pools[each.pool] for each in answers) / len(answers)


def short_answers(items: Iterable[Record], small: Iterable[Record], large: Iterable[Record]) -> list[ShortAnswers]:
    """Pairs of the answers of `short:small` and `short:large` to the same items, without those that have no score."""
    of_item = {(item["task"], item["id"]): item for item in items}
    of_small = {(each["task"], each["id"]): each for each in small if each["score"] is not None}
    found = []
    for answer in large:
        key = answer["task"], answer["id"]
        if key in of_small and key in of_item and answer["score"] is not None:
            found.append(_both(of_item[key], of_small[key], answer))
    return found


def called_short(
    items: Iterable[Record], answers: Iterable[Record], call_of: Callable[[str], Record | None]
) -> dict[tuple[str, str], ShortAnswers]:
    """By (task, id): pairs of short answers from the SHORT calls of these answers, whatever the strategy.

    `call_of`: returns a stored call by its key. Questions with a failed or unscorable call are left out.
    """
    of_item = {(item["task"], item["id"]): item for item in items}
    keys: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for answer in answers:
        own = keys[answer["task"], answer["id"]]
        for call in answer["calls"]:
            if call["mode"] == Mode.SHORT and call["role"] in ("small", "large") and call["key"]:
                own[call["role"]] = call["key"]  # the last call: a stricter second call replaces the first
    found = {}
    for place, own in keys.items():
        if place in of_item and len(own) == 2:
            small, large = (_reply(of_item[place], call_of(own[role])) for role in ("small", "large"))
            if small is not None and large is not None:
                found[place] = _both(of_item[place], small, large)
    return found


def _reply(item: Record, call: Record | None) -> Record | None:
    """A stored short call as an answer record of a `short` arm; None if it failed or cannot be scored."""
    if call is None or call["status"] != "ok":
        return None
    text, asked = call["answer"] or "", scorers.item_of(item)
    scored = scorers.scored(text.strip(), asked)
    cut = call["finish_reason"] == FinishReason.LENGTH
    usage = Usage(*(call[name] for name in TOKENS))
    sure = confidence_in(call["answer_logprob"], asked.question.kind, usage, bool(call["reasoning"]))
    return None if scored["score"] is None else scored | {"answer": text, "confidence": sure, "truncated": cut}


def _both(item: Record, small: Record, large: Record) -> ShortAnswers:
    asked = Question(item["text"], (), tuple(item["options"]), AnswerKind(item["kind"]))
    # a truncated answer does not count
    texts = ("" if each.get("truncated") else each["answer"] or "" for each in (small, large))
    one, other = (extract(text, asked) for text in texts)
    options = len(item["options"]) or (2 if asked.kind is AnswerKind.YES_NO else 0)
    return ShortAnswers(
        item["cluster"],
        small["score"] == 1,
        large["score"] == 1,
        agree(one, other, asked),
        bool(large.get("parsed", other.parsed)) and not large.get("truncated"),
        large["confidence"],
        options - 1 if options > 1 else None,
        str(one.value) if one.parsed else "",
        str(other.value) if other.parsed else "",
        item.get("category") or str(asked.kind),
        str(asked.kind),
        small["confidence"],
    )


def _alike(answers: ShortAnswers) -> bool:
    return answers.same and not answers.small_right and not answers.large_right
