"""Extract, compare and score answers of any kind, by the rules of `kinds`.

The answer of a reply is the marked one; without a mark, the whole reply is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from cuecard.answers import schemas
from cuecard.answers.answer import UNPARSED, Answer, Blank, Reading
from cuecard.answers.kinds import KINDS
from cuecard.answers.readers import json_replies, number
from cuecard.answers.reasoning_parser import visible
from cuecard.answers.text.language import word_count
from cuecard.answers.text.marked_answers import MOST_READ, Statement, Weight, closing_clause, settle, stated
from cuecard.answers.text.markup import after_list, any_of, pattern, plain, sentences, size, spaced, unnumbered
from cuecard.answers.text.refusals import after_taking_back, instead, leaves_open, refuses
from cuecard.domain.question import AnswerKind, Question
from cuecard.worker import off_the_loop

_COMPARING = ThreadPoolExecutor(1, "cuecard maths")
"""Own threads: comparisons that wait for the one worker process occupy none of the event loop's executor."""
MOST_CHARS = 20_000
"""Characters at the end of a reply in which a brief answer is searched; in a longer reply only after a final mark."""
_OPENING_CHARS = 2_000
_ASKED_CHARS = (2_000, 6_000)  # of a question: at its beginning and at its end
MOST_BARE_WORDS, MOST_BARE_CHARS = 3, 40
"""Maximum length of an unmarked answer that replaces a withdrawn one."""
_ANSWER_KEY = re.compile(r"(?:final[ _]?)?(?:answer|result|choice|option)", re.IGNORECASE)
_BOLD = re.compile(r"\*\*(?!\s)([^*\n]{1,60}?)(?<!\s)\*\*")
# Words before a bold answer, and the wording of a number in a conclusion.
_BEFORE_BOLD = any_of("is are was were be says reads pick choose say so thus therefore with")
_ANSWERED = pattern(rf"(?:\b{_BEFORE_BOLD}|[:,\n])\W{{0,40}}$|^\W{{0,40}}$")
_RESULT = any_of(
    """there_(?:are|is|were) (?:it|that)(?:'s|_is) we_(?:have|get|count|find) (?:that|this)_(?:makes|gives)
    the_\\w+(?:_\\w+){0,12}_(?:is|are|equals|=) [-$€£]?\\d"""
)
_PUT_AS_RESULT = pattern(rf"{_RESULT}\b")


def extract(text: str, question: Question) -> Answer:
    """The answer that a careful reader would find in a reply; unparseable if there is none, or more than one.

    Unfinished reasoning, refusals, ranges and withdrawn answers are unparseable, never guessed. So is JSON that does
    not fit the question's schema; that check blocks, so coroutines use `extract_soon`.
    """
    shown = visible(text) or ""
    if not shown:
        return UNPARSED
    rules = KINDS[question.kind]
    brief = spaced(_in_json(shown)) if rules.brief else ""
    reading = _read(brief, _shortened(question)) if rules.brief else rules.read(shown, question)
    return reading if isinstance(reading, Answer) else UNPARSED


async def extract_soon(text: str, question: Question) -> Answer:
    """Same as `extract`, without blocking the event loop during the check of JSON against its schema."""
    found = extract(text, shape_of(question))
    if question.schema is None or not found.parsed or question.kind is not AnswerKind.JSON:
        return found
    return found if await schemas.misfit_soon(question.schema, found.text) is None else UNPARSED


async def misfit_of(text: str, question: Question) -> schemas.Misfit | None:
    """Why the answer to a question in JSON does not fit; None if it fits."""
    found = extract(text, shape_of(question))
    if not found.parsed:
        return schemas.Misfit(json_replies.NO_JSON)
    return None if question.schema is None else await schemas.misfit_soon(question.schema, found.text)


def shape_of(question: Question) -> Question:
    """The question without its schema: any JSON answers it, and any call of its tools, which are in the schema."""
    return question if question.schema is None or question.calling else replace(question, schema=None)


# --- two answers, and the truth ---------------------------------------------------------------------------------------


def agree(one: Answer, other: Answer, question: Question, *, tolerance: float = 0.0, similar: float = 1.0) -> bool:
    """Whether two answers to a question are equal; symmetric. An unparseable one equals none, not even itself.

    Numbers must be equal (15, 15.0, fifteen), or within `tolerance` of the larger one; 12 cm equals 12, not 12 m. The
    percent sign is a unit: 45% equals 45, not 0.45. Short texts must be the same words, date or number, or reach
    `similar` (1 - normalised Levenshtein distance). Expressions with different spellings are compared by math-verify
    (raises MissingExtra without it). Free texts agree only word for word: paraphrases are for cross-scoring.
    """
    if one.value is None or other.value is None:
        return False
    return KINDS[question.kind].same(one, other, tolerance, similar)


