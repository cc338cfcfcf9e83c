"""Speculative reasoning by steps: the calls of each model to write, grade and read."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from cuecard import virtual_time
from cuecard.domain.call import Mode
from cuecard.domain.errors import ModelUnreachable
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.base import Limits
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.baselines import step_end
from cuecard.strategies.policy import Policy, Schedule
from cuecard.strategies.run import answer

HOW_MANY = Question("How many cats are there?", kind=AnswerKind.NUMBER)
ONE = "There is one black cat on the left side."
TWO = "There is one white dog on the right side."
OTHER = "There is one white cat on the right side."
THREE = "So one and one makes two cats in all."


def writer(*steps: str, answer: str = "7", token_s: float = 0.0) -> ScriptedModel:
    """A model that continues with these steps; it skips as many as the prompt already holds, by either model."""

    def says(prompt: Prompt) -> Says:
        done = sum(text in prompt.opening for text in (ONE, TWO, OTHER, THREE))
        return Says(answer, " ".join(steps[done:]), token_s=token_s)

    return ScriptedModel("writer", says)


def grader(grades: dict[str, str], *steps: str, answer: str = "2") -> ScriptedModel:
    """A model that grades steps by `grades` (default 9), and otherwise replies like a writer."""
    own = writer(*steps, answer=answer)

    def says(prompt: Prompt) -> Says:
        if prompt.mode is Mode.GRADE:
            return Says(grades.get(prompt.card.strip(), "9"))
        return own._next(prompt)

    return ScriptedModel("grader", says)


def ask(small: ScriptedModel, large: ScriptedModel, **options: object) -> Outcome:
    async def work() -> Outcome:
        return await answer(HOW_MANY, {"small": small, "large": large}, "steps", Policy(**options))

    return virtual_time.run(work())


def modes(outcome: Outcome) -> list[tuple[str, str]]:
    return [(call.role, str(call.mode)) for call in outcome.calls]


def card_read(large: ScriptedModel) -> str | None:
    return next(prompt.card for prompt in large.prompts if prompt.mode is Mode.READ)


@pytest.mark.parametrize("schedule", Schedule)
def test_a_step_that_is_graded_low_is_written_by_the_large_model(schedule):
    small, large = writer(ONE, TWO, THREE), grader({TWO: "2"}, ONE, OTHER, THREE)
    outcome = ask(small, large, schedule=schedule)
    assert (outcome.route, outcome.answer) == (Route.REVISED, "2")
    assert card_read(large) == f"{ONE} {OTHER} {THREE}"
    assert outcome.reason == "the large model read 2 steps of the small one and 1 of its own"


def test_one_call_after_the_other_a_step_at_a_time():
    outcome = ask(writer(ONE, TWO, THREE), grader({TWO: "2"}, ONE, OTHER, THREE), schedule=Schedule.THRIFTY)
    small, large = ("small", "reason"), ("large", "reason")
    grade = ("large", "grade")
    assert modes(outcome) == [small, grade, small, grade, large, small, grade, ("large", "read")]
    ends = [(call.start_s, call.end_s) for call in outcome.calls]
    assert all(end <= begin for (_, end), (begin, _) in pairwise(ends))


def test_the_small_model_writes_on_in_one_call_while_its_steps_are_accepted():
    outcome = ask(writer(ONE, TWO, THREE, token_s=0.1), grader({}), schedule=Schedule.OVERLAP)
    assert modes(outcome).count(("small", "reason")) == 1
    assert outcome.reason == "the large model read 3 steps of the small one and 0 of its own"


@pytest.mark.parametrize(("least", "own"), [(0.0, 0), (0.7, 0), (0.8, 3)])
def test_the_threshold_decides_which_grade_is_enough(least, own):
    same = dict.fromkeys((ONE, TWO, THREE), "7")
    outcome = ask(writer(ONE, TWO, THREE), grader(same, ONE, OTHER, THREE), step_score=least)
    assert outcome.reason.endswith(f"and {own} of its own")


def test_a_grade_that_cannot_be_read_accepts_nothing():
    small, large = writer(ONE, THREE), grader({ONE: "good", THREE: "fine"}, ONE, THREE)
    assert ask(small, large).reason == "the large model read 0 steps of the small one and 2 of its own"


def test_a_grade_never_stands_as_the_answer_where_a_model_fails():
    reads = Says(error=ModelUnreachable("down"))
    large = ScriptedModel("large", lambda prompt: Says("9") if prompt.mode is Mode.GRADE else reads)
    outcome = ask(writer(ONE, answer="2"), large)
    assert (outcome.route, outcome.answer) == (Route.DEGRADED, "2")


def test_all_steps_share_the_budget_of_one_reasoning():
    small, large = writer(ONE, TWO, THREE), grader({TWO: "0"}, ONE, OTHER, THREE)
    outcome = ask(small, large, schedule=Schedule.THRIFTY, limits=Limits(reasoning_tokens=14))
    assert sum(call.usage.reasoning_tokens or 0 for call in outcome.calls) <= 15


def test_a_model_that_answers_without_reasoning_has_its_answer_read():
    large = grader({})
    assert ask(writer(answer="5"), large).answer == "2"
    assert card_read(large) == "5"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (f"{ONE} {TWO}", f"{ONE} "),
        ("1. One. Two. Three. " + ONE + " And", "1. One. Two. Three. " + ONE + " "),
        ("a b c d e f g h i\n\nand more", "a b c d e f g h i\n\n"),
        ("It is 3.5 times as much as that of the", None),
        (ONE, None),
    ],
)
def test_a_step_is_a_sentence_or_a_line_of_enough_words(text, first):
    end = step_end(text, 0)
    assert (None if end is None else text[:end]) == first


def test_a_model_that_cannot_go_on_with_its_turn_is_shown_the_steps_so_far():
    small, large = writer(ONE, TWO), grader({})
    small.abilities = replace(small.abilities, resumes=False)
    ask(small, large, schedule=Schedule.THRIFTY)
    assert [turn.text for turn in small.prompts[1].turns][-2] == ONE
