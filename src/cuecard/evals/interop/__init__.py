"""Common to the files of all tools: the answers of one arm to export, and the replies that another tool recorded."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cuecard import disk
from cuecard.answers import normalise
from cuecard.answers.reasoning_parser import parse
from cuecard.disk import CannotStore
from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.errors import BadInput, did_you_mean
from cuecard.domain.outcome import Route
from cuecard.domain.question import AnswerKind
from cuecard.evals import run_folder
from cuecard.evals.analysis.ledger import LOST
from cuecard.evals.arm import LIVE
from cuecard.evals.database import Record, Store
from cuecard.evals.item import Item, Task
from cuecard.evals.scorers import option_meant
from cuecard.evals.tasks.rows import RowsTask, index_of, json_lines, listed, reading

REASONING_ARM = "reason:large"
_WRAPPED = re.compile(r"\A(?:Hint: (?P<hint>.*?)\n)?Question: (?P<question>.*)\nOptions:\Z", re.DOTALL)
_UNNAMED = re.compile(r"[^\w.+@-]+")


@dataclass(frozen=True)
class ExportedAnswer:
    """A question and the arm's answer. `thinking`: the reasoning before the answer; None if there is none or lost."""

    item: Record
    answer: Record
    thinking: str | None


@dataclass(frozen=True)
class ArmExport:
    """One arm's answers to one task. `unanswered`: number of the run's questions without an answer of the arm."""

    task: Record
    arm: str
    config: Mapping[str, Any]
    rows: Sequence[ExportedAnswer]
    unanswered: int

    @property
    def model(self) -> str:
        """The arm's model name in other tools; usable as a file name."""
        return f"cuecard-{named(self.arm)}"

    @property
    def drawn(self) -> bool:
        """Whether the questions are a random sample, so that their indices are not those of the data set."""
        return self.config.get("sample") is not None


def of_run(run: Path, arm: str, task: str | None = None) -> list[ArmExport]:
    """One arm's answers by task. Raises BadInput with the nearest known arm or task."""
    with run_folder.opened_run(run) as (config, store):
        there = [*config["arms"], *(f"{name}{LIVE}" for name in config["arms"])]
        _known(arm, there, f"{run} has no arm")
        tasks = {each["name"]: each for each in config["tasks"]}
        if task is not None:
            _known(task, list(tasks), f"{run} has no task")
        found = [_of_task(each, arm, config, store) for name, each in tasks.items() if task in (None, name)]
    if not any(each.rows for each in found):
        raise BadInput(f"{run} has no answers of {arm}", "let it run first")
    return [each for each in found if each.rows]


def _of_task(task: Record, arm: str, config: Mapping[str, Any], store: Store) -> ArmExport:
    answers = {each["id"]: each for each in store.answers(arm) if each["task"] == task["name"]}
    items = list(store.items(task["name"]))
    rows = [ExportedAnswer(each, answers[each["id"]], _thought(answers[each["id"]], store)) for each in items
            if each["id"] in answers]  # fmt: skip
    return ArmExport(task, arm, config, rows, len(items) - len(rows))


def _thought(answer: Record, store: Store) -> str | None:
    """The reasoning that the answer is based on; None if the short answers settled it."""
    if answer["route"] == Route.AGREED:
        return None
    keys = [
        call["key"] for call in answer["calls"] if call["mode"] == Mode.REASON and call["finish_reason"] not in LOST
    ]
    texts = [call["reasoning"] for key in keys if key and (call := store.call(key)) and call["reasoning"]]
    # a reply with reasoning outside of tags is its own reasoning, and is not repeated
    return "\n\n".join(text for text in texts if text != answer.get("reply")) or None


def question_of(text: str) -> tuple[str, str | None]:
    """(question, hint) of a question's text, which may be worded as in VLMEvalKit."""
    found = _WRAPPED.match(text)
    return (found["question"], found["hint"]) if found else (text, None)


def named(text: str) -> str:
    """The text with characters replaced that are unsuitable in a file name."""
    return _UNNAMED.sub("-", text).strip("-.") or "unnamed"


