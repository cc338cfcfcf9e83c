"""The final answer of a reply: marked ones first, the reply as a whole otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from cuecard.answers import schemas
from cuecard.answers.answer import UNPARSED, Answer, Blank, Reading
from cuecard.answers.readers import (
    choice,
    json_value,
    maths,
    number,
    short_text,
    tool_calls,
    yes_no,
)
from cuecard.answers.reasoning_parser import visible
from cuecard.answers.text.marked_answers import MOST_READ, Statement, Weight, closing_clause, settle, stated
from cuecard.answers.text.markup import any_of, pattern, plain, sentences, size, spaced
from cuecard.answers.text.refusals import after_taking_back, refuses
from cuecard.answers.text.similarity import normalise
from cuecard.domain.question import AnswerKind, Question

Reader = Callable[[str, Question], Reading]
READERS: dict[AnswerKind, Reader] = {
    AnswerKind.CHOICE: choice.read,
    AnswerKind.YES_NO: yes_no.read,
    AnswerKind.NUMBER: number.read,
    AnswerKind.SHORT_TEXT: short_text.read,
    AnswerKind.MATHS: maths.read,
}
MOST_CHARS = 20_000
"""Characters of a reply that may mark a brief answer, from its end; where that is not all, with a final mark only."""
_OPENING_CHARS = 2_000
_ASKED_CHARS = (2_000, 6_000)  # of a question, from its beginning and its end
_BOLD = re.compile(r"\*\*(?!\s)([^*\n]{1,60}?)(?<!\s)\*\*")
# What stands before an answer in bold, and how a conclusion puts a number.
_BEFORE_BOLD = any_of("is are was were be says reads pick choose say so thus therefore with")
_ANSWERED = pattern(rf"(?:\b{_BEFORE_BOLD}|[:,\n])\W{{0,40}}$|^\W{{0,40}}$")
_RESULT = any_of(
    """there_(?:are|is|were) (?:it|that)(?:'s|_is) we_(?:have|get|count|find) (?:that|this)_(?:makes|gives)
    the_\\w+(?:_\\w+){0,12}_(?:is|are|equals|=) [-$€£]?\\d"""
)
_PUT_AS_RESULT = pattern(rf"{_RESULT}\b")


def extract(text: str, question: Question) -> Answer:
    """The answer that a careful reader would find in a reply; unparseable where there is none, or more than one.

    Unfinished thinking, refusals, ranges and answers taken back are unparseable, never guessed at. So is JSON that does
    not fit the question's schema, which blocks while it is checked: coroutines use `extract_soon`.
    """
    shown = visible(text) or ""
    if not shown:
        return UNPARSED
    if question.kind is AnswerKind.FREE_TEXT:
        return _free(shown)
    if question.calling is not None:
        return tool_calls.read(shown, question)
    if question.kind is AnswerKind.JSON:
        return _fitting(json_value.read(shown), question)
    reading = _read(spaced(shown), _shortened(question))
    return reading if isinstance(reading, Answer) else UNPARSED


async def extract_soon(text: str, question: Question) -> Answer:
    """As `extract`, without blocking the event loop while JSON is held against its schema."""
    found = extract(text, shape_of(question))
    if question.schema is None or not found.parsed or question.kind is not AnswerKind.JSON:
        return found
    return found if await schemas.misfit_soon(question.schema, found.text) is None else UNPARSED


async def misfit_of(text: str, question: Question) -> schemas.Misfit | None:
    """Why the answer to a question in JSON cannot be given as it is; None where it can."""
    found = extract(text, shape_of(question))
    if not found.parsed:
        return schemas.Misfit(json_value.NO_JSON)
    return None if question.schema is None else await schemas.misfit_soon(question.schema, found.text)


def shape_of(question: Question) -> Question:
    """The question without its schema: any JSON answers it, and any call of its tools, which are in the schema."""
    return question if question.schema is None or question.calling else replace(question, schema=None)


def _fitting(found: Answer, question: Question) -> Answer:
    fits = question.schema is None or not found.parsed or schemas.misfit(question.schema, found.text) is None
    return found if fits else UNPARSED


def _shortened(question: Question) -> Question:
    """A question of ordinary length as it is; a very long one with the beginning and the end of its text."""
    first, last = _ASKED_CHARS
    text = question.text
    return question if len(text) <= first + last else replace(question, text=f"{text[:first]}\n{text[-last:]}")


def _free(shown: str) -> Answer:
    """The whole reply, of which a very long one is compared as it is; a short refusal is none."""
    if len(shown) > MOST_CHARS:
        return Answer(shown, shown)
    value = normalise(shown)
    refusal = len(shown.split()) <= 40 and refuses(sentences(shown)[0])
    return Answer(shown, value) if value and not refusal else UNPARSED


def _read(shown: str, question: Question) -> Reading:
    """What a reply says, or why that is not clear. Only the end of a very long one is looked at."""
    read = partial(_with, READERS[question.kind], question)
    whole = len(shown) <= MOST_CHARS
    shown = shown[-MOST_CHARS:]
    statements = stated(shown)
    if statements is None:
        return Blank.UNCLEAR
    if not whole:
        statements = [one for one in statements if one.weight is Weight.FINAL][-1:]
    later = after_taking_back(shown)
    if later is not None:
        statements = [one for one in statements if one.at >= len(shown) - len(later)]
        marked = settle(statements, read)
        return marked if isinstance(marked, Answer) else Blank.UNCLEAR
    marked = settle(statements, read)
    if not whole:
        return marked
    if isinstance(marked, Answer) and _opens_otherwise(shown, statements, marked, question):
        return Blank.UNCLEAR
    return marked if marked is not Blank.NOTHING else _unmarked(shown, question, read)


def _with(reader: Reader, question: Question, text: str) -> Reading:
    return reader(text, question)


def _opens_otherwise(shown: str, statements: list[Statement], marked: Answer, question: Question) -> bool:
    """Whether the reply begins with another answer than the one it marks, without calling the latter final."""
    if any(one.weight is Weight.FINAL for one in statements):
        return False
    first = (sentences(shown) or [""])[0]
    if (question.kind is not AnswerKind.YES_NO and len(first.split()) > 2) or statements[0].at < len(first):
        return False
    opening = READERS[question.kind](first[:_OPENING_CHARS], question)
    return isinstance(opening, Answer) and opening.value != marked.value


def _unmarked(shown: str, question: Question, read: Callable[[str], Reading]) -> Reading:
    """The reply read as a whole; where that is no answer, its one bold phrase, or what its last line concludes."""
    direct = read(shown) if size(shown) <= MOST_READ else Blank.UNCLEAR
    if isinstance(direct, Answer):
        return direct
    for candidate in (_bold(shown, question), _concluded(shown, question)):
        if candidate and not refuses(plain(shown)):
            reading = read(candidate)
            if isinstance(reading, Answer):
                return reading
    return direct


def _bold(shown: str, question: Question) -> str | None:
    """The only phrase in bold, if it stands where an answer would."""
    found = list(_BOLD.finditer(shown))
    if len({one[1].strip().lower() for one in found}) != 1:
        return None
    phrase, after = found[0][1], shown[found[0].end() :]
    if phrase.endswith(":") or after.startswith(":"):
        return None
    is_letter = question.kind is AnswerKind.CHOICE and len(phrase.strip("(). ")) == 1
    is_number = question.kind is AnswerKind.NUMBER and number.whole(phrase) is not None
    return phrase if is_letter or is_number or _ANSWERED.search(shown[: found[0].start()]) else None


def _concluded(shown: str, question: Question) -> str | None:
    """What the last line concludes with "so …"; for numbers only where it is put as a result."""
    numeric = question.kind in (AnswerKind.NUMBER, AnswerKind.MATHS)
    last = closing_clause(shown if question.kind is AnswerKind.MATHS else plain(shown))
    return last if last is not None and (not numeric or _PUT_AS_RESULT.match(last.strip("$ "))) else None
