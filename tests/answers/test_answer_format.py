"""The answer formats that evaluations request."""

from __future__ import annotations

import pytest

from cuecard.answers import asked_form


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("of the following format: 'ANSWER: $LETTER' (without quotes) where LETTER is one of A,B.", ("ANSWER: ", "")),
        ("of the following format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD.", ("Answer: ", "")),
        ('of the form "ANSWER: $ANSWER" (without quotes) where $ANSWER is the answer.', ("ANSWER: ", "")),
        ("of the form Answer: $ANSWER (without quotes) where $ANSWER is the answer.", ("Answer: ", "")),
        ('finish your answer with "the answer is (X)" where X is the correct letter.', ("the answer is (", ")")),
        ('as follows: "The correct answer is (insert answer here)"', ("The correct answer is (", ")")),
        ("End with `Final answer: <number>`.", ("Final answer: ", "")),
        (r"Put your final answer within \boxed{}.", (r"\boxed{", "}")),
        ("First 'ANSWER: $LETTER'; no, better 'Answer: $LETTER'.", ("Answer: ", "")),
        ("Answer with the letter.", None),
        ("Is 'the answer is 42' a joke?", None),
        ("Answer: 3", None),
        ("The 'answer: (x)' key", ("answer: (", ")")),
    ],
)
def test_the_form_that_a_question_names(text: str, form: tuple[str, str] | None):
    assert asked_form(text) == form


def test_much_text_is_read_quickly():
    assert asked_form("'the final answer is " * 20_000 + "answer " * 100_000) is None
