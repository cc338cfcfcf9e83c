"""Acceptance rules on stored short answers: what they accept, errors that both models share, and fitted tables.

An acceptance table is a logistic regression with a ridge penalty. The penalty shrinks shared weights to 0, and the
weights of an answer kind to the shared weights, so that a kind with few questions does not differ by chance. Targets
are (n+ + 1) / (n+ + 2) and 1 / (n- + 2) instead of 1 and 0 (Platt 1999), so that no data lead to a probability of 1.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from cuecard.answers import agree, extract
from cuecard.domain.call import FinishReason, Mode, Usage, confidence_in
from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind, Question
from cuecard.evals import scorers
from cuecard.evals.analysis.scores import ScoredTask
from cuecard.evals.database import Record
from cuecard.evals.requests import TOKENS
from cuecard.models.acceptance_table import SHARED, AcceptanceTable, Evidence, KindWeights, clipped, logit
from cuecard.stats import Interval, by_cluster, numpy, resampled, share_interval, wilson
from cuecard.strategies.policy import CALIBRATED, Acceptance, AcceptanceRule, Calibrated, single_rules

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
RULES = (Acceptance(True, None), *(Acceptance(both, level) for both in (True, False) for level in LEVELS))
CALIBRATED_RULES = tuple(map(Calibrated, (0.9, 0.95, 0.97, 0.98, 0.99)))
"""Further rules if the two models have an acceptance table."""
LEAST_QUESTIONS, LEAST_OF_EACH = 50, 5
"""Minimum questions for a table, and minimum right and minimum wrong answers of the large model among them."""
FOLDS, BINS = 5, 10
RIDGE, INTERCEPT_RIDGE = 1.0, 0.1
NEWTON_STEPS, HALVINGS = 50, 30
DIGITS = 4
LEVEL = 0.95


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


def short_answers(task: ScoredTask) -> list[ShortAnswers]:
    """Pairs of the answers of `short:small` and `short:large` to the same items, without those that have no score."""
    small, large = (
        {each["id"]: each for each in task.answers.get(f"short:{role}", ()) if each["score"] is not None}
        for role in ("small", "large")
    )
    return [_both(task.items[id], small[id], answer) for id, answer in large.items() if id in small]


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


# --- acceptance tables ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """Quality of a table on questions of one kind, cross-fitted: each by a table fitted without its cluster."""

    kind: str
    questions: int
    accuracy: float
    """Accuracy of the large model's short answers."""
    brier: float
    ece: float
    """Expected calibration error, with 10 bins of equal width."""
    accepted: int
    """Answers accepted by `calibrated(0.98)`, the default: by both models' answers, or by the large model's alone."""
    wrong: int
    """Wrong answers among the accepted ones."""


@dataclass(frozen=True)
class FittedTable:
    """A table, and its calibration: first on all kinds together, then on each kind."""

    table: AcceptanceTable
    kinds: tuple[Calibration, ...]
    shared: SharedError


def fit(answers: Sequence[ShortAnswers], small: str, large: str) -> FittedTable:
    """Fit the table of two models, given by their names. Raises BadInput if there are too few answers."""
    readable = [each for each in answers if each.readable]
    usable = [each for each in readable if each.confidence is not None]
    if readable and not usable:
        raise BadInput(f"an acceptance table needs probabilities, and {large} gives none", "agreement alone decides")
    right = sum(each.large_right for each in usable)
    if len(usable) < LEAST_QUESTIONS or min(right, len(usable) - right) < LEAST_OF_EACH:
        raise BadInput(
            f"an acceptance table needs {LEAST_QUESTIONS} questions that both models answered short, and of the large"
            f" model's answers {LEAST_OF_EACH} right and {LEAST_OF_EACH} wrong ones: there are {len(usable):,}"
            f" questions, {right:,} right and {len(usable) - right:,} wrong",
            "add questions to the run, of other tasks if these are too easy",
        )
    chances = _cross_fitted(usable, small, large)
    kinds = tuple(_calibration(kind, usable, chances) for kind in (SHARED, *_kinds(usable)))
    whole, known = _table(usable, small, large), {each.kind: each for each in kinds}
    weights = tuple((kind, _described(own, known[kind])) for kind, own in whole.kinds)
    shared = shared_error(usable)
    assert shared is not None
    return FittedTable(replace(whole, kinds=weights, evidence=_evidence(usable, chances, shared)), kinds, shared)


