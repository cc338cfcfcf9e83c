"""Units of measure: read with a number, never converted; two different ones are two different answers."""

from __future__ import annotations

import re

_SYMBOLS = """mm cm dm m km in ft yd mi nm μm µm mg g kg t lb lbs oz ml mL cl l L s ms min h hr hrs
kB KB MB GB TB Hz kHz MHz GHz W kW MW GW kWh MWh J kJ kcal cal V mV A mA N Pa kPa bar K mol mph km/h m/s px ppm
mm² cm² m² km² mm³ cm³ m³ mm^2 cm^2 m^2 km^2 cm^3 m^3 m2 m3 cm2 cm3 km2 sqm °C °F ° pp"""
# The one name of a unit, and what else it is called.
_NAMES = """%: %, percent, per cent, pct
pp: percentage points, percentage point
$: $, usd, dollar, dollars, us$, bucks
€: €, eur, euro, euros
£: £, gbp, pound sterling
¥: ¥, jpy, yen, rmb, yuan, 元
₹: ₹, inr, rupees, rupee
mm: millimeter, millimeters, millimetre, millimetres
cm: centimeter, centimeters, centimetre, centimetres
m: meter, meters, metre, metres
km: kilometer, kilometers, kilometre, kilometres, kms
in: inch, inches
ft: foot, feet
mi: mile, miles
yd: yard, yards
g: gram, grams, gramme, grammes
kg: kilogram, kilograms, kilo, kilos, kgs
t: ton, tons, tonne, tonnes
lb: pound, pounds
oz: ounce, ounces
l: liter, liters, litre, litres
ml: milliliter, milliliters, millilitre, millilitres
s: second, seconds, sec, secs
min: minute, minutes, mins
h: hour, hours
d: day, days
wk: week, weeks
mo: month, months
y: year, years, yrs
°: degree, degrees
°C: degrees celsius, degree celsius, celsius
°F: degrees fahrenheit, degree fahrenheit, fahrenheit
km/h: kph, kmh, kilometers per hour, kilometres per hour
mph: miles per hour"""
_WORDS = {name: line.split(": ")[0] for line in _NAMES.splitlines() for name in line.split(": ")[1].split(", ")}
_SAME = {"L": "l", "mL": "ml", "hr": "h", "hrs": "h", "lbs": "lb", "KB": "kB", "m2": "m^2", "m3": "m^3"}


def _any_of(names: list[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


AFTER = re.compile(rf"\s?-?(?:(?P<symbol>{_any_of(_SYMBOLS.split())})|(?P<word>(?i:{_any_of(list(_WORDS))})))(?![\w^])")
BEFORE = re.compile(r"(?:[$€£¥₹]|\b(?:USD|EUR|GBP|JPY|INR)\s)\s?$")


def unit(text: str, start: int, end: int) -> tuple[int, int, str | None]:
    """The number at [start, end) with the unit around it: where both begin and end, and the unit's one name."""
    before, after = BEFORE.search(text[max(0, start - 5) : start]), AFTER.match(text, end)
    signed = re.match(r"[-–+]\s?([$€£¥₹])", text[start:end])
    name = None
    if after is not None:
        name = (after["symbol"] or "").replace("²", "^2").replace("³", "^3") or _WORDS[after["word"].lower()]
    elif before is not None or signed is not None:
        name = _WORDS[(before.group() if before else signed[1] if signed else "").strip().lower()]
    first = start - (len(before.group()) if before else 0)
    return first, after.end() if after else end, _SAME.get(name, name) if name else None


PERCENT_SIGN = re.compile(r"%|\b(?:percent|per cent|pct)\b", re.IGNORECASE)