async def same_answer(one: Answer, other: Answer, question: Question) -> bool:
    """Same as `agree`, without blocking the event loop during comparisons of expressions; it blocks in virtual time."""
    slow = KINDS[question.kind].compares_slowly
    if slow is None or not (one.parsed and other.parsed and slow(one, other)):
        return agree(one, other, question)
    return await off_the_loop(_COMPARING, agree, one, other, question)


def score(answer: Answer, truths: Sequence[str], question: Question, *, tolerance: float = 0.05) -> float:
    """Score of an answer against the nearest of the truths, in [0, 1]; 0 if it is unparseable.

    Choices, yes and no: equal or not; a truth may be a letter or an option's words. Numbers: relaxed accuracy, within
    `tolerance` of the truth (5% in Masry et al., "ChartQA", 2022; a truth of 0 requires 0). Short and free text: ANLS
    with threshold 0.5 (Biten et al., 2019), 1 for the same words, number or date. Maths: math-verify (raises
    MissingExtra).
    """
    if answer.value is None:
        return 0.0
    right = KINDS[question.kind].right
    return max((right(answer, truth, extract(truth, question), tolerance) for truth in truths), default=0.0)


# --- brief answers ----------------------------------------------------------------------------------------------------


def _shortened(question: Question) -> Question:
    """The question; a very long text is reduced to its beginning and end."""
    first, last = _ASKED_CHARS
    text = question.text
    return question if len(text) <= first + last else replace(question, text=f"{text[:first]}\n{text[-last:]}")


def _in_json(shown: str) -> str:
    """The value under "answer" of a reply that is a JSON object; else the reply."""
    body = shown.strip().strip("`").removeprefix("json").strip()
    if not body.startswith("{") or len(body) > MOST_READ:
        return shown
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return shown
    named = [value for key, value in found.items() if _ANSWER_KEY.fullmatch(key)]
    return str(named[0]) if len(named) == 1 and isinstance(named[0], str | int | float) else shown


def _read(shown: str, question: Question) -> Reading:
    """The answer of a reply, or why it is unclear. Of a very long reply only the end is read."""

    def read(text: str) -> Reading:
        return Blank.UNCLEAR if leaves_open(text) else KINDS[question.kind].read(text, question)

    def read_statement(text: str) -> Reading:
        """Read the first sentence; the whole text if that states nothing."""
        first = (sentences(text) or [""])[0]
        reading = read(first) if len(first) < len(text) else Blank.NOTHING
        return read(text) if reading is Blank.NOTHING else reading

    whole = len(shown) <= MOST_CHARS
    shown = shown[-MOST_CHARS:]
    behind = after_list(shown) if whole else None
    shown = unnumbered(shown)
    statements = stated(shown)
    if statements is None:
        return Blank.UNCLEAR
    if not whole:
        statements = [one for one in statements if one.weight is Weight.FINAL][-1:]
    later = after_taking_back(shown)
    if later is not None:
        statements = [one for one in statements if one.at >= len(shown) - len(later)]
        marked = settle(statements, read_statement)
        if isinstance(marked, Answer) or statements:
            return marked if isinstance(marked, Answer) else Blank.UNCLEAR
        said = instead(later)
        return read(said) if len(said.split()) <= MOST_BARE_WORDS and len(said) <= MOST_BARE_CHARS else Blank.UNCLEAR
    marked = settle(statements, read_statement)
    if not whole:
        return marked
    if isinstance(marked, Answer) and _opens_otherwise(shown, statements, marked, question):
        return Blank.UNCLEAR
    if marked is Blank.NOTHING and behind is not None and isinstance(concluded := read(behind), Answer):
        return concluded
    return marked if marked is not Blank.NOTHING else _unmarked(shown, question, read)


def _opens_otherwise(shown: str, statements: list[Statement], marked: Answer, question: Question) -> bool:
    """Whether the reply begins with another answer than the marked one, without marking the latter as final."""
    if any(one.weight is Weight.FINAL for one in statements):
        return False
    first = (sentences(shown) or [""])[0]
    if (question.kind is not AnswerKind.YES_NO and word_count(first) > 2) or statements[0].at < len(first):
        return False
    if question.kind in (AnswerKind.NUMBER, AnswerKind.MATHS) and number.whole(first) is None:
        return False
    opening = KINDS[question.kind].read(first[:_OPENING_CHARS], question)
    return isinstance(opening, Answer) and opening.value != marked.value


def _unmarked(shown: str, question: Question, read: Callable[[str], Reading]) -> Reading:
    """Read the reply as a whole; without an answer, its only bold phrase, or the conclusion of its last line."""
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
    """The only bold phrase, if it is where an answer would be."""
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
    """The conclusion of the last line, "so …"; for numbers only if it is worded as a result."""
    numeric = question.kind in (AnswerKind.NUMBER, AnswerKind.MATHS)
    last = closing_clause(shown if question.kind is AnswerKind.MATHS else plain(shown))
    return last if last is not None and (not numeric or _PUT_AS_RESULT.match(last.strip("$ "))) else None
