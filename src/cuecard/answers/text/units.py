"""Units of measure: the unit around a number, and conversion to other units of the same quantity."""

from __future__ import annotations

import re
from fractions import Fraction

_NAMES = """%: %, percent, per cent, pct, Prozent, pour cent, por ciento
pp: percentage points, percentage point
bp: basis points, basis point, bps, bp
$: $, usd, dollar, dollars, us$, US$, bucks, dólares, US dollars
C$: C$, CA$, cad, Canadian dollars
A$: A$, AU$, aud, Australian dollars
HK$: HK$, hkd, Hong Kong dollars
¢: ¢, cent, cents
€: €, eur, euro, euros, 欧元, ユーロ
£: £, gbp, pound sterling, pounds sterling
p: pence, penny
CHF: CHF, chf, Franken, Swiss francs
KRW: ₩, krw, won
¥: ¥
JPY: jpy, yen, 円, 日元
CNY: rmb, yuan, 元, 人民币
₹: ₹, inr, rupees, rupee
μm: μm, µm, um, microns, micrometers, micrometres
nm: nm, nanometers, nanometres
mm: mm, millimeter, millimeters, millimetre, millimetres
cm: cm, centimeter, centimeters, centimetre, centimetres, Zentimeter, centímetros, 厘米, センチ
dm: dm
m: m, meter, meters, metre, metres, mètres, metros, 米, メートル
km: km, kilometer, kilometers, kilometre, kilometres, kms, Kilometer, kilomètres, kilómetros, 公里, 千米, キロメートル
in: in, inch, inches
ft: ft, foot, feet
yd: yd, yard, yards
mi: mi, mile, miles
nmi: nautical miles, nautical mile, nmi
ly: light-years, light-year, light years, light year
μg: μg, µg, ug, mcg, micrograms, microgram
mg: mg, milligram, milligrams
g: g, gram, grams, gramme, grammes, Gramm, gramos, 克, グラム
kg: kg, kilogram, kilograms, kilo, kilos, kgs, Kilogramm, kilogrammes, kilogramos, 公斤, 千克, キログラム
t: t, ton, tons, tonne, tonnes, Tonnen, toneladas, 吨
oz: oz, ounce, ounces
lb: lb, lbs, pound, pounds
ml: ml, mL, milliliter, milliliters, millilitre, millilitres
cl: cl
gal: gal, gallon, gallons
qt: qt, quart, quarts
pint: pint, pints
fl oz: fl oz, fluid ounces, fluid ounce
l: l, L, liter, liters, litre, litres, litros
ns: ns, nanoseconds
μs: μs, µs, us, microseconds
ms: ms, milliseconds
s: s, second, seconds, sec, secs, Sekunden, secondes, segundos, 秒
min: min, minute, minutes, mins, Minuten, minutos, 分钟, 分
h: h, hour, hours, hr, hrs, Stunden, heures, horas, 小时, 時間
d: day, days, Tage, jours, días, 天
wk: week, weeks, Wochen, semaines, semanas
mo: month, months, Monate, mois, meses
y: year, years, yrs, Jahre, ans, années, años
decade: decade, decades
century: century, centuries
am: am, a.m., AM, A.M.
pm: pm, p.m., PM, P.M.
mm^2: mm², mm^2, square millimeters, square millimetres
cm^2: cm², cm^2, cm2, square centimeters, square centimetres
m^2: m², m^2, m2, sqm, sq m, square meters, square metres, square meter, square metre, 平方米
km^2: km², km^2, km2, sq km, square kilometers, square kilometres, 平方公里
in^2: in², in^2, sq in, square inches, square inch
ft^2: ft², ft^2, sq ft, sqft, square feet, square foot
mi^2: mi², mi^2, sq mi, square miles, square mile
ha: ha, hectare, hectares
acre: acre, acres
mm^3: mm³, mm^3, cubic millimeters, cubic millimetres
cm^3: cm³, cm^3, cm3, cubic centimeters, cubic centimetres
m^3: m³, m^3, m3, cubic meters, cubic metres, cubic meter, cubic metre, 立方米
ft^3: ft³, ft^3, cubic feet, cubic foot
Hz: Hz
kHz: kHz
MHz: MHz
GHz: GHz
W: W, watt, watts
mW: mW, milliwatts
kW: kW, kilowatts
MW: MW, megawatts
GW: GW, gigawatts
TW: TW, terawatts
Wh: Wh
kWh: kWh
MWh: MWh
GWh: GWh
TWh: TWh
J: J, joule, joules
kJ: kJ
MJ: MJ
GJ: GJ
hp: hp, horsepower
cal: cal
kcal: kcal
mV: mV
V: V, volt, volts
kV: kV
mA: mA
A: A
Ω: Ω, ohm, ohms
N: N
kN: kN
Pa: Pa
hPa: hPa
kPa: kPa
MPa: MPa
bar: bar
mbar: mbar
atm: atm
psi: psi
mmHg: mmHg
dB: dB
rpm: rpm
kB: kB, KB
MB: MB
GB: GB
TB: TB
kbit: kbit, Kbit
Mbit: Mbit, Mb, megabits
Gbit: Gbit, Gb, gigabits
Mbit/s: Mbps, Mbit/s, Mb/s
Gbit/s: Gbps, Gbit/s, Gb/s
kbit/s: kbps, kbit/s
K: K, kelvin
mol: mol
px: px
ppm: ppm
rad: rad, radian, radians
°: °, degree, degrees, Grad, degrés, grados, 度
°C: °C, degrees celsius, degree celsius, celsius
°F: °F, degrees fahrenheit, degree fahrenheit, fahrenheit
m/s: m/s, meters per second, metres per second
km/h: km/h, kph, kmh, kilometers per hour, kilometres per hour
mph: mph, miles per hour
kn: knot, knots"""
_ROWS = [line.split(": ") for line in _NAMES.splitlines()]
_EXACT = {name: unit for unit, names in _ROWS for name in names.split(", ")}
_WORDS = {name.lower(): unit for name, unit in _EXACT.items() if len(name) > 3 or not name.isascii()} | {
    name: unit for name, unit in _EXACT.items() if name in ("%", "pct", "usd", "eur", "gbp", "jpy", "rmb", "inr", "day")
}

