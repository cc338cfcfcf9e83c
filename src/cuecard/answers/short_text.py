"""Short answers in words: a colour, a name, a line of text."""

from __future__ import annotations

import re

from cuecard.answers.answer import Answer, Blank, Reading
from cuecard.answers.similarity import normalise
from cuecard.answers.wording import answerable, before_reasons, plain, sentences, unquoted
from cuecard.answers.words import claimed
from cuecard.domain.question import Question

MOST_WORDS = 15
_PLEASANTRY = re.compile(
    r"(?:(?:sure|certainly|of course|okay|ok|great question|yes)(?: thing)?[!,.:]\s+"
    r"|i(?:'d| would)? (?:think|believe|guess|say)(?: that)?,?\s+|in my opinion,?\s+|it seems(?: that)?\s+)+",
    re.IGNORECASE,
)
_IN_COLOUR = re.compile(r"\s+in colou?r$", re.IGNORECASE)
_QUOTED = re.compile(r"[\"“«「„](?P<said>[^\"“”«»「」„]{1,200})[\"”»」“]")
_QUOTES_IT = re.compile(r"\b(?:says?|said|reads?|written|word|text|title|name|called|is|displays?|shows?|answer)\b\W*$", re.IGNORECASE)
# How a reply begins that looks before it answers.
_ON_THE_WAY = re.compile(
    r"(?:let|let's|i|i'm|i'll|we|to|first|looking|based|according|okay|alright|step|given|starting|start)\b", re.IGNORECASE
)
_EITHER = re.compile(r"\beither\b|\bor\b", re.IGNORECASE)


def read(text: str, question: Question) -> Reading:
    """The few words that a text answers with; unclear if it says more than that, offers two, or refuses."""
    said = _PLEASANTRY.sub("", plain(text), count=1)
    said = answerable(said) if normalise(said) else said
    parts = sentences(said)
    if not parts:
        return Blank.UNCLEAR
    if len(parts) == 1:
        return _claim(before_reasons(parts[0]), question)
    first = before_reasons(parts[0])
    if _ON_THE_WAY.match(first):
        return Blank.UNCLEAR
    direct = claimed(first, question.text, strict=True)
    if direct:
        return _answer(direct, question)
    return _answer(claimed(first, question.text), question) if len(first.split()) <= 5 else Blank.UNCLEAR


def _claim(sentence: str, question: Question) -> Reading:
    quoted = _QUOTED.findall(sentence)
    if len(quoted) == 1 and _QUOTES_IT.search(sentence[: sentence.index(quoted[0]) - 1]):
        return _answer(quoted[0], question)
    return _answer(claimed(sentence, question.text), question)


def _answer(text: str, question: Question) -> Reading:
    said = _IN_COLOUR.sub("", unquoted(text))
    words = said.split()
    if not words or not normalise(said):
        return Blank.NOTHING
    if len(words) > MOST_WORDS or _offers_two(said, question):
        return Blank.UNCLEAR
    return Answer(said, normalise(said))


def _offers_two(said: str, question: Question) -> bool:
    """Whether the text leaves it open: "red or blue", but not a title ("Trick or Treat") nor words of the question."""
    if not _EITHER.search(said) or said.lower() in question.text.lower():
        return False
    return not all(word[0].isupper() or word.lower() in ("or", "the", "a") for word in said.split())
