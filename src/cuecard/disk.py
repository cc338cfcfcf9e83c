"""Files: atomic JSON writes, run directories with one writer, comparison of configurations."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from cuecard.domain.errors import BadInput, CuecardError

LOCK = "run.lock"


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