# Size of each unit, in the first unit of its line. Units without a line are not converted.
_SCALES = """$: $ 1, ¢ 1/100
pp: pp 1, bp 1/100
m: m 1, mm 1/1000, cm 1/100, dm 1/10, km 1000, μm 1/1000000, nm 1/1000000000, in 254/10000, ft 3048/10000,
 yd 9144/10000, mi 1609344/1000, nmi 1852
g: g 1, μg 1/1000000, mg 1/1000, kg 1000, t 1000000, oz 28349523125/1000000000, lb 45359237/100000
l: l 1, ml 1/1000, cl 1/100, cm^3 1/1000, m^3 1000, mm^3 1/1000000
s: s 1, ns 1/1000000000, μs 1/1000000, ms 1/1000, min 60, h 3600, d 86400, wk 604800
mo: mo 1, y 12, decade 120, century 1200
m^2: m^2 1, mm^2 1/1000000, cm^2 1/10000, km^2 1000000, ha 10000, acre 40468564224/10000000,
 in^2 64516/100000000, ft^2 9290304/100000000, mi^2 2589988110336/1000000
Hz: Hz 1, kHz 1000, MHz 1000000, GHz 1000000000
W: W 1, mW 1/1000, kW 1000, MW 1000000, GW 1000000000, TW 1000000000000
J: J 1, kJ 1000, MJ 1000000, GJ 1000000000, Wh 3600, kWh 3600000, MWh 3600000000, GWh 3600000000000,
 TWh 3600000000000000
cal: cal 1, kcal 1000
V: V 1, mV 1/1000, kV 1000
N: N 1, kN 1000
kbit: kbit 1, Mbit 1000, Gbit 1000000
kbit/s: kbit/s 1, Mbit/s 1000, Gbit/s 1000000
A: A 1, mA 1/1000
Pa: Pa 1, hPa 100, kPa 1000, MPa 1000000, bar 100000, mbar 100, atm 101325
kB: kB 1, MB 1000, GB 1000000, TB 1000000000
m/s: m/s 1, km/h 10/36, mph 44704/100000, kn 1852/3600"""
_BASES = {
    unit: (line.split(": ")[0], Fraction(scale))
    for line in _SCALES.replace("\n ", " ").splitlines()
    for unit, scale in (each.split() for each in line.split(": ")[1].split(","))
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
    base, scale = _BASES.get(name, (name, Fraction(1)))
    return base, value * scale
