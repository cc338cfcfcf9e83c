"""Values in the JSON of a request, checked: what is null is as if it were not given."""

from __future__ import annotations

from collections.abc import Sequence

from cuecard.domain.errors import BadInput
from cuecard.domain.suggestions import did_you_mean
from cuecard.gateway.wire.usage import Json

MOST_TOKENS = 2**31 - 1
"""More than any model writes, and as much as servers can take."""


def is_same(one: object, other: object) -> bool:
    """As JSON has it, where true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def suggest(key: str, known: Sequence[str]) -> str:
    """What to write in place of an unknown name."""
    return did_you_mean(key, known, form="{!r}")


def object_of(body: Json, key: str, known: Sequence[str] | None = None) -> Json:
    """The object of this name without nulls, empty if there is none; `known`: the keys that it may have."""
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadInput(f"{key} is not an object")
    given = {name: each for name, each in value.items() if each is not None}
    if known is not None and (wrong := sorted(set(given) - set(known))):
        raise BadInput(f"unknown key {wrong[0][:100]!r} in {key}", suggest(wrong[0], known))
    return given


def flag(body: Json, key: str, *, default: bool = False) -> bool:
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadInput(f"{key} is neither true nor false")
    return value


def number(body: Json, key: str) -> float | None:
    value = body.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise BadInput(f"{key} is not a number")
    return value


def count(body: Json, key: str, least: int = 1, most: int = MOST_TOKENS) -> int | None:
    value = number(body, key)
    if value is not None and (value != int(value) or not least <= value <= most):
        raise BadInput(f"{key} is not a whole number of at least {least} and at most {most}")
    return None if value is None else int(value)
