"""Warming over HTTP:  python benchmarks/warming.py, after `make test-servers` has installed vLLM

The embedded pair runs on two real vLLM servers, one core each, with prefix caching. `transfer` runs with warming
(one-token requests compute the reader's prompt while the card is written) and without, in turn. vLLM caches whole
blocks of 128 tokens on a CPU, so each question has a long system prompt and a reasoning of 200 tokens, as with larger
models; the text does not matter here.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from common import handoff_figures, save

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "servers"))

from programs import HOME, free_port, running  # noqa: E402

import cuecard  # noqa: E402
from cuecard.demo import boards  # noqa: E402
from cuecard.domain.outcome import Outcome  # noqa: E402
from cuecard.domain.question import Question  # noqa: E402
from cuecard.models import spec  # noqa: E402
from cuecard.models.base import Limits, Model  # noqa: E402
from cuecard.strategies.policy import Policy, Schedule  # noqa: E402
from cuecard.strategies.run import answer  # noqa: E402

WEIGHTS = Path(cuecard.__file__).parent / "weights"
FLAGS = (
    "--host 127.0.0.1 --enforce-eager --max-num-seqs 8 --max-model-len 4096 --dtype float32 "
    "--enable-prompt-tokens-details"
)
WAYS = {"warmed": Schedule.OVERLAP, "not warmed": Schedule.THRIFTY}
REPEATS, BUDGET, SYSTEM_WORDS = 25, 200, 900


def served(stack: ExitStack, folder: Path, role: str, core: int) -> Model:
    """The model of one role, on its own vLLM server."""
    port = free_port()
    names = ["--served-model-name", f"demo-{role}", "--chat-template-content-format", "openai"]
    command = [HOME / "vllm" / "bin" / "vllm", "serve", WEIGHTS / f"demo-{role}", *FLAGS.split(), *names]
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": str(core)}
    base = f"http://127.0.0.1:{port}"
    stack.enter_context(running([*command, "--port", str(port)], f"{base}/health", folder / role, 600, **env))
    known = {"prefill": True, "images": True, "logprobs": True, "prefix_cache": True}
    return spec.load({"model": f"{base}/v1#demo-{role}", **known}, role)


def question(rng: Random) -> Question:
    board = boards.make_board(rng, "validation")
    asked = boards.question(boards.make_task(rng, board.cells, "jump-5"), board)
    words = " ".join(f"cell {rng.randint(1, 16)} shows a red {rng.randint(0, 9)}," for _ in range(SYSTEM_WORDS // 6))
    return replace(asked, system=words)


async def measure() -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = {role: served(stack, folder, role, core) for core, role in enumerate(("small", "large"))}
        found: dict[str, list[Outcome]] = {way: [] for way in WAYS}
        for repeat in range(REPEATS + 2):
            for way in list(WAYS) if repeat % 2 else list(WAYS)[::-1]:
                policy = Policy(schedule=WAYS[way], limits=Limits(reasoning_tokens=BUDGET, answer_tokens=8))
                # each way has its own question, so that the ways do not share a prefix
                outcome = await answer(question(Random(f"{repeat} {way}")), models, "transfer", policy)
                if repeat >= 2:  # the first two are warm-up
                    found[way].append(outcome)
        for model in models.values():
            await model.aclose()
    return {way: handoff_figures(outcomes) for way, outcomes in found.items()}


if __name__ == "__main__":
    print(save("warming", asyncio.run(measure())).read_text())
