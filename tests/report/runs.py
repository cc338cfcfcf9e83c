"""Runs to report on: a scripted pair with known right and wrong answers, in a run's directory."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as Pictures

from cuecard import disk
from cuecard.domain.call import Mode
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.evals import run_folder
from cuecard.evals.database import checksum
from cuecard.evals.item import Aggregate, Item
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel

sys.path.append(str(Path(__file__).parents[1] / "evals"))
from laboratory import Laboratory

ARMS = (
    "short:small",
    "short:large",
    "reason:small",
    "reason:large",
    "transfer",
    "mutual",
    "transfer/placebo=empty",
)
HOSTILE = '<script>alert("q")</script> & =1+1'
RIGHT, WRONG = "A", "B"


def picture(number: int) -> Image:
    buffer = io.BytesIO()
    Pictures.new("RGB", (640, 400), (number * 20 % 256, 80, 120)).save(buffer, "PNG")
    return Image(buffer.getvalue())


@dataclass(frozen=True)
class Pictured:
    """Questions about one picture each, with the right answer A. With `rotations`, every two are one question."""

    count: int = 12
    name: str = "pictured"
    revision: str = "1"
    aggregate: Aggregate = "mean"
    rotations: bool = False

    def items(self) -> Iterator[Item]:
        for number in range(self.count):
            image = picture(number)
            text = f"Question {number}: which one? {HOSTILE}"
            asked = Question(text, (image,), ("red", "blue", "<b>green</b>"), AnswerKind.CHOICE)
            group = str(number // 2) if self.rotations else None
            yield Item(str(number), asked, (RIGHT,), "exact", group or image.digest, group)


def model(name: str, wrong: dict[Mode, Sequence[int]], token_s: float, reply: str = "{}") -> ScriptedModel:
    """Wrong on the questions `wrong` by mode, right on all others; `reply` is the format string of an answer."""

    def says(prompt: Prompt) -> Says:
        number = int(re.search(r"Question (\d+)", prompt.turns[-1].text)[1])  # type: ignore[index]
        answer = WRONG if number in wrong.get(prompt.mode, ()) else RIGHT
        reasoning = f"I look at it. So the answer is {answer}. <i>card</i>" if prompt.mode is Mode.REASON else ""
        return Says(reply.format(answer), reasoning, 0.0, token_s, confidence_logprob=-0.1)

    return ScriptedModel(name, says)


def rewritten(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the stored answers of a run, and update their checksums."""
    with closing(sqlite3.connect(run / "run.sqlite")) as rows, rows:
        for task, id, arm, text in rows.execute("SELECT task, id, arm, record FROM answers").fetchall():
            record = json.loads(text)
            change(record)
            fresh = json.dumps(record)
            update = "UPDATE answers SET record = ?, checksum = ? WHERE task = ? AND id = ? AND arm = ?"
            rows.execute(update, (fresh, checksum(fresh, task, id, arm), task, id, arm))


def run_directory(path: Path, task: Any = None, arms: Sequence[str] = ARMS, **changes: Any) -> Path:
    """The directory of a finished run. Wrong: short (small on 2 to 6, large on 0 to 3); reasoning on 7; read on 8."""
    small = changes.pop("small", None) or model("tiny", {Mode.SHORT: range(2, 7), Mode.REASON: [7]}, 0.0003)
    large = changes.pop("large", None) or model("huge", {Mode.SHORT: range(4), Mode.REASON: [7], Mode.READ: [8]}, 0.001)
    laboratory = Laboratory(path, task or Pictured(), arms, small, large, **changes)
    laboratory.run()
    machine = {"processor": "a <b>test</b>"}
    facts = {
        "version": run_folder.VERSION,
        "config": laboratory.config,
        "argv": ["eval", "pictured"],
        "machine": machine,
    }
    disk.save(path / "run.json", facts)
    return path
