"""Agreement of two answers."""

from __future__ import annotations

import threading
import time

import pytest

from cuecard.answers import Answer, agree, comparison, extract
from cuecard.answers.comparison import verify
from cuecard.domain.errors import MissingExtra
from cuecard.domain.question import AnswerKind, Question

CHOICE = Question("Which colour?", options=("red", "green", "blue"), kind=AnswerKind.CHOICE)
YES_NO = Question("Is it red?", kind=AnswerKind.YES_NO)
NUMBER = Question("How many?", kind=AnswerKind.NUMBER)
SEVERAL = Question("Which apply? Select all.", options=("red", "green", "blue"), kind=AnswerKind.CHOICE)
SHORT = Question("What colour is it?", kind=AnswerKind.SHORT_TEXT)
MATHS = Question("Solve.", kind=AnswerKind.MATHS)
FREE = Question("Describe it.", kind=AnswerKind.FREE_TEXT)

SAME = [
    (CHOICE, "B", "Answer: B"),
    (CHOICE, "B", "green"),
    (CHOICE, "(b)", "The answer is green."),
    (YES_NO, "Yes", "yes, it is red"),
    (YES_NO, "no", "Nein."),
    (NUMBER, "15", "15.0"),
    (NUMBER, "15", "fifteen"),
    (NUMBER, "1,234", "1234"),
    (NUMBER, "45%", "45"),
    (NUMBER, "45%", "45 percent"),
    (NUMBER, "12 cm", "12"),
    (NUMBER, "12 cm", "12 centimetres"),
    (NUMBER, "$5", "5 dollars"),
    (NUMBER, "5 apples", "5 fruits"),
    (NUMBER, "3/4", "0.75"),
    (NUMBER, "1.5k", "1,500"),
    (NUMBER, "−3", "-3"),
    (NUMBER, "90°", "90 degrees"),
    (NUMBER, "1 m", "100 cm"),
    (NUMBER, "1.5 hours", "90 min"),
    (NUMBER, "2 kg", "2000 g"),
    (NUMBER, "36 km/h", "10 m/s"),
    (NUMBER, "1 mile", "1.609344 km"),
    (NUMBER, "1 kilowatt", "1000 W"),
    (NUMBER, "1 MWh", "3.6 GJ"),
    (NUMBER, "1 cm³", "1 ml"),
    (NUMBER, "1 sq ft", "144 sq in"),
    (NUMBER, "2 years", "24 months"),
    (NUMBER, "minus 5", "-5"),
    (NUMBER, "$1", "100 cents"),
    (NUMBER, "1 ha", "10000 m²"),
    (NUMBER, "5 mg/l", "5 mg per litre"),
    (NUMBER, "half a million", "500,000"),
    (NUMBER, "3万円", "30,000円"),
    (SEVERAL, "A and C", "CA"),
    (SHORT, "red", "Red."),
    (SHORT, "The red car", "a red car"),
    (SHORT, "It is red.", "red"),
    (SHORT, "T-shirt", "t shirt"),
    (SHORT, "Ｒｅｄ", "red"),
    (SHORT, "2", "two"),
    (SHORT, "12 May 2021", "2021-05-12"),
    (SHORT, "May 12th, 2021", "12 May 2021"),
    (MATHS, "0.5", "$\\frac{1}{2}$"),
    (MATHS, "x = 4", "4"),
    (MATHS, "2x + 1", "$1 + 2x$"),
    (MATHS, "(x+1)^2", "x^2 + 2x + 1"),
    (MATHS, "$2\\sqrt{3}$", "$\\sqrt{12}$"),
    (MATHS, "√2", "sqrt(2)"),
    (MATHS, "pi/2", "$\\frac{\\pi}{2}$"),
    (MATHS, "x = 4 or x = -2", "x = -2, x = 4"),
    (MATHS, "x \\le 3", "(-\\infty, 3]"),
    (FREE, "A dog on a sofa.", "a dog on a sofa"),
]
DIFFERENT = [
    (CHOICE, "A", "B"),
    (CHOICE, "red", "B"),
    (YES_NO, "yes", "no"),
    (NUMBER, "15", "16"),
    (NUMBER, "100", "104"),
    (NUMBER, "45%", "0.45"),
    (NUMBER, "12 cm", "12 m"),
    (NUMBER, "$5", "5%"),
    (NUMBER, "5", "-5"),
    (NUMBER, "5", "minus 5"),
    (NUMBER, "half a million", "1 million"),
    (NUMBER, "1 m", "1 kg"),
    (NUMBER, "1 m", "100 mm"),
    (NUMBER, "20 °C", "20 °F"),
    (NUMBER, "5 yen", "5 yuan"),
    (NUMBER, "5 MW", "5 mW"),
    (NUMBER, "1 Gb", "1 GB"),
    (NUMBER, "5 µg", "5 mg"),
    (NUMBER, "5 cents", "5 dollars"),
    (NUMBER, "US$5", "C$5"),
    (NUMBER, "7 pm", "7 am"),
    (NUMBER, "90°", "90 rad"),
    (NUMBER, "1 mile", "1 nautical mile"),
    (NUMBER, "1 year", "1 light year"),
    (NUMBER, "1 square metre", "1 cubic metre"),
    (NUMBER, "5 kg", "5 kg/m³"),
    (NUMBER, "$5/kg", "$5/lb"),
    (NUMBER, "3 crore", "3"),
    (SEVERAL, "A and C", "A"),
    (SEVERAL, "A, B", "A, C"),
    (NUMBER, "1.234", "1,234"),
    (SHORT, "red", "dark red"),
    (SHORT, "10 m", "10 cm"),
    (SHORT, "$5", "€5"),
    (SHORT, "red", "read"),
    (SHORT, "C", "C#"),
    (SHORT, "3.5", "35"),
    (SHORT, "12 May 2021", "5 December 2021"),
    (SHORT, "05/12/2021", "12/05/2021"),
    (MATHS, "x = 4", "x = 5"),
    (MATHS, "(1,2)", "1.2"),
    (MATHS, "[1,2]", "(1,2)"),
    (MATHS, "12 cm", "12 m"),
    (MATHS, "5!", "5"),
    (MATHS, "1/3", "0.333"),
    (MATHS, "x + 1", "x + 2"),
    (MATHS, "x < 3", "x > 3"),
    (MATHS, "no solution", "4"),
    (FREE, "A dog on a sofa.", "A dog is on a sofa."),
]


