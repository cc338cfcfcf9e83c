"""Replies and reasonings in files of other tools, each matched with its question; what a file lacks is None."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from cuecard.answers import normalise
from cuecard.answers.reasoning_parser import parse
from cuecard.domain.call import Mode, Usage
from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind
from cuecard.evals.item import Item, Task
from cuecard.evals.scoring.scorers import option_meant
from cuecard.evals.study import folder
from cuecard.evals.tasks.rows import RowsTask, listed, reading

REASONING_ARM = "reason:large"
_STRICT = (AnswerKind.CHOICE, AnswerKind.YES_NO)
NOT_COUNTED = Usage()


@dataclass(frozen=True)
class LocatedItem:
    """A question without its images, and at which row of its data it stands, counted from 0."""

    item: Item
    at: int


LocatedItems = Mapping[str, LocatedItem]
"""By the item's id, in the order of the data."""


@dataclass(frozen=True)
class RecordedReply:
    """One call as a file has it."""

    item: str
    where: str
    """Its place in the file: `row 3`."""
    answer: str
    """The reply, less closed thinking."""
    reasoning: str | None = None
    unclosed: bool = False
    """Its thinking was never closed, so it was cut off."""
    error: str | None = None
    prompt: str | None = None
    usage: Usage = NOT_COUNTED


@dataclass(frozen=True)
class Source:
    """A file of one model's replies in one mode. `cut`: rows that are unusable because a cell was too small."""

    role: str
    mode: Mode
    path: Path
    sha256: str
    replies: Mapping[str, RecordedReply]
    cut: int = 0

    @property
    def name(self) -> str:
        return f"{self.role}-{self.mode}"


@dataclass
class ParsedFile:
    """A file as read: replies in the file's order, and how many rows were cut off."""

    replies: list[RecordedReply]
    cut: int = 0


FileReader = Callable[[Path, LocatedItems], ParsedFile]


def places(task: Task) -> dict[str, LocatedItem]:
    """Every question of a task by its id; rows that are none are counted too. Raises BadInput."""
    located: dict[str, LocatedItem] = {}
    for at, each in enumerate(task.read() if isinstance(task, RowsTask) else task.items()):
        if isinstance(each, Item):
            lean = replace(each, question=replace(each.question, images=()))
            located[each.id] = LocatedItem(lean, at)
        elif each.stops:
            raise BadInput(f"{task.name}, row {each.row}: {each.what}", each.hint)
    if not located:
        raise BadInput(f"{task.name} has no questions", "`cuecard tasks TASK --check` tells why")
    return located


def source(role: str, mode: Mode, path: Path, read: FileReader, known: LocatedItems) -> Source:
    """A file of predictions, read whole. Raises BadInput that names the file, the row and what to do."""
    with reading(path):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found, replies = read(path, known), dict[str, RecordedReply]()
    for reply in found.replies:
        if (other := replies.get(reply.item)) is not None:
            what = f"{path}, {reply.where}: question {reply.item[:80]!r} is answered in {other.where} too"
            raise BadInput(what, "keep one row for each question")
        replies[reply.item] = reply
    if not replies:
        raise BadInput(f"{path} holds no usable replies", "was the run finished?")
    return Source(role, mode, path, digest, replies, found.cut)


def parted(text: str) -> tuple[str, str | None, bool]:
    """(answer, the thinking before it, whether that was never closed) of a reply."""
    parsed = parse(text)
    return parsed.answer, parsed.reasoning if parsed.unclosed else parsed.reasoning or None, parsed.unclosed


class Agreement:
    """Whether a file's right answers are the task's: a file of other data is refused.

    A choice and yes or no are compared at once; other answers are written in many ways, so most of them must differ.
    """

    def __init__(self, path: Path, column: str) -> None:
        self._path, self._column = path, column
        self._compared, self._differ = 0, list[str]()

    def see(self, gold: str | None, item: Item, where: str) -> None:
        """Compare a right answer of the file. Raises BadInput."""
        same = None if gold is None else _same(gold, item)
        if same is None:
            return
        self._compared += 1
        if not same:
            self._differ.append(where)
            if item.question.kind in _STRICT:
                raise self._error(where, str(gold), item)

    def end(self) -> None:
        """Raises BadInput."""
        if 2 * len(self._differ) > self._compared:
            what = f"{self._path}: {len(self._differ)} of {self._compared} right answers are not the task's"
            raise BadInput(f"{what}, the first in {self._differ[0]}", "is this the task that the file is about?")

    def _error(self, where: str, gold: str, item: Item) -> BadInput:
        what = f"{gold[:40]!r} is right there, but {' or '.join(item.golds)[:40]!r} for question {item.id[:80]!r}"
        return BadInput(
            f"{self._path}, {where}, column `{self._column}`: {what}", "is this the task that the file is about?"
        )


def _same(gold: str, item: Item) -> bool | None:
    """None where the two cannot be compared."""
    kind, text = item.question.kind, gold.strip()
    if not item.golds or not text or text.lower() in ("nan", "none"):
        return None
    if kind is AnswerKind.CHOICE:
        meant = option_meant(text, item.question)
        return None if meant is None else meant in item.golds
    if kind is AnswerKind.YES_NO:
        return text.lower() in item.golds if text.lower() in ("yes", "no") else None
    golds = {normalise(gold) for gold in item.golds}
    return any(normalise(each) in golds for each in listed(text) or [text])


def counted(value: object) -> int | None:
    """A number of tokens in a file; None where it is no count."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value < 0:
        return None
    return int(value) if value < 2**53 else None


def asks(sources: Iterable[Source]) -> set[str]:
    """Every question that some file answers."""
    return {item for each in sources for item in each.replies}


# --- reasonings of a run or a JSONL file ------------------------------------------------------------------------------


def recorded_reasonings(path: Path, task: str) -> Mapping[str, str]:
    """Id -> reasoning. Raises BadInput where there is none, or a line is not what it should be."""
    reasonings = _of_run(path, task) if path.is_dir() else _of_file(path)
    if not reasonings:
        hint = f"a run of `cuecard eval` has them with the arm {REASONING_ARM}"
        raise BadInput(f"{path} has no reasonings of {task}", hint)
    return reasonings


def reasonings_digest(reasonings: Mapping[str, str]) -> str:
    """The identity of a set of reasonings, 16 hex digits."""
    return hashlib.sha256(json.dumps(reasonings, sort_keys=True).encode()).hexdigest()[:16]


def _of_run(path: Path, task: str) -> dict[str, str]:
    _, store = folder.opened(path)
    with closing(store):
        reasonings = {}
        for answer in store.answers(REASONING_ARM):
            keys = [call["key"] for call in answer["calls"] if call["mode"] == Mode.REASON and call["key"] is not None]
            calls = [call for key in keys if (call := store.call(key)) is not None]
            if answer["task"] == task and calls and calls[-1]["reasoning"]:
                reasonings[answer["id"]] = calls[-1]["reasoning"]
        return reasonings


def _of_file(path: Path) -> dict[str, str]:
    reasonings = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {error}", "give a JSONL file, or the directory of a run") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            id, reasoning = row["id"], row["reasoning"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"line {number} of {path} is not a reasoning: {type(error).__name__}: {error}",
                'write {"id": "…", "reasoning": "…"}',
            ) from error
        reasonings[str(id)] = str(reasoning)
    return reasonings
