"""Files: TOML with checks of keys and types, JSON of a version, written atomically; run directories with one writer."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import IO, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from cuecard.domain.errors import BadInput, CuecardError, did_you_mean

LOCK = "run.lock"
T = TypeVar("T")


class CannotStore(CuecardError):
    """The run's directory cannot be read or written; what it already holds is kept."""

    http_status, hint = 507, "free some space, then give the same command again: it goes on from here"


def check_folder(path: Path, own: str) -> None:
    """Raises BadInput if a path cannot become a run's directory: a file, or a directory that holds other files.

    `own`: the file that identifies a run's directory. Raises CannotStore if the directory cannot be read.
    """
    hint = "give --out a folder that is new, empty, or an earlier run of the same kind"
    try:
        if not path.exists() or (path / own).exists():
            return
        there = sorted(each.name for each in path.iterdir())
    except NotADirectoryError:
        raise BadInput(f"{path} is not a folder", hint) from None
    except OSError as error:
        raise CannotStore(f"cannot read {path}: {error.strerror}", "give another --out") from error
    begun = re.compile(rf"{re.escape(LOCK)}|{re.escape(own)}\..*\.new|\..*")  # of a run killed at its start; hidden
    if others := [name for name in there if not begun.fullmatch(name)]:
        raise BadInput(f"{path} holds other files: {_few(others)}", hint)


def locked(path: Path, own: str) -> IO[str]:
    """Create the directory if it is missing, and lock it until the returned file is closed or the process ends.

    `own`: as in `check_folder`. Raises BadInput (another process holds it, other files are in it), CannotStore.
    """
    check_folder(path, own)
    try:
        path.mkdir(parents=True, exist_ok=True)
        return _held(path)
    except OSError as error:
        raise CannotStore(f"cannot write into {path}: {error.strerror}", "give another --out") from error


def _held(path: Path) -> IO[str]:
    file = (path / LOCK).open("a+", encoding="utf-8")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            file.close()
            by = f" (process {holder})" if holder else ""
            raise BadInput(f"another process{by} is at work in {path}", "wait for it, or give another --out") from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def save(path: Path, value: Any) -> None:
    """Write JSON atomically: if killed, the file is the old one or the new one. Raises CannotStore."""
    with replacing(path) as file:
        file.write(f"{json.dumps(value, indent=2, ensure_ascii=False)}\n".encode())


def is_there(path: Path) -> bool:
    """Whether there is such a file. Raises BadInput if its folder cannot be read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    return True


def load(path: Path, version: int, what: str, hint: str, make: Callable[[dict[str, Any]], T]) -> T:
    """What `make` returns for the JSON object in a file of `save`, without its version.

    Raises BadInput if the file cannot be read, is of another version, or is not `what`: if `make` raises an error.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if (stored := data.pop("version")) != version:
            raise BadInput(f"{path} is of version {stored}, this cuecard reads {version}", hint)
        return make(data)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", hint) from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise BadInput(f"{path} is not {what}: {type(error).__name__}: {error}", hint) from error


def built(kind: Any, data: Any) -> Any:
    """A value of this type from plain data: a dataclass, an enum, or a tuple, sequence or mapping of such values.

    Raises KeyError, TypeError or ValueError for other data.
    """
    of, origin = get_args(kind), get_origin(kind)
    if origin is UnionType:
        return None if data is None else built(of[0], data)
    if (plain := _plain(kind)) in KINDS and not _fits(data, plain):
        raise TypeError(f"{str(data)[:80]} where {kind} is expected")
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: built(hints[name], value) for name, value in data.items()})  # type: ignore[operator]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(data)
    if of and isinstance(data, list):
        kinds = of if origin is tuple and of[-1] is not Ellipsis else of[:1] * len(data)
        values = [built(*each) for each in zip(kinds, data, strict=True)]
        return tuple(values) if origin is tuple else values
    if of and isinstance(data, dict):
        return {name: built(of[1], value) for name, value in data.items()}
    return data


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yields a file to write, which replaces the old one when it is complete. Raises CannotStore."""
    beside = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.new")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise CannotStore(f"cannot write {path}: {error.strerror}") from error


def same(there: Any, asked: Any, path: Path) -> None:
    """Raises BadInput if the configuration in a directory, `there`, is not the requested one, `asked`."""
    if found := list(differences(there, json.loads(json.dumps(asked)))):
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        hint = "give another --out, or the configuration it was begun with"
        raise BadInput(f"{path} holds another run: {'; '.join(found[:3])}{more}", hint)


def differences(there: Any, asked: Any, name: str = "") -> Iterator[str]:
    """Where two configurations differ, in words: `models.small.revision is 'a', not 'b'`."""
    if isinstance(there, Mapping) and isinstance(asked, Mapping):
        for key in dict.fromkeys((*there, *asked)):
            yield from differences(there.get(key), asked.get(key), f"{name}.{key}" if name else str(key))
    elif isinstance(there, list) and isinstance(asked, list) and there != asked:
        only = [[each for each in one if each not in other] for one, other in ((there, asked), (asked, there))]
        sides = [f"{_few(found)} only {where}" for found, where in zip(only, ("there", "here"), strict=True) if found]
        yield f"{name}: {', '.join(sides) or 'in another order'}"
    elif there != asked:
        yield f"{name} is {there!r} there, {asked!r} here"


def _few(found: list[Any]) -> str:
    more = f" and {len(found) - 2} more" if len(found) > 2 else ""
    return ", ".join(map(str, found[:2])) + more


# --- TOML -------------------------------------------------------------------------------------------------------------

KINDS: Mapping[type, tuple[str, type]] = {
    str: ("a text", str),
    int: ("a whole number", Integral),
    float: ("a number", Real),
    bool: ("true or false", bool),
    list: ("a list of texts", list),
    dict: ("a table", dict),
}
"""Type -> its name in errors, and the class of its values: a whole number is also a number."""


def read_toml(path: Path) -> dict[str, Any]:
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


def check_table(table: Mapping[str, Any], kinds: Mapping[str, type], where: str = "") -> None:
    """Raises BadInput for an unknown key, or a value of the wrong type; `where` precedes the key in messages."""
    for key in table:
        if key not in kinds:
            raise BadInput(f"unknown key {where}{key}"[:200], did_you_mean(key, kinds))
    for key, value in table.items():
        check_kind(f"{where}{key}", value, kinds[key])


def build(kind: type[T], table: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `kind` from a table of its fields. Raises BadInput, also for a missing field."""
    check_table(table, kinds_of(kind), where)
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
    plain: type = {Mapping: dict, Sequence: list, tuple: list}.get(get_origin(hint), hint)
    return plain


def check_kind(name: str, value: object, kind: type) -> None:
    """Raises BadInput if a value is not of type `kind`. The value, perhaps a secret, is not in the message."""
    what, _ = KINDS[kind]
    if not _fits(value, kind) or (kind is list and not all(isinstance(each, str) for each in value)):  # type: ignore[attr-defined]
        raise BadInput(f"{name} is not {what}", f"write {name.rpartition('.')[2]} as {what}")


def _fits(value: object, kind: type) -> bool:
    return isinstance(value, KINDS[kind][1]) and (kind is bool or not isinstance(value, bool))
