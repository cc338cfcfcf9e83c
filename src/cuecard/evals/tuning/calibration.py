"""Fits acceptance tables: logistic regression with a ridge penalty, and the calibration of its probabilities.

The penalty shrinks shared weights to 0, and the weights of an answer kind to the shared weights, so that a kind with
few questions does not differ by chance. Targets are (n+ + 1) / (n+ + 2) and 1 / (n- + 2) instead of 1 and 0 (Platt
1999), so that no data lead to a probability of 1.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from cuecard.domain.errors import BadInput
from cuecard.evals.analysis.acceptance import SharedError, ShortAnswers, shared_error
from cuecard.models.acceptance_table import SHARED, AcceptanceTable, Evidence, KindWeights, clipped, logit
from cuecard.stats.bootstrap import numpy
from cuecard.stats.inference import share_interval
from cuecard.strategies.acceptance_rules import CALIBRATED

LEAST_QUESTIONS, LEAST_OF_EACH = 50, 5
"""Minimum questions for a table, and minimum right and minimum wrong answers of the large model among them."""
FOLDS, BINS = 5, 10
RIDGE, INTERCEPT_RIDGE = 1.0, 0.1
NEWTON_STEPS, HALVINGS = 50, 30
DIGITS = 4
LEVEL = 0.95


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


# --- the regression ---------------------------------------------------------------------------------------------------


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
