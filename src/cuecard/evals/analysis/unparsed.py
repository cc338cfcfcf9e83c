"""Replies in which no answer was found: listed for a look by hand, and beside them what a judge model has read.

What a judge has read is in a file of its own, `judged.json` in the run's directory. No score of the run, no interval
and no test has it in it: only the figures of this module, which say so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cuecard import disk
from cuecard.domain.errors import BadInput
from cuecard.evals.analysis.units import succeeded
from cuecard.evals.arm import LIVE
from cuecard.evals.database import Record, Store

FILE, VERSION = "judged.json", 1


@dataclass(frozen=True)
class Judged:
    """What a judge has read in a reply. `answer` None: the reply gives none. `score`: of that answer, 0 to 1."""

    judge: str
    """The model's name."""
    revision: str
    """The identity of its weights or settings."""
    answer: str | None
    score: float


@dataclass(frozen=True)
class UnparsedReply:
    """A reply in which no answer was found, and the arms that share it. `golds`: empty where none is known."""

    task: str
    id: str
    arms: tuple[str, ...]
    reply: str
    truncated: bool
    golds: tuple[str, ...]
    judged: Judged | None = None

    @property
    def key(self) -> str:
        """Under which its judgement is kept, 16 hex digits."""
        return hashlib.sha256("\n".join((self.task, self.id, self.reply)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class JudgedArm:
    """One arm on one task by question; `read`: its mean score as it stands, where unparsed replies are wrong."""

    arm: str
    scored: int
    unparsed: int
    judged: int
    """Of these."""
    gained: float
    """Scores that the judge gives them, summed."""
    read: float

    @property
    def with_judge(self) -> float:
        """Mean score with what the judge has read in the replies that were not parsed."""
        return self.read + self.gained / self.scored


def unparsed(store: Store, judged: Mapping[str, Judged], *, task: str | None = None) -> list[UnparsedReply]:
    """In the order of tasks and questions; answers that failed have no reply. `judged`: as `read`."""
    arms: dict[tuple[str, str, str], list[Record]] = {}
    for answer in succeeded(store.answers()):
        if not answer["parsed"] and answer["reply"] is not None and task in (None, answer["task"]):
            arms.setdefault((answer["task"], answer["id"], answer["reply"]), []).append(answer)
    golds = {(item["task"], item["id"]): tuple(item["golds"]) for item in store.items(task)}
    found = []
    for (name, id, reply), own in arms.items():
        of_arms = tuple(answer["arm"] for answer in own)
        listed = UnparsedReply(name, id, of_arms, reply, any(each["truncated"] for each in own), golds[name, id])
        found.append(UnparsedReply(**{**vars(listed), "judged": judged.get(listed.key)}))
    return found


def judged_arms(answers: Iterable[Record], replies: Sequence[UnparsedReply], task: str) -> list[JudgedArm]:
    """Arms of a task with a reply that was not parsed; those run end to end left out."""
    of: dict[str, list[Record]] = {}
    for answer in answers:
        if answer["task"] == task and answer["score"] is not None and not answer["arm"].endswith(LIVE):
            of.setdefault(answer["arm"], []).append(answer)
    result = []
    for arm, own in of.items():
        listed = [each for each in replies if each.task == task and arm in each.arms and each.golds]
        known = [each.judged for each in listed if each.judged is not None]
        read = sum(answer["score"] for answer in own) / len(own)
        if listed:
            gained = sum(each.score for each in known)
            result.append(JudgedArm(arm, len(own), len(listed), len(known), gained, read))
    return result


# --- the file ---------------------------------------------------------------------------------------------------------


def read(run: Path) -> dict[str, Judged]:
    """What judges have read in a run's replies, by the replies' keys. Raises BadInput."""
    path = run / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise BadInput(f"{path} is of version {data['version']}, this cuecard reads {VERSION}", "judge anew")
        return {key: Judged(**each) for key, each in data["replies"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read: {error}", "delete it, and judge anew") from error


def write(run: Path, judged: Mapping[str, Judged]) -> None:
    """Raises CannotStore."""
    replies: dict[str, Any] = {key: asdict(each) for key, each in judged.items()}
    disk.save(run / FILE, {"version": VERSION, "replies": replies})
