"""Replies that another tool has recorded: types for the readers of each file format, and common checks."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cuecard.answers import normalise
from cuecard.answers.reasoning_parser import parse
from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind
from cuecard.evals.interop.exports import question_of
from cuecard.evals.item import Item, Task
from cuecard.evals.scorers import option_meant
from cuecard.evals.tasks.rows import RowsTask, listed, reading

MOST_PROMPT_CHARS = 20_000
NOT_COUNTED = Usage()
OTHER_DATA = "is this the task that the file is about?"
_STRICT = (AnswerKind.CHOICE, AnswerKind.YES_NO)


@dataclass(frozen=True)
class LocatedItem:
    """A question without its images. `at`: its row in the data, from 0."""

    item: Item
    at: int


LocatedItems = Mapping[str, LocatedItem]
"""Items by id, in the order of the data."""


@dataclass(frozen=True)
class RecordedReply:
    """One call as recorded in a file."""

    item: str
    where: str
    """Place in the file: `row 3`."""
    answer: str
    """The reply, without closed reasoning."""
    reasoning: str | None = None
    unclosed: bool = False
    """The reasoning is not closed, so the reply was cut off."""
    finish_reason: FinishReason | None = None
    """None if the file does not have it."""
    error: str | None = None
    prompt: str | None = None
    usage: Usage = NOT_COUNTED
    gold: str | None = None
    """The right answer in the file."""
    gold_column: str = "answer"
    same_question: bool | None = None
    """Whether the texts beside the reply contain the task's question; None if they were not compared."""
    unused: str | None = None
    """The reason why the reply cannot be used: `the sample was invalidated`."""


FileReader = Callable[[Path, LocatedItems], Iterator[RecordedReply]]
"""Returns the replies of a file, in order. Raises BadInput."""


@dataclass(frozen=True)
class FileFormat:
    """A file format of another tool. `model`: (file, task's name) -> the model's name in that tool."""

    about: str
    read: FileReader
    model: Callable[[Path, str], str]


@dataclass(frozen=True)
class Source:
    """A file of one model's replies in one mode. `unused`: the number of replies that cannot be used, by reason."""

    role: str
    mode: Mode
    path: Path
    sha256: str
    replies: Mapping[str, RecordedReply]
    unused: Mapping[str, int]


def places(task: Task) -> dict[str, LocatedItem]:
    """All questions of a task by id; rows that are not questions count in `at`. Raises BadInput."""
    located: dict[str, LocatedItem] = {}
    for at, each in enumerate(task.read() if isinstance(task, RowsTask) else task.items()):
        if isinstance(each, Item):
            lean = replace(each, question=replace(each.question, images=()))
            located[each.id] = LocatedItem(lean, at)
        elif each.stops:
            raise BadInput(f"{task.name}, row {each.row}: {each.what}", each.hint)
    if not located:
        raise BadInput(f"{task.name} has no questions", "`cuecard tasks TASK --check` shows why")
    return located


def source(role: str, mode: Mode, path: Path, read: FileReader, known: LocatedItems) -> Source:
    """Read and check a file of predictions. Raises BadInput with the file, the row and a hint."""
    with reading(path):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    replies, unused = dict[str, RecordedReply](), Counter[str]()
    golds, questions = list[tuple[str, bool | None]](), list[tuple[str, bool | None]]()
    for reply in read(path, known):
        golds.append((reply.where, _same_gold(path, reply, known[reply.item].item)))
        questions.append((reply.where, reply.same_question))
        if reply.unused is not None:
            unused[reply.unused] += 1
            continue
        if (other := replies.get(reply.item)) is not None:
            what = f"{path}, {reply.where}: question {reply.item[:80]!r} is answered in {other.where} too"
            raise BadInput(what, "keep one row for each question")
        replies[reply.item] = reply
    _check_most(path, "questions", questions)
    _check_most(path, "right answers", golds)
    if not replies:
        raise BadInput(f"{path} holds no usable replies", "was the run finished?")
    return Source(role, mode, path, digest, replies, unused)


