"""Grammars for brief answers restrict the form, but allow every letter and number."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuecard.answers import extract
from cuecard.domain.question import AnswerKind, Question, letter
from cuecard.models.openai.families import Dialect, constraint_fields, unwrapped

NUMBER = Question("How many?", kind=AnswerKind.NUMBER)
YES_NO = Question("Is it?", kind=AnswerKind.YES_NO)


def choice(options: int) -> Question:
    return Question("Which?", options=tuple(f"option {n}" for n in range(options)), kind=AnswerKind.CHOICE)


def regex(question: Question) -> re.Pattern[str]:
    return re.compile(constraint_fields(question, Dialect.REGEX)["regex"])


NUMBERS = ["0", "-5", "−5", "1,250", "$1,250.50", "3.14", "1/3", "6.02e23", "45%", "12 km", "12:30", "€ 7", "1 000 000"]


@pytest.mark.parametrize("number", [*NUMBERS, "20.", "12 apples each", "3 m²"])
def test_every_number_can_be_given(number):
    assert regex(NUMBER).fullmatch(number)


@given(st.one_of(st.integers(-(10**20), 10**20), st.decimals(-(10**20), 10**20, places=3)))
def test_no_number_is_out_of_reach(number):
    assert regex(NUMBER).fullmatch(f"{number:f}" if not isinstance(number, int) else str(number))


@pytest.mark.parametrize(
    "prose", ["Let me think. 5", "The answer is 5", "5 because there are 3 and 2 of them here", ""]
)
def test_prose_around_a_number_cannot(prose):
    assert not regex(NUMBER).fullmatch(prose)


@pytest.mark.parametrize("options", [2, 5, 26])
def test_every_letter_of_a_choice_can_be_given_and_no_other(options):
    allowed = [letter(n) for n in range(26) if regex(choice(options)).fullmatch(letter(n))]
    assert allowed == [letter(n) for n in range(options)]


def test_yes_and_no_can_both_be_given():
    assert all(regex(YES_NO).fullmatch(word) for word in ("yes", "no", "Yes", "No"))


@pytest.mark.parametrize("question", [NUMBER, YES_NO, choice(4)])
@pytest.mark.parametrize("dialect", Dialect)
def test_each_dialect_is_plain_json(question, dialect):
    body: dict[str, Any] = dict(constraint_fields(question, dialect))
    assert len(body) == 1
    json.dumps(body)


@pytest.mark.parametrize(
    ("text", "answer"), [('{"answer": 7}', "7"), ('{ "answer": "B" }', "B"), ("B", "B"), ("[1]", "[1]")]
)
def test_an_answer_is_taken_out_of_its_object(text, answer):
    assert unwrapped(text) == answer


@pytest.mark.parametrize("number", [each for each in NUMBERS if each not in ("12:30", "1 000 000")])
def test_what_a_grammar_lets_through_can_be_read(number):
    assert extract(number, NUMBER).parsed