def dataset_of(task: Record) -> str:
    """The data set of a task, as part of a file name: the stem of the task's file, else the task's name."""
    _, _, rest = str(task["name"]).partition(":")
    paths = [part.removeprefix("path=") for part in rest.split(",") if re.search(r"\.(tsv|jsonl|parquet|arrow)$", part)]
    return named(Path(paths[0]).stem if paths else str(task["name"]))


def into(folder_: Path) -> Path:
    """The directory, created if missing. Raises CannotStore."""
    try:
        folder_.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStore(f"cannot write into {folder_}: {error.strerror}", "give another --out") from error
    return folder_


def written(path: Path, data: str | bytes) -> Path:
    """Write a file atomically. Raises CannotStore."""
    with disk.replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
    return path


def tokens(answer: Record, kind: str) -> int | None:
    """Sum of tokens of a kind (`prompt`, …) over all calls; None if one was not counted, or there are no calls."""
    counts: list[Any] = [call[f"{kind}_tokens"] for call in answer["calls"]]
    return None if None in counts or not counts else sum(counts)


def _known(name: str, there: Sequence[str], what: str) -> None:
    if name not in there:
        raise BadInput(f"{what} {name[:100]!r}", did_you_mean(name, there))


# --- reasonings of a run or a JSONL file ------------------------------------------------------------------------------


def recorded_reasonings(path: Path, task: str) -> Mapping[str, str]:
    """Item id -> reasoning, from a run's folder or a JSONL file. Raises BadInput if there is none, or a bad line."""
    reasonings = _of_run(path, task) if path.is_dir() else _of_file(path)
    if not reasonings:
        hint = f"a run of `cuecard eval` has them with the arm {REASONING_ARM}"
        raise BadInput(f"{path} has no reasonings of {task}", hint)
    return reasonings


def reasonings_digest(reasonings: Mapping[str, str]) -> str:
    """Hash of a set of reasonings, 16 hex digits."""
    return hashlib.sha256(json.dumps(reasonings, sort_keys=True).encode()).hexdigest()[:16]


def _of_run(path: Path, task: str) -> dict[str, str]:
    with run_folder.opened_run(path) as (_, store):
        reasonings = {}
        for answer in store.answers(REASONING_ARM):
            keys = [call["key"] for call in answer["calls"] if call["mode"] == Mode.REASON and call["key"] is not None]
            calls = [call for key in keys if (call := store.call(key)) is not None]
            if answer["task"] == task and calls and calls[-1]["reasoning"]:
                reasonings[answer["id"]] = calls[-1]["reasoning"]
        return reasonings


def _of_file(path: Path) -> dict[str, str]:
    reasonings, hint = {}, 'write {"id": "…", "reasoning": "…"}'
    for number, row in json_lines(path, hint):
        if missing := {"id", "reasoning"} - row.keys():
            raise BadInput(f"{path}, line {number} has no {min(missing)}", hint)
        reasonings[str(row["id"])] = str(row["reasoning"])
    return reasonings


# --- replies that another tool recorded: types for the readers of each file format, and common checks -----------------

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
    return parsed.answer, thinking if parsed.inside else thinking or None, parsed.inside


def one_line(text: str) -> str:
    """The message of a failed call in one line, at most 300 characters."""
    return " ".join(text.split())[:300] or "it failed without a message"


def kept_prompt(prompt: object) -> str | None:
    """The prompt, if it is a text of at most `MOST_PROMPT_CHARS`; else None."""
    return prompt if isinstance(prompt, str) and 0 < len(prompt) <= MOST_PROMPT_CHARS else None


def item_at(place: str, id: str, known: LocatedItems, hint: str) -> Item:
    """The task's question with this id, given as in the file. `place`: file, row and column. Raises BadInput."""
    name = index_of(id)
    if name not in known:
        first = ", ".join(list(known)[:3])
        raise BadInput(f"{place}: the task has no question {name[:80]!r} (its first: {first})", hint)
    return known[name].item


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
