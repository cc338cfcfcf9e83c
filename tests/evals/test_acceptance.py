"""Acceptance rules are evaluated as the strategies decide, and shared errors are separated from coincidence."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import pytest

from cuecard import virtual_time
from cuecard.domain.call import Mode
from cuecard.domain.outcome import Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.evals.analysis.acceptance import (
    RULES,
    ShortAnswers,
    accepts,
    coincidence,
    rule_results,
    shared_error,
    short_answers,
)
from cuecard.evals.analysis.scores import ScoredTask
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.policy import Acceptance, Policy
from cuecard.strategies.run import answer

SURE = ShortAnswers("a", small_right=True, large_right=True, same=True, readable=True, confidence=0.9, others=3)
AGREE = Acceptance(True, None)


def paired(items, small, large):
    """The short answers of a task with these items and answers."""
    answers = {"short:small": small, "short:large": large}
    return short_answers(ScoredTask("t", "mean", {item["id"]: item for item in items}, answers, {}))


def test_false_accepts_are_the_wrong_ones_among_the_accepted():
    wrong = replace(SURE, small_right=False, large_right=False)
    differ = replace(SURE, same=False, small_right=False)
    unsure = replace(wrong, confidence=0.3)
    found = rule_results(AGREE, [SURE, SURE, wrong, differ, unsure])
    assert (found.accepted, found.wrong, found.shared) == (4, 2, 2)
    assert (found.false_accepts.estimate, found.false_accepts.method) == (0.5, "Wilson")
    assert rule_results(Acceptance(True, 0.8), [SURE, SURE, wrong, differ, unsure]).wrong == 1
    alone = rule_results(Acceptance(False, 0.8), [replace(differ, large_right=False), SURE])
    assert (alone.accepted, alone.wrong, alone.shared) == (2, 1, 0)
    assert rule_results(AGREE, []).false_accepts.high == 1


@pytest.mark.parametrize(
    ("small", "large", "logprob"), [*product("45", ["4", "none of it"], [-0.05, -0.5, -3.0, None])]
)
def test_a_rule_accepts_here_what_mutual_accepts(small, large, logprob):
    asked = Question("How many cats are there?", kind=AnswerKind.NUMBER)

    def says(text: str) -> ScriptedModel:
        def reply(prompt: object) -> Says:
            return Says(text, "So it is.", confidence_logprob=logprob)

        return ScriptedModel(text, reply)

    item = {"task": "t", "id": "1", "text": asked.text, "options": [], "kind": asked.kind, "cluster": "c"}

    def outcome(strategy: str, rule: Acceptance = AGREE):
        models = {"small": says(small), "large": says(large)}
        return virtual_time.run(answer(asked, models, strategy, Policy(accept=rule)))

    def record(strategy: str) -> dict[str, object]:
        found = outcome(strategy)
        return {"task": "t", "id": "1", "score": 1.0, "answer": found.answer, "confidence": found.confidence}

    (both,) = paired([item], [record("short:small")], [record("short:large")])
    for rule in RULES:
        assert accepts(rule, both) == (outcome("mutual", rule).route is Route.AGREED), rule
    assert Mode.SHORT in {call.mode for call in outcome("mutual").calls}


def test_records_become_short_answers_and_unscored_ones_are_left_out():
    item = {"task": "t", "text": "Which?", "options": ["red", "blue", "green"], "kind": "choice", "cluster": "c"}
    items = [item | {"id": id} for id in "123"]
    small = [
        {"task": "t", "id": id, "score": s, "answer": "A", "confidence": None}
        for id, s in zip("123", (1, 0, None), strict=True)
    ]
    large = [{"task": "t", "id": id, "score": 1.0, "answer": "(A)", "confidence": 0.7} for id in "123"]
    one, other = paired(items, small, large)
    assert one == ShortAnswers("c", True, True, True, True, 0.7, 2, one.small_text, one.large_text, "choice", "choice")
    assert one.small_text == one.large_text != ""
    assert not other.small_right
    for kind, others in (("yes_no", 1), ("number", None)):
        assert paired([each | {"options": [], "kind": kind} for each in items], small, large)[0].others == others


def guesses(count: int, shared: float, others: int | None = 3) -> list[ShortAnswers]:
    """Two models with 30% errors of three values; a share `shared` of answers is equal, the others are independent."""
    rng, made = random.Random(5), []
    for place in range(count):
        small, large = (0 if rng.random() > 0.3 else rng.randint(1, 3) for _ in range(2))
        if rng.random() < shared:
            large = small
        says = str(small), str(large)
        made.append(ShortAnswers(str(place), not small, not large, small == large, True, None, others, *says))
    return made


@pytest.mark.parametrize("others", [3, None])
def test_independent_errors_count_as_chance(others):
    found = shared_error(guesses(4000, 0.0, others))
    assert found.both_independent == pytest.approx(0.09, abs=0.01)
    assert found.beta.estimate == pytest.approx(found.both_independent, abs=0.01)
    assert found.beta.low < found.beta.estimate < found.beta.high
    assert found.alike_given_wrong.estimate == pytest.approx(1 / 3, abs=0.06)
    assert found.by_chance == pytest.approx(0.03, abs=0.005)
    assert found.excess.low < 0 < found.excess.high
    assert found.explained == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("others", [3, None])
def test_errors_of_models_that_learned_the_same_count_as_shared(others):
    found = shared_error(guesses(4000, 0.8, others))
    assert found.wrong_alike == pytest.approx(0.8 * 0.3 + 0.2 * 0.03, abs=0.02)
    assert found.excess.low > 0.15
    assert found.explained == pytest.approx(0.03 / found.wrong_alike, abs=0.03)


def test_answers_that_cannot_be_read_are_never_alike():
    silent = [replace(SURE, small_right=False, large_right=False, same=False, others=None)] * 9
    assert coincidence(silent) == 0
    assert shared_error(silent).explained is None
    assert shared_error([]) is None