@pytest.mark.parametrize(("question", "one", "other"), SAME)
def test_the_same_answer_in_other_words_agrees(question: Question, one: str, other: str) -> None:
    assert agree(extract(one, question), extract(other, question), question)
    assert agree(extract(other, question), extract(one, question), question)


@pytest.mark.parametrize(("question", "one", "other"), DIFFERENT)
def test_different_answers_do_not_agree(question: Question, one: str, other: str) -> None:
    assert extract(one, question).parsed
    assert extract(other, question).parsed
    assert not agree(extract(one, question), extract(other, question), question)
    assert not agree(extract(other, question), extract(one, question), question)


@pytest.mark.parametrize(
    "question", [CHOICE, YES_NO, NUMBER, SHORT, MATHS, FREE], ids=lambda question: question.kind.value
)
@pytest.mark.parametrize("reply", ["", "I cannot determine that.", "<think>yes, B, 7", "The answer is"])
def test_an_unparseable_answer_agrees_with_nothing_not_even_itself(question: Question, reply: str) -> None:
    nothing = extract(reply, question) if question is not FREE or "is" not in reply[-2:] else Answer(reply, None)
    assert not nothing.parsed
    assert not agree(nothing, nothing, question)
    assert not agree(nothing, Answer("B", "b"), question)


def test_a_tolerance_loosens_the_agreement_of_numbers_only_when_asked_for() -> None:
    one, other = extract("100", NUMBER), extract("96", NUMBER)
    assert not agree(one, other, NUMBER)
    assert agree(one, other, NUMBER, tolerance=0.05)
    assert agree(other, one, NUMBER, tolerance=0.05)
    assert not agree(one, extract("94", NUMBER), NUMBER, tolerance=0.05)


def test_a_similarity_lets_misspelt_words_agree_only_when_asked_for() -> None:
    one, other = extract("Michelangelo", SHORT), extract("Michaelangelo", SHORT)
    assert not agree(one, other, SHORT)
    assert agree(one, other, SHORT, similar=0.9)
    assert not agree(one, extract("Raphael", SHORT), SHORT, similar=0.9)


def test_mathematics_is_compared_outside_the_main_thread_too() -> None:
    verdicts: list[bool] = []

    def compare() -> None:
        verdicts.append(agree(extract("x(x+1)", MATHS), extract("x^2+x", MATHS), MATHS))

    thread = threading.Thread(target=compare)
    thread.start()
    thread.join(90)
    assert verdicts == [True]


def test_after_an_endless_comparison_the_next_one_is_made() -> None:
    assert verify("x+1", "1+x")
    began = time.monotonic()
    assert not verify("9^{9^{9^{9}}}", "8^{9^{9^{9}}}+(99999999)!", limit_s=1.0)
    assert time.monotonic() - began < 20
    assert verify("2x", "x+x")


def test_without_math_verify_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="math-verify") as raised:
        verify("x", "2x")
    assert ".[maths]" in str(raised.value)
    assert agree(extract("0.5", MATHS), extract("1/2", MATHS), MATHS), "numbers need no extra"
