"""Units of measure: the unit around a number, and conversion to other units of the same quantity."""

from __future__ import annotations

import re
from fractions import Fraction

_NAMES = """%: %, percent, per cent, pct, Prozent, pour cent, por ciento
pp: percentage points, percentage point
$: $, usd, dollar, dollars, us$, bucks, dólares
€: €, eur, euro, euros, 欧元, ユーロ
£: £, gbp, pound sterling
¥: ¥
JPY: jpy, yen, 円, 日元
CNY: rmb, yuan, 元, 人民币
₹: ₹, inr, rupees, rupee
μm: μm, µm, micrometers, micrometres
nm: nm
mm: mm, millimeter, millimeters, millimetre, millimetres
cm: cm, centimeter, centimeters, centimetre, centimetres, Zentimeter, centímetros, 厘米, センチ
dm: dm
m: m, meter, meters, metre, metres, mètres, metros, 米, メートル
km: km, kilometer, kilometers, kilometre, kilometres, kms, Kilometer, kilomètres, kilómetros, 公里, 千米, キロメートル
in: in, inch, inches
ft: ft, foot, feet
yd: yd, yard, yards
mi: mi, mile, miles
mg: mg, milligram, milligrams
g: g, gram, grams, gramme, grammes, Gramm, gramos, 克, グラム
kg: kg, kilogram, kilograms, kilo, kilos, kgs, Kilogramm, kilogrammes, kilogramos, 公斤, 千克, キログラム
t: t, ton, tons, tonne, tonnes, Tonnen, toneladas, 吨
oz: oz, ounce, ounces
lb: lb, lbs, pound, pounds
ml: ml, mL, milliliter, milliliters, millilitre, millilitres
cl: cl
l: l, L, liter, liters, litre, litres, litros
ms: ms, milliseconds
s: s, second, seconds, sec, secs, Sekunden, secondes, segundos, 秒
min: min, minute, minutes, mins, Minuten, minutos, 分钟, 分
h: h, hour, hours, hr, hrs, Stunden, heures, horas, 小时, 時間
d: day, days, Tage, jours, días, 天
wk: week, weeks, Wochen, semaines, semanas
mo: month, months, Monate, mois, meses
y: year, years, yrs, Jahre, ans, années, años
mm^2: mm², mm^2
cm^2: cm², cm^2, cm2
m^2: m², m^2, m2, sqm, square meters, square metres
km^2: km², km^2, km2
mm^3: mm³, mm^3
cm^3: cm³, cm^3, cm3
m^3: m³, m^3, m3
Hz: Hz
kHz: kHz
MHz: MHz
GHz: GHz
W: W
kW: kW
MW: MW
GW: GW
kWh: kWh
MWh: MWh
J: J
kJ: kJ
cal: cal
kcal: kcal
mV: mV
V: V
mA: mA
A: A
N: N
Pa: Pa
kPa: kPa
bar: bar
kB: kB, KB
MB: MB
GB: GB
TB: TB
K: K
mol: mol
px: px
ppm: ppm
°: °, degree, degrees, Grad, degrés, grados, 度
°C: °C, degrees celsius, degree celsius, celsius
°F: °F, degrees fahrenheit, degree fahrenheit, fahrenheit
m/s: m/s, meters per second, metres per second
km/h: km/h, kph, kmh, kilometers per hour, kilometres per hour
mph: mph, miles per hour"""
_ROWS = [line.split(": ") for line in _NAMES.splitlines()]
_EXACT = {name: unit for unit, names in _ROWS for name in names.split(", ")}
_WORDS = {name.lower(): unit for name, unit in _EXACT.items() if len(name) > 3 or not name.isascii()} | {
    name: unit for name, unit in _EXACT.items() if name in ("%", "pct", "usd", "eur", "gbp", "jpy", "rmb", "inr", "day")
}

# Size of each unit, in the first unit of its line. Units without a line are not converted.
_SCALES = """m: m 1, mm 1/1000, cm 1/100, dm 1/10, km 1000, μm 1/1000000, nm 1/1000000000, in 254/10000, ft 3048/10000,
 yd 9144/10000, mi 1609344/1000
g: g 1, mg 1/1000, kg 1000, t 1000000, oz 28349523125/1000000000, lb 45359237/100000
l: l 1, ml 1/1000, cl 1/100, cm^3 1/1000, m^3 1000, mm^3 1/1000000
s: s 1, ms 1/1000, min 60, h 3600, d 86400, wk 604800
mo: mo 1, y 12
m^2: m^2 1, mm^2 1/1000000, cm^2 1/10000, km^2 1000000
Hz: Hz 1, kHz 1000, MHz 1000000, GHz 1000000000
W: W 1, kW 1000, MW 1000000, GW 1000000000
J: J 1, kJ 1000, kWh 3600000, MWh 3600000000
cal: cal 1, kcal 1000
V: V 1, mV 1/1000
A: A 1, mA 1/1000
Pa: Pa 1, kPa 1000, bar 100000
kB: kB 1, MB 1000, GB 1000000, TB 1000000000
m/s: m/s 1, km/h 10/36, mph 44704/100000"""
_BASES = {
    unit: (line.split(": ")[0], Fraction(scale))
    for line in _SCALES.replace("\n ", " ").splitlines()
    for unit, scale in (each.split() for each in line.split(": ")[1].split(","))
}


def _any_of(names: list[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


_SYMBOLS = _any_of([name for name in _EXACT if name not in ("A", "in")])  # 7 in total, 5 A grades
_AFTER = re.compile(
    rf"\s?-?(?:(?P<exact>{_SYMBOLS}|(?:A|in)(?=\W*$))|(?P<word>(?i:{_any_of(list(_WORDS))})))"
    r"(?:(?<=[^\x00-\x7f])|(?![\w^]))"
)
_BEFORE = re.compile(r"(?:[$€£¥₹]|\b(?:USD|EUR|GBP|JPY|INR)\s)\s?$")
_SIGNED = re.compile(r"(?:[-–+]|minus|negative)\s?([$€£¥₹])", re.IGNORECASE)
PERCENT_SIGN = re.compile(r"%|\b(?:percent|per cent|pct)\b", re.IGNORECASE)


def unit(text: str, start: int, end: int) -> tuple[int, int, str | None]:
    """The number at [start, end) with the unit around it: (start, end, canonical name of the unit)."""
    before, after = _BEFORE.search(text[max(0, start - 5) : start]), _AFTER.match(text, end)
    signed = _SIGNED.match(text[start:end])
    name = None
    if after is not None:
        name = _EXACT[after["exact"]] if after["exact"] else _WORDS[after["word"].lower()]
    elif before is not None or signed is not None:
        sign = (before.group() if before else signed[1] if signed else "").strip()
        name = _EXACT.get(sign) or _EXACT[sign.lower()]
    first = start - (len(before.group()) if before else 0)
    return first, after.end() if after else end, name


def in_base(value: Fraction, name: str) -> tuple[str, Fraction]:
    """A quantity in the first unit of its dimension: 1.5 km -> ("m", 1500); unchanged if the unit is not converted."""
    base, scale = _BASES.get(name, (name, Fraction(1)))
    return base, value * scale
