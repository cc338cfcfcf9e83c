"""Units of measure: read with a number, never converted; two different ones are two different answers."""

from __future__ import annotations

import re

_SYMBOLS = (
    "mm cm dm m km in ft yd mi nm μm µm mg g kg t lb lbs oz ml mL cl l L s ms min h hr hrs kB KB MB GB TB Hz kHz MHz GHz"
    " W kW MW GW kWh MWh J kJ kcal cal V mV A mA N Pa kPa bar K mol mph km/h m/s px ppm mm² cm² m² km² mm³ cm³ m³"
    " mm^2 cm^2 m^2 km^2 cm^3 m^3 m2 m3 cm2 cm3 km2 sqm °C °F ° pp"
).split()
_WORDS = {
    **{name: "%" for name in ("%", "percent", "per cent", "pct", "percents")},
    **{name: "pp" for name in ("percentage points", "percentage point")},
    **{name: "$" for name in ("$", "usd", "dollar", "dollars", "us$", "bucks")},
    **{name: "€" for name in ("€", "eur", "euro", "euros")},
    **{name: "£" for name in ("£", "gbp", "pound sterling")},
    **{name: "¥" for name in ("¥", "jpy", "yen", "rmb", "yuan", "元")},
    **{name: "₹" for name in ("₹", "inr", "rupees", "rupee")},
    **{name: "mm" for name in ("millimeter", "millimeters", "millimetre", "millimetres")},
    **{name: "cm" for name in ("centimeter", "centimeters", "centimetre", "centimetres")},
    **{name: "m" for name in ("meter", "meters", "metre", "metres")},
    **{name: "km" for name in ("kilometer", "kilometers", "kilometre", "kilometres", "kms")},
    **{name: "in" for name in ("inch", "inches")},
    **{name: "ft" for name in ("foot", "feet")},
    **{name: "mi" for name in ("mile", "miles")},
    **{name: "yd" for name in ("yard", "yards")},
    **{name: "g" for name in ("gram", "grams", "gramme", "grammes")},
    **{name: "kg" for name in ("kilogram", "kilograms", "kilo", "kilos", "kgs")},
    **{name: "t" for name in ("ton", "tons", "tonne", "tonnes")},
    **{name: "lb" for name in ("pound", "pounds", "lbs")},
    **{name: "oz" for name in ("ounce", "ounces")},
    **{name: "l" for name in ("liter", "liters", "litre", "litres")},
    **{name: "ml" for name in ("milliliter", "milliliters", "millilitre", "millilitres")},
    **{name: "s" for name in ("second", "seconds", "sec", "secs")},
    **{name: "min" for name in ("minute", "minutes", "mins")},
    **{name: "h" for name in ("hour", "hours", "hr", "hrs")},
    **{name: "d" for name in ("day", "days")},
    **{name: "wk" for name in ("week", "weeks")},
    **{name: "mo" for name in ("month", "months")},
    **{name: "y" for name in ("year", "years", "yrs")},
    **{name: "°" for name in ("degree", "degrees")},
    **{name: "°C" for name in ("degrees celsius", "degree celsius", "℃", "celsius")},
    **{name: "°F" for name in ("degrees fahrenheit", "degree fahrenheit", "℉", "fahrenheit")},
    **{name: "km/h" for name in ("kph", "kmh", "kilometers per hour", "kilometres per hour")},
    **{name: "mph" for name in ("miles per hour",)},
}
_SAME = {"L": "l", "mL": "ml", "hr": "h", "hrs": "h", "lbs": "lb", "KB": "kB", "m2": "m^2", "m²": "m^2", "m³": "m^3", "m3": "m^3"}


def _any_of(names: list[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


AFTER = re.compile(rf"\s?-?(?:(?P<symbol>{_any_of(_SYMBOLS)})|(?P<word>(?i:{_any_of(list(_WORDS))})))(?![\w^])")
BEFORE = re.compile(r"(?:[$€£¥₹]|\b(?:USD|EUR|GBP|JPY|INR)\s)\s?$")


def unit(text: str, start: int, end: int) -> tuple[int, int, str | None]:
    """The number at [start, end) with the unit around it: where both begin and end, and the unit's one name."""
    before, after = BEFORE.search(text[max(0, start - 5) : start]), AFTER.match(text, end)
    signed = re.match(r"[-–+]\s?([$€£¥₹])", text[start:end])
    name = None
    if after is not None:
        name = after["symbol"] or _WORDS[after["word"].lower()]
    elif before is not None or signed is not None:
        name = _WORDS[(before.group() if before else signed[1] if signed else "").strip().lower()]
    first = start - (len(before.group()) if before else 0)
    return first, after.end() if after else end, _SAME.get(name, name) if name else None
PERCENT_SIGN = re.compile(r"%|\b(?:percent|per cent|pct)\b", re.IGNORECASE)
