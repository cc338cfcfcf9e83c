"""Replies that another tool has written down, each matched with its question; what a file does not tell is None."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cuecard.answers import normalise
from cuecard.answers.reasoning_parser import parse
from cuecard.domain.call import Mode, Usage
from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind
from cuecard.evals.item import Item, Task
from cuecard.evals.scoring.scorers import option_meant
from cuecard.evals.tasks.rows import RowsTask, listed

_STRICT = (AnswerKind.CHOICE, AnswerKind.YES_NO)


NOT_COUNTED = Usage()


@dataclass(frozen=True)
class Place:
    """A question without its images, and at which row of its data it stands, counted from 0."""

    item: Item
    at: int


Places = Mapping[str, Place]
"""By the item's id, in the order of the data."""


@dataclass(frozen=True)
class Reply:
    """What a file tells of one call."""

    item: str
    where: str
    """Its place in the file: `row 3`."""
    answer: str
    """What was said, less thinking that was closed."""
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
    replies: Mapping[str, Reply]
    cut: int = 0

    @property
    def name(self) -> str:
        return f"{self.role}-{self.mode}"


@dataclass
class Read:
    """What a reader of a format gives: replies in the file's order, and how many rows were cut off."""

    replies: list[Reply]
    cut: int = 0


Reader = Callable[[Path, Places], Read]


def places(task: Task) -> dict[str, Place]:
    """Every question of a task by its id; rows that are none are counted too. Raises BadInput."""
    found: dict[str, Place] = {}
    for at, each in enumerate(task.read() if isinstance(task, RowsTask) else task.items()):
        if isinstance(each, Item):
            lean = replace(each, question=replace(each.question, images=()))
            found[each.id] = Place(lean, at)
        elif each.stops:
            raise BadInput(f"{task.name}, row {each.row}: {each.what}", each.hint)
    if not found:
        raise BadInput(f"{task.name} has no questions", "`cuecard tasks TASK --check` tells why")
    return found


def source(role: str, mode: Mode, path: Path, read: Reader, known: Places) -> Source:
    """A file of predictions, read whole. Raises BadInput that names the file, the row and what to do."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "is the path right?") from error
    found, replies = read(path, known), dict[str, Reply]()
    for reply in found.replies:
        if (other := replies.get(reply.item)) is not None:
            what = f"{path}, {reply.where}: question {reply.item[:80]!r} is answered in {other.where} too"
            raise BadInput(what, "keep one row for each question")
        replies[reply.item] = reply
    if not replies:
        raise BadInput(f"{path} holds no usable replies", "was the run finished?")
    return Source(role, mode, path, digest, replies, found.cut)


def parted(text: str) -> tuple[str, str | None, bool]:
    """(what is said, the thinking before it, whether that was never closed) of a reply."""
    parsed = parse(text)
    return parsed.answer, parsed.reasoning if parsed.unclosed else parsed.reasoning or None, parsed.unclosed


class Agreement:
    """Whether a file's right answers are the task's: a file of other data is found before it is believed.

    A choice and yes or no are compared at once; other answers are written in many ways, so most of them must differ.
    """

    def __init__(self, path: Path, column: str) -> None:
        self._path, self._column = path, column
        self._compared, self._differ = 0, list[str]()

    def see(self, told: str | None, item: Item, where: str) -> None:
        """Compare a right answer as the file tells it. Raises BadInput."""
        same = None if told is None else _same(told, item)
        if same is None:
            return
        self._compared += 1
        if not same:
            self._differ.append(where)
            if item.question.kind in _STRICT:
                raise self._error(where, str(told), item)

    def end(self) -> None:
        """Raises BadInput."""
        if 2 * len(self._differ) > self._compared:
            what = f"{self._path}: {len(self._differ)} of {self._compared} right answers are not the task's"
            raise BadInput(f"{what}, the first in {self._differ[0]}", "is this the task that the file is about?")

    def _error(self, where: str, told: str, item: Item) -> BadInput:
        what = f"{told[:40]!r} is right there, but {' or '.join(item.golds)[:40]!r} for question {item.id[:80]!r}"
        return BadInput(
            f"{self._path}, {where}, column `{self._column}`: {what}", "is this the task that the file is about?"
        )


def _same(told: str, item: Item) -> bool | None:
    """None where the two cannot be compared."""
    kind, said = item.question.kind, told.strip()
    if not item.golds or not said or said.lower() in ("nan", "none"):
        return None
    if kind is AnswerKind.CHOICE:
        meant = option_meant(said, item.question)
        return None if meant is None else meant in item.golds
    if kind is AnswerKind.YES_NO:
        return said.lower() in item.golds if said.lower() in ("yes", "no") else None
    golds = {normalise(gold) for gold in item.golds}
    return any(normalise(each) in golds for each in listed(said) or [said])


def counted(value: object) -> int | None:
    """A number of tokens as a file tells it; None where it is no count."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value < 0:
        return None
    return int(value) if value < 2**53 else None


def asks(sources: Iterable[Source]) -> set[str]:
    """Every question that some file answers."""
    return {item for each in sources for item in each.replies}
