"""Calendar dates whose order is certain: 2021-05-12, 12 May 2021, May 12th, 2021. 05/12/2021 is not one of them."""

from __future__ import annotations

import re
from datetime import date

_NAMES = """january jan
february feb
march mar
april apr
may
june jun
july jul
august aug
september sep sept
october oct
november nov
december dec"""
_MONTHS = {name: month for month, names in enumerate(_NAMES.split("\n"), start=1) for name in names.split()}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_FORMS = (
    re.compile(r"(?P<year>\d{4})-(?P<month>\d\d?)-(?P<day>\d\d?)"),
    re.compile(rf"(?:the )?(?P<day>\d\d?)(?:st|nd|rd|th|\.)?(?: of)? (?P<month>{_MONTH})\.?,? (?P<year>\d{{4}})"),
    re.compile(rf"(?P<month>{_MONTH})\.? (?:the )?(?P<day>\d\d?)(?:st|nd|rd|th)?,? (?P<year>\d{{4}})"),
)


def date_of(text: str) -> date | None:
    """The day that a text names, if it is nothing but a date."""
    said = " ".join(text.lower().split()).strip(" .")
    for form in _FORMS:
        found = form.fullmatch(said)
        if found is not None:
            month = int(found["month"]) if found["month"].isdigit() else _MONTHS[found["month"]]
            try:
                return date(int(found["year"]), month, int(found["day"]))
            except ValueError:
                return None
    return None
