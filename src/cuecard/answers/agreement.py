"""Whether two answers are the same answer. An unparseable one is equal to none, not even to itself."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from fractions import Fraction

from cuecard.answers.answer import Answer
from cuecard.answers.readers import number
from cuecard.answers.readers.maths import same_expression
from cuecard.answers.text.similarity import similarity
from cuecard.domain.question import AnswerKind, Question

_COMPARING = ThreadPoolExecutor(1, "cuecard maths")
"""Threads of their own: comparisons that wait for the one worker process take none from the event loop's executor."""


def agree(one: Answer, other: Answer, question: Question, *, tolerance: float = 0.0, similar: float = 1.0) -> bool:
    """Whether two answers to a question say the same; symmetric.

    Numbers must be equal (15, 15.0, fifteen), or within `tolerance` of the larger one; 12 cm equals 12, not 12 m. The
    percent sign is a unit: 45% equals 45, not 0.45. Short texts must be the same words, the same date or the same
    number, or reach `similar` (1 - normalised Levenshtein distance). Expressions go to math-verify where their spelling
    differs (raises MissingExtra without it). Free texts agree only word for word: paraphrases are for cross-scoring.
    """
    if one.value is None or other.value is None:
        return False
    match question.kind:
        case AnswerKind.NUMBER:
            return _same_quantity(one, other, tolerance)
        case AnswerKind.SHORT_TEXT:
            return _same_words(one, other, similar)
        case AnswerKind.MATHS:
            return same_maths(one, other) or same_maths(other, one)
        case _:
            return one.value == other.value


async def same_answer(one: Answer, other: Answer, question: Question) -> bool:
    """As `agree`, without blocking the event loop while expressions are compared; in virtual time it does block."""
    loop = asyncio.get_running_loop()
    unread = one.value is None or other.value is None
    if question.kind is not AnswerKind.MATHS or unread or _by_value(one, other) is not None:
        return agree(one, other, question)
    if getattr(loop, "virtual", False):  # its clock stands still while it waits for a thread
        return agree(one, other, question)
    return await loop.run_in_executor(_COMPARING, agree, one, other, question)


def close(one: Fraction, other: Fraction, tolerance: float, scale: Fraction) -> bool:
    """Whether two numbers differ by at most `tolerance` times |scale|."""
    return one == other or abs(one - other) <= Fraction(str(tolerance)) * abs(scale)


def same_maths(truth: Answer, given: Answer) -> bool:
    """Whether an expression is the true one: by its value or spelling, else by math-verify. Raises MissingExtra."""
    known = _by_value(truth, given)
    return same_expression(_spelled(truth), _spelled(given)) if known is None else known


def _by_value(one: Answer, other: Answer) -> bool | None:
    """Whether two expressions are the same, where their values or spellings tell; None where only mathematics does."""
    if one.value == other.value:
        return True
    return False if isinstance(one.value, Fraction) and isinstance(other.value, Fraction) else None


def same_text(one: str, other: str) -> bool:
    """Whether two texts are one number or one day, as "2" and "two", "12 May 2021" and "2021-05-12"."""
    numbers, days = (number.whole(one), number.whole(other)), (date_of(one), date_of(other))
    return (numbers[0] is not None and numbers[0] == numbers[1]) or (days[0] is not None and days[0] == days[1])


def _same_quantity(one: Answer, other: Answer, tolerance: float) -> bool:
    a, b = one.value, other.value
    if not isinstance(a, Fraction) or not isinstance(b, Fraction):
        return False
    units = {name for name in (number.unit_of(one.text), number.unit_of(other.text)) if name is not None}
    return len(units) < 2 and close(a, b, tolerance, max(abs(a), abs(b)))


def _same_words(one: Answer, other: Answer, similar: float) -> bool:
    a, b = str(one.value), str(other.value)
    return a == b or same_text(one.text, other.text) or (similar < 1.0 and similarity(a, b) >= similar)


def _spelled(answer: Answer) -> str:
    value = answer.value
    if isinstance(value, Fraction):
        return str(value.numerator) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    return value or ""


_NAMES = """january jan
february feb
march mar
april apr
may
june jun
july jul
august aug
september sep sept
october oct
november nov
december dec"""
_MONTHS = {name: month for month, names in enumerate(_NAMES.split("\n"), start=1) for name in names.split()}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_FORMS = (
    re.compile(r"(?P<year>\d{4})-(?P<month>\d\d?)-(?P<day>\d\d?)"),
    re.compile(rf"(?:the )?(?P<day>\d\d?)(?:st|nd|rd|th|\.)?(?: of)? (?P<month>{_MONTH})\.?,? (?P<year>\d{{4}})"),
    re.compile(rf"(?P<month>{_MONTH})\.? (?:the )?(?P<day>\d\d?)(?:st|nd|rd|th)?,? (?P<year>\d{{4}})"),
)


def date_of(text: str) -> date | None:
    """The day that a text names, if it is nothing but a date."""
    compact = " ".join(text.lower().split()).strip(" .")
    for form in _FORMS:
        found = form.fullmatch(compact)
        if found is not None:
            month = int(found["month"]) if found["month"].isdigit() else _MONTHS[found["month"]]
            try:
                return date(int(found["year"]), month, int(found["day"]))
            except ValueError:
                return None
    return None
