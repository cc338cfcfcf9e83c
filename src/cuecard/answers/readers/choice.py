"""Choices: the one option that a reply picks, by its letter or in its words.

A letter counts where the reply opens or closes with it or says that it decides; two that count are no answer. Without
letters, the option's words count.
"""

from __future__ import annotations

import re
from functools import lru_cache

from cuecard.answers.answer import Answer, Blank, Reading, one_of
from cuecard.answers.readers import number, yes_no
from cuecard.answers.readers.letters import Mention, mentions
from cuecard.answers.text.claims import claimed, mentioned
from cuecard.answers.text.markup import before_reasons, plain, sentences, unquoted
from cuecard.answers.text.refusals import answerable, refuses
from cuecard.answers.text.similarity import normalise
from cuecard.domain.question import Question, letter

_ON_THE_WAY = re.compile(r"(?:let|let's|first|step|i'll|i will|i need|we need|start|looking)\b", re.IGNORECASE)
_MOST_POLAR_CHARS, _MOST_SAME_CHARS = 200, 400  # of an option that is yes or no; of a text that is an option
SHORT_WORDS, MOST_WORDS = 8, 10  # of a text in which a letter, or an option's words, count wherever they stand

# What is read of options is kept for the other marked answers of a reply, and for other replies.
_refuses = lru_cache(maxsize=256)(refuses)
_value = lru_cache(maxsize=256)(number.whole)


@lru_cache(maxsize=256)
def _option_core(option: str) -> str:
    return _core(plain(option))


def read(text: str, question: Question) -> Reading:
    """The option that a text picks; unclear if it picks several, contradicts itself, or refuses."""
    reply = plain(text)
    if refuses(reply) and not any(map(_refuses, question.options)):
        reply = answerable(reply)
        if not reply.strip():
            return Blank.UNCLEAR
    by_number = _by_label(reply, question)
    if by_number is not None:
        return by_number
    by_letter = _by_letter(reply, question)
    return by_letter if by_letter is not Blank.NOTHING else _by_words(reply, question)


# --- numbers of numbered options --------------------------------------------------------------------------------------

_LABELLED = re.compile(
    r"\W*+(?:(?:the )?(?:correct |final )?(?:option|answer|choice|number)\s*+(?:(?:is|:)\s*+)?[(\[]?)?"
    r"(?P<label>\d{1,2})\b[)\].:]?"
    r"(?:\s++is (?:correct|right|the answer))?(?P<rest>(?:(?:[\s\-–—:]{2,}+|[\s\-–—:]\D).*+)?)\W*+",
    re.IGNORECASE,
)


def _by_label(reply: str, question: Question) -> Answer | None:
    """The option whose number a short reply is, where no option's text is that number itself."""
    found = _LABELLED.fullmatch(reply) if question.labels else None
    if found is None or found["label"] not in question.labels or len(reply.split()) > MOST_WORDS:
        return None
    index = question.labels.index(found["label"])
    if any(_value(option) == int(found["label"]) for option in question.options):
        return None
    named = mentioned(found["rest"], question.options) if found["rest"].strip() else {index}
    return Answer(reply.strip().rstrip(".").strip(), letter(index)) if named == {index} else None


# --- letters ----------------------------------------------------------------------------------------------------------


def _by_letter(reply: str, question: Question) -> Reading:
    found = mentions(reply, letter(len(question.options) - 1))
    if found is None:
        return Blank.UNCLEAR
    claim = len(before_reasons(reply)) if len(before_reasons(reply).split()) <= SHORT_WORDS else 0
    # in a few words a letter need not be decided on: what else could it be there for?
    decided = [one for one in found if one.decided] or [one for one in found if one.end <= claim and not one.described]
    picked = {one for mention in decided for one in mention.letters}
    if len(picked) != 1:
        return Blank.UNCLEAR if picked or any(one.described for one in found) else Blank.NOTHING
    chosen = decided[0]
    listed = {one for mention in found if mention.listed and mention is not chosen for one in mention.letters}
    enumerated = chosen.listed and listed - picked and not picked & listed
    if enumerated or _contradicts(reply, chosen, question):
        return Blank.UNCLEAR
    return Answer(_as_written(reply, chosen), picked.pop())


def _contradicts(reply: str, mention: Mention, question: Question) -> bool:
    """Whether the words beside the letter are another option's: "B. red" where red is A."""
    before, after = reply[: mention.start].rsplit("\n", 1)[-1], reply[mention.end :].split("\n", 1)[0]
    beside = before_reasons(f"{before} {after}")
    meant = mentioned(beside, question.options) if len(beside.split()) <= SHORT_WORDS else set()
    return len(meant) == 1 and not {letter(index) for index in meant} & mention.letters


def _as_written(reply: str, mention: Mention) -> str:
    """The letter, with its option's words where they follow it on the same line."""
    line = reply[mention.start :].split("\n", 1)[0]
    followed = len(line.split()) <= 12 and re.match(r".{1,3}?[.):]\s*\S", line)
    if not followed or reply[: mention.start].endswith(("(", "[")):
        return reply[mention.start : mention.end]
    return line.strip().rstrip(".").strip()


# --- words ------------------------------------------------------------------------------------------------------------


def _by_words(reply: str, question: Question) -> Reading:
    """The option whose words the text consists of, claims, or mentions; the last only in a short text."""
    options = [_option_core(option) for option in question.options]
    parts = sentences(before_reasons(reply)) or [reply]
    claim = claimed(parts[0], question.text) if len(parts) == 1 else parts[0]
    longest = max(_MOST_SAME_CHARS, *(2 * len(option) for option in question.options))
    for candidate in (reply, before_reasons(reply), parts[0], claim):
        if len(candidate) > longest:
            continue
        core = _core(unquoted(candidate))
        same = [i for i, option in enumerate(options) if core == option]
        if len(same) == 1:
            return Answer(unquoted(candidate), letter(same[0]))
    polar = _by_polarity(reply, question)
    if polar is not Blank.NOTHING:
        return polar
    if all(_value(option) is not None for option in question.options):
        return _by_number(reply, question)
    short = len(reply.split()) <= MOST_WORDS and not _ON_THE_WAY.match(reply)
    named = mentioned(before_reasons(reply), question.options) if short else set()
    if named:
        return Answer(unquoted(reply), letter(named.pop())) if len(named) == 1 else Blank.UNCLEAR
    return Blank.NOTHING


def _core(text: str) -> str:
    """The words to compare an option by: without a leading "because"."""
    return normalise(text).removeprefix("because ")


def _by_polarity(reply: str, question: Question) -> Reading:
    """For options that are yes and no (and no more): the one that the text says."""
    if len(question.options) != 2 or any(len(option) > _MOST_POLAR_CHARS for option in question.options):
        return Blank.NOTHING
    values = [yes_no.read(option, question) for option in question.options]
    if {value.value for value in values if isinstance(value, Answer)} != {"yes", "no"}:
        return Blank.NOTHING
    reading = yes_no.read(reply, question)
    return Answer(reading.text, letter(_index(values, reading))) if isinstance(reading, Answer) else reading


def _by_number(reply: str, question: Question) -> Reading:
    """For options that are numbers: the one of the same value."""
    reading = number.read(reply, question)
    if not isinstance(reading, Answer):
        return reading
    values = [_value(option) for option in question.options]
    return one_of([Answer(reading.text, letter(i)) for i, value in enumerate(values) if value == reading.value])


def _index(values: list[Reading], reading: Answer) -> int:
    return next(i for i, value in enumerate(values) if isinstance(value, Answer) and value.value == reading.value)
