"""Seconds per token and to the first token of the embedded pair: Transformers, the fused decoder, and NumPy.

Four arms decode the same reasoning about the same boards, greedily, at batch size 1, and must give the same tokens:
`generate` of Transformers; Cuecard's engine on Transformers' layers; the engine with the fused decoder, as for other
checkpoints in this process; and the NumPy network, which the embedded pair uses by default. Their order is reversed on
every second board. Seconds per token: for `generate`, the time for all tokens less the time for one, divided by the
other tokens; for the engine, the time after the first token divided by the other tokens, including the overhead of a
user's call (thread, detokenization, events). Time to the first token: `generate` with one token; the engine with an
empty cache.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from contextlib import aclosing
from typing import Any

import torch

from common import save
from cuecard.demo import boards
from cuecard.models.base import Finished, Limits, Progress
from cuecard.models.local.engine import VARIABLE
from cuecard.models.local.model import LocalModel
from cuecard.models.local.transformers_network import TransformersNetwork
from cuecard.models.prompt import Prompt, reason
from cuecard.models.spec import EMBEDDED, Embedded

ARMS = ["generate", "engine on layers", "fused", "NumPy"]
BOARDS, WARM = 24, 2
LIMITS = Limits(reasoning_tokens=160, answer_tokens=16)


@torch.inference_mode()
def generated(model: LocalModel, prompt: Prompt, tokens: int) -> tuple[list[int], float]:
    """`tokens` ids by Transformers' `generate`, and the seconds that it took."""
    inputs = model._reader.inputs(prompt)
    ids = torch.tensor([inputs.ids])
    before = time.perf_counter()
    out = model._network.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), **inputs.tensors,
        max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
    )  # fmt: skip
    taken = time.perf_counter() - before
    return out[0, len(inputs.ids) :].tolist(), taken


async def streamed(model: LocalModel, prompt: Prompt) -> tuple[list[int], float, float]:
    """The ids that the engine generates, seconds to the first, and seconds per token after it."""
    model.forget()
    begun = time.perf_counter()
    first, count = 0.0, 0
    async with aclosing(model.stream(prompt, LIMITS)) as events:
        async for event in events:
            match event:
                case Progress(usage) if usage.completion_tokens == 1 and not count:
                    first, count = time.perf_counter(), 1
                case Finished(usage):
                    count = usage.completion_tokens or 0
    end = time.perf_counter()
    held = list(model._prefixes._held.values())[-1].ids
    ids = list(held[len(model._reader.inputs(prompt).ids) :])
    return ids, first - begun, (end - first) / (count - 1)


async def measure(name: str) -> dict[str, Any]:
    by_torch, by_numpy = LocalModel.load(Embedded(name).folder, device="cpu"), LocalModel.load(Embedded(name).folder)
    network = by_torch._network
    assert isinstance(network, TransformersNetwork)
    if network.fused is None:
        raise SystemExit(f"{name}: the fused decoder was not taken")
    taken: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    same = 0
    for index, exercise in enumerate(boards.exercises(BOARDS + WARM, 11, "validation")):
        prompt = reason(exercise.question, by_numpy.abilities.style)
        reply, *_ = await streamed(by_numpy, prompt)
        outs, seconds = {}, {}
        for arm in ARMS if index % 2 else ARMS[::-1]:
            if arm == "generate":
                outs[arm], whole = generated(by_torch, prompt, len(reply))
                one = generated(by_torch, prompt, 1)[1]
                seconds[arm] = one, (whole - one) / (len(reply) - 1)
                continue
            network.may_fuse = arm != "engine on layers"
            outs[arm], *both = await streamed(by_numpy if arm == "NumPy" else by_torch, prompt)
            seconds[arm] = both[0], both[1]
        if index >= WARM:
            same += len({tuple(ids) for ids in outs.values()}) == 1
            for arm, pair_of in seconds.items():
                taken[arm].append(pair_of)
    found: dict[str, Any] = {"prompts": BOARDS, "same tokens": same}
    for arm, values in taken.items():
        first, each = (statistics.quantiles(column, n=4) for column in zip(*values, strict=True))
        found[arm] = {
            "median_s_to_first": first[1],
            "median_s_per_token": each[1],
            "quartiles_s": [each[0], each[2]],
        }
    for figure in ("per_token", "to_first"):
        base = found["generate"][f"median_s_{figure}"]
        ratios = {arm: base / found[arm][f"median_s_{figure}"] for arm in ARMS}
        found[f"times as fast as generate, {figure.replace('_', ' ')}"] = ratios
    for model in (by_torch, by_numpy):
        await model.aclose()
    return found


async def main() -> None:
    torch.set_num_threads(1)
    os.environ[VARIABLE] = "1"  # keep the model in this process: `streamed` reads its cache
    figures = {}
    for name in EMBEDDED:
        figures[name] = await measure(name)
        print(name, json.dumps(figures[name], indent=2), flush=True)
    print(save("decode", figures))


if __name__ == "__main__":
    asyncio.run(main())
