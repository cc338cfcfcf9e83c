"""Shared by all exports: one arm's answers of a run, with the reasoning before them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuecard.disk import CannotStore
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Route
from cuecard.domain.suggestions import did_you_mean
from cuecard.evals.analysis.ledger import LOST
from cuecard.evals.arm import LIVE
from cuecard.evals.storage.database import Record, Store
from cuecard.evals.study import folder

_WRAPPED = re.compile(r"\A(?:Hint: (?P<hint>.*?)\n)?Question: (?P<question>.*)\nOptions:\Z", re.DOTALL)
_UNNAMED = re.compile(r"[^\w.+@-]+")


@dataclass(frozen=True)
class ExportedAnswer:
    """A question and the arm's answer. `thinking`: the reasoning before it; None: none, or lost."""

    item: Record
    answer: Record
    thinking: str | None


@dataclass(frozen=True)
class ArmExport:
    """One arm's answers to one task. `unanswered`: questions of the run to which the arm has no answer."""

    task: Record
    arm: str
    config: Record
    rows: Sequence[ExportedAnswer]
    unanswered: int

    @property
    def model(self) -> str:
        """The arm's name in other tools: a file name."""
        return f"cuecard-{named(self.arm)}"

    @property
    def drawn(self) -> bool:
        """Whether the questions were drawn by chance, so that their places are not the data's."""
        return self.config.get("sample") is not None


def of_run(run: Path, arm: str, task: str | None = None) -> list[ArmExport]:
    """One arm's answers, task by task. Raises BadInput with the nearest arm or task that there is."""
    about, store = folder.opened(run)
    config = about["config"]
    try:
        there = [*config["arms"], *(f"{name}{LIVE}" for name in config["arms"])]
        _known(arm, there, f"{run} has no arm")
        tasks = {each["name"]: each for each in config["tasks"]}
        if task is not None:
            _known(task, list(tasks), f"{run} has no task")
        found = [_of_task(each, arm, config, store) for name, each in tasks.items() if task in (None, name)]
    finally:
        store.close()
    if not any(each.rows for each in found):
        raise BadInput(f"{run} has no answers of {arm}", "let it run first")
    return [each for each in found if each.rows]


def _of_task(task: Record, arm: str, config: Record, store: Store) -> ArmExport:
    answers = {each["id"]: each for each in store.answers(arm) if each["task"] == task["name"]}
    items = list(store.items(task["name"]))
    rows = [ExportedAnswer(each, answers[each["id"]], _thought(answers[each["id"]], store)) for each in items
            if each["id"] in answers]  # fmt: skip
    return ArmExport(task, arm, config, rows, len(items) - len(rows))


def _thought(answer: Record, store: Store) -> str | None:
    """The reasoning that the answer came from: none where the short answers settled it."""
    if answer["route"] == Route.AGREED:
        return None
    keys = [
        call["key"] for call in answer["calls"] if call["mode"] == Mode.REASON and call["finish_reason"] not in LOST
    ]
    texts = [call["reasoning"] for key in keys if key and (call := store.call(key)) and call["reasoning"]]
    # a reply that reasons without marks is its own reasoning, and is not repeated
    return "\n\n".join(text for text in texts if text != answer.get("reply")) or None


def question_of(item: Record) -> tuple[str, str | None]:
    """(the question, its hint) of an item whose text may be put as VLMEvalKit puts it."""
    found = _WRAPPED.match(item["text"])
    return (found["question"], found["hint"]) if found else (item["text"], None)


def named(text: str) -> str:
    """A text as part of a file's name."""
    return _UNNAMED.sub("-", text).strip("-.") or "unnamed"


def dataset_of(task: Record) -> str:
    """The data set of a task, for a file's name: the stem of the file that it reads, else its name."""
    _, _, rest = str(task["name"]).partition(":")
    paths = [part.removeprefix("path=") for part in rest.split(",") if re.search(r"\.(tsv|jsonl|parquet|arrow)$", part)]
    return named(Path(paths[0]).stem if paths else str(task["name"]))


def into(folder_: Path) -> Path:
    """The directory, made where it is not there. Raises CannotStore."""
    try:
        folder_.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStore(f"cannot write into {folder_}: {error.strerror}", "give another --out") from error
    return folder_


def written(path: Path, data: str | bytes) -> Path:
    """Write a file. Raises CannotStore."""
    try:
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    except OSError as error:
        raise CannotStore(f"cannot write {path}: {error.strerror}") from error
    return path


def tokens(answer: Record, kind: str) -> int | None:
    """Over all calls; None where one was not counted."""
    counts: list[Any] = [call[f"{kind}_tokens"] for call in answer["calls"]]
    return None if None in counts or not counts else sum(counts)


def _known(name: str, there: Sequence[str], what: str) -> None:
    if name not in there:
        raise BadInput(f"{what} {name[:100]!r}", did_you_mean(name, there))
