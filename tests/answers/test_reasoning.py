"""The reasoning parser separates reasoning and answer, however the text is split into pieces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuecard.answers.reasoning_parser import Piece, ReasoningParser, Start, parse, visible
from cuecard.answers.text import reasoning_tags
from cuecard.answers.text.reasoning_tags import tag_table

SETTINGS: dict[str, dict[str, Any]] = {
    "outside": {"start": Start.OUTSIDE},
    "inside": {"start": Start.INSIDE, "reasons": True, "closing": ("</think>",)},
    "unsure": {"start": Start.UNSURE},
    "thinks unasked": {"start": Start.UNSURE, "may_think": True},
    "prose": {"reasons": True, "prose": True},
}
SIZES = (1, 2, 3, 5, 8, 1000)


def cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def separated(parser: ReasoningParser, pieces: list[str], *, whole: bool = True) -> tuple[str, str]:
    """Reasoning and answer from the parser's pieces; checks that the answer comes last, and the parser's attributes."""
    out = [piece for text in pieces for piece in parser.feed(text)] + parser.end(whole=whole)
    kinds = [piece.is_reasoning for piece in out]
    assert kinds == sorted(kinds, reverse=True)
    assert all(piece.text for piece in out)
    reasoning, answer = ("".join(p.text for p in out if p.is_reasoning is kind) for kind in (True, False))
    assert (parser.reasoning, parser.answer) == (reasoning, answer)
    return reasoning, answer


def told_at_any_size(setting: str, text: str, *, whole: bool = True) -> tuple[str, str]:
    found = {separated(ReasoningParser(**SETTINGS[setting]), cut(text, size), whole=whole) for size in SIZES}
    assert len(found) == 1
    return found.pop()


# --- tags -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "<think>hm</think>6",
        "\n<Thinking>\nhm\n</THINKING>\n\n6\n",
        "<thought>hm</thought>6",
        "<thoughts>hm</thoughts>6",
        "<reasoning>hm</reasoning>6",
        "<reflection>hm</reflection>6",
        "< think >hm</ think >6",
        "[THINK]hm[/THINK]6",
        "◁think▷hm◁/think▷6",
        "<mm:think>hm</mm:think>6",
        "<seed:think>hm</seed:think>6",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>6<|return|>",
        "<|channel|>analysis<|message|>hm<|channel|>final<|message|>6",
        "<|channel>thought\nhm<channel|>6",
        "<|begin_of_thought|>\nhm\n<|end_of_thought|>\n\n<|begin_of_solution|>\n6\n<|end_of_solution|>",
        "<think>hm</think>6<|im_end|>\n<|endoftext|>",
    ],
)
@pytest.mark.parametrize("setting", ["outside", "inside", "unsure"])
def test_a_leading_block_of_any_family_is_reasoning(setting: str, text: str) -> None:
    assert told_at_any_size(setting, text) == ("hm", "6")


@pytest.mark.parametrize(
    "text",
    [
        "The `<think>` tag opens reasoning.",
        "Use `</think>` to close it.",
        "The `<think>` tag opens, </think> closes.",
        "First <thinking>draft</thinking>, then more.",
        "x [THINK]y[/THINK] z",
        "two <|im_end|> tokens",
        "1 < 2 and a </thin",
        "<b>bold</b>",
        "Answer: 2",
    ],
)
@pytest.mark.parametrize("setting", ["outside", "unsure"])
def test_a_tag_that_is_mentioned_later_is_text(setting: str, text: str) -> None:
    assert told_at_any_size(setting, text) == ("", text)
    assert visible(text) == text


@pytest.mark.parametrize(
    ("setting", "text", "reasoning", "answer"),
    [
        ("outside", "\n\n two words", "", "two words"),
        ("outside", "\n", "", ""),
        ("outside", "<think>\nHm.", "Hm.", ""),
        ("outside", "So</think>B", "", "So</think>B"),
        ("outside", "</think>B", "", "</think>B"),
        ("outside", "<|channel|>final<|message|>B", "", "B"),
        ("unsure", "</think>B", "", "B"),
        ("outside", "<think>a</thinking>b</think>c", "a</thinking>b", "c"),
        ("outside", "<think>a</think>\n<think>b</think>c</think>d", "a\n\nb", "c</think>d"),
        ("outside", "B<|im_end|>\n", "", "B"),
        ("outside", "<|im_end|>", "", ""),
        ("outside", "B<|im_en", "", "B<|im_en"),
        ("inside", "Hm.\n</think>\n\ntwo", "Hm.", "two"),
        ("inside", "<think>\nHm.</think>two", "Hm.", "two"),
        ("inside", "</think>two", "", "two"),
        ("inside", "1 < 2, </thin and\n\nso on ", "1 < 2, </thin and\n\nso on", ""),
        ("inside", "red.\n</think>\n\n<think>\n\n</think>\n\nred", "red.", "red"),
        ("inside", "Hm.</think>a</think>b", "Hm.", "a</think>b"),
        ("inside", "42", "42", "42"),
        ("inside", "Two rows of 3.\nSo the answer is 6.", "Two rows of 3.\nSo the answer is 6.", "6"),
        ("unsure", "It is red.\n</think>\n\nred", "It is red.", "red"),
        ("unsure", "42", "", "42"),
        ("prose", "Two bars.\n\nAnswer: 2", "Two bars.", "2"),
        ("prose", "Two bars.\nEach is red.\n\nAnsw", "Two bars.\nEach is red.\n\nAnsw", ""),
        ("prose", "One.\nTwo.\n\\boxed{2}", "One.\nTwo.\n\\boxed{2}", "2"),
        ("prose", "Say `</think>`.\nAnswer: `</think>`", "Say `</think>`.", "`</think>`"),
        ("prose", "<think>Hm.</think>\nTwo bars.\nAnswer: 2", "Hm.\n\nTwo bars.", "2"),
        ("prose", "<think>Hm.</think>\n2", "Hm.", "2"),
        ("prose", "Hm, red.</think>\n2", "Hm, red.", "2"),
        ("prose", "<think>Hm.</think>\nTwo bars.\nSo the answer is 2.", "Hm.\n\nTwo bars.\nSo the answer is 2.", "2"),
        ("prose", "Answer: 2\nbecause", "", "2\nbecause"),
    ],
)
def test_reasoning_and_answer_are_separated_at_any_borders(
    setting: str, text: str, reasoning: str, answer: str
) -> None:
    assert told_at_any_size(setting, text) == (reasoning, answer)


@pytest.mark.parametrize(
    ("setting", "text", "reasoning", "answer"),
    [
        ("inside", "I count three", "I count three", ""),
        ("unsure", "I count three", "", "I count three"),
        ("thinks unasked", "I count three", "I count three", ""),
        ("prose", "The answer is 6.", "The answer is 6.", ""),
        ("prose", "<think>Hm.</think>\n2", "Hm.\n\n2", ""),
    ],
)
def test_a_cut_text_gives_no_conclusion(setting: str, text: str, reasoning: str, answer: str) -> None:
    assert told_at_any_size(setting, text, whole=False) == (reasoning, answer)


@pytest.mark.parametrize(
    "marker", ["Answer:", "answer :", "**Answer:**", "### Final answer:", "**Answer**:", "- Answer：", "Answer:\n"]
)
def test_prose_ends_at_the_first_line_that_begins_with_answer(marker: str) -> None:
    text = f"The answer: is not here.\nAn axis, two bars.\n\nAnswers vary.\n{marker} 12 km"
    reasoning, answer = told_at_any_size("prose", text)
    assert reasoning == "The answer: is not here.\nAn axis, two bars.\n\nAnswers vary."
    assert answer == "12 km"


def test_configured_tags_come_beside_the_known_ones() -> None:
    tags = tag_table(("<My>", "</My>"))
    for text in ("<my>hm</my>6", "<think>hm</think>6"):
        assert separated(ReasoningParser(tags=tags), cut(text, 2)) == ("hm", "6")


def test_an_answer_comes_as_soon_as_it_is_known() -> None:
    parser = ReasoningParser(**SETTINGS["inside"])
    pieces = [[piece.text for piece in parser.feed(text)] for text in ("It ", "is</", "think", ">\n", "\ntwo ", "bars")]
    assert pieces == [["It"], [" is"], [], [], ["two"], [" bars"]]
    parser = ReasoningParser(**SETTINGS["prose"])
    assert parser.feed("Two bars.\n\nAnswer:") == [Piece("Two bars.", True)]
    assert parser.closed
    assert parser.feed(" 2") == [Piece("2", False)]


def test_the_end_of_the_reasoning_is_known_at_its_closing_tag() -> None:
    parser = ReasoningParser(**SETTINGS["inside"])
    parser.feed("Hm.</think")
    assert not parser.closed
    parser.feed(">")
    assert parser.closed
    assert not parser.inside


# --- reasoning fields -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["inside", "prose"])
def test_content_behind_a_reasoning_field_is_the_answer(setting: str) -> None:
    parser = ReasoningParser(**SETTINGS[setting])
    out = [*parser.field("7*8 "), *parser.field("is 56 "), *parser.feed("\n"), *parser.feed("56"), *parser.end()]
    assert out == [Piece("7*8", True), Piece(" is 56", True), Piece("56", False)]


def test_prose_behind_a_reasoning_field_goes_on_with_it_after_a_break() -> None:
    parser = ReasoningParser(**SETTINGS["prose"])
    parser.field("7*8 is 56")
    parser.feed("So it is 56.\nAnswer: 56")
    parser.end()
    assert (parser.reasoning, parser.answer) == ("7*8 is 56\n\nSo it is 56.", "56")


def test_a_short_answer_in_the_reasoning_field_is_taken_from_there() -> None:
    for text in ("B", "<think>\n\n</think>\n\nB"):
        parser = ReasoningParser()
        assert [*parser.field(text), *parser.end()] == [Piece("B", False)]
        assert parser.misfiled


def test_a_reasoning_field_that_is_cut_is_not_taken_for_a_short_answer() -> None:
    parser = ReasoningParser()
    assert [*parser.field("The user wants"), *parser.end(whole=False)] == [Piece("The user wants", True)]
    assert not parser.misfiled


# --- whole texts ------------------------------------------------------------------------------------------------------


def test_reasoning_that_was_never_closed_is_reported() -> None:
    parsed = parse("<think>it is")
    assert (parsed.reasoning, parsed.answer, parsed.inside) == ("it is", "", True)
    assert visible("<think>a</think><think>b") is None


# --- any text, any pieces ---------------------------------------------------------------------------------------------

PARTS = st.one_of(
    st.sampled_from(
        [
            *("<think>", "</think>", "</thi", "<", "[THINK]", "[/THINK]", "< Think >", "`", "<|im_end|>", "</s>"),
            *("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>", "<|end|>"),
            *("Answer:", "**Answer:** ", "Final ", "\\boxed{2}", "\n", " ", "two", "é", "İ", "The answer is 2."),
        ]
    ),
    st.text(max_size=4),
)


@given(
    st.sampled_from(sorted(SETTINGS)),
    st.lists(PARTS, max_size=9).map("".join),
    st.lists(st.integers(1, 9), max_size=30),
    st.booleans(),
)
def test_the_borders_of_the_pieces_do_not_matter(setting: str, text: str, sizes: list[int], whole: bool) -> None:
    pieces, rest = [], text
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    at_once = separated(ReasoningParser(**SETTINGS[setting]), [text], whole=whole)
    assert separated(ReasoningParser(**SETTINGS[setting]), [*pieces, rest], whole=whole) == at_once


@given(st.lists(PARTS, max_size=9).map("".join))
def test_streamed_pieces_equal_the_parsed_reply(text: str) -> None:
    parsed = parse(text)
    assert separated(ReasoningParser(Start.UNSURE), list(text)) == (parsed.reasoning, parsed.answer)


UNITS = [
    "a",
    " ",
    "\n",
    "*",
    "<",
    "<|im_end|>",
    "<think>",
    "</think>",
    "`</think>",
    "<|im_end|> ",
    "Answer",
    "[THINK]x",
]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("size", [1, 10**6])
@pytest.mark.parametrize("setting", sorted(SETTINGS))
def test_work_grows_with_the_length_of_the_text(
    setting: str, size: int, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work is the number of characters that are searched for tags."""
    seen = [0]
    lowered = reasoning_tags.lowered

    def counted(text: str) -> str:
        seen[0] += len(text)
        return lowered(text)

    monkeypatch.setattr(reasoning_tags, "lowered", counted)
    work = []
    for length in (2_000, 4_000):
        seen[0] = 0
        separated(ReasoningParser(**SETTINGS[setting]), cut(("x" + unit * length)[:length], size))
        work.append(seen[0])
    assert work[1] <= 2 * work[0] + 2 * 512**2


def test_a_long_text_in_single_characters_is_parsed() -> None:
    text = "It is red. " * 18_000 + "</think>red"
    for start in (Start.INSIDE, Start.UNSURE):
        parser = ReasoningParser(start)
        for character in text:
            parser.feed(character)
        parser.end()
        assert (len(parser.reasoning), parser.answer) == (len("It is red. ") * 18_000 - 1, "red")


def test_a_marker_inside_a_block_of_code_is_code():
    text = "This prints it:\n```\nAnswer: 5\n```\nSo it works.\nAnswer: 6"
    parser = ReasoningParser(Start.INSIDE, reasons=True, prose=True)
    for character in text:
        parser.feed(character)
    parser.end()
    assert parser.answer == "6"
    assert "Answer: 5" in parser.reasoning
