"""Replies that a judge model can read or grade, and the files with its results.

Two types: replies in which no answer was found (also listed for manual review), in which a judge reads the answer
(`judged.json` in the run's directory); and replies to open questions, which a judge grades (`graded.json`). No score,
interval or test of the run includes these results: only the figures of this package, which are marked as such.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cuecard import disk
from cuecard.domain.errors import BadInput
from cuecard.evals.analysis.units import succeeded
from cuecard.evals.database import Record, Store
from cuecard.evals.scorers import scorable

READ, GRADED, VERSION = "judged.json", "graded.json", 1


@dataclass(frozen=True)
class Judged:
    """A judge's result. `answer`: the answer that it reads in a reply, None if there is none; for a grade, its text."""

    judge: str
    """The judge model's name."""
    revision: str
    """Hash of its weights or settings."""
    answer: str | None
    score: float
    """0 to 1."""


@dataclass(frozen=True)
class ListedReply:
    """A reply and the arms that gave it. `golds`: empty if unknown."""

    task: str
    id: str
    arms: tuple[str, ...]
    reply: str
    truncated: bool
    golds: tuple[str, ...]
    judged: Judged | None = None

    @property
    def key(self) -> str:
        """Key of the reply's judgement, 16 hex digits."""
        return hashlib.sha256("\n".join((self.task, self.id, self.reply)).encode()).hexdigest()[:16]


def unparsed(store: Store, judged: Mapping[str, Judged], *, task: str | None = None) -> list[ListedReply]:
    """Replies in which no answer was found. `judged`: from `read`."""
    return _listed(store, judged, task, lambda answer, item: not answer["parsed"])


def gradable(store: Store, graded: Mapping[str, Judged], *, task: str | None = None) -> list[ListedReply]:
    """Replies to questions that only a judge can score; if a task is named, all its replies, whatever the scorer.

    Questions without a known right answer are left out. `graded`: from `read`.
    """

    def open_question(answer: Record, item: Record) -> bool:
        return bool(item["golds"]) and (task is not None or not scorable(item["golds"], item["scorer"]))

    return _listed(store, graded, task, open_question)


def _listed(
    store: Store, judged: Mapping[str, Judged], task: str | None, is_wanted: Callable[[Record, Record], bool]
) -> list[ListedReply]:
    """Distinct replies in the order of tasks and questions; failed answers have no reply."""
    items = {(item["task"], item["id"]): item for item in store.items(task)}
    arms: dict[tuple[str, str, str], list[Record]] = {}
    for answer in succeeded(store.answers()):
        item = items.get((answer["task"], answer["id"]))
        if item is not None and answer["reply"] is not None and is_wanted(answer, item):
            arms.setdefault((answer["task"], answer["id"], answer["reply"]), []).append(answer)
    found = []
    for (name, id, reply), own in arms.items():
        of_arms, cut = tuple(answer["arm"] for answer in own), any(each["truncated"] for each in own)
        listed = ListedReply(name, id, of_arms, reply, cut, tuple(items[name, id]["golds"]))
        found.append(replace(listed, judged=judged.get(listed.key)))
    return found


def judges(replies: Iterable[ListedReply]) -> str:
    """The names of the judges of these replies, separated by commas; "" if none is judged."""
    return ", ".join(dict.fromkeys(each.judged.judge for each in replies if each.judged))


@dataclass(frozen=True)
class Judgements:
    """The results of judges for a run, by the replies' keys."""

    read: Mapping[str, Judged] = field(default_factory=dict)
    graded: Mapping[str, Judged] = field(default_factory=dict)

    @classmethod
    def of_run(cls, run: Path) -> Judgements:
        """Raises BadInput."""
        return cls(read(run, READ), read(run, GRADED))


# --- the files --------------------------------------------------------------------------------------------------------


def read(run: Path, file: str) -> dict[str, Judged]:
    """The stored results of judges, by reply key. `file`: READ or GRADED. Raises BadInput."""
    path = run / file
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise BadInput(f"{path} is of version {data['version']}, this cuecard reads {VERSION}", "judge again")
        return {key: Judged(**each) for key, each in data["replies"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read: {error}", "delete it, and judge again") from error


def write(run: Path, file: str, judged: Mapping[str, Judged]) -> None:
    """Store results of judges, by reply key. Raises CannotStore."""
    replies: dict[str, Any] = {key: asdict(each) for key, each in judged.items()}
    disk.save(run / file, {"version": VERSION, "replies": replies})
