"""A run's directory: `run.json` says what the run is, `run.sqlite` holds its rows, `run.lock` keeps others out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cuecard import disk
from cuecard.domain.errors import BadInput
from cuecard.evals.storage.database import Mended, Store
from cuecard.evals.study import extend

VERSION = 1


@dataclass(frozen=True)
class About:
    """What a run is. `config` decides every row, so a run goes on only under one that agrees with it on what is stored.

    `facts` are told with it.
    """

    config: Mapping[str, Any]
    facts: Mapping[str, Any]


class RunFolder:
    """A run opened for writing by this process alone. Raises BadInput (held, another run), CannotStore."""

    def __init__(self, path: Path, about: About) -> None:
        self.path, self.added = path, list[str]()
        """In words, what the run has become larger by."""
        self._lock = disk.locked(path)
        try:
            self.resumed = (path / "run.json").exists()
            there = read(path) if self.resumed else None
            if there is not None:
                self.added = extend.added(there["config"], about.config, path)
            else:
                disk.save(path / "run.json", {"version": VERSION, "config": about.config, **about.facts})
            self.store = Store(path / "run.sqlite")
            self.mended: Mended = self.store.mend()
            if there is not None and self.added:
                self._grow(there, about)
        except BaseException:
            self._lock.close()
            raise

    def _grow(self, there: dict[str, Any], about: About) -> None:
        for task in about.config["tasks"]:
            self.store.note(f"complete {task['name']}", False)
        grown = [*there.get("grown", ()), {"added": self.added, **about.facts}]
        disk.save(self.path / "run.json", {**there, "config": about.config, "grown": grown})

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
