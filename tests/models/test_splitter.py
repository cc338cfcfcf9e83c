"""The in-process models' splitter tells reasoning from answer, whatever the borders of the tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuecard.domain.question import Question
from cuecard.models.prompt import PROSE, TAGS, CardFormat, Prompt, read, reason, short
from cuecard.models.thinking import Piece, Splitter

pytestmark = pytest.mark.timeout(20)

QUESTION = Question("How many?")
PROMPTS = {
    "short": short(QUESTION, TAGS),
    "reason": reason(QUESTION, TAGS),
    "read": read(QUESTION, "Two.", CardFormat.THINKING, TAGS),
    "prose": reason(QUESTION, PROSE),
    "short prose": short(QUESTION, PROSE),
}


def split(prompt: Prompt, *pieces: str) -> tuple[str, str]:
    """Reasoning and answer of a text that comes in these pieces."""
    splitter = Splitter(prompt)
    told: list[Piece] = [piece for text in pieces for piece in splitter.feed(text)]
    told += splitter.rest()
    assert all(piece.text for piece in told)
    kinds = [piece.is_reasoning for piece in told]
    assert kinds == sorted(kinds, reverse=True)
    return tuple("".join(p.text for p in told if p.is_reasoning is kind) for kind in (True, False))


@pytest.mark.parametrize(
    ("prompt", "text", "reasoning", "answer"),
    [
        ("short", "two", "", "two"),
        ("short", "\n\n two words", "", "two words"),
        ("short", "\n", "", ""),
        ("short", "\n<", "", "<"),
        ("short", "a <think> b", "", "a <think> b"),
        ("short", "<think>\nHm.\n</think>\n\ntwo", "Hm.", "two"),
        ("short", "<think>\nHm.", "Hm.", ""),
        ("read", "two", "", "two"),
        ("reason", "Hm.\n</think>\n\ntwo", "Hm.", "two"),
        ("reason", "Hm.</think>two", "Hm.", "two"),
        ("reason", "<think>\nHm.</think>two", "Hm.", "two"),
        ("reason", "</think>two", "", "two"),
        ("reason", "1 < 2, </thin and\n\nso on ", "1 < 2, </thin and\n\nso on", ""),
        ("reason", "Hm.</think>a</think>b", "Hm.", "a</think>b"),
        ("prose", "Two bars.\n\nAnswer: 2", "Two bars.", "2"),
        ("prose", "The answer is 2.", "The answer is 2.", ""),
        ("prose", "Two bars.\n\nAnsw", "Two bars.\n\nAnsw", ""),
        ("short prose", "Answer: 2", "", "Answer: 2"),
    ],
)
def test_reasoning_and_answer_are_told_apart_at_any_borders(
    prompt: str, text: str, reasoning: str, answer: str
) -> None:
    for size in (1, 2, 3, 5, 8, 100):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert split(PROMPTS[prompt], *pieces) == (reasoning, answer), size


@given(
    st.sampled_from(sorted(PROMPTS)),
    st.lists(
        st.sampled_from(["<think>", "</think>", "</thi", "<", "Answer:", "Ans", "\n", " ", "two", "é"]), max_size=9
    ),
    st.lists(st.integers(1, 9), min_size=30, max_size=30),
)
def test_the_borders_of_the_pieces_change_nothing(prompt: str, parts: list[str], sizes: list[int]) -> None:
    text, pieces = "".join(parts), []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    assert split(PROMPTS[prompt], *pieces, text) == split(PROMPTS[prompt], "".join(parts))


def test_an_answer_is_told_as_soon_as_it_comes() -> None:
    splitter = Splitter(PROMPTS["reason"])
    told = [[piece.text for piece in splitter.feed(text)] for text in ("It ", "is</", "think", ">\n", "\ntwo ", "bars")]
    assert told == [["It"], [" is"], [], [], ["two "], ["bars"]]
