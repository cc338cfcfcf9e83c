"""Units of measure: the unit around a number, and conversion to other units of the same quantity."""

from __future__ import annotations

import re
from collections import defaultdict
from fractions import Fraction

from cuecard.answers.text.markup import data


def _read_table() -> tuple[dict[str, str], dict[str, tuple[str, Fraction]]]:
    """The unit of each name, and the size of each converted unit in the first unit of its quantity."""
    names, sizes = defaultdict[str, list[str]](list), dict[str, tuple[str, Fraction]]()
    table = data("units.toml")
    for unit, listed in (*table["names"].items(), *table["words"].items()):
        names[unit] += listed.split(", ")
    words = {unit: listed.split(", ") for unit, listed in table["words"].items()}
    for unit, size in table["sizes"].items():
        scale, base = size.split()
        sizes[unit] = (base, Fraction(scale))
    for base, prefixes in table["prefixed"].items():
        own, scale_of_base = sizes.get(base, (base, Fraction(1)))
        for prefix in prefixes:
            long, power = table["prefixes"][prefix]
            symbols = [f"{sign}{base}" for sign in ("μµu" if prefix == "μ" else prefix)]
            words[prefix + base] = [long + name for name in words.get(base, ())]
            names[prefix + base] += symbols + words[prefix + base]
            sizes[prefix + base] = (own, scale_of_base * Fraction(10) ** power)
    for lengths, power, signs, word in (("m mm cm km in ft mi", 2, "²", "square"), ("m mm cm ft", 3, "³", "cubic")):
        for length in lengths.split():
            unit = f"{length}^{power}"
            names[unit] += [unit, f"{length}{signs}", *(f"{word} {name}" for name in words[length])]
            names[unit] += [f"sq {length}"] if power == 2 else []
            sizes[unit] = (f"m^{power}", sizes.get(length, ("m", Fraction(1)))[1] ** power)
    return {name: unit for unit, listed in names.items() for name in listed}, sizes


_EXACT, _SIZES = _read_table()
_WORDS = {name.lower(): unit for name, unit in _EXACT.items() if len(name) > 3 or not name.isascii()} | {
    name: unit for name, unit in _EXACT.items() if name in ("%", "pct", "usd", "eur", "gbp", "jpy", "rmb", "inr", "day")
}


def _any_of(names: list[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


_AT_THE_END = ("A", "in", "am", "us", "um", "won", "gal", "bar")  # 7 in total, 5 A grades, 5 am Tisch, 3 won
_SYMBOLS = _any_of([name for name in _EXACT if name not in _AT_THE_END])
_AFTER = re.compile(
    rf"\s?-?(?:(?P<exact>{_SYMBOLS}|(?:{_any_of(list(_AT_THE_END))})(?=\W*$))|(?P<word>(?i:{_any_of(list(_WORDS))})))"
    r"(?:(?<=[^\x00-\x7f])|(?![\w^]))"
)
_BEFORE = re.compile(r"(?:(?:\b(?:US|CA?|AU?|HK))?\$|[€£¥₹₩]|\b(?:USD|EUR|GBP|JPY|INR|CHF|CAD|AUD)\s)\s?$")
_SIGNED = re.compile(r"(?:[-–+]|minus|negative)\s?([$€£¥₹])", re.IGNORECASE)
_PER = re.compile(r"\s?/\s?(?P<sign>[^\W\d_]+(?:\^?[23])?(?!\w))|\s+(?:per|pro|par|por)\s+(?P<word>[^\W\d_]+)")
PERCENT_SIGN = re.compile(r"%|\b(?:percent|per cent|pct)\b", re.IGNORECASE)


def unit(text: str, start: int, end: int) -> tuple[int, int, str | None]:
    """The number at [start, end) with the unit around it: (start, end, canonical name of the unit, kg/m^3).

    A unit "per" another is one of its own: 5 mg/l and 5 mg per litre, not 5 mg.
    """
    before, after = _BEFORE.search(text[max(0, start - 5) : start]), _AFTER.match(text, end)
    signed = _SIGNED.match(text[start:end])
    name = None
    if after is not None:
        name = _EXACT[after["exact"]] if after["exact"] else _WORDS[after["word"].lower()]
    elif before is not None or signed is not None:
        sign = (before.group() if before else signed[1] if signed else "").strip()
        name = _EXACT.get(sign) or _EXACT[sign.lower()]
    first, last = start - (len(before.group()) if before else 0), after.end() if after else end
    per = _PER.match(text, last) if name is not None else None
    if per is not None:
        word = per["sign"] or per["word"]
        name, last = f"{name}/{_EXACT.get(word) or _WORDS.get(word.lower()) or word.lower()}", per.end()
    return first, last, name


def in_base(value: Fraction, name: str) -> tuple[str, Fraction]:
    """A quantity in the first unit of its dimension: 1.5 km -> ("m", 1500); unchanged if the unit is not converted."""
    base, scale = _SIZES.get(name, (name, Fraction(1)))
    return base, value * scale
