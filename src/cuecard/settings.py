"""TOML files: parsing, type checks, suggestions for unknown keys. Every error names the key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from cuecard.domain.errors import BadInput, did_you_mean

T = TypeVar("T")
KINDS: Mapping[type, tuple[str, type]] = {
    str: ("a text", str),
    int: ("a whole number", Integral),
    float: ("a number", Real),
    bool: ("true or false", bool),
    list: ("a list of texts", list),
    dict: ("a table", dict),
}
"""Type -> its name in errors, and the class of its values: a whole number is also a number."""


def read(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises BadInput."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "is the path right?") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid TOML: {error}") from error


@contextmanager
def in_file(path: Path | str) -> Iterator[None]:
    """Puts the file's path, or another place, before the message of a BadInput."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{path}: {error.message}", error.hint) from error


def check(table: Mapping[str, Any], kinds: Mapping[str, type], where: str = "") -> None:
    """Raises BadInput for an unknown key, or a value of the wrong type; `where` precedes the key in messages."""
    for key in table:
        if key not in kinds:
            raise BadInput(f"unknown key {where}{key}"[:200], did_you_mean(key, kinds))
    for key, value in table.items():
        check_kind(f"{where}{key}", value, kinds[key])


def build(kind: type[T], table: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `kind` from a table of its fields. Raises BadInput as `check`, and for a missing field."""
    check(table, kinds_of(kind), where)
    for each in fields(kind):  # type: ignore[arg-type]
        if each.default is MISSING and each.name not in table:
            raise BadInput(f"{where}{each.name} is missing", f"write {each.name} = …")
    return kind(**table)


def kinds_of(kind: type) -> dict[str, type]:
    """The fields of a dataclass, and the types of their values in a table: `int` of `int | None`."""
    return {name: _plain(hint) for name, hint in get_type_hints(kind).items()}


def _plain(hint: Any) -> type:
    if get_origin(hint) in (Union, UnionType):
        hint = next(each for each in get_args(hint) if each is not NoneType)
    plain: type = {Mapping: dict, Sequence: list}.get(get_origin(hint), hint)
    return plain


def check_kind(name: str, value: object, kind: type) -> None:
    """Raises BadInput if a value is not of type `kind`. The value, perhaps a secret, is not in the message."""
    what, wanted = KINDS[kind]
    fits = isinstance(value, wanted) and (kind is bool or not isinstance(value, bool))
    if not fits or (kind is list and not all(isinstance(each, str) for each in value)):  # type: ignore[attr-defined]
        raise BadInput(f"{name} is not {what}", f"write {name.rpartition('.')[2]} as {what}")