def _evidence(answers: Sequence[ShortAnswers], chances: Sequence[tuple[float, float]], shared: SharedError) -> Evidence:
    """How many of the answers the default rule accepts, and how many of these are wrong; `chances`: cross-fitted."""
    taken = [each for each, either in zip(answers, chances, strict=True) if max(either) >= CALIBRATED.least]
    wrong = [float(not each.large_right) for each in taken]
    risk = share_interval(wrong, [each.cluster for each in taken]) if taken else None
    alike, known = shared.alike_given_wrong, json.dumps(sorted(map(astuple, answers), key=repr))
    return Evidence(
        str(CALIBRATED),
        len(taken),
        round(sum(wrong)),
        LEVEL,
        round(shared.beta.estimate, DIGITS),
        hashlib.sha256(known.encode()).hexdigest()[:16],
        None if risk is None else round(risk.estimate, DIGITS),
        None if risk is None or risk.high is None else round(risk.high, DIGITS),
        None if alike is None else round(alike.estimate, DIGITS),
    )


def _cross_fitted(answers: Sequence[ShortAnswers], small: str, large: str) -> list[tuple[float, float]]:
    """For each question (probability by both answers, by the large model's alone), fitted without its cluster.

    Raises BadInput if there are fewer clusters than folds.
    """
    clusters = sorted({each.cluster for each in answers}, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(clusters) < FOLDS:
        raise BadInput(
            f"an acceptance table needs questions of {FOLDS} clusters (images): there are {len(clusters)}",
            "add questions about other images to the run",
        )
    fold_of = {name: place % FOLDS for place, name in enumerate(clusters)}
    tables = [
        _table([each for each in answers if fold_of[each.cluster] != fold], small, large) for fold in range(FOLDS)
    ]
    return [_chances(tables[fold_of[each.cluster]], each) for each in answers]


def _chances(table: AcceptanceTable, answers: ShortAnswers) -> tuple[float, float]:
    sure = answers.confidence
    assert sure is not None
    both = table.probability(answers.kind, answers.same, sure, answers.small_confidence)
    return both, table.alone(answers.kind, sure)


def _kinds(answers: Sequence[ShortAnswers]) -> list[str]:
    """The kinds that occur, the most frequent first."""
    counts = Counter(each.kind for each in answers)
    return sorted(counts, key=lambda kind: (-counts[kind], kind))


def _described(weights: KindWeights, known: Calibration) -> KindWeights:
    accuracy, brier, ece = (round(value, DIGITS) for value in (known.accuracy, known.brier, known.ece))
    return replace(weights, questions=known.questions, accuracy=accuracy, brier=brier, ece=ece)


def _calibration(kind: str, answers: Sequence[ShortAnswers], chances: Sequence[tuple[float, float]]) -> Calibration:
    known = [
        (each, float(answer.large_right))
        for answer, each in zip(answers, chances, strict=True)
        if kind in (SHARED, answer.kind)
    ]
    own = [(both, right) for (both, _), right in known]
    taken = [right for either, right in known if max(either) >= CALIBRATED.least]
    return Calibration(
        kind,
        len(own),
        sum(right for _, right in own) / len(own),
        sum((chance - right) ** 2 for chance, right in own) / len(own),
        expected_error(own),
        len(taken),
        taken.count(0.0),
    )


def expected_error(pairs: Sequence[tuple[float, float]]) -> float:
    """(probability, 1 if right else 0) of each answer -> expected calibration error (Guo et al. 2017)."""
    off = [0.0] * BINS
    for chance, right in pairs:
        off[min(int(BINS * chance), BINS - 1)] += chance - right
    return sum(map(abs, off)) / len(pairs)


# --- the regression of a table ----------------------------------------------------------------------------------------


def _table(answers: Sequence[ShortAnswers], small: str, large: str) -> AcceptanceTable:
    """The fitted table, without its calibration on each kind."""
    kinds = _kinds(answers)
    by_both = _weights(answers, [_row(each, kinds) for each in answers], never_negative=(1, 2, 3))
    by_large = _weights(answers, [_row_alone(each, kinds) for each in answers], never_negative=(1, 2))
    intercept, agree, log_large, log_not_large, logit_small, no_small, *deviations = by_both
    alone, alone_log_large, alone_log_not_large, *alone_deviations = by_large
    counts = Counter(each.kind for each in answers)
    made = [(SHARED, KindWeights(intercept, agree, len(answers), alone=alone))]
    for kind, more, also, apart in zip(kinds, deviations[::2], deviations[1::2], alone_deviations, strict=True):
        own, both, by_itself = (round(each, DIGITS) for each in (intercept + more, agree + also, alone + apart))
        made.append((kind, KindWeights(own, both, counts[kind], alone=by_itself)))
    shared = (log_large, log_not_large, logit_small, no_small)
    return AcceptanceTable(small, large, *shared, tuple(made), alone_log_large, alone_log_not_large)


def _weights(
    answers: Sequence[ShortAnswers], made: Sequence[Sequence[float]], never_negative: Sequence[int]
) -> list[float]:
    """Fit (columns,) weights to one row per answer; the first column is the intercept.

    Agreement and a more confident large model must not lower the probability: weights of the columns `never_negative`
    that come out negative are set to 0.
    """
    np = numpy()
    rows, right = np.array(made, float), np.array([each.large_right for each in answers])
    targets = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))
    ridge = np.full(rows.shape[1], RIDGE)
    ridge[0] = INTERCEPT_RIDGE
    while True:
        weights = newton(rows, targets, ridge)
        negative = [column for column in never_negative if weights[column] < 0]
        if not negative:
            return [round(float(each), DIGITS) for each in weights]
        rows[:, negative] = 0


