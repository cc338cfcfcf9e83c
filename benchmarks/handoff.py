"""Hand-off time by reasoning length and image size, with streamed prefill and without.

The hand-off is the time from the small model's last reasoning token to the large model's first answer token. With
streamed prefill, the large model computes the image and most of the card while the card is written, so the hand-off
must not grow with the card or the image. The same run measures its floor: one call that computes the last piece of the
same card, the instruction after it and one token, with everything before them cached.

The writer is scripted, so that each card has the wanted length; it writes at the embedded small model's pace. The
reader is the embedded large model; it computes the card in pieces of a fixed size. The length varies by up to 12 tokens
between repeats, so that what is left of the last piece does not depend on the length. The arms alternate in one run;
figures are medians with quartiles.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from common import save
from cuecard.demo import boards
from cuecard.domain.question import AnswerKind, Question
from cuecard.models import prompt as layouts
from cuecard.models import spec
from cuecard.models.base import Finished, Limits, Model, Progress
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.policy import Policy, Schedule
from cuecard.strategies.run import answer

PACE_S = 0.002
LENGTHS, SIDES = (32, 64, 128, 256, 512), (64, 128, 256, 384, 512)
LONG_ENOUGH = 256
"""Reasoning tokens of the cards for images of other sizes: an image of 256 visual tokens is computed in less time."""
REPEATS, SPREAD = 25, 12
ARMS = {"streamed": Schedule.OVERLAP, "whole": Schedule.THRIFTY}
FLOOR = "last piece alone"


def card(tokens: int) -> str:
    """Sentences in the embedded pair's wording, cut to `tokens` words."""
    rng, text = Random(0), []
    while len(text) < tokens:
        cell, digit = rng.randint(1, 16), rng.randint(0, 9)
        text += f"Cell {cell} shows a red {digit} , so move forward {digit} to cell {rng.randint(1, 16)} .".split(" ")
    return " ".join(text[:tokens])


def reader(folder: Path, side: int) -> Model:
    """The embedded large model with images resized to the area of `side` x `side` pixels instead of 128 x 128."""
    shutil.copytree(spec.Embedded("demo-large").folder, folder, dirs_exist_ok=True)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings["size"] = {"shortest_edge": side * side, "longest_edge": side * side}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return spec.load(str(folder))


async def handoffs(large: Any, tokens: int, side: int) -> dict[str, list[float]]:
    """Arm -> seconds of each repeat."""
    rng = Random(f"{tokens} {side}")
    taken: dict[str, list[float]] = {arm: [] for arm in (*ARMS, FLOOR)}
    for repeat in range(REPEATS + 1):
        picture = np.asarray(boards.draw(boards.make_board(rng, "validation")))
        image = boards.png(np.kron(picture, np.ones((4, 4, 1), np.uint8)))
        written = card(tokens + rng.randint(-SPREAD, SPREAD))
        writer = ScriptedModel("writer", lambda prompt, written=written: Says("3", written, token_s=PACE_S))
        question = Question("Which digit is in cell 5?", (image,), kind=AnswerKind.NUMBER)
        for arm in list(ARMS) if repeat % 2 else list(ARMS)[::-1]:
            large.forget()
            models = {"small": writer, "large": large}
            outcome = await answer(question, models, "transfer", Policy(schedule=ARMS[arm]))
            assert outcome.handoff_s is not None
            assert outcome.calls[-1].usage.prompt_tokens > tokens - SPREAD + (side // 32) ** 2
            if repeat:  # the first is warm-up
                taken[arm].append(outcome.handoff_s)
        alone = await last_piece(large, question, written)
        if repeat:
            taken[FLOOR].append(alone)
    return taken


async def last_piece(large: Any, question: Question, written: str) -> float:
    """Seconds to the first token of the answer when only the last piece of the card is left to compute."""
    style, every = large.abilities.style, Policy().follow_chars
    form = layouts.suited(question, large.abilities.card_formats, style)
    large.forget()
    await large.warm(layouts.growing(question, written[: len(written) // every * every], form, style))
    begun = time.perf_counter()
    async with aclosing(large.stream(layouts.read(question, written, form, style), Limits())) as events:
        async for event in events:
            if isinstance(event, Progress | Finished) and event.usage.completion_tokens:
                return time.perf_counter() - begun
    raise AssertionError("the reader says nothing")


async def measure() -> list[dict[str, Any]]:
    rows = []
    for tokens, side in [*((n, 128) for n in LENGTHS), *((LONG_ENOUGH, s) for s in SIDES if s != 128)]:
        with tempfile.TemporaryDirectory() as folder:
            large = reader(Path(folder), side)
            found = await handoffs(large, tokens, side)
            await large.aclose()
        for arm, seconds in found.items():
            low, middle, high = statistics.quantiles(seconds, n=4)
            visual = (side // 32) ** 2
            rows.append(
                {"reasoning_tokens": tokens, "visual_tokens": visual, "arm": arm, "n": len(seconds)}
                | {"median_s": middle, "quartiles_s": [low, high]}
            )
            print(f"{tokens:4d} tokens, {visual:3d} visual, {arm:8s}: {middle * 1000:6.1f} ms", flush=True)
    return rows


def main() -> None:
    rows = asyncio.run(measure())

    def median(arm: str, tokens: int, visual: int) -> float:
        wanted = (arm, tokens, visual)
        return next(r["median_s"] for r in rows if (r["arm"], r["reasoning_tokens"], r["visual_tokens"]) == wanted)

    ratios = {
        arm: {
            "512 / 32 reasoning tokens": median(arm, 512, 16) / median(arm, 32, 16),
            "256 / 4 visual tokens": median(arm, LONG_ENOUGH, 256) / median(arm, LONG_ENOUGH, 4),
        }
        for arm in (*ARMS, FLOOR)
    }
    above = {
        f"{row['reasoning_tokens']} reasoning, {row['visual_tokens']} visual tokens": row["median_s"]
        / median(FLOOR, row["reasoning_tokens"], row["visual_tokens"])
        for row in rows
        if row["arm"] == "streamed"
    }
    for arm, found in ratios.items():
        print(arm, ", ".join(f"{name}: {ratio:.2f}x" for name, ratio in found.items()))
    print("streamed over the floor:", ", ".join(f"{ratio:.2f}" for ratio in above.values()))
    print(save("handoff", {"rows": rows, "ratios": ratios, "streamed over floor": above, "writer_s_per_token": PACE_S}))


if __name__ == "__main__":
    main()
