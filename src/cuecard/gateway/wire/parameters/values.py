"""Readers of values in the JSON of a request; null counts as not given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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


@contextmanager
def reading(param: str) -> Iterator[None]:
    """While a parameter is read: refusals that name no parameter name this one."""
    try:
        yield
    except BadInput as error:
        error.param = error.param or param
        raise


def object_of(body: Json, key: str, known: Sequence[str] | None = None) -> Json:
    """The object of this name without nulls, empty if there is none; `known`: the keys that it may have."""
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadInput(f"{key} is not an object", param=key)
    given = {name: each for name, each in value.items() if each is not None}
    if known is not None and (wrong := sorted(set(given) - set(known))):
        unknown = wrong[0][:100]
        raise BadInput(f"unknown key {unknown!r} in {key}", suggest(unknown, known), param=f"{key}.{unknown}")
    return given


def flag(body: Json, key: str, *, default: bool = False, of: str | None = None) -> bool:
    """A boolean. `of`: the parameter whose object the body is, for the error's `param`."""
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadInput(f"{key} is neither true nor false", param=_path(key, of))
    return value


def number(body: Json, key: str, *, of: str | None = None) -> float | None:
    """A number. `of`: as in `flag`."""
    value = body.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise BadInput(f"{key} is not a number", param=_path(key, of))
    return value


def count(body: Json, key: str, least: int = 1, most: int = MOST_TOKENS, *, of: str | None = None) -> int | None:
    """A whole number from `least` to `most`. `of`: as in `flag`."""
    value = number(body, key, of=of)
    if value is not None and (value != int(value) or not least <= value <= most):
        message = f"{key} is not a whole number of at least {least} and at most {most}"
        raise BadInput(message, param=_path(key, of))
    return None if value is None else int(value)


def _path(key: str, of: str | None) -> str:
    return key if of is None else f"{of}.{key}"
