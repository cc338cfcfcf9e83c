"""Numbers: the one value that a reply gives as its answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from cuecard.answers.answer import Answer, Blank, Reading, one_of
from cuecard.answers.text.markup import any_of, before_reasons, pattern, plain, sentences, unquoted
from cuecard.answers.text.numerals import MOST_NUMERALS, Numeral, numerals
from cuecard.answers.text.refusals import answerable
from cuecard.answers.text.units import unit
from cuecard.domain.question import Question

_TIME_OR_DATE = re.compile(r"\d:\d|\b\d{4}-\d\d?-\d\d?\b|\d\s?/\s?\d{1,4}\s?/\s?\d|\d(?:st|nd|rd|th)\s+of\b")

# More than 5, at least 5, 5+: a bound, not the number.
_THAN = any_of("more less fewer greater higher lower larger smaller bigger")
_BOUND = any_of("at_(?:least|most) over under above below exceed(?:s|ing)? no_(?:more|less) (?:maximum|minimum)_of")
_BOUND_BEFORE = pattern(
    rf"(?:\b{_THAN} than|\b{_BOUND}|(?<!add )(?<!adds )(?<!sums )\bup to|[<>≤≥±])\s*[$€£]?$",
)
_BOUND_AFTER = pattern(r"\s?\+(?!\s?\d)|\s?±|\s+or\s+(?:more|less|fewer|so|above|below)\b")
_DENIED = pattern(
    r"(?:\bnot|n't|\brather than|\binstead of|\bneither|\bnor)\s+(?:(?:just|exactly|be|equal to)\s+)?$",
)

# 3 + 4 = 7, which makes 7, 7 in total: the result counts, not what it is made of.
_MAKES = any_of("equals is_equal_to makes gives yields totals comes_to a_total_of adds?_up_to sums?_(?:up_)?to")
_RESULT = pattern(rf"[=≈]|\b{_MAKES}\b")
_TOTAL = pattern(
    r"\b(?:in total|altogether|in all|a total of)\b",
    r"^(?:so |thus |therefore )?(?:(?:the|their|its|grand) )*(?:total|sum)\s?(?:is\b|:|=)",
)
_IN_TOTAL = pattern(r"\s(?:\w+\s){0,3}?(?:in total|altogether|in all)\b")
_ASIDE = pattern(r"\s\((?!(?:or|maybe|possibly)\b)[^()]{1,200}\)")
_FIRST_OF_A_LIST = re.compile(r"1[.)]")

_NONE = pattern(r"(?:(?:the answer is|there (?:are|is))\s+)?(?:none|nil)(?:\s+of\s+(?:them|these|those|the \w+))?\W*")
_NO_SUCH = pattern(
    r"(?:^|\bthere(?:'s| is| are| was| were) |\bi (?:see|count|can see) )(?:no|not any)\s+(?P<thing>\w+)",
    r"\b(?:aren't|isn't|are not|is not) any\s+(?P<any>\w+)",
)
# "row 2": the word before a number that only names a thing; these words make no name
_LABEL = re.compile(r"(?<![^\W\d_])([^\W\d_]+)[\s:#-]{0,2}$")
_MOST_CHARS, _MOST_SENTENCES = 400, 200  # of a number with its unit; of a reply that gives one
_SMALL = "is are was were has have had of the than and or to be equals by with a an plus minus times"
_NO_LABEL = set(_SMALL.split())


def read(text: str, question: Question) -> Reading:
    """The number that a text comes to; unclear where it gives several, a range, a bound, a date or a time."""
    reply = answerable(plain(text))
    if not reply.strip():
        return Blank.UNCLEAR
    parts = sentences(before_reasons(reply))
    if len(parts) > _MOST_SENTENCES:
        return Blank.UNCLEAR
    claims = [_claim(part, question) for part in parts]
    if Blank.UNCLEAR in claims:
        claims = [_claim(_ASIDE.sub("", part), question) for part in parts]
    together = one_of(claims)
    if together is not Blank.UNCLEAR or len(parts) == 1:
        return together
    if len(parts[0].split()) <= 3 and isinstance(claims[0], Answer) and not _FIRST_OF_A_LIST.fullmatch(parts[0]):
        return claims[0]
    return claims[-1] if _TOTAL.search(parts[-1]) else Blank.UNCLEAR


def whole(text: str) -> Fraction | None:
    """The value of a text that is nothing but a number and its unit."""
    if len(text) > _MOST_CHARS:
        return None
    reply = unquoted(plain(text))
    found = numerals(reply)
    if len(found) != 1:
        return None
    start, end, _ = unit(reply, found[0].start, found[0].end)
    return found[0].value if (start, end) == (0, len(reply)) else None


def unit_of(text: str) -> str | None:
    """The unit of the first number in a text, by its one name (12 centimetres -> cm); None if there is none."""
    reply = plain(text[:_MOST_CHARS])
    return next((unit(reply, found.start, found.end)[2] for found in numerals(reply)), None)


def _claim(sentence: str, question: Question) -> Reading:
    """The number of one sentence: its only one, or the result that it works out."""
    if _NONE.fullmatch(sentence):
        return Answer(sentence.rstrip(". "), Fraction(0))
    counted = numerals(sentence)
    if len(counted) > MOST_NUMERALS or _TIME_OR_DATE.search(sentence):
        return Blank.UNCLEAR
    found = list(_asserted(sentence, counted))
    totals = [numeral for numeral in found if _IN_TOTAL.match(sentence, numeral.end)]
    found = totals or found
    results = [end.end() for end in _RESULT.finditer(sentence) if found and end.end() <= found[-1].start]
    if results:
        found = [numeral for numeral in found if numeral.start >= results[-1]]
    if len({numeral.value for numeral in found}) > 1:
        found = [numeral for numeral in found if not _is_label(sentence, numeral, question)] or found
    missing = _none_of(sentence, question)
    values = {numeral.value for numeral in found} | ({Fraction(0)} if missing else set())
    if not values:
        return Blank.NOTHING
    value = values.pop()
    if values or value is None or any(_is_bound(sentence, numeral) for numeral in found):
        return Blank.UNCLEAR
    if not found:
        return Answer(missing or "", value)
    start, end, _ = unit(sentence, found[0].start, found[0].end)
    return Answer(sentence[start:end].strip(), value)


def _asserted(sentence: str, found: list[Numeral]) -> Iterator[Numeral]:
    """The numbers that are not denied: 6 in "not 5 but 6"."""
    return (one for one in found if not _DENIED.search(sentence[max(0, one.start - 30) : one.start]))


def _is_bound(sentence: str, numeral: Numeral) -> bool:
    """Whether the number is only a bound: more than 5, 5+, at least 5."""
    before = sentence[max(0, numeral.start - 20) : numeral.start]
    return bool(_BOUND_BEFORE.search(before) or _BOUND_AFTER.match(sentence, numeral.end))


def _is_label(sentence: str, numeral: Numeral, question: Question) -> bool:
    """Whether the number only names a thing as the question does: the 2 of "row 2"."""
    label = _label(sentence, numeral)
    return label is not None and label in _labels(question.text)


@lru_cache(maxsize=64)
def _labels(text: str) -> frozenset[tuple[str, Fraction | None] | None]:
    """All things of a question that have a number, kept for its next numeral."""
    return frozenset(_label(text, one) for one in numerals(text))


def _label(text: str, numeral: Numeral) -> tuple[str, Fraction | None] | None:
    before = _LABEL.search(text[max(0, numeral.start - 30) : numeral.start])
    if before is None or before[1].lower() in _NO_LABEL:
        return None
    return before[1].lower(), numeral.value


def _none_of(sentence: str, question: Question) -> str | None:
    """The words that say there is none of what the question asks for: "no red" for "How many red digits …"."""
    for found in _NO_SUCH.finditer(sentence):
        thing = (found["thing"] or found["any"]).lower()
        if f" {thing}" in _spaced_words(question.text):
            return found.group().strip()
    return None


@lru_cache(maxsize=64)
def _spaced_words(text: str) -> str:
    """A question's words, a space before each."""
    return " " + " ".join(re.findall(r"\w+", text.lower()))
