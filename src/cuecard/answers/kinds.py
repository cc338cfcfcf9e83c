"""The kinds of answers: instruction, reader, comparison and scoring of each; extraction and comparison by them.

`register` adds a kind. The answer of a reply is the marked one; without a mark, the whole reply is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from cuecard.answers import choice, comparison, json_replies, number, schemas, words
from cuecard.answers.reasoning_parser import visible
from cuecard.answers.text.markup import (
    after_list,
    any_of,
    pattern,
    plain,
    sentences,
    size,
    spaced,
    unnumbered,
    word_count,
)
from cuecard.answers.text.statements import (
    MOST_READ,
    Statement,
    Weight,
    after_taking_back,
    closing_clause,
    instead,
    leaves_open,
    refuses,
    settle,
    stated,
)
from cuecard.domain.question import UNPARSED, Answer, AnswerKind, Blank, Question, Reading, letter
from cuecard.worker import off_the_loop

Reader = Callable[[str, Question], Reading]


@dataclass(frozen=True)
class Grammar:
    """A grammar of all answers of a kind, for engines with constrained decoding, in each of their forms."""

    regex: str
    gbnf: str
    """In llama.cpp's format."""
    schema: dict[str, object]
    """The JSON Schema of the answer."""


def one_of_words(words: Sequence[str]) -> Grammar:
    """The grammar of an answer that is one of these words."""
    alternatives = " | ".join(f'"{word}"' for word in words)
    return Grammar(f" ?({'|'.join(words)})", f'root ::= " "? ({alternatives})', {"type": "string", "enum": list(words)})


def letters_of(question: Question) -> Grammar:
    """The grammar of an option's letter; of letters joined by commas where the question wants all that apply."""
    letters = [letter(index) for index in range(len(question.options))]
    if not choice.wants_several(question):
        return one_of_words(letters)
    one, last = f"[A-{letters[-1]}]", letters[-1]
    return Grammar(
        f" ?{one}(, {one}){{0,25}}",
        f'root ::= " "? one (", " one){{0,25}}\none ::= [A-{last}]',
        {"type": "string", "pattern": f"^{one}(, {one})*$"},
    )


@dataclass(frozen=True)
class KindRules:
    """The instruction, reader, comparison and scoring of one kind of answer."""

    about: str
    """Description of such an answer, for the docs."""
    asks: str
    """Description of the reply in the instruction: "the number only"; empty: anything."""
    read: Reader
    """Finds the answer in a part of a reply, or the reason why there is none; in the whole reply if not `brief`."""
    same: Callable[[Answer, Answer, float, float], bool] = comparison.same_value
    """(one, other, tolerance, similar): whether two parsed answers are equal. See `answers.agree`."""
    right: Callable[[Answer, str, Answer, float], float] = comparison.right_value
    """(given, truth, truth as read, tolerance): correctness of an answer, in [0, 1]. See `answers.score`."""
    tokens: int = 64
    """Maximum tokens of an answer. A longer reply of a brief kind is an explanation, not an answer."""
    brief: bool = True
    """The whole answer is a few tokens; it may be anywhere in a reply, marked or not."""
    compares_slowly: bool = False
    """`same` may block for long, so coroutines call it in a thread."""
    canonical: bool = False
    """Scorers of evaluations get an answer's value (a letter, yes or no), not its text."""
    grammar: Callable[[Question], Grammar] | None = None
    """A small grammar of all answers to a question."""
    wordings: re.Pattern[str] | None = None
    """Wordings of questions that certainly ask for this kind, if `guess_kind` does not know it."""


_NUMBER = Grammar(
    r"[-+−]?[$€£¥]? ?[0-9]{1,30}([.,:/ ][0-9]{1,15}){0,6}(e[-+]?[0-9]{1,3})?( ?[%°a-zA-Z²³]{1,12}){0,2}[.]?",
    'root ::= " "? [-+−]? [$€£¥]? " "? [0-9]{1,30} ([.,:/ ] [0-9]{1,15}){0,6} ("e" [-+]? [0-9]{1,3})? '
    '(" "? [%°a-zA-Z²³]{1,12}){0,2} "."?',
    {"type": "number"},
)
KINDS: dict[AnswerKind, KindRules] = {
    AnswerKind.CHOICE: KindRules(
        "one of the question's options",
        "the letter of the option only",
        choice.read,
        tokens=24,
        canonical=True,
        grammar=letters_of,
    ),
    AnswerKind.YES_NO: KindRules(
        "yes or no",
        "yes or no only",
        words.read_yes_no,
        tokens=16,
        canonical=True,
        grammar=lambda question: one_of_words(["yes", "no", "Yes", "No"]),
    ),
    AnswerKind.NUMBER: KindRules(
        "a number, with or without a unit",
        "the number only",
        number.read,
        comparison.same_quantity,
        right=comparison.right_number,
        tokens=24,
        grammar=lambda question: _NUMBER,
    ),
    AnswerKind.SHORT_TEXT: KindRules(
        "a word, a name or a short phrase",
        "a word or a short phrase only",
        words.read_short_text,
        comparison.same_words,
        right=comparison.right_words,
    ),
    AnswerKind.MATHS: KindRules(
        "a mathematical expression (needs the extra `maths`)",
        "the final expression only",
        number.read_maths,
        comparison.same_maths,
        comparison.right_maths,
        compares_slowly=True,
    ),
    AnswerKind.FREE_TEXT: KindRules(
        "a text of any length", "", words.read_free_text, right=comparison.right_words, tokens=1024, brief=False
    ),
    AnswerKind.JSON: KindRules("JSON, under a schema or not", "JSON only", json_replies.read, tokens=1024, brief=False),
}


def register(name: str, rules: KindRules) -> AnswerKind:
    """Register a kind of answer under a name; a later one replaces an earlier one."""
    kind = AnswerKind.add(name)
    KINDS[kind] = rules
    return kind


# --- extraction -------------------------------------------------------------------------------------------------------


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
        return schemas.Misfit("it is not one JSON value, with no name twice in an object")
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
    if not KINDS[question.kind].compares_slowly:
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
