"""Numerals in text: digits with separators, fractions, exponents and magnitudes, and numbers in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice

from cuecard.answers.text.language import CJK
from cuecard.answers.text.markup import any_of, pattern
from cuecard.answers.text.number_words import BIG, MOST_DIGITS, Numeral, abroad, cjk, english

MOST_EXPONENT, MOST_POWER = 300, 30
MOST_NUMERALS = 500
"""Maximum number of numerals that are read from a text."""
_MAGNITUDES = {
    **BIG,
    "hundred": 100,
    "dozen": 12,
    "k": 10**3,
    "K": 10**3,
    "M": 10**6,
    "B": 10**9,
    "bn": 10**9,
    "mn": 10**6,
    "cr": 10**7,
    "mio": 10**6,
    "millionen": 10**6,
    "mrd": 10**9,
    "milliarden": 10**9,
    "milliarde": 10**9,
    "tausend": 1000,
    "milliard": 10**9,
    "millones": 10**6,
    "millón": 10**6,
    "mil": 1000,
    "mille": 1000,
}
_LONG = "|".join(sorted((name for name in _MAGNITUDES if len(name) > 2), key=len, reverse=True))
_BODY = r"(?:\d{1,3}(?:[ \u00a0\u2009\u202f'_]\d{3}(?!\d))+(?:[.,]\d+)?|\d(?:[\d.,]*\d)?|\.\d+)"
_DIGITS = re.compile(
    rf"(?<![^\W{CJK}])(?<![.\\])(?:(?P<whole>\d{{1,6}})\s+(?P<top>\d{{1,4}})/(?P<bottom>\d{{1,4}})(?![\d/])"
    rf"|(?P<body>{_BODY})"
    r"(?:\s?[x×*·]\s?10\s?\^\s?\{?(?P<tens>[+-]?\d+)\}?|[eE](?P<e>[+-]?\d+)(?!\w)|\^\{?(?P<power>[+-]?\d+)\}?)?"
    r"(?:\s?[/⁄]\s?(?P<denominator>\d{1,12})(?![\d/.,]{0,20}\d))?"
    rf"(?P<magnitude>(?:\s?(?i:{_LONG})s?\b){{1,2}}\.?|\s?(?:bn|mn|cr)\b|[kKMB]\b(?![-/²]))?)"
)
_SAID = any_of(
    """is are was be of to at by about say says gives yields makes equals exactly answer ist lautet beträgt bei sind auf
    est de à dirais es son a diría"""
)
_SAID = rf"\b{_SAID}\s"
_SIGN = re.compile(
    r"(?:^|[\s({\[\"'“=:≈~<>$€£¥₹])(?P<sign>[-–+])(?:[$€£¥₹])?$|[=:(]\s?(?P<spaced>-)\s$"
    rf"|(?:^|{_SAID}|[^\w\s)]\s?)(?P<word>minus|moins|menos)\s(?:[$€£¥₹]\s?)?$"
    r"|\b(?P<negative>negative)\s(?:[$€£¥₹]\s?)?$|(?P<cjk>负|負|マイナス)$",
    re.IGNORECASE,
)
_SIGN_CHARS = 20
_BY_THREES = {
    ",": re.compile(r"[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d\d)+,\d{3}"),
    ".": re.compile(r"[1-9]\d{0,2}(?:\.\d{3}){2,}"),
}
_POINTS_GROUP = re.compile(r"[1-9]\d{0,2}(?:\.\d{3})+")
"""In German and Spanish, where 1.234 is an integer."""
_IRRATIONAL = pattern(
    r"[√π∞]|\\(?:pi|sqrt|log|ln|sin|cos|tan|[dt]?frac|infty)(?![a-z])|\b(?:sqrt|log|ln|sin|cos|tan)\s?[(\d]|\dpi\b|\be\^"
)


def numerals(text: str, language: str = "en") -> list[Numeral]:
    """The numbers of a text in order, with those in words. More than MOST_NUMERALS if there are too many."""
    forms = [cjk(text), _digits(text, language), english(text), abroad(text, language)]
    found = [_with_sign(text, numeral) for form in forms for numeral in islice(form, MOST_NUMERALS + 1)]
    kept = list[Numeral]()
    for numeral in sorted(found, key=lambda one: (one.start, -one.end)):
        if not kept or numeral.start >= kept[-1].end:  # 3 is part of 3万
            kept.append(numeral)
    return kept


def irrational(text: str) -> bool:
    """Whether a text contains a root, a multiple of π or a function, which digits cannot express exactly."""
    return _IRRATIONAL.search(text) is not None


def literal(body: str, language: str = "en") -> Fraction | None:
    """The value of digits with separators: 1,234, 1.234.567 and 1 234 are integers; 3,5, 0,234 and 1.234 are not.

    With both separators the last is the decimal one (1,234.5 and 1.234,5). In German and Spanish 1.234 is an integer.
    None if it looks like a list or a version.
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
    if _BY_THREES[mark].fullmatch(body) or (language in ("de", "es") and _POINTS_GROUP.fullmatch(body)):
        return Fraction(int(body.replace(mark, "")))
    return _decimal(head, tail) if mark not in head else None


def _decimal(whole: str, part: str) -> Fraction:
    return Fraction(int(whole or "0") * 10 ** len(part) + int(part), 10 ** len(part))


def _digits(text: str, language: str) -> Iterator[Numeral]:
    for found in _DIGITS.finditer(text):
        yield Numeral(found.start(), found.end(), _value(found, language))


def _with_sign(text: str, numeral: Numeral) -> Numeral:
    """The number with its preceding sign."""
    signed = _SIGN.search(text, max(0, numeral.start - _SIGN_CHARS), numeral.start)
    if signed is None:
        return numeral
    name, sign = next((name, sign) for name, sign in signed.groupdict().items() if sign)
    value = numeral.value
    return Numeral(signed.start(name), numeral.end, -value if sign != "+" and value is not None else value)


def _value(found: re.Match[str], language: str) -> Fraction | None:
    if found["whole"]:
        bottom = int(found["bottom"])
        return int(found["whole"]) + Fraction(int(found["top"]), bottom) if bottom else None
    if found.lastgroup == "body":
        return literal(found["body"], language)
    value, tens, power = literal(found["body"], language), found["tens"] or found["e"] or "0", found["power"]
    below = int(found["denominator"] or 1)
    if value is None or not below or len(tens) > 5 or abs(int(tens)) > MOST_EXPONENT:
        return None
    if power:
        if not value or len(power) > 3 or abs(int(power)) > MOST_POWER:
            return None
        value = _power(value, int(power))
    for magnitude in (found["magnitude"] or "").rstrip(".").split():
        factors = (_MAGNITUDES.get(name) for name in (magnitude, magnitude.lower(), magnitude.lower().rstrip("s")))
        value *= next((factor for factor in factors if factor), 1)
    return value * _power(Fraction(10), int(tens)) / below


def _power(base: Fraction, exponent: int) -> Fraction:
    return (
        Fraction(base.numerator**exponent, base.denominator**exponent) if exponent >= 0 else 1 / _power(base, -exponent)
    )
