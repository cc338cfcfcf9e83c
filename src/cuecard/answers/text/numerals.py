"""Numerals in text: digits with separators, fractions, exponents and magnitudes, and numbers in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from typing import Any, NamedTuple

from cuecard.answers.text.markup import CJK, LANGUAGES, any_of, pattern

MOST_DIGITS = 40


class Numeral(NamedTuple):
    """A number in a text, with its position. A value of None: ambiguous digits, like 1,2,3 or 1.2.3."""

    start: int
    end: int
    value: Fraction | None


# --- English ----------------------------------------------------------------------------------------------------------

_ENGLISH = LANGUAGES["en"]["numbers"]
_UNITS = {word: value for value, word in enumerate(_ENGLISH["units"].split())}
_TENS = {word: value for value, word in zip(range(20, 100, 10), _ENGLISH["tens"].split(), strict=True)}
_SMALL = {**_UNITS, **_TENS, "fourty": 40, "a": 1, "an": 1, "nought": 0}
BIG: dict[str, int] = _ENGLISH["big"]
_PARTS = {name: Fraction(part) for name, part in _ENGLISH["parts"].items()}

_ANY_UNIT, _ANY_TEN = "|".join(reversed(_UNITS)), "|".join([*_TENS, "fourty"])  # seventeen before seven
_ANY_BIG = "|".join(BIG)
_TO_99 = rf"(?:(?:{_ANY_TEN})(?:[-\s](?:{'|'.join(list(_UNITS)[:10])})\b)?|{_ANY_UNIT}|nought)"
_TO_999 = rf"(?:(?:{_TO_99}|an?)\s+hundred(?:\s+(?:and\s+)?{_TO_99})?|{_TO_99})"
_PART = r"(?:(?:(?:one|a)[\s-])?(?:half|third|quarter)|three[\s-]quarters|two[\s-]thirds)"
_PART_ALONE = r"(?:(?:one|a)[\s-](?:half|third|quarter)|three[\s-]quarters|two[\s-]thirds)(?=\s+of\b|\W*$)"
_WORDS = pattern(
    rf"\b(?P<of>{_PART}\s+(?:of\s+)?(?:an?|one)\s+(?:{_ANY_BIG}))\b",
    rf"\b(?P<alone>(?:half\s+)?(?:a\s+)?dozen|once|twice|thrice|{_PART_ALONE})\b",
    rf"\b(?:(?:(?:{_TO_999}|an?)\s+(?:{_ANY_BIG})\b,?\s+(?:and\s+)?){{0,4}}{_TO_999}"
    rf"(?:\s+(?:{_ANY_BIG})s?){{0,2}}|an?\s+(?:{_ANY_BIG}))\b(?:\s+(?P<dozen>dozen)\b)?"
    rf"(?P<point>\s+point(?:\s+(?:{_ANY_UNIT})){{1,{MOST_DIGITS}}}\b)?"
    rf"(?P<plus>\s+and\s+(?:a|one)\s+(?P<part>{'|'.join(_PARTS)})\b(?:\s+(?P<big>{_ANY_BIG})\b)?)?",
)
_ALONE = {name: Fraction(value) for name, value in _ENGLISH["alone"].items()}
_ALONE |= {f"{one}{name}": part for one in ("a ", "one ", "") for name, part in _PARTS.items()}
# "one" that is a pronoun: the one on the left, this one, which one, no one, one can see, one of them
_PRONOUN = pattern(
    r"\b(?:the|this|that|which|each|every|any|another|no|other|\w+er|first|last|next|right|left)\s+$",
)
_PRONOUN_AFTER = pattern(r"\s+(?:can|could|of|that|which|who|may|might|has to|sees|with|on the)\b|'s\b")


def english(text: str) -> Iterator[Numeral]:
    """Numbers in English words."""
    for found in _WORDS.finditer(text):
        words = found.group().lower().replace("-", " ").split()
        if words != ["one"] or not _is_pronoun(text, found):
            yield Numeral(found.start(), found.end(), _worth(found))


def _is_pronoun(text: str, found: re.Match[str]) -> bool:
    before = text[max(0, found.start() - 12) : found.start()]
    if re.search(r"\b(?:only|just|exactly)\s+$", before, re.IGNORECASE):
        return False
    return bool(_PRONOUN.search(before) or _PRONOUN_AFTER.match(text, found.end()))


def _worth(found: re.Match[str]) -> Fraction:
    words = found.group().lower().replace("-", " ").split()
    if found["of"]:
        parts = " ".join(word for word in words[:-2] if word != "of")
        return _ALONE[parts] * BIG[words[-1]]
    if found["alone"]:
        return _ALONE[" ".join(words)]
    point, part = found["point"] or "", found["part"]
    end = found.start("point") if point else found.start("plus") if part else found.end()
    total = group = 0
    for word in re.findall(r"[a-z]+", found.string[found.start() : end].lower()):
        word = word if word in BIG else word.removesuffix("s") if word.removesuffix("s") in BIG else word
        if word in BIG:
            total, group = (total + group * BIG[word], 0) if group else (total * BIG[word], 0)
        elif word == "hundred":
            group *= 100
        elif word == "dozen":
            group *= 12
        elif word != "and":
            group += _SMALL.get(word, 0)
    decimals = "".join(str(_UNITS[word]) for word in point.lower().split()[1:])
    value = Fraction(total + group) + (Fraction(int(decimals), 10 ** len(decimals)) if decimals else 0)
    return (value + _PARTS[part.lower()]) * BIG.get((found["big"] or "").lower(), 1) if part else value


# --- German, French, Spanish ------------------------------------------------------------------------------------------


_NUMBERS = {code: LANGUAGES[code]["numbers"] for code in ("de", "fr", "es")}


def _words_below_100(numbers: dict[str, Any]) -> dict[str, int]:
    """The words of a language, with its words for hundreds, and without "un", which is an article too."""
    units = numbers["units"].split()
    words = {word: value for value, word in enumerate(units) if word != "un"}
    for tens, ten in enumerate(numbers["tens"].split(), start=2):
        words |= {ten: 10 * tens, **{form.format(ten=ten): 10 * tens + 1 for form in numbers["with_one"]}}
        end = 20 if ten in numbers.get("to_nineteen", ()) else 10
        words |= {numbers["joined"].format(ten=ten, unit=units[unit]): 10 * tens + unit for unit in range(2, end)}
    for at, hundred in enumerate(numbers.get("hundreds", "").split(), start=2):
        words |= {f"{hundred}os": 100 * at, f"{hundred}as": 100 * at}
    words.update(numbers.get("irregular", {}))
    return {word: value for word, value in words.items() if word[0] != "-"}


_ABROAD = {code: _words_below_100(numbers) for code, numbers in _NUMBERS.items()}


def _either(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


def _token_abroad(code: str) -> str:
    steps, article = _NUMBERS[code]["steps"], _NUMBERS[code]["article"]
    return rf"(?:{_either([*_ABROAD[code], *steps])}|{article}(?=\s?(?:{_either(steps)})\b))"


_TOKENS_ABROAD = {code: pattern(_token_abroad(code)) for code in _ABROAD}
_FORMS = {
    code: pattern(
        rf"(?<![\w-])(?:(?P<alone>{_either(numbers['alone'])})"
        rf"|{_token_abroad(code)}(?:{numbers['between']}{_token_abroad(code)}){{0,12}}(?P<half>{numbers['half']})?)"
        r"(?![\w-])"
    )
    for code, numbers in _NUMBERS.items()
}


def abroad(text: str, language: str) -> Iterator[Numeral]:
    """Numbers in German, French or Spanish words, without "ein", "un" and "una" alone, which are articles too."""
    if language not in _FORMS:
        return
    for found in _FORMS[language].finditer(text):
        words = found.group().lower()
        if found["alone"]:
            yield Numeral(found.start(), found.end(), Fraction(_NUMBERS[language]["alone"][words]))
            continue
        end = found.start("half") - found.start() if found["half"] else len(words)
        yield Numeral(found.start(), found.end(), _composed(words[:end], language, bool(found["half"])))


def _composed(words: str, language: str, half: bool) -> Fraction | None:
    """The value of words like "dos mil quinientos"; None for a sequence that is no number, like "dos tres"."""
    total = group = 0
    step, lowest = 1, 10**12
    for word in _TOKENS_ABROAD[language].findall(words):
        step = _NUMBERS[language]["steps"].get(word, 1)
        if step == 100:
            if group > 9:
                return None
            group = (group or 1) * 100
        elif step > 100:
            if step >= lowest:
                return None
            total, group, lowest = total + (group or 1) * step, 0, step
        else:
            value = _ABROAD[language].get(word, 1)
            if group % 100 or (group and value >= 100):
                return None
            group += value
    return Fraction(total + group) + (Fraction(step, 2) if half else 0)


# --- Chinese and Japanese ---------------------------------------------------------------------------------------------

_KANJI = {**{char: value for value, char in enumerate("零一二三四五六七八九")}, "〇": 0, "两": 2, "兩": 2}
_STEPS = {"十": 10, "百": 100, "千": 1000}
_MYRIADS = {"万": 10**4, "萬": 10**4, "億": 10**8, "亿": 10**8}
_COUNTED = "个個人名位只隻匹頭头条條本枚台辆輛张張冊杯件块塊元円歳岁年月日点點度回倍种種层階时時分秒米つ字把顆颗棵株朵"
_ALL = "".join([*_KANJI, *_STEPS, *_MYRIADS])
_NUMBER_CHARS = rf"(?:\d[\d.,]*(?:\s?[{''.join([*_STEPS, *_MYRIADS])}]\d{{0,4}})+|[{_ALL}]+)"
_OF_PARTS = re.compile(
    rf"(?P<below>[{_ALL}]{{1,8}}|\d{{1,4}})分之(?P<above>[{_ALL}点]{{1,12}}|\d{{1,9}}(?:\.\d{{1,9}})?)"
)
_CJK_NUMBER = re.compile(
    rf"(?<!\d[.,])(?<![第統统唯之{_ALL}\d])(?P<body>[-负負]?{_NUMBER_CHARS})"
    rf"(?=[{_COUNTED}]|分[钟鐘間]|です|でし|だ|で|に|と|的|[或和かま]|[^{CJK}]|$)(?!つ目|个月前)"
)
_TOKEN = re.compile(r"\d[\d.,]*|.")
_TWO_IN_A_ROW = re.compile("[一二三四五六七八两兩][二三四五六七八九](?![零〇一二三四五六七八九])")
"""两三个 and 七八十: about two or three, about seventy or eighty; 一九四五 is a year."""
_LONGEST_ESTIMATE = 3


def cjk(text: str) -> Iterator[Numeral]:
    """Numbers with Chinese numerals, alone or before a counter: 二十三, 3万5千, 1.2億; not the 一 of 一共."""
    for found in _OF_PARTS.finditer(text):
        yield Numeral(found.start(), found.end(), _ratio(found["below"], found["above"]))
    for found in _CJK_NUMBER.finditer(text):
        yield Numeral(found.start(), found.end(), _kanji_value(found["body"]))


def _ratio(below: str, above: str) -> Fraction | None:
    """5 for 百分之五, five per cent, and 1/3 for 三分之一."""
    value = Fraction(above) if above[0].isdigit() else None if "点" in above else _kanji_value(above)
    if below == "百" or value is None:
        return value
    parts = Fraction(below) if below.isdigit() else _kanji_value(below)
    return value / parts if parts else None


def _kanji_value(body: str) -> Fraction | None:
    sign, body = (-1, body[1:]) if body[0] in "-负負" else (1, body)
    if len(body) > MOST_DIGITS:
        return None
    if _TWO_IN_A_ROW.search(body) and len(body) <= _LONGEST_ESTIMATE:
        return None
    if all(char in _KANJI for char in body):
        return sign * Fraction(int("".join(str(_KANJI[char]) for char in body)))
    total, group, digit = Fraction(0), Fraction(0), Fraction(0)
    for token in _TOKEN.findall(body):
        if token in _MYRIADS:
            total, group, digit = total + (group + digit or 1) * _MYRIADS[token], Fraction(0), Fraction(0)
        elif token in _STEPS:
            group, digit = group + (digit or 1) * _STEPS[token], Fraction(0)
        elif token in _KANJI:
            digit = Fraction(_KANJI[token])
        else:
            try:
                digit = Fraction(token.rstrip(".,").replace(",", ""))
            except ValueError:
                return None
    return sign * (total + group + digit)


# --- digits  ----------------------------------------------------------------------------------------------------------


MOST_EXPONENT, MOST_POWER = 300, 30
MOST_NUMERALS = 500
"""Maximum number of numerals that are read from a text."""
_MAGNITUDES = {name: 10 ** int(power) for power, names in LANGUAGES["powers"].items() for name in names.split()}
_MAGNITUDES |= {**BIG, "dozen": 12}
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
IRRATIONAL = pattern(
    r"[√π∞]|\\(?:pi|sqrt|log|ln|sin|cos|tan|[dt]?frac|infty)(?![a-z])|\b(?:sqrt|log|ln|sin|cos|tan)\s?[(\d]|\dpi\b|\be\^"
)
"""A root, a multiple of π or a function, which digits cannot express exactly."""


def numerals(text: str, language: str = "en") -> list[Numeral]:
    """The numbers of a text in order, with those in words. More than MOST_NUMERALS if there are too many."""
    digits = (Numeral(one.start(), one.end(), _value(one, language)) for one in _DIGITS.finditer(text))
    forms = [cjk(text), digits, english(text), abroad(text, language)]
    found = [_with_sign(text, numeral) for form in forms for numeral in islice(form, MOST_NUMERALS + 1)]
    kept = list[Numeral]()
    for numeral in sorted(found, key=lambda one: (one.start, -one.end)):
        if not kept or numeral.start >= kept[-1].end:  # 3 is part of 3万
            kept.append(numeral)
    return kept


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
