"""Reasonings that a model wrote before, by the id of the question: of a JSONL file, or of a run's stored calls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput
from cuecard.evals.study import folder

ARM = "reason:large"


def read(path: Path, task: str) -> Mapping[str, str]:
    """Id -> reasoning. Raises BadInput where there is none, or a line is not what it should be."""
    found = _of_run(path, task) if path.is_dir() else _of_file(path)
    if not found:
        raise BadInput(f"{path} has no reasonings of {task}", f"a run of `cuecard eval` has them with the arm {ARM}")
    return found


def digest(reasonings: Mapping[str, str]) -> str:
    """What tells one set of reasonings from another, 16 hex digits."""
    return hashlib.sha256(json.dumps(reasonings, sort_keys=True).encode()).hexdigest()[:16]


def _of_run(path: Path, task: str) -> dict[str, str]:
    _, store = folder.opened(path)
    with closing(store):
        found = {}
        for answer in store.answers(ARM):
            keys = [call["key"] for call in answer["calls"] if call["mode"] == Mode.REASON and call["key"] is not None]
            calls = [call for key in keys if (call := store.call(key)) is not None]
            if answer["task"] == task and calls and calls[-1]["reasoning"]:
                found[answer["id"]] = calls[-1]["reasoning"]
        return found


def _of_file(path: Path) -> dict[str, str]:
    found = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {error}", "give a JSONL file, or the directory of a run") from error
    for number, line in enumerate(lines, start=1):
        try:
            told = json.loads(line)
            id, reasoning = told["id"], told["reasoning"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"line {number} of {path} is not a reasoning: {type(error).__name__}: {error}",
                'write {"id": "…", "reasoning": "…"}',
            ) from error
        found[str(id)] = str(reasoning)
    return found
