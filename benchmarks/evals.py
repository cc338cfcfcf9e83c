"""The overhead of an evaluation over its calls, and how busy its slots are.

Every call of a mock pair takes a fixed time (short and read 0.1 s, reasoning 0.4 s) and no CPU, so the least time of a
run is the calls' total time divided by the number of slots. Figures: the share of the slots' time that calls take, how
much longer the run takes than its least time, and CPU time. Measured with eight slots and many questions, and with one
slot, which finishes a question before it starts the next (as with a model in this process, timed undisturbed).
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import save
from cuecard.domain.call import Mode
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.evals.arm import parse_all
from cuecard.evals.database import Store
from cuecard.evals.item import Aggregate, Item
from cuecard.evals.requests import Seat
from cuecard.evals.runner import Plan, run
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel

ARMS = ("short:small", "short:large", "reason:small", "reason:large", "transfer", "mutual")
SHORT_S, REASON_S, WORDS = 0.1, 0.4, 40
RUNS = 3


@dataclass(frozen=True)
class Numbered:
    """Questions that differ in number and image."""

    count: int
    name: str = "numbered"
    revision: str = "1"
    aggregate: Aggregate = "mean"

    def items(self) -> Iterator[Item]:
        for number in range(self.count):
            image = Image(f"picture {number}".encode() * 1000)
            asked = Question(f"Question {number}: which one?", (image,), ("red", "blue", "green"), AnswerKind.CHOICE)
            yield Item(str(number), asked, ("A",), "exact", image.digest)


def model(name: str, short: str) -> ScriptedModel:
    def says(prompt: Prompt) -> Says:
        if prompt.mode is Mode.REASON:
            return Says("A", "so " * WORDS, REASON_S / 2, REASON_S / 2 / (WORDS + 2), confidence_logprob=-0.1)
        return Says(short if prompt.mode is Mode.SHORT else "A", "", SHORT_S, confidence_logprob=-0.1)

    return ScriptedModel(name, says)


async def one(slots: int, questions: int) -> dict[str, float]:
    models = {"small": model("small", "B"), "large": model("large", "C")}
    seats = {role: Seat(role, each.name, "1", each.abilities) for role, each in models.items()}
    plan = Plan([Numbered(questions)], parse_all(ARMS), seats, at_once=slots)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        store = Store(Path(folder) / "run.sqlite")
        began, processor = time.perf_counter(), time.process_time()
        done = await run(plan, models, store, lambda progress, records: None)
        took_s, processor_s = time.perf_counter() - began, time.process_time() - processor
        calls_s = sum(record["end_s"] for _, record in store.calls())
        store.close()
    assert done.busy_share is not None
    return {
        "busy_share": done.busy_share,
        "over_the_calls": took_s * slots / calls_s - 1,
        "processor_ms_a_question": 1000 * processor_s / questions,
        "calls": done.calls,
        "seconds": took_s,
    }


def measure() -> dict[str, Any]:
    figures: dict[str, Any] = {"arms": list(ARMS), "short_s": SHORT_S, "reason_s": REASON_S, "runs": RUNS}
    for slots, questions in ((8, 200), (1, 20)):
        runs = [asyncio.run(one(slots, questions)) for _ in range(RUNS)]
        medians = {name: statistics.median(each[name] for each in runs) for name in runs[0]}
        worst = {"busy_share_worst": min(each["busy_share"] for each in runs)}
        figures[f"{slots} slots"] = {"questions": questions, **medians, **worst}
        print(slots, figures[f"{slots} slots"], flush=True)
    return figures


if __name__ == "__main__":
    print(save("evals", measure()))
