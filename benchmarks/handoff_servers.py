"""Hand-off between two llama.cpp servers:  python benchmarks/handoff_servers.py, after tests/servers/install.sh

The same pretrained model of 1.5B parameters has both roles, each on its own server with one thread. `transfer` with a
card of about 300 tokens runs with warming (the reader's prompt is computed while the card is written) and without, in
turn. llama.cpp caches prompts in both cases: a warmed reader finds the card cached, the other only the first tokens of
the chat template, because no question repeats.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import handoff_figures, save

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "servers"))

from programs import Served, llamacpp  # noqa: E402
from real_models import QWEN  # noqa: E402

from cuecard.domain.outcome import Outcome  # noqa: E402
from cuecard.domain.question import AnswerKind, Question  # noqa: E402
from cuecard.models import spec  # noqa: E402
from cuecard.models.base import Limits, Model  # noqa: E402
from cuecard.strategies.policy import Policy, Schedule  # noqa: E402
from cuecard.strategies.run import answer  # noqa: E402

WAYS = {"warmed": True, "not warmed": False}
CARD_TOKENS, REPEATS, WARM_UP = 300, 8, 1
POLICY = Policy(schedule=Schedule.OVERLAP, limits=Limits(reasoning_tokens=CARD_TOKENS, timeout_s=None))
TRIPS = ("Graz", "Linz", "Bern", "Lyon", "Turin", "Ghent", "Porto", "Split", "Brno", "Bath", "Cork", "Nice")
GOODS = ("bread", "apples", "rice", "tea", "cheese", "milk", "soap", "candles")


def question(number: int) -> Question:
    """A sum of many steps, so that the reasoning is long; no two questions have the same beginning."""
    place, steps = TRIPS[number % len(TRIPS)], []
    for at, goods in enumerate(GOODS):
        steps.append(f"{2 + (number + 3 * at) % 7} packs of {goods} at {3 + (2 * number + at) % 8} euros each")
    text = (
        f"On day {number + 1} in {place} a shop sells {', '.join(steps)}. A customer buys all of it, gets 10 percent"
        " off the total, and pays with a 500 euro note. How many euros does she get back? Work out every item by"
        " itself, then check every product a second time before you add them up."
    )
    return Question(text, kind=AnswerKind.NUMBER)


def model(served: Served, warm: bool) -> Model:
    return spec.load({"model": served.spec, "prefill": True, "prefix_cache": warm, "timeout_s": 600})


async def measure() -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        small, large = (stack.enter_context(llamacpp(QWEN, folder, slots=1, context=4096)) for _ in range(2))
        drafter, readers = model(small, False), {way: model(large, warm) for way, warm in WAYS.items()}
        found: dict[str, list[Outcome]] = {way: [] for way in WAYS}
        for repeat in range(WARM_UP + REPEATS):
            for side, way in enumerate(list(WAYS) if repeat % 2 else list(WAYS)[::-1]):
                asked = question(2 * repeat + side)
                outcome = await answer(asked, {"small": drafter, "large": readers[way]}, "transfer", POLICY)
                print(f"{way}: {outcome.handoff_s:.2f} s, {outcome.route}, {outcome.answer[:20]}", flush=True)
                if repeat >= WARM_UP:
                    found[way].append(outcome)
        for each in (drafter, *readers.values()):
            await each.aclose()
    figures: dict[str, Any] = {way: handoff_figures(outcomes) for way, outcomes in found.items()}
    return figures | {"ratio": figures["warmed"]["handoff_s"] / figures["not warmed"]["handoff_s"]}


if __name__ == "__main__":
    print(save("handoff_llamacpp", asyncio.run(measure())).read_text())
