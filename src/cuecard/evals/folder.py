"""A run's directory: `run.json` says what the run is, `run.sqlite` holds its rows, `run.lock` keeps others out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from cuecard.domain.errors import BadInput
from cuecard.evals.store import CannotStore, Mended, Store

VERSION = 1


@dataclass(frozen=True)
class About:
    """What a run is. `config` decides every row, so a run goes on only under the same one; `facts` are told with it."""

    config: Mapping[str, Any]
    facts: Mapping[str, Any]


class RunFolder:
    """A run opened for writing by this process alone. Raises BadInput (held, another run), CannotStore."""

    def __init__(self, path: Path, about: About) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path)
        except OSError as error:
            raise CannotStore(f"cannot write into {path}: {error.strerror}", "give another --out") from error
        try:
            self.resumed = (path / "run.json").exists()
            if self.resumed:
                _same(read(path)["config"], about.config, path)
            else:
                save(path / "run.json", {"version": VERSION, "config": about.config, **about.facts})
            self.store = Store(path / "run.sqlite")
            self.mended: Mended = self.store.mend()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()
        self._lock.close()


def read(path: Path) -> dict[str, Any]:
    """What `run.json` says. Raises BadInput."""
    try:
        told = json.loads((path / "run.json").read_text(encoding="utf-8"))
        version, _ = told["version"], told["config"]
    except FileNotFoundError:
        raise BadInput(f"{path} is not the directory of a run", "it has no run.json") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path / 'run.json'} cannot be read: {error}", "start in another directory") from error
    if version != VERSION:
        raise BadInput(f"{path} is a run of version {version}, this cuecard reads {VERSION}", "use the other cuecard")
    found: dict[str, Any] = told
    return found


def opened(path: Path) -> tuple[dict[str, Any], Store]:
    """A run to read: what `run.json` says, and the rows. Others may be writing. Raises BadInput, CannotStore."""
    return read(path), Store(path / "run.sqlite", read_only=True)


def save(path: Path, value: Any) -> None:
    """Write JSON so that after a kill the file is the old one or the new one. Raises CannotStore."""
    beside = path.with_name(path.name + ".new")
    try:
        with beside.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise CannotStore(f"cannot write {path}: {error.strerror}") from error


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


def _same(there: Any, asked: Any, path: Path) -> None:
    if found := list(differences(there, json.loads(json.dumps(asked)))):
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        hint = "give another --out, or the configuration it was begun with"
        raise BadInput(f"{path} holds another run: {'; '.join(found[:3])}{more}", hint)


def _locked(path: Path) -> IO[str]:
    """The lock, held until it is closed or the process ends, however it ends. Raises BadInput."""
    file = (path / "run.lock").open("a+", encoding="utf-8")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip()
            file.close()
            by = f" (process {who})" if who else ""
            raise BadInput(f"another process{by} is at work in {path}", "wait for it, or give another --out") from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
