"""Fits acceptance tables: logistic regression with a ridge penalty, and the calibration of its probabilities.

The penalty shrinks shared weights to 0, and the weights of an answer kind to the shared weights, so that a kind with
few questions does not differ by chance. Targets are (n+ + 1) / (n+ + 2) and 1 / (n- + 2) instead of 1 and 0 (Platt
1999), so that no data lead to a probability of 1.

Also the candidates of `cuecard tune`: the arms of a run, and acceptance rules that the run did not use. If `mutual` was
run with two rules, its answer with a third rule is known for every question that the third rule accepts or rejects like
one of the two. So confidence thresholds between two that were run need no calls. The same holds for rules by an
acceptance table, if one arm accepted a question and another did not. Whether the small model's short answer was needed
can differ: the cost of a threshold may include a call too many, never one too few.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from cuecard.domain.call import FinishReason, Mode
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Route
from cuecard.domain.question import AnswerKind
from cuecard.evals.analysis.acceptance import CALIBRATED_RULES, SharedError, ShortAnswers, accepts, shared_error
from cuecard.evals.arm import FILE, LIVE, Arm, parse
from cuecard.evals.database import Record
from cuecard.models.acceptance_table import SHARED, AcceptanceTable, Evidence, KindWeights, clipped, logit
from cuecard.stats import numpy, share_interval
from cuecard.strategies.policy import CALIBRATED, Acceptance, AcceptanceRule, Calibrated, Policy
from cuecard.strategies.policy_file import PolicyFile

Key = tuple[str, str]
THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)


@dataclass(frozen=True)
class Candidate:
    """An arm and its answers, by task and item."""

    arm: Arm
    answers: Mapping[Key, Record]

    @property
    def failed(self) -> int:
        """The number of failed answers."""
        return sum(answer["status"] == "error" for answer in self.answers.values())


def candidates(
    answers: Iterable[Record], base: Policy | None = None, policies: Mapping[str, PolicyFile] | None = None
) -> dict[str, Candidate]:
    """By name: arms that a policy file can describe (no placebos, `equal` or live arms), and thresholds between them.

    `policies`: contents of the run's policy files, as in `arm.parse`.
    """
    found: dict[str, dict[Key, Record]] = defaultdict(dict)
    for answer in answers:
        found[answer["arm"]][answer["task"], answer["id"]] = answer
    arms = {name: parse(name, base, policies) for name in found if not name.endswith(LIVE)}
    run = {name: Candidate(arm, found[name]) for name, arm in arms.items()}
    run = {name: each for name, each in run.items() if each.arm.placebo is None and each.arm.equal is None}
    return {**{each.arm.name: each for each in _between(run.values())}, **run}


def calibrated(
    found: Mapping[str, Candidate], short: Mapping[Key, ShortAnswers], table: AcceptanceTable
) -> dict[str, Candidate]:
    """By name: `mutual` with each calibrated rule for which every question's answer is known from some arm.

    Empty if a question asks for free text: a model decides whether two such texts agree. Names of arms that the run has
    are left out.
    """
    if any(each.kind == AnswerKind.FREE_TEXT for each in short.values()):
        return {}
    keys = set.intersection(*(set(each.answers) for each in found.values())) if found else set()
    families: dict[Policy, list[Candidate]] = defaultdict(list)
    for each in found.values():
        if each.arm.strategy == "mutual" and not each.arm.name.startswith(FILE):
            families[replace(each.arm.policy, accept=None, table=None)].append(each)
    made = dict[str, Candidate]()
    for family in families.values():
        for rule in CALIBRATED_RULES:
            arm = _under(family[0].arm, rule, table)
            answers = {key: _answered(family, key, short.get(key), rule, table) for key in keys}
            known = {key: answer for key, answer in answers.items() if answer is not None}
            if arm.name not in found and len(known) == len(keys):
                made[arm.name] = Candidate(arm, known)
    return made


def _answered(
    family: Sequence[Candidate], key: Key, short: ShortAnswers | None, rule: Calibrated, table: AcceptanceTable
) -> Record | None:
    """A question's answer with this rule: from an arm that accepted or rejected its short answers like the rule.

    Arms that made the small model's short call exactly if the rule needs it are preferred. None if there is no arm.
    """
    is_accepted = short is not None and accepts(rule, short, table)
    answers = [each.answers[key] for each in family if (each.answers[key]["route"] == Route.AGREED) == is_accepted]
    needs_small = True
    if short is not None and (sure := short.confidence) is not None:
        needs_small = table.alone(short.kind, sure) < rule.least <= table.most(short.kind, sure)
    return min(answers, key=lambda answer: _has_small_short(answer) != needs_small, default=None)


def _has_small_short(answer: Record) -> bool:
    """Whether the small model's short call was made and not cancelled."""
    short = (call for call in answer["calls"] if (call["role"], call["mode"]) == ("small", Mode.SHORT))
    return any(call["finish_reason"] != FinishReason.CANCELLED for call in short)


def _between(run: Iterable[Candidate]) -> list[Candidate]:
    """Candidates for the thresholds between the lowest and the highest that were run."""
    families: dict[Any, list[tuple[Acceptance, Candidate]]] = defaultdict(list)
    for each in run:
        if each.arm.strategy == "mutual" and isinstance(rule := each.arm.policy.accept, Acceptance):
            families[replace(each.arm.policy, accept=Acceptance(rule.agreement, 0.0))].append((rule, each))
    result = list[Candidate]()
    for family in families.values():
        (least, low), (most, high) = min(family, key=_threshold), max(family, key=_threshold)
        span = least.confidence or 0.0, most.confidence or 0.0
        result += [_spliced(low, high, Acceptance(least.agreement, t), t) for t in THRESHOLDS if span[0] < t < span[1]]
    return result


def _spliced(low: Candidate, high: Candidate, rule: Acceptance, threshold: float) -> Candidate:
    answers = dict[Key, Record]()
    for key, answer in low.answers.items():
        if key in high.answers:
            # without probabilities, agreement alone decides at every threshold
            unsure = answer["confidence"] is not None and answer["confidence"] < threshold
            answers[key] = high.answers[key] if answer["route"] == Route.AGREED and unsure else answer
    return Candidate(_under(low.arm, rule, low.arm.policy.table), answers)


def _under(arm: Arm, rule: AcceptanceRule, table: AcceptanceTable | None) -> Arm:
    """The arm with another acceptance rule, and its name changed accordingly."""
    words = [part for part in arm.name.split("/") if not part.startswith("accept=")]
    name = "/".join([*words, f"accept={rule}"])
    return replace(arm, name=name, policy=replace(arm.policy, accept=rule, table=table))


def _threshold(each: tuple[Acceptance, Candidate]) -> float:
    return each[0].confidence or 0.0


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
