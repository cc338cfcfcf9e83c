"""Scores of answers."""

from __future__ import annotations

import pytest

from cuecard.answers import UNPARSED, anls, extract, normalise, score
from cuecard.domain.question import AnswerKind, Question

CHOICE = Question("Which colour?", options=("red", "green", "blue"), kind=AnswerKind.CHOICE)
SEVERAL = Question("Which apply? Select all.", options=("red", "green", "blue"), kind=AnswerKind.CHOICE)
YES_NO = Question("Is it red?", kind=AnswerKind.YES_NO)
NUMBER = Question("How many?", kind=AnswerKind.NUMBER)
SHORT = Question("What does the sign say?", kind=AnswerKind.SHORT_TEXT)
MATHS = Question("Solve.", kind=AnswerKind.MATHS)
FREE = Question("Describe it.", kind=AnswerKind.FREE_TEXT)


@pytest.mark.parametrize(
    ("question", "reply", "truths", "points"),
    [
        (CHOICE, "B", ["B"], 1),
        (CHOICE, "B", ["green"], 1),
        (CHOICE, "green", ["B"], 1),
        (CHOICE, "A", ["B"], 0),
        (YES_NO, "Yes, it is.", ["yes"], 1),
        (YES_NO, "Nein", ["no"], 1),
        (YES_NO, "no", ["yes"], 0),
        (NUMBER, "100", ["100"], 1),
        (NUMBER, "105", ["100"], 1),
        (NUMBER, "95", ["100"], 1),
        (NUMBER, "105.1", ["100"], 0),
        (NUMBER, "94.9", ["100"], 0),
        (NUMBER, "-100", ["100"], 0),
        (NUMBER, "0", ["0"], 1),
        (NUMBER, "0.01", ["0"], 0),
        (NUMBER, "45%", ["45"], 1),
        (NUMBER, "45%", ["0.45"], 1),
        (NUMBER, "0.45", ["45%"], 1),
        (NUMBER, "45%", ["45%"], 1),
        (NUMBER, "45", ["0.45"], 0),
        (NUMBER, "seven", ["7"], 1),
        (NUMBER, "8", ["7", "8"], 1),
        (SEVERAL, "A and C", ["AC"], 1),
        (SEVERAL, "C, A", ["A, C"], 1),
        (SEVERAL, "A", ["AC"], 0),
        (SHORT, "Stop.", ["STOP"], 1),
        (SHORT, "the stop", ["stop"], 1),
        (SHORT, "two", ["2"], 1),
        (SHORT, "stopp", ["stop"], 0.8),
        (SHORT, "parking", ["stop"], 0),
        (MATHS, "$\\frac{2}{4}$", ["0.5"], 1),
        (MATHS, "$x^2 + x$", ["x(x+1)"], 1),
        (MATHS, "$x^2$", ["x(x+1)"], 0),
        (FREE, "A dog.", ["a dog"], 1),
        (FREE, "A cat.", ["an aeroplane over the sea"], 0),
        (SHORT, "stop", [], 0),
    ],
)
def test_an_answer_gets_the_points_that_its_kind_is_scored_by(
    question: Question, reply: str, truths: list[str], points: float
) -> None:
    assert score(extract(reply, question), truths, question) == pytest.approx(points)


@pytest.mark.parametrize(
    "question", [CHOICE, YES_NO, NUMBER, SHORT, MATHS, FREE], ids=lambda question: question.kind.value
)
def test_an_unparseable_answer_scores_nothing(question: Question) -> None:
    assert score(UNPARSED, ["B", "yes", "", "1"], question) == 0.0


def test_the_tolerance_of_numbers_can_be_set() -> None:
    assert score(extract("101", NUMBER), ["100"], NUMBER, tolerance=0) == 0
    assert score(extract("119", NUMBER), ["100"], NUMBER, tolerance=0.2) == 1


@pytest.mark.parametrize(
    ("prediction", "truths", "value"),
    [
        ("stop", ["stop"], 1),
        ("STOP ", ["stop"], 1),
        ("stap", ["stop"], 0.75),
        ("st", ["stop"], 0),  # a distance of one half is the threshold, which counts as wrong
        ("sto", ["stop"], 0.75),
        ("abc", ["xyz", "abd"], 2 / 3),
        ("", [""], 1),
        ("stop", [], 0),
    ],
)
def test_anls_is_one_minus_the_distance_to_the_nearest_truth_below_the_threshold(
    prediction: str, truths: list[str], value: float
) -> None:
    assert anls(prediction, truths) == pytest.approx(value)


def test_the_threshold_of_anls_is_a_distance() -> None:
    assert anls("stap", ["stop"], threshold=0.25) == 0
    assert anls("stap", ["stop"], threshold=0.3) == 0.75


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Red Car!", "red car"),
        ("  a  dog ", "dog"),
        ("A", "a"),
        ("don't", "dont"),
        ("T-shirt", "t shirt"),
        ("1,234", "1234"),
        ("3.5", "3.5"),
        ("-7 °C", "-7 °c"),
        ("12:30", "12:30"),
        ("C#", "c#"),
        ("Straße", "strasse"),
        ("ﬁne", "fine"),
        ("हाँ", "हाँ"),
        ("", ""),
        ("...", "..."),
    ],
)
def test_normalising_keeps_the_words_only(text: str, words: str) -> None:
    assert normalise(text) == words
