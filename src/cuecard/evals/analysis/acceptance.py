"""What each acceptance rule lets through: false accepts, and how much of them is error that both models share."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cuecard.answers import agree, extract
from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.question import AnswerKind, Question
from cuecard.evals import scorers
from cuecard.evals.requests import TOKENS
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.stats.bootstrap import Interval, by_cluster, numpy, resampled
from cuecard.stats.inference import share_interval, wilson
from cuecard.strategies.acceptance_rules import Acceptance, AcceptanceRule, Calibrated
from cuecard.strategies.reply import confidence_in

Record = Mapping[str, Any]
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
RULES = (Acceptance(True, None), *(Acceptance(both, level) for both in (True, False) for level in LEVELS))
CALIBRATED_RULES = tuple(map(Calibrated, (0.9, 0.95, 0.97, 0.98, 0.99)))
"""Besides, where there is a table for the two models."""


@dataclass(frozen=True)
class ShortAnswers:
    """The short answers of both models to one question."""

    cluster: str
    small_right: bool
    large_right: bool
    same: bool
    """Whether they say the same; never so where one cannot be read."""
    readable: bool
    """The large model's."""
    confidence: float | None
    """Of the large model in its own; None where it gives no probabilities."""
    others: int | None = None
    """How many wrong answers there are to choose from: options less one; None: no such number is known."""
    small_text: str = ""
    large_text: str = ""
    pool: str = ""
    """Questions of one pool take the same sort of answer: a category, else a kind."""
    kind: str = AnswerKind.SHORT_TEXT
    small_confidence: float | None = None
    """Of the small model in its own."""


@dataclass(frozen=True)
class RuleResults:
    """One rule on all questions: accepted ones, wrong ones among them, and wrong ones that the small model shares."""

    rule: str
    questions: int
    accepted: int
    wrong: int
    shared: int
    false_accepts: Interval
    """Wrong ones as a share of the accepted ones, by Wilson: questions count as independent."""


@dataclass(frozen=True)
class SharedError:
    """How often both models are wrong alike, against errors that have nothing to do with each other.

    `beta` is the share of questions that all models get wrong: no choice among their answers is right there.
    `alike_given_wrong` is the share of these on which they say the same: there agreement cannot tell.
    `both_independent` is P(small wrong) * P(large wrong), as often both would be wrong if their errors were
    independent. `by_chance` is that times the chance that two wrong answers are the same one: among options 1 over the
    wrong ones, else as often as wrong answers of the two models to different questions of a pool are the same (where
    every question has its own vocabulary, that says too little). `excess` is what is wrong alike less `by_chance`:
    above 0 the errors hang together, by what both models have learnt or by questions that mislead both.
    """

    questions: int
    small_wrong: float
    large_wrong: float
    beta: Interval
    alike_given_wrong: Interval | None
    """None where nothing is wrong in both."""
    both_independent: float
    wrong_alike: float
    by_chance: float
    excess: Interval
    explained: float | None
    """The part of what is wrong alike that chance explains; None where nothing is wrong alike."""


def rules_for(answers: Sequence[ShortAnswers], table: AcceptanceTable | None = None) -> tuple[AcceptanceRule, ...]:
    """The rules that differ on these answers: without probabilities agreement alone decides, whatever the rule."""
    if not answers:
        return ()
    if all(each.confidence is None for each in answers):
        return RULES[:1]
    return RULES if table is None else (*RULES, *CALIBRATED_RULES)


def rule_results(
    rule: AcceptanceRule, answers: Sequence[ShortAnswers], table: AcceptanceTable | None = None
) -> RuleResults:
    """What a rule accepts, and how much of that is wrong. `table`: what a calibrated rule goes by."""
    taken = [each for each in answers if accepts(rule, each, table)]
    wrong = [each for each in taken if not each.large_right]
    shared = sum(each.same for each in wrong)
    interval = wilson(len(wrong), len(taken))
    return RuleResults(str(rule), len(answers), len(taken), len(wrong), shared, interval)


def accepts(rule: AcceptanceRule, answers: ShortAnswers, table: AcceptanceTable | None = None) -> bool:
    """As `strategies.acceptance.accepted_short` decides: where there are no probabilities agreement alone does."""
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

    return any(map(by, rule.rules))


def shared_error(answers: Sequence[ShortAnswers], seed: int = 0) -> SharedError | None:
    """Both wrong alike, against independence; None of no answers. The interval draws whole clusters."""
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
        resampled(sums, excess, seed=seed),
        min(1.0, same * independent * count / alike) if alike else None,
    )


def coincidence(answers: Sequence[ShortAnswers]) -> float:
    """The mean chance that wrong answers of the two models are the same one, if they have nothing else in common."""
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
    """From the answers of `short:small` and `short:large` to the same items; those without a score are left out."""
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
    """By (task, id): from the short calls that any of these answers made, whatever its strategy went on to do.

    `call_of`: a stored call by its key. Left out are questions of which a call failed or cannot be scored.
    """
    of_item = {(item["task"], item["id"]): item for item in items}
    keys: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for answer in answers:
        own = keys[answer["task"], answer["id"]]
        for call in answer["calls"]:
            if call["mode"] == Mode.SHORT and call["role"] in ("small", "large") and call["key"]:
                own[call["role"]] = call["key"]  # the last: a second, strict one takes the place of the first
    found = {}
    for place, own in keys.items():
        if place in of_item and len(own) == 2:
            small, large = (_reply(of_item[place], call_of(own[role])) for role in ("small", "large"))
            if small is not None and large is not None:
                found[place] = _both(of_item[place], small, large)
    return found


def _reply(item: Record, call: Record | None) -> Record | None:
    """A stored short call as the answer of a `short` arm; None where it failed or cannot be scored."""
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
    # one that was cut is no answer
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