def _row(answers: ShortAnswers, kinds: Sequence[str]) -> list[float]:
    """Columns: intercept, agree, log_large, log_not_large, logit_small, no_small, then two deviations per kind."""
    assert answers.confidence is not None
    p, sure = clipped(answers.confidence), answers.small_confidence
    own = [1.0, float(answers.same), math.log(p), -math.log(1 - p)]
    own += [0.0, 1.0] if sure is None else [logit(sure), 0.0]
    for kind in kinds:
        own += [float(answers.kind == kind), float(answers.kind == kind and answers.same)]
    return own


def _row_alone(answers: ShortAnswers, kinds: Sequence[str]) -> list[float]:
    """Columns: alone, alone_log_large, alone_log_not_large, then one deviation per kind."""
    assert answers.confidence is not None
    p = clipped(answers.confidence)
    return [1.0, math.log(p), -math.log(1 - p), *(float(answers.kind == kind) for kind in kinds)]


def newton(rows: Any, targets: Any, ridge: Any) -> Any:
    """(questions, columns), (questions,), (columns,) -> (columns,) weights that minimise the penalised logistic loss.

    A Newton step is halved while it increases the loss.
    """
    np = numpy()
    weights = np.zeros(rows.shape[1])

    def loss(at: Any) -> float:
        scores = rows @ at
        return float((np.logaddexp(0, scores) - targets * scores).sum() + (ridge * at**2).sum() / 2)

    for _ in range(NEWTON_STEPS):
        chances = 1 / (1 + np.exp(-np.clip(rows @ weights, -500, 500)))
        slope = rows.T @ (chances - targets) + ridge * weights
        step = np.linalg.solve((rows.T * (chances * (1 - chances))) @ rows + np.diag(ridge), slope)
        for _ in range(HALVINGS):
            if loss(weights - step) <= loss(weights):
                break
            step = step / 2
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return weights
