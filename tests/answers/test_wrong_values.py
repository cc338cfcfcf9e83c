"""Replies whose wording suggests a value that they do not state: bounds, differences, denials, composed numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest

from cuecard.answers import agree, extract, score
from cuecard.domain.question import AnswerKind, Question


def _number(text: str) -> Question:
    return Question(text, kind=AnswerKind.NUMBER)


LENGTH = _number("How long is the rope?")
REVENUE = _number("What was the revenue in 2019?")
GERMAN = _number("Wie viele Autos gibt es?")
FRENCH = _number("Combien de voitures y a-t-il ?")
SPANISH = _number("¿Cuántos coches hay?")
CHINESE = _number("有多少辆车？")
JAPANESE = _number("車は何台ありますか？")
MATHS = Question("Solve.", kind=AnswerKind.MATHS)
CAT = Question("Is there a cat?", kind=AnswerKind.YES_NO)
SIGN = Question("What does the sign say?", kind=AnswerKind.SHORT_TEXT)
ANIMAL = Question("What is shown?", options=("cat", "dog", "horse", "bird"), kind=AnswerKind.CHOICE)
SEVERAL = Question("Select all that apply.", options=("car", "bus", "tree", "bike"), kind=AnswerKind.CHOICE)
COLOUR = Question("Welche Farbe?", options=("rot", "blau", "grün", "weiß"), kind=AnswerKind.CHOICE)
JAPANESE_COLOUR = Question("何色ですか？", options=("赤", "青", "緑", "白"), kind=AnswerKind.CHOICE)
FALLING = Question("How many?", options=("4", "3", "2", "1"), kind=AnswerKind.CHOICE)

NUMBERS = [
    (LENGTH, "The rope is 3 m longer than the ladder.", None),
    (LENGTH, "It is 5 m, longer than the ladder.", 5),
    (LENGTH, "<= 5", None),
    (LENGTH, "2*3", None),
    (REVENUE, "The chart does not show 2019.", None),
    (REVENUE, "It doesn't show 5 but 6.", 6),
    (REVENUE, "3.2B USD", 3_200_000_000),
    (GERMAN, "über 5", None),
    (GERMAN, "Das Seil ist 3 m länger als die Leiter.", None),
    (GERMAN, "Keine.", 0),
    (GERMAN, "Es gibt kein einziges Auto.", 0),
    (GERMAN, "zweitausendfünfhundert", 2500),
    (GERMAN, "drei Millionen", 3_000_000),
    (GERMAN, "anderthalb", "3/2"),
    (FRENCH, "plus de 5", None),
    (FRENCH, "deux trois", None),
    (FRENCH, "Il n'y a aucune voiture.", 0),
    (FRENCH, "deux mille cinq cents", 2500),
    (FRENCH, "quatre-vingt mille", 80_000),
    (FRENCH, "une douzaine", 12),
    (FRENCH, "sept", 7),
    (FRENCH, "dix-sept", 17),
    (FRENCH, "dix-neuf", 19),
    (FRENCH, "quatre-vingt-dix-neuf", 99),
    (FRENCH, "dix mille", 10_000),
    (SPANISH, "más de 5", None),
    (SPANISH, "Ninguno.", 0),
    (SPANISH, "No son 3 sino 4.", 4),
    (SPANISH, "dos mil quinientos", 2500),
    (SPANISH, "un millón y medio", 1_500_000),
    (CHINESE, "两三辆", None),
    (CHINESE, "七八十", None),
    (CHINESE, "不到5", None),
    (CHINESE, "5辆以上", None),
    (CHINESE, "百分之五", 5),
    (CHINESE, "三分之一", "1/3"),
    (CHINESE, "一辆也没有", 0),
    (CHINESE, "没有车", 0),
    (JAPANESE, "5台以上", None),
    (JAPANESE, "少なくとも5台", None),
    (JAPANESE, "一台もありません", 0),
    (JAPANESE, "3台ではなく4台です。", 4),
]
OTHERS = [
    (CAT, "There is without a doubt a cat.", "yes"),
    (CAT, "No doubt there is a cat.", "yes"),
    (CAT, "There is nothing like a cat here.", "no"),
    (CAT, "A cat is nowhere to be seen.", "no"),
    (CAT, "There's hardly a cat.", None),
    (CAT, "I doubt there is a cat.", None),
    (CAT, "A dog rather than a cat is shown.", None),
    (CAT, "It is not true that there is no cat.", None),
    (CAT, "I don't see one.", "no"),
    (SIGN, "The sign does not say STOP.", None),
    (SIGN, "It doesn't say GO; it says STOP.", "stop"),
    (SIGN, "The sign doesn't say anything.", None),
    (ANIMAL, "Everything but the dog.", None),
    (ANIMAL, "Anything but B.", None),
    (ANIMAL, "third", "C"),
    (ANIMAL, "the last", "D"),
    (SEVERAL, "Everything but the bus.", "ACD"),
    (SEVERAL, "All except B.", "ACD"),
    (SEVERAL, "All of them.", "ABCD"),
    (SEVERAL, "A and possibly C", None),
    (COLOUR, "Weder rot noch blau.", None),
    (COLOUR, "Weder rot noch blau, sondern grün.", "C"),
    (JAPANESE_COLOUR, "面白いですね。", None),
    (JAPANESE_COLOUR, "二番目の選択肢", "B"),
    (FALLING, "Option 2", None),
    (FALLING, "2", "C"),
    (MATHS, "$(1,2)$", "(1,2)"),
    (MATHS, "5!", "5!"),
]


@pytest.mark.parametrize(("question", "reply", "truth"), NUMBERS)
def test_a_bound_a_difference_or_a_denied_number_is_no_value(
    question: Question, reply: str, truth: str | int | None
) -> None:
    assert extract(reply, question).value == (None if truth is None else Fraction(truth))


@pytest.mark.parametrize(("question", "reply", "truth"), OTHERS)
def test_what_a_reply_rules_out_is_not_its_answer(question: Question, reply: str, truth: str | None) -> None:
    assert extract(reply, question).value == truth


@pytest.mark.parametrize(
    ("given", "right"), [("1 m", 1.0), ("100 cm", 1.0), ("100", 1.0), ("100 m", 0.0), ("1 kg", 0.0)]
)
def test_a_number_is_scored_in_the_unit_of_the_truth(given: str, right: float) -> None:
    assert score(extract(given, LENGTH), ["100 cm"], LENGTH) == right


def test_a_short_text_of_another_unit_is_another_answer() -> None:
    metres, centimetres = extract("10 m", SIGN), extract("10 cm", SIGN)
    assert not agree(metres, centimetres, SIGN)
    assert agree(extract("1 m", SIGN), extract("100 cm", SIGN), SIGN)
    assert score(metres, ["10 cm"], SIGN) < 1.0
