"""Yes or no: which of the two a reply says. Nothing is inferred: "not yes" is not a no."""

from __future__ import annotations

import re
from functools import lru_cache

from cuecard.answers.answer import Answer, Blank, Reading, one_of
from cuecard.answers.text.markup import pattern, plain, sentences
from cuecard.answers.text.polarity import polarity
from cuecard.answers.text.refusals import answerable, refuses
from cuecard.answers.text.similarity import normalise
from cuecard.domain.question import Question

_BEFORE, _AFTER = r"(?:^|[\s,;:/—–\"“(])", r"(?=\s*(?:$|[.,;:!?/)\"”—–]|(?:and|or|but)\b))"
_ALONE = {
    True: pattern(rf"\byes\b|{_BEFORE}(?:yeah|sí|oui|ja|sim){_AFTER}"),
    False: pattern(rf"{_BEFORE}(?:no|nope|nein|non|nee|não){_AFTER}"),
}
_EITHER = r"(?:yes|no|true|false)"
_BOTH = pattern(
    rf"\b{_EITHER}\s?(?:and|or|/|&)\s?{_EITHER}\b|\bneither\b.{{0,12}}\bnor\b",
    "ja und nein|sí y no|oui et non|是也不是",
)
_DENIED = pattern(r"(?:\bnot|n't)\s+(?:(?:an?|simply|exactly)\s+)?[\"'“]?(?:yes|no)\b")
_ENDS = pattern(
    r"(?:\b(?:is|be|say|answer|so|think|with|thus|hence|therefore|it's|that's)|[,:;—–>])\s*(?:an?\s+)?"
    rf"(?:(?:definite|clear)\s+)?[\"'“(]?(?P<word>{_EITHER})[\"'”).!]*$"
)
_AUXILIARY = "is are was were am be do does did can could has have had will would should must may might"
_AUXILIARIES = set(_AUXILIARY.split())
_MOST_SENTENCES = 200


def read(text: str, question: Question) -> Reading:
    """Yes or no as a text begins or ends; unclear if it says both, or refuses."""
    reply = plain(text)
    parts = sentences(reply)
    if not parts:
        return Blank.NOTHING
    if _BOTH.search(reply) or _DENIED.search(reply):
        return Blank.UNCLEAR
    first = polarity(reply)
    if first is not None:
        doubtful = (not first and refuses(parts[0])) or _ALONE[not first].search(reply)
        return Blank.UNCLEAR if doubtful else _answer(parts[0], first)
    if refuses(reply):
        left = answerable(reply)
        return read(left, question) if left.strip() and not refuses(left) else Blank.UNCLEAR
    if len(parts) > _MOST_SENTENCES:
        return Blank.UNCLEAR
    return one_of([_sentence(part, question) for part in parts])


def _sentence(sentence: str, question: Question) -> Reading:
    """One sentence that does not begin the text: a yes alone, at its end, or the question put as a statement."""
    if len(sentence.split()) <= 2:
        alone = polarity(sentence)
        return Blank.NOTHING if alone is None else _answer(sentence, alone)
    ending = _ENDS.search(sentence)
    if ending is not None:
        return _answer(ending["word"], ending["word"].lower() in ("yes", "true"))
    for value in (True, False):
        if re.match(r"(?:yes|no)\s*[,;:—–]", sentence, re.IGNORECASE) and _ALONE[value].match(sentence):
            return _answer(sentence, value)
    echoed = _echo(sentence, question)
    return Blank.NOTHING if echoed is None else _answer(sentence, echoed)


def _echo(sentence: str, question: Question) -> bool | None:
    """Whether a statement affirms or denies the question in its own words and order: "The digit is (not) red."

    The auxiliary may move, nothing else: "B is larger than A" does not answer "Is A larger than B?".
    """
    asked = _asked(question.text)
    if not asked or asked[0] not in _AUXILIARIES or len(asked) < 3:
        return None
    stated = normalise(re.sub(r"n't\b", " not", sentence)).replace("cannot", "can not").split()
    if asked[0] not in stated:
        return None
    stated.remove(asked[0])
    negations = [word for word in stated if word in ("not", "no")]
    rest = [word for word in stated if word not in ("not", "no")]
    return not negations if rest == list(asked[1:]) and len(negations) <= 1 else None


@lru_cache(maxsize=64)
def _asked(text: str) -> tuple[str, ...]:
    """The words of a question's last sentence, kept for the next sentence of a reply."""
    return tuple(normalise((sentences(plain(text)) or [""])[-1]).split())


def _answer(text: str, value: bool) -> Answer:
    return Answer(text.strip().rstrip(".").strip(), "yes" if value else "no")
