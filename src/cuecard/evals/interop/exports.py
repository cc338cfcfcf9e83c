"""Shared by all exports: one arm's answers of a run, with the reasoning before them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuecard import disk
from cuecard.disk import CannotStore
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput, did_you_mean
from cuecard.domain.outcome import Route
from cuecard.evals import run_folder
from cuecard.evals.analysis.ledger import LOST
from cuecard.evals.arm import LIVE
from cuecard.evals.database import Record, Store
from cuecard.evals.tasks.rows import json_lines

REASONING_ARM = "reason:large"
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
    about, store = run_folder.opened(run)
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


def question_of(text: str) -> tuple[str, str | None]:
    """(the question, its hint) of a text that may be put as VLMEvalKit puts it."""
    found = _WRAPPED.match(text)
    return (found["question"], found["hint"]) if found else (text, None)


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
    """Write a file, whole or not at all. Raises CannotStore."""
    with disk.replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
    return path


def tokens(answer: Record, kind: str) -> int | None:
    """Over all calls; None where one was not counted."""
    counts: list[Any] = [call[f"{kind}_tokens"] for call in answer["calls"]]
    return None if None in counts or not counts else sum(counts)


def _known(name: str, there: Sequence[str], what: str) -> None:
    if name not in there:
        raise BadInput(f"{what} {name[:100]!r}", did_you_mean(name, there))


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
    _, store = run_folder.opened(path)
    with closing(store):
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
