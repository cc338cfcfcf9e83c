"""What each acceptance rule lets through: false accepts, and how much of them is error that both models share."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cuecard.answers import agree, extract
from cuecard.domain.question import AnswerKind, Question
from cuecard.stats.bootstrap import Interval, by_cluster, numpy, resampled
from cuecard.stats.inference import wilson
from cuecard.strategies.policy import Acceptance

Record = Mapping[str, Any]
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
RULES = (Acceptance(True, None), *(Acceptance(both, level) for both in (True, False) for level in LEVELS))


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

    `both_independent` is P(small wrong) * P(large wrong), as often both would be wrong if their errors were
    independent. `by_chance` is that times the chance that two wrong answers are the same one: among options 1 over the
    wrong ones, else as often as wrong answers of the two models to different questions of a pool are the same (where
    every question has its own vocabulary, that says too little). `excess` is what is wrong alike less `by_chance`:
    above 0 the errors hang together, by what both models have learnt or by questions that mislead both.
    """

    questions: int
    small_wrong: float
    large_wrong: float
    both_wrong: float
    both_independent: float
    wrong_alike: float
    by_chance: float
    excess: Interval
    explained: float | None
    """The part of what is wrong alike that chance explains; None where nothing is wrong alike."""


def rule_results(rule: Acceptance, answers: Sequence[ShortAnswers], confidence: float = 0.95) -> RuleResults:
    """What a rule accepts, and how much of that is wrong."""
    taken = [each for each in answers if accepts(rule, each)]
    wrong = [each for each in taken if not each.large_right]
    shared = sum(each.same for each in wrong)
    interval = wilson(len(wrong), len(taken), confidence)
    return RuleResults(str(rule), len(answers), len(taken), len(wrong), shared, interval)


def accepts(rule: Acceptance, answers: ShortAnswers) -> bool:
    """As `strategies.acceptance.accepted` decides: where there are no probabilities agreement alone does."""
    unseen = rule.confidence is not None and answers.confidence is None
    if rule.confidence is not None and answers.confidence is not None and answers.confidence < rule.confidence:
        return False
    return answers.readable and (answers.same or not (rule.agreement or unseen))


def shared_error(answers: Sequence[ShortAnswers], confidence: float = 0.95, seed: int = 0) -> SharedError | None:
    """Both wrong alike, against independence; None of no answers. The interval draws whole clusters."""
    if not answers:
        return None
    np, same = numpy(), coincidence(answers)
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
        sum(not each.small_right and not each.large_right for each in answers) / count,
        independent,
        alike / count,
        same * independent,
        resampled(sums, excess, confidence, seed),
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


def _both(item: Record, small: Record, large: Record) -> ShortAnswers:
    asked = Question(item["text"], (), tuple(item["options"]), AnswerKind(item["kind"]))
    one, other = (extract(each["answer"] or "", asked) for each in (small, large))
    options = len(item["options"]) or (2 if asked.kind is AnswerKind.YES_NO else 0)
    return ShortAnswers(
        item["cluster"],
        small["score"] == 1,
        large["score"] == 1,
        agree(one, other, asked),
        bool(large.get("parsed", other.parsed)),
        large["confidence"],
        options - 1 if options > 1 else None,
        str(one.value) if one.parsed else "",
        str(other.value) if other.parsed else "",
        item.get("category") or str(asked.kind),
    )


def _alike(answers: ShortAnswers) -> bool:
    return answers.same and not answers.small_right and not answers.large_right
