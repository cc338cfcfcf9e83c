"""Detection of reasoning that repeats itself, without false positives."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuecard.models.reasoning_events import COPIES, LONGEST_PERIOD, SHORTEST_WITHOUT_WORDS, RepetitionDetector

PASSAGES = st.text("abcdefg .,\n09é", min_size=1, max_size=LONGEST_PERIOD)


def found(text: str, piece: int = 7) -> bool:
    detector = RepetitionDetector()
    for at in range(0, len(text), piece):
        detector.feed(text[at : at + piece])
    return detector.found


@given(st.text(max_size=300), PASSAGES, st.integers(1, 60))
def test_a_passage_that_goes_on_and_on_is_found(before: str, passage: str, piece: int) -> None:
    copies = COPIES + 2 + (SHORTEST_WITHOUT_WORDS + 300) // len(passage)
    assert found(before + passage * copies, piece)


@given(PASSAGES)
def test_a_passage_that_stands_there_three_times_is_no_loop(passage: str) -> None:
    assert not found(passage[:150] * 3 + "\n")


@pytest.mark.parametrize(
    "text",
    [
        "".join(
            f"Step {number}: add {number} to the sum, which is {number * (number + 1) // 2}.\n" for number in range(99)
        ),
        "| a | b |\n" + "|---|---|\n" + "".join(f"| {number} | yes |\n" for number in range(200)),
        "".join(f"{number}, " for number in range(400)),
        ("0 | " * 24 + "\n") * 24 + "So the count is 7.",
        "-" * 700,
        "1/3 = 0." + "3" * 2_000,
        (". " * 30 + "\n") * 22,
        "| a red square | a blue circle | nothing | 1 |\n" * 15,
        "The arrow in cell 4 points to cell 5. The arrow in cell 5 points to cell 4. " * 4 + "So it is cell 4.",
    ],
)
def test_sums_tables_and_lists_are_no_loop(text: str) -> None:
    assert not found(text)


def test_a_loop_stays_found_whatever_follows() -> None:
    assert found("It is seven. " * 80 + "".join(f"And {number}. " for number in range(300)))


@pytest.mark.parametrize("text", ["".join(f"{number} " for number in range(200_000)), "It is seven. " * 100_000])
def test_time_is_linear_in_the_text(text: str) -> None:
    began = time.process_time()
    found(text, piece=4)
    assert time.process_time() - began < 20
