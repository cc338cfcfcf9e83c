"""Shared by all exports: the answers of one arm of a run, with their reasoning."""

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
    """A question and the arm's answer. `thinking`: the reasoning before the answer; None if there is none or lost."""

    item: Record
    answer: Record
    thinking: str | None


@dataclass(frozen=True)
class ArmExport:
    """One arm's answers to one task. `unanswered`: number of the run's questions without an answer of the arm."""

    task: Record
    arm: str
    config: Record
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
