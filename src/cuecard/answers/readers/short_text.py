"""Short answers in words: a colour, a name, a line of text."""

from __future__ import annotations

import re

from cuecard.answers.answer import Answer, Blank, Reading
from cuecard.answers.text.claims import claimed
from cuecard.answers.text.markup import any_of, before_reasons, pattern, plain, sentences, unquoted
from cuecard.answers.text.refusals import answerable
from cuecard.answers.text.similarity import normalise
from cuecard.domain.question import Question

MOST_WORDS = 15
_PLEASANTRY = pattern(
    r"(?:(?:sure|certainly|of course|okay|ok|great question|yes)(?: thing)?[!,.:]\s+"
    r"|i(?:'d| would)? (?:think|believe|guess|say)(?: that)?,?\s+|in my opinion,?\s+|it seems(?: that)?\s+)+"
)
_IN_COLOUR = pattern(r"(?<!\s)\s++in colou?r$")
_QUOTED = re.compile(r"[\"“«「„](?P<text>[^\"“”«»「」„]{1,200})[\"”»」“]")
_SAYING = any_of("says? said reads? written word text title name called is displays? shows? answer")
_QUOTES_IT = pattern(rf"\b{_SAYING}\b\W*$")
# How a reply begins that looks before it answers.
_LOOKING = any_of("let let's first looking based according okay alright step given starting start i i'm i'll we to")
_ON_THE_WAY = pattern(rf"{_LOOKING}\b")
_SEEN = any_of("visible shown specified mentioned provided available given legible readable")
_NOT_SEEN = pattern(rf"\b(?:is|are|was) not (?:(?:clearly|fully) )?{_SEEN}\b")
_EITHER = pattern(r"\beither\b|\bor\b")


def read(text: str, question: Question) -> Reading:
    """The few words that a text answers with; unclear if it says more than that, offers two, or refuses."""
    phrase = _PLEASANTRY.sub("", plain(text), count=1)
    phrase = answerable(phrase) if normalise(phrase) else phrase
    parts = sentences(phrase)
    if not parts or _NOT_SEEN.search(phrase):
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
    phrase = _IN_COLOUR.sub("", unquoted(text))
    words = phrase.split()
    if not words or not normalise(phrase):
        return Blank.NOTHING
    if len(words) > MOST_WORDS or _offers_two(phrase, question):
        return Blank.UNCLEAR
    return Answer(phrase, normalise(phrase))


def _offers_two(phrase: str, question: Question) -> bool:
    """Whether the text leaves it open: "red or blue", but not a title ("Trick or Treat") nor words of the question."""
    if not _EITHER.search(phrase) or phrase.lower() in question.text.lower():
        return False
    return not all(word[0].isupper() or word.lower() in ("or", "the", "a") for word in phrase.split())
