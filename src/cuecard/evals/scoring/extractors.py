"""Extractors: the answer in a reply. Scores of one reply by several of them show how much the parser decides.

Each is a function (reply, question) -> the text that a scorer compares, or None where it finds none: a letter for a
choice, "yes" or "no", else words as they were written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from cuecard.answers import extract
from cuecard.answers.readers.number import whole
from cuecard.domain.question import AnswerKind, Question, letter

Extractor = Callable[[str, Question], str | None]

_LETTER_ALONE = re.compile(r"[(\[]?([A-Z])[)\].:]{0,2}")
_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_STATED = re.compile(r"(?:correct )?answer is:?\s*[(\"'*]{0,3}([A-D])", re.IGNORECASE)
_MOST_WORDS = 15


def strict(reply: str, question: Question) -> str | None:
    """The reply, where it is an answer and nothing else: a letter or an option's words, yes or no, a number, a line."""
    text = reply.strip()
    match question.kind:
        case AnswerKind.CHOICE:
            alone = _LETTER_ALONE.fullmatch(text)
            if alone and ord(alone[1]) - ord("A") < len(question.options):
                return alone[1]
            return _the_option(text.rstrip("."), question.options)
        case AnswerKind.YES_NO:
            word = text.rstrip(".!").lower()
            return word if word in ("yes", "no") else None
        case AnswerKind.NUMBER:
            return text.rstrip(".") if whole(text.rstrip(".")) is not None else None
        case AnswerKind.SHORT_TEXT:
            return text.rstrip(".") if text and "\n" not in text and len(text.split()) <= _MOST_WORDS else None
        case _:
            return text or None


def ours(reply: str, question: Question) -> str | None:
    """What `answers.extract` finds; None for unfinished thinking, refusals, several answers, answers taken back."""
    found = extract(reply, question)
    if found.value is None:
        return None
    return str(found.value) if question.kind in (AnswerKind.CHOICE, AnswerKind.YES_NO) else found.text


def vlmevalkit(reply: str, question: Question) -> str | None:
    """As VLMEvalKit extracts without a judge, described from its matching utilities, 2026: its slips included.

    A choice: the only option letter in the reply, if among its last four words; else what follows the first "answer
    is", A to D, in any case and without a word boundary ("clearly" gives C); else the only option whose words are
    contained, in a reply of at most twice the options' length. Yes or no: whichever word occurs without the other. All
    else: the reply as it is.
    """
    match question.kind:
        case AnswerKind.CHOICE:
            return _inferred_option(reply, question.options)
        case AnswerKind.YES_NO:
            words = set(re.findall(r"[a-z]+", reply.lower())) & {"yes", "no"}
            return words.pop() if len(words) == 1 else None
        case _:
            return reply.strip() or None


EXTRACTORS: dict[str, Extractor] = {"strict": strict, "ours": ours, "vlmevalkit": vlmevalkit}
"""By the name under which their scores are stored."""


def _the_option(text: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that these words are."""
    same = [letter(index) for index, option in enumerate(options) if text.lower() == option.strip().rstrip(".").lower()]
    return same[0] if len(same) == 1 else None


def _inferred_option(reply: str, options: Sequence[str]) -> str | None:
    words = reply.translate(_PUNCTUATION).split()
    letters = [letter(index) for index in range(len(options))]
    there = [each for each in letters if each in words]
    if len(there) == 1 and words.index(there[0]) >= len(words) - 4:
        return there[0]
    stated = _STATED.search(reply)
    if stated and stated[1].upper() in letters:
        return stated[1].upper()
    if len(reply) > 2 * sum(map(len, options)):
        return None
    contained = [each for each, option in zip(letters, options, strict=True) if option.lower() in reply.lower()]
    return contained[0] if len(contained) == 1 else None
