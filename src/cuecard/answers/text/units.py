"""Units of measure: the unit around a number, and conversion to other units of the same quantity."""

from __future__ import annotations

import re
from collections import defaultdict
from fractions import Fraction

# A unit, its size in another one if it is converted, and its names, besides those that prefixes and powers make.
_TABLE = """%: %, percent, per cent, pct, Prozent, pour cent, por ciento
pp: percentage points, percentage point
bp = 1/100 pp: basis points, basis point, bps, bp
$: $, usd, dollar, dollars, us$, US$, bucks, dólares, US dollars
¢ = 1/100 $: ¢, cent, cents
C$: C$, CA$, cad, Canadian dollars
A$: A$, AU$, aud, Australian dollars
HK$: HK$, hkd, Hong Kong dollars
€: €, eur, euro, euros, 欧元, ユーロ
£: £, gbp, pound sterling, pounds sterling
p: pence, penny
CHF: CHF, chf, Franken, Swiss francs
KRW: ₩, krw, won
JPY: jpy, yen, 円, 日元
CNY: rmb, yuan, 元, 人民币
₹: ₹, inr, rupees, rupee
m: m, meter, meters, metre, metres, mètres, metros, 米, メートル
μm: microns
cm: Zentimeter, centímetros, 厘米, センチ
km: kms, kilómetros, 公里, 千米, キロメートル
in = 254/10000 m: in, inch, inches
ft = 3048/10000 m: ft, foot, feet
yd = 9144/10000 m: yd, yard, yards
mi = 1609344/1000 m: mi, mile, miles
nmi = 1852 m: nautical miles, nautical mile, nmi
ly: light-years, light-year, light years, light year
g: g, gram, grams, gramme, grammes, Gramm, gramos, 克, グラム
μg: mcg
kg: kilo, kilos, kgs, Kilogramm, 公斤, 千克, キログラム
t = 1000000 g: t, ton, tons, tonne, tonnes, Tonnen, toneladas, 吨
oz = 28349523125/1000000000 g: oz, ounce, ounces
lb = 45359237/100000 g: lb, lbs, pound, pounds
l = 1/1000 m^3: l, L, liter, liters, litre, litres, litros
ml: mL
gal: gal, gallon, gallons
qt: qt, quart, quarts
pint: pint, pints
fl oz: fl oz, fluid ounces, fluid ounce
s: s, second, seconds, sec, secs, Sekunden, secondes, segundos, 秒
min = 60 s: min, minute, minutes, mins, Minuten, minutos, 分钟, 分
h = 3600 s: h, hour, hours, hr, hrs, Stunden, heures, horas, 小时, 時間
d = 86400 s: day, days, Tage, jours, días, 天
wk = 604800 s: week, weeks, Wochen, semaines, semanas
mo: month, months, Monate, mois, meses
y = 12 mo: year, years, yrs, Jahre, ans, années, años
decade = 120 mo: decade, decades
century = 1200 mo: century, centuries
am: am, a.m., AM, A.M.
pm: pm, p.m., PM, P.M.
m^2: m2, sqm, 平方米
cm^2: cm2
km^2: km2, 平方公里
ft^2: sqft
ha = 10000 m^2: ha, hectare, hectares
acre = 40468564224/10000000 m^2: acre, acres
m^3: m3, 立方米
cm^3: cm3
Hz: Hz
W: W, watt, watts
Wh = 3600 J: Wh
J: J, joule, joules
hp: hp, horsepower
cal: cal
V: V, volt, volts
A: A
Ω: Ω, ohm, ohms
N: N
Pa: Pa
bar = 100000 Pa: bar
mbar = 100 Pa: mbar
atm = 101325 Pa: atm
kB: KB
kbit: Kbit
Mbit: Mb, megabits
Gbit: Gb, gigabits
kbit/s: kbps
Mbit/s: Mbps, Mb/s
Gbit/s: Gbps, Gb/s
K: K, kelvin
rad: rad, radian, radians
°: °, degree, degrees, Grad, degrés, grados, 度
°C: °C, degrees celsius, degree celsius, celsius
°F: °F, degrees fahrenheit, degree fahrenheit, fahrenheit
m/s: m/s, meters per second, metres per second
km/h = 10/36 m/s: km/h, kph, kmh, kilometers per hour, kilometres per hour
mph = 44704/100000 m/s: mph, miles per hour
kn = 1852/3600 m/s: knot, knots"""
_NEVER_CONVERTED = "¥ dB rpm mol px ppm psi mmHg"
_PREFIXES = {
    "n": ("nano", -9),
    "μ": ("micro", -6),
    "m": ("milli", -3),
    "c": ("centi", -2),
    "d": ("deci", -1),
    "h": ("hecto", 2),
    "k": ("kilo", 3),
    "M": ("mega", 6),
    "G": ("giga", 9),
    "T": ("tera", 12),
}
_PREFIXED = """m nμmcdk, g μmk, l mc, s nμm, Hz kMG, W mkMGT, Wh kMGT, J kMG, cal k, V mk, A m, N k, Pa hkM, B kMGT,
bit kMG, bit/s kMG"""


def _read_table() -> tuple[dict[str, str], dict[str, tuple[str, Fraction]]]:
    """The unit of each name, and the size of each converted unit in the first unit of its quantity."""
    names, sizes = defaultdict[str, list[str]](list), dict[str, tuple[str, Fraction]]()
    for line in _TABLE.splitlines():
        head, listed = line.split(": ")
        unit, _, size = head.partition(" = ")
        names[unit] += listed.split(", ")
        if size:
            scale, base = size.split()
            sizes[unit] = (base, Fraction(scale))
    for base, prefixes in map(str.split, _PREFIXED.split(",")):
        own, scale_of_base = sizes.get(base, (base, Fraction(1)))
        for prefix in prefixes:
            long, power = _PREFIXES[prefix]
            symbols = [f"{sign}{base}" for sign in ("μµu" if prefix == "μ" else prefix)]
            names[prefix + base] += [*symbols, *(long + word for word in _words(names[base]))]
            sizes[prefix + base] = (own, scale_of_base * Fraction(10) ** power)
    for lengths, power, signs, word in (("m mm cm km in ft mi", 2, "²", "square"), ("m mm cm ft", 3, "³", "cubic")):
        for length in lengths.split():
            unit = f"{length}^{power}"
            names[unit] += [unit, f"{length}{signs}", *(f"{word} {name}" for name in _words(names[length]))]
            names[unit] += [f"sq {length}"] if power == 2 else []
            sizes[unit] = (f"m^{power}", sizes.get(length, ("m", Fraction(1)))[1] ** power)
    names |= {unit: [unit] for unit in _NEVER_CONVERTED.split()}
    return {name: unit for unit, listed in names.items() for name in listed}, sizes


def _words(names: list[str]) -> list[str]:
    """The names that prefixes and powers can be joined to: no symbols, no nouns with a capital."""
    return [name for name in names if len(name) > 3 and name.islower()]


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
