"""The wordings of the questions that a model was trained on: sentences with places for values from named lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

PLACE = re.compile(r"\{(\w+)\}")
MOST_WORDS = 3
"""Maximum words of a text that counts as an unknown value in an otherwise fitting wording."""

Values = Mapping[str, Sequence[str]]
"""Allowed values, by the name of their list."""
Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class QuestionWording:
    """A question with places for values, such as `Which digit is in cell {cell}?`. It is matched as a whole."""

    text: str
    image_sizes: tuple[Size, ...] = ()
    """Sizes of the images that it is asked about; () for all sizes."""
    options: str | None = None
    """The name of the list of its options; None: trained without options."""

    @classmethod
    def read(cls, table: Mapping[str, Any], values: Values) -> QuestionWording:
        """The wording in a table. Raises ValueError for a missing list of values; KeyError, TypeError if malformed."""
        made = cls(str(table["text"]), sizes(table.get("image_sizes", ())), table.get("options"))
        for name in (*PLACE.findall(made.text), *([] if made.options is None else [made.options])):
            if name not in values:
                raise ValueError(f"the wording {made.text!r} uses the values {name!r}, which are not there")
        return made

    def as_object(self) -> dict[str, Any]:
        """As plain data, in the form that `read` takes."""
        table: dict[str, Any] = {"text": self.text, "image_sizes": [list(size) for size in self.image_sizes]}
        return table | ({} if self.options is None else {"options": self.options})

    def fits(self, text: str, values: Values) -> bool:
        """Whether a text is this wording with some of the values.

        All alternatives are followed at once, so the time is bounded by the lengths of text, wording and lists.
        """
        ends = {0}
        for index, part in enumerate(PLACE.split(self.text)):
            choices = values[part] if index % 2 else [part]
            ends = {end + len(choice) for end in ends for choice in choices if text.startswith(choice, end)}
        return len(text) in ends

    def unknown_value(self, text: str, values: Values) -> str | None:
        """The value that is not in its list, in plain English, if a text fits otherwise; else None."""
        first, *rest = PLACE.split(self.text)
        if not text.startswith(first):
            return None
        at, found = len(first), None
        for place, (name, following) in enumerate(zip(rest[::2], rest[1::2], strict=True), 1):
            is_last = 2 * place == len(rest)
            end = len(text) - len(following) if is_last else text.find(following, at)
            given = text[at:end]
            if end <= at or not text.startswith(following, end) or len(given.split()) > MOST_WORDS:
                return None
            if given not in values[name]:
                found = found or f"{name} {given[:40]!r}, where it knows {listed(values[name])}"
            at = end + len(following)
        return found


def sizes(table: Iterable[Any]) -> tuple[Size, ...]:
    """Pairs of numbers as sizes. Raises ValueError or TypeError."""
    return tuple((int(width), int(height)) for width, height in table)


def outside(
    text: str, options: Sequence[str], size: Size | None, wordings: Sequence[QuestionWording], values: Values
) -> str | None:
    """Why a question about an image of this size fits none of the wordings, in plain English; None if it fits one."""
    fitting = [wording for wording in wordings if wording.fits(text, values)]
    if not fitting:
        unknown = (wording.unknown_value(text, values) for wording in wordings)
        return next(filter(None, unknown), "a wording that it was not trained on")
    of_size = [wording for wording in fitting if size is None or size in (wording.image_sizes or [size])]
    if not of_size:
        usual = " or ".join(f"{width}x{height}" for width, height in fitting[0].image_sizes)
        return f"a question about images of {usual}, asked about one of {'x'.join(map(str, size or ()))}"
    reasons = [_outside_options(options, wording, values) for wording in of_size]
    return None if None in reasons else reasons[0]


def _outside_options(options: Sequence[str], wording: QuestionWording, values: Values) -> str | None:
    if options and wording.options is None:
        return "options for a question that it was trained on without"
    known = values[wording.options] if wording.options is not None else ()
    unknown = [option for option in options if option not in known]
    return f"the option {unknown[0][:40]!r}, where it knows {listed(known)}" if unknown else None


def listed(values: Sequence[str]) -> str:
    """The values as text: consecutive numbers as `1 to 16`, long lists without their middle."""
    numbers = [int(value) for value in values if value.isascii() and value.isdigit()]
    if len(numbers) == len(values) > 2 and all(after == before + 1 for before, after in pairwise(numbers)):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(values if len(values) < 6 else (*values[:3], "…", values[-1]))
