"""Reasoning is told from answer whatever the borders of the pieces that a server sends."""

import pytest

from cuecard.models.base import AnswerDelta, ReasoningDelta
from cuecard.models.openai.marks import Start
from cuecard.models.openai.reasoning import Hearing
from cuecard.models.prompt import PROSE, TAGS, Style

pytestmark = pytest.mark.timeout(20)

PIECES = [1, 2, 3, 5, 8, 1000]


def hear(
    text: str,
    size: int = 1000,
    *,
    style: Style = TAGS,
    start: Start = Start.UNSURE,
    reasons: bool = True,
    whole: bool = True,
) -> Hearing:
    """The text heard in pieces; what came out in deltas is checked against what the hearing keeps."""
    hearing = Hearing(style, start, reasons=reasons)
    deltas = [delta for at in range(0, len(text), size) for delta in hearing.content(text[at : at + size])]
    deltas += hearing.end(whole=whole)
    assert "".join(d.text for d in deltas if isinstance(d, ReasoningDelta)) == hearing.reasoning
    assert "".join(d.text for d in deltas if isinstance(d, AnswerDelta)) == hearing.answer
    return hearing


@pytest.mark.parametrize("size", PIECES)
def test_tagged_reasoning_is_told_apart_at_any_piece_size(size: int) -> None:
    hearing = hear("\n<think>\nIf 3 < 4, then\n\nB. </thin\n</think>\n\nB is right\n", size)
    assert (hearing.reasoning, hearing.answer) == ("If 3 < 4, then\n\nB. </thin", "B is right")


@pytest.mark.parametrize("size", PIECES)
@pytest.mark.parametrize("start", [Start.INSIDE, Start.UNSURE])
def test_reasoning_whose_opening_stood_in_the_prompt_is_told_apart(size: int, start: Start) -> None:
    hearing = hear("It is red.\n</think>\n\nred", size, start=start)
    assert (hearing.reasoning, hearing.answer) == ("It is red.", "red")
    assert not hearing.betrayed


@pytest.mark.parametrize("size", PIECES)
def test_an_opening_tag_that_the_model_repeats_inside_does_no_harm(size: int) -> None:
    hearing = hear("It is red.\n</think>\n\n<think>\n\n</think>\n\nred", size, start=Start.INSIDE)
    assert (hearing.reasoning, hearing.answer) == ("It is red.", "red")


@pytest.mark.parametrize("size", PIECES)
def test_truncated_thinking_is_never_an_answer(size: int) -> None:
    for start in (Start.INSIDE, Start.UNSURE):
        hearing = hear("I count three bars and", size, start=start, whole=False)
        assert (hearing.reasoning, hearing.answer) == ("I count three bars and", "")
    assert hear("<think>\nI count", size, whole=False).answer == ""


def test_text_without_tags_is_the_answer_when_the_model_ended_by_itself() -> None:
    hearing = hear("42", 1)
    assert (hearing.reasoning, hearing.answer) == ("", "42")


def test_nothing_is_shown_before_it_is_known_what_it_is() -> None:
    hearing = Hearing(TAGS, Start.UNSURE, reasons=True)
    assert list(hearing.content("So it")) == []
    assert list(hearing.content(" is red.</think>red")) == [ReasoningDelta("So it is red."), AnswerDelta("red")]


def test_an_answer_that_turns_out_to_be_reasoning_is_reported() -> None:
    hearing = hear("So it is red.</think>red", 4, start=Start.OUTSIDE, reasons=False)
    assert hearing.betrayed


@pytest.mark.parametrize("size", PIECES)
@pytest.mark.parametrize(
    "marker", ["Answer:", "answer :", "**Answer:**", "### Final answer:", "**Answer**:", "- Answer：", "Answer:\n"]
)
def test_prose_ends_at_the_line_that_begins_with_answer(size: int, marker: str) -> None:
    text = f"The answer: is not here.\nAn axis, two bars.\n\nAnswers vary.\n{marker} 12 km"
    hearing = hear(text, size, style=PROSE, start=Start.OUTSIDE)
    assert hearing.reasoning == "The answer: is not here.\nAn axis, two bars.\n\nAnswers vary."
    assert hearing.answer == "12 km"


@pytest.mark.parametrize("size", PIECES)
def test_prose_without_the_marker_has_no_answer(size: int) -> None:
    hearing = hear("Two bars.\nSo it is 12.\nAnsw", size, style=PROSE, start=Start.OUTSIDE)
    assert (hearing.reasoning, hearing.answer) == ("Two bars.\nSo it is 12.\nAnsw", "")


@pytest.mark.parametrize("size", PIECES)
def test_prose_of_a_model_that_also_thinks_is_all_reasoning(size: int) -> None:
    hearing = hear("<think>Hm.</think>\nTwo bars.\nAnswer: 2", size, style=PROSE, start=Start.OUTSIDE)
    assert hearing.answer == "2"
    assert hearing.reasoning.startswith("Hm.")
    assert hearing.reasoning.endswith("Two bars.")


def test_after_a_reasoning_field_the_content_is_the_answer() -> None:
    hearing = Hearing(TAGS, Start.INSIDE, reasons=True)
    heard = [*hearing.field("It is "), *hearing.field("red. "), *hearing.content("\n"), *hearing.content("red")]
    assert [*heard, *hearing.end(whole=True)] == [ReasoningDelta("It is"), ReasoningDelta(" red."), AnswerDelta("red")]


def test_a_short_answer_in_the_reasoning_field_is_taken_from_there() -> None:
    hearing = Hearing(TAGS, Start.OUTSIDE, reasons=False)
    assert [*hearing.field("<think>\n\n</think>\n\nB"), *hearing.end(whole=True)] == [AnswerDelta("B")]
    assert hearing.misfiled


def test_a_truncated_reasoning_field_is_not_taken_for_a_short_answer() -> None:
    hearing = Hearing(TAGS, Start.OUTSIDE, reasons=False)
    assert [*hearing.field("The user wants"), *hearing.end(whole=False)] == [ReasoningDelta("The user wants")]
    assert not hearing.misfiled


def test_a_family_with_tags_of_its_own_is_told_apart_by_them() -> None:
    style = Style("[THINK]", "[/THINK]", "[THINK][/THINK]")
    hearing = hear("[THINK]two[/THINK]2", 1, style=style)
    assert (hearing.reasoning, hearing.answer) == ("two", "2")
