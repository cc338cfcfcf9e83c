"""Numerals in text: digits with their separators, fractions and exponents, and English number words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

from cuecard.answers.text.markup import pattern

MOST_DIGITS, MOST_EXPONENT, MOST_POWER = 40, 300, 30
MOST_NUMERALS = 500
"""Numbers of a text that are looked at."""

_TO_TWENTY = """zero one two three four five six seven eight nine ten
eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"""
_BY_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_UNITS = {word: value for value, word in enumerate(_TO_TWENTY.split())}
_TENS = {word: value for value, word in zip(range(20, 100, 10), _BY_TENS.split(), strict=True)}
_SMALL = {**_UNITS, **_TENS, "fourty": 40, "a": 1, "an": 1, "nought": 0}
_BIG = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MAGNITUDES = {**_BIG, "hundred": 100, "dozen": 12, "k": 10**3, "K": 10**3, "M": 10**6, "bn": 10**9, "mn": 10**6}
_PARTS = {"half": Fraction(1, 2), "third": Fraction(1, 3), "quarter": Fraction(1, 4)}


@dataclass(frozen=True)
class Numeral:
    """A number as it stands in a text. A value of None: digits that are ambiguous, as 1,2,3 or 1.2.3."""

    start: int
    end: int
    value: Fraction | None


# --- digits -----------------------------------------------------------------------------------------------------------

_BODY = r"(?:\d{1,3}(?:[ \u00a0\u2009\u202f'_]\d{3}(?!\d))+(?:[.,]\d+)?|\d(?:[\d.,]*\d)?|\.\d+)"
_DIGITS = re.compile(
    rf"(?<![\w.\\])(?:(?P<whole>\d{{1,6}})\s+(?P<top>\d{{1,4}})/(?P<bottom>\d{{1,4}})(?![\d/])"
    rf"|(?P<body>{_BODY})"
    r"(?:\s?[x×*·]\s?10\s?\^\s?\{?(?P<tens>[+-]?\d+)\}?|[eE](?P<e>[+-]?\d+)(?!\w)|\^\{?(?P<power>[+-]?\d+)\}?)?"
    r"(?:\s?[/⁄]\s?(?P<denominator>\d{1,12})(?![\d/.,]{0,20}\d))?"
    r"(?P<magnitude>\s?(?i:hundred|thousand|million|billion|trillion|dozen)s?\b|\s?(?:bn|mn)\b|[kKM]\b(?![-/²]))?)"
)
_SIGN = re.compile(r"(?:^|[\s(=:≈~<>$€£¥₹])(?P<sign>[-–+])(?:[$€£¥₹])?$|[=:(]\s?(?P<spaced>-)\s$")
_BY_THREES = {
    ",": re.compile(r"[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d\d)+,\d{3}"),
    ".": re.compile(r"[1-9]\d{0,2}(?:\.\d{3}){2,}"),
}


def literal(body: str) -> Fraction | None:
    """The value of digits with separators: 1,234 and 1.234.567 and 1 234 are whole; 3,5 and 0,234 and 1.234 are not.

    With both separators the last is the decimal one (1,234.5 and 1.234,5). None if it reads like a list or a version.
    """
    body = re.sub(r"[ \u00a0\u2009\u202f'_]", "", body)
    if len(body) > MOST_DIGITS:
        return None
    decimal = max(body.rfind(","), body.rfind("."))
    if decimal < 0:
        return Fraction(int(body))
    mark = body[decimal]
    other = "." if mark == "," else ","
    head, tail = body[:decimal], body[decimal + 1 :]
    if other in head:
        grouped = re.fullmatch(rf"\d{{1,3}}(?:{re.escape(other)}\d{{3}})+", head) or _BY_THREES[","].fullmatch(head)
        return _decimal(head.replace(other, ""), tail) if grouped and mark not in head else None
    if _BY_THREES[mark].fullmatch(body):
        return Fraction(int(body.replace(mark, "")))
    return _decimal(head, tail) if mark not in head else None


def _decimal(whole: str, part: str) -> Fraction:
    return Fraction(int(whole or "0") * 10 ** len(part) + int(part), 10 ** len(part))


def _digits(text: str) -> Iterator[Numeral]:
    for found in _DIGITS.finditer(text):
        value = _value(found)
        from_ = max(0, found.start() - 4)
        signed = _SIGN.search(text[from_ : found.start()])
        if signed is None or (from_ and signed.start() == 0 and signed.group()[0] in "-–+"):
            yield Numeral(found.start(), found.end(), value)
            continue
        sign = "sign" if signed["sign"] else "spaced"
        value = -value if value is not None and signed[sign] != "+" else value
        yield Numeral(from_ + signed.start(sign), found.end(), value)


def _value(found: re.Match[str]) -> Fraction | None:
    if found["whole"]:
        bottom = int(found["bottom"])
        return int(found["whole"]) + Fraction(int(found["top"]), bottom) if bottom else None
    if found.lastgroup == "body":
        return literal(found["body"])
    value, tens, power = literal(found["body"]), found["tens"] or found["e"] or "0", found["power"]
    below = int(found["denominator"] or 1)
    if value is None or not below or len(tens) > 5 or abs(int(tens)) > MOST_EXPONENT:
        return None
    if power:
        if not value or len(power) > 3 or abs(int(power)) > MOST_POWER:
            return None
        value = _power(value, int(power))
    magnitude = (found["magnitude"] or "").strip()
    factor = _MAGNITUDES.get(magnitude) or _MAGNITUDES.get(magnitude.lower().rstrip("s")) or 1
    return value * _power(Fraction(10), int(tens)) * factor / below


def _power(base: Fraction, exponent: int) -> Fraction:
    return (
        Fraction(base.numerator**exponent, base.denominator**exponent) if exponent >= 0 else 1 / _power(base, -exponent)
    )


# --- words ------------------------------------------------------------------------------------------------------------

_ANY_UNIT, _ANY_TEN = "|".join(reversed(_UNITS)), "|".join([*_TENS, "fourty"])  # seventeen before seven
_TO_99 = rf"(?:(?:{_ANY_TEN})(?:[-\s](?:{'|'.join(list(_UNITS)[:10])})\b)?|{_ANY_UNIT}|nought)"
_TO_999 = rf"(?:(?:{_TO_99}|an?)\s+hundred(?:\s+(?:and\s+)?{_TO_99})?|{_TO_99})"
_PART_ALONE = r"(?:one|a)[\s-](?:half|third|quarter)|three[\s-]quarters|two[\s-]thirds"
_PART_ALONE = rf"(?:{_PART_ALONE})(?=\s+of\b|\W*$)"  # not "a third digit"
_WORDS = pattern(
    rf"\b(?P<alone>(?:half\s+)?(?:a\s+)?dozen|once|twice|thrice|{_PART_ALONE})\b",
    rf"\b(?:(?:(?:{_TO_999}|an?)\s+(?:{'|'.join(_BIG)})\b,?\s+(?:and\s+)?){{0,4}}{_TO_999}"
    rf"(?:\s+(?:{'|'.join(_BIG)}))?|an?\s+(?:{'|'.join(_BIG)}))\b(?:\s+(?P<dozen>dozen)\b)?"
    rf"(?P<point>\s+point(?:\s+(?:{_ANY_UNIT})){{1,{MOST_DIGITS}}}\b)?"
    rf"(?P<plus>\s+and\s+(?:a|one)\s+(?P<part>{'|'.join(_PARTS)})\b)?",
)
_ALONE: dict[str, int | Fraction] = {
    "a dozen": 12,
    "dozen": 12,
    "half a dozen": 6,
    "half dozen": 6,
    "once": 1,
    "twice": 2,
    "thrice": 3,
    "three quarters": Fraction(3, 4),
    **{f"{one} {name}": part for one in ("a", "one") for name, part in _PARTS.items()},
    "two thirds": Fraction(2, 3),
}
# "one" that stands for a thing: the one on the left, this one, which one, no one, one can see, one of them
_PRONOUN = re.compile(
    r"\b(?:the|this|that|which|each|every|any|another|no|other|\w+er|first|last|next|right|left)\s+$", re.IGNORECASE
)
_PRONOUN_AFTER = re.compile(
    r"\s+(?:can|could|of|that|which|who|may|might|has to|sees|with|on the)\b|'s\b", re.IGNORECASE
)


def _words(text: str) -> Iterator[Numeral]:
    for found in _WORDS.finditer(text):
        words = found.group().lower().replace("-", " ").split()
        if words == ["one"] and _is_pronoun(text, found):
            continue
        yield Numeral(found.start(), found.end(), _worth(found))


def _is_pronoun(text: str, found: re.Match[str]) -> bool:
    before = text[max(0, found.start() - 12) : found.start()]
    if re.search(r"\b(?:only|just|exactly)\s+$", before, re.IGNORECASE):
        return False
    return bool(_PRONOUN.search(before) or _PRONOUN_AFTER.match(text, found.end()))


def _worth(found: re.Match[str]) -> Fraction:
    if found["alone"]:
        return Fraction(_ALONE[" ".join(found["alone"].lower().replace("-", " ").split())])
    point, part = found["point"] or "", found["part"]
    end = found.start("point") if point else found.start("plus") if part else found.end()
    total = group = 0
    for word in re.findall(r"[a-z]+", found.string[found.start() : end].lower()):
        if word in _BIG:
            total, group = total + group * _BIG[word], 0
        elif word == "hundred":
            group *= 100
        elif word == "dozen":
            group *= 12
        elif word != "and":
            group += _SMALL.get(word, 0)
    decimals = "".join(str(_UNITS[word]) for word in point.lower().split()[1:])
    value = Fraction(total + group) + (Fraction(int(decimals), 10 ** len(decimals)) if decimals else 0)
    return value + _PARTS[part.lower()] if part else value


def numerals(text: str) -> list[Numeral]:
    """The numbers of a text, in its order; those in words too. More than MOST_NUMERALS where it holds too many."""
    found = [numeral for form in (_digits, _words) for numeral in islice(form(text), MOST_NUMERALS + 1)]
    return sorted(found, key=lambda numeral: numeral.start)