def _check_most(path: Path, what: str, compared: list[tuple[str, bool | None]]) -> None:
    """Raises BadInput if most texts differ from the task's: words can be written in many ways, so a few may."""
    known = [(where, same) for where, same in compared if same is not None]
    differing = [where for where, same in known if not same]
    if 2 * len(differing) > len(known):
        text = f"{path}: {len(differing)} of {len(known)} {what} are not the task's, the first in {differing[0]}"
        raise BadInput(text, OTHER_DATA)


# --- helpers of readers -----------------------------------------------------------------------------------------------


def parted(text: str, apart: str = "") -> tuple[str, str | None, bool]:
    """(answer, reasoning, whether the reasoning is unclosed) of a reply; `apart`: reasoning from a separate column."""
    parsed = parse(text)
    thinking = "\n".join(part for part in (apart, parsed.reasoning) if part)
    return parsed.answer, thinking if parsed.unclosed else thinking or None, parsed.unclosed


def one_line(text: str) -> str:
    """The message of a failed call in one line, at most 300 characters."""
    return " ".join(text.split())[:300] or "it failed without a message"


def kept_prompt(prompt: object) -> str | None:
    """The prompt, if it is a text of at most `MOST_PROMPT_CHARS`; else None."""
    return prompt if isinstance(prompt, str) and 0 < len(prompt) <= MOST_PROMPT_CHARS else None


def check_question(place: str, text: str, item: Item) -> None:
    """Check that a text is the item's question: one contains the other, because there may be hints and options around.

    `place`: file, row and column. Raises BadInput.
    """
    there, here, bare = map(_plain, (text, item.question.text, question_of(item.question.text)[0]))
    if there and there not in here and bare not in there:
        what = f"{place}: {there[:60]!r} is not what question {item.id[:80]!r} asks"
        raise BadInput(what, OTHER_DATA)


def has_question(beside: Any, item: Item) -> bool | None:
    """Whether texts beside a reply (a prompt, a row, nested as in JSON) contain the item's question.

    The words are compared without case, punctuation and placeholders of images. None if there is no text.
    """
    there = _words(" ".join(_texts(beside)))
    asked = item.question.text
    forms = (asked, question_of(asked)[0], asked.strip().rpartition("\n")[2])
    return any(_words(form) in there for form in forms) if there else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):  # the messages of a chat, as JSON
            value = json.loads(value) if value.startswith("[{") else value
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


_IMAGE = re.compile(r"<image[^<>]{0,8}>")


def _words(text: str) -> str:
    return "".join(re.findall(r"\w", _IMAGE.sub("", text).lower()))


def _plain(text: str) -> str:
    return " ".join(text.replace("_x000D_", " ").split())


def counted(value: object) -> int | None:
    """A token count from a file; None if it is not a valid count."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value < 0:
        return None
    return int(value) if value < 2**53 else None


def usage_of(place: str, prompt: object, cached: object, completion: object, reasoning: object) -> Usage:
    """The tokens of a call. `place`: file, row and column. Raises BadInput if reasoning exceeds generated tokens."""
    usage = Usage(counted(prompt), counted(cached), counted(completion), counted(reasoning))
    generated, thought = usage.completion_tokens, usage.reasoning_tokens
    if generated is not None and thought is not None and thought > generated:
        what = f"{place}: {thought} tokens are reasoning of {generated} that were generated"
        raise BadInput(what, "take `reasoning_tokens` out of the file: what is not known may be left out")
    return usage


# --- right answers ----------------------------------------------------------------------------------------------------


def _same_gold(path: Path, reply: RecordedReply, item: Item) -> bool | None:
    """Whether the right answer in a file is the task's; None if the two cannot be compared.

    Raises BadInput for a different choice or a different yes or no: the file is about other data.
    """
    same = None if reply.gold is None else _same(reply.gold, item)
    if same is False and item.question.kind in _STRICT:
        gold, ours = str(reply.gold)[:40], " or ".join(item.golds)[:40]
        what = f"{gold!r} is right there, but {ours!r} for question {item.id[:80]!r}"
        where = f"{path}, {reply.where}, column `{reply.gold_column}`"
        raise BadInput(f"{where}: {what}", OTHER_DATA)
    return same


def _same(gold: str, item: Item) -> bool | None:
    """Whether a gold is among the item's golds; None if they cannot be compared."""
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
