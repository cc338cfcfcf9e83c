"""A run's directory: `run.json` describes the run, `run.sqlite` holds its rows, `run.lock` locks it for one writer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from cuecard import disk
from cuecard.domain.errors import BadInput
from cuecard.evals.arm import LIVE
from cuecard.evals.database import Mended, Store

VERSION = 1
ABOUT, ROWS = "run.json", "run.sqlite"
Config = Mapping[str, Any]


class RunFolder:
    """A run opened for writing, with a lock. Raises BadInput (locked, or a different run), CannotStore.

    `config` determines every row: a run resumes only if stored rows keep their meaning. `facts` are stored beside it.
    """

    def __init__(self, path: Path, config: Config, facts: Mapping[str, Any]) -> None:
        self.path, self.added = path, list[str]()
        """Readable descriptions of what was added to the run."""
        self._lock = disk.locked(path, ABOUT)
        try:
            self.resumed = (path / ABOUT).exists()
            there = read(path) if self.resumed else None
            if there is not None and not (path / ROWS).exists():
                raise BadInput(f"{path} has lost its rows: there is no {ROWS}", f"restore it, or delete {ABOUT} too")
            if there is not None:
                self.added = added(there["config"], config, path)
            else:
                disk.save(path / ABOUT, {"version": VERSION, "config": config, **facts})
            self.store = Store(path / ROWS)
            self.mended: Mended = self.store.mend()
            if there is not None and self.added:
                self._grow(there, config, facts)
        except BaseException:
            self._lock.close()
            raise

    def _grow(self, there: dict[str, Any], config: Config, facts: Mapping[str, Any]) -> None:
        for task in config["tasks"]:
            self.store.note(f"complete {task['name']}", False)
        grown = [*there.get("grown", ()), {"added": self.added, **facts}]
        disk.save(self.path / ABOUT, {**there, "config": config, "grown": grown})

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()
        self._lock.close()


def read(path: Path) -> dict[str, Any]:
    """The content of `run.json`. Raises BadInput."""
    try:
        run: dict[str, Any] = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        version, _ = run["version"], run["config"]
    except FileNotFoundError:
        page = path / "report.html"
        also = f"; {page} is its page" if page.exists() else ""
        raise BadInput(f"{path} is not the directory of a run", f"it has no {ABOUT}{also}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path / ABOUT} cannot be read: {error}", "start in another directory") from error
    if kind := run.get("kind"):
        raise BadInput(f"{path} is a run of cuecard {kind}, not of cuecard eval", "give another folder")
    if version != VERSION:
        raise BadInput(f"{path} is a run of version {version}, this cuecard reads {VERSION}", "use the other cuecard")
    return run


def opened(path: Path) -> tuple[dict[str, Any], Store]:
    """Open a run for reading: the content of `run.json`, and the store. Another process may be writing.

    Raises BadInput, CannotStore (also if a row's checksum is wrong).
    """
    about = read(path)
    return about, checked(Store(path / ROWS, read_only=True))


@contextmanager
def opened_run(path: Path) -> Iterator[tuple[Config, Store]]:
    """The configuration and rows of a run, as `opened`."""
    about, store = opened(path)
    with closing(store):
        yield about["config"], store


def checked(store: Store) -> Store:
    """The store, if all checksums are right; otherwise closes it and raises CannotStore."""
    try:
        store.check()
    except BaseException:
        store.close()
        raise
    return store


# --- a run that grows -------------------------------------------------------------------------------------------------


def added(there: Config, wanted: Config, path: Path) -> list[str]:
    """Readable descriptions of the arms, tasks and questions that the configuration `wanted` adds to a run.

    Raises BadInput if stored rows would change their meaning: another model, other data, another sample.
    """
    wanted = json.loads(json.dumps(wanted))
    shared = {name: task for name, task in _tasks(wanted).items() if name in _tasks(there)}
    arms = [arm for arm in wanted["arms"] if arm in there["arms"]]
    disk.same(_core(there, _tasks(there), there["arms"]), _core(wanted, shared, arms), path)
    most, limit = there.get("limit"), wanted.get("limit")
    if limit is not None and (most is None or limit < most):
        has = "all questions of each task" if most is None else f"{most} questions of each task"
        raise BadInput(f"{path} asks {has}, not only {limit}", "a run can grow only: give another --out, or that limit")
    words = [f"arm {arm}" for arm in wanted["arms"] if arm not in arms]
    words += [f"task {name}" for name in _tasks(wanted) if name not in shared]
    if limit != most:
        words.append(f"{'all' if limit is None else limit} instead of {most} questions of each task")
    return words


def _core(config: Config, tasks: Config, arms: Iterable[str]) -> dict[str, Any]:
    """The part of a configuration that must be equal; the order of arms does not matter.

    Policy files are left out: the name of a policy file's arm has the file's digest.
    """
    return {**config, "tasks": dict(tasks), "arms": sorted(arms), "limit": None, "policies": None}


def _tasks(config: Config) -> dict[str, Any]:
    return {task["name"]: task for task in config.get("tasks", [])}


# --- unfinished runs --------------------------------------------------------------------------------------------------

MOST_NAMES = 4


def unfinished(config: Mapping[str, Any], store: Store) -> str | None:
    """One sentence for each unfinished task, with the numbers of answered and of all questions; None if complete.

    An imported run is always complete.
    """
    return " ".join(_lacking(config, store)) or None


def _lacking(config: Mapping[str, Any], store: Store) -> Iterator[str]:
    if "imported" in config:
        return
    notes, asked = store.notes(), Counter(item["task"] for item in store.items())
    answered = Counter((answer["task"], answer["arm"]) for answer in store.answers())
    for name in (task["name"] for task in config["tasks"]):
        arms = [*config["arms"], *(arm + LIVE for arm in config["arms"] if answered[name, arm + LIVE])]
        counts = {arm: answered[name, arm] for arm in arms}
        least, known = min(counts.values()), notes.get(f"questions {name}")
        total = max(asked[name], known or 0)
        is_over = notes.get(f"complete {name}", True)  # runs of earlier versions have no such note
        if is_over and least >= asked[name]:
            continue
        of = f"of {total:,} questions" if is_over or known else "questions, of a number that is not known yet,"
        yield f"Unfinished: on {name} {least:,} {of} are answered by all {len(arms)} arms{_behind(counts)}."


def _behind(counts: Mapping[str, int]) -> str:
    """Text that lists the arms with fewer answers than others; empty if there are none."""
    most = max(counts.values())
    behind = [f"{arm} {count:,}" for arm, count in counts.items() if count < most]
    if not behind:
        return ""
    more = f" and {len(behind) - MOST_NAMES} more arms" if len(behind) > MOST_NAMES else ""
    return f"; fewer than {most:,} by {', '.join(behind[:MOST_NAMES])}{more}"
