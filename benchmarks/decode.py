"""Seconds a token of the embedded pair: plain `generate`, Cuecard's engine on Transformers' layers, and on its own.

All three write the same reasoning about the same boards, greedily, at batch one, and must say the same. Their order
turns from board to board and back (ABC, CBA). Of `generate` a token is the difference between writing all and writing
one, over the rest; of the engine, the time after the first token over the rest, with all that a user's call passes
(thread, decoding to text, events). The last arm is what a local model does by itself; the second one had it not.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import aclosing
from typing import Any

import torch

from common import pair, save
from cuecard.demo import boards
from cuecard.models.base import Finished, Limits, Progress
from cuecard.models.local.model import LocalModel
from cuecard.models.prompt import Prompt, reason

BOARDS, WARM = 24, 2
LIMITS = Limits(reasoning_tokens=160, answer_tokens=16)


@torch.inference_mode()
def generated(model: LocalModel, prompt: Prompt, tokens: int) -> tuple[list[int], float]:
    """As many ids as asked for, and the seconds that it took."""
    inputs = model._reader.inputs(prompt)
    ids = torch.tensor([inputs.ids])
    before = time.perf_counter()
    out = model._model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), **inputs.tensors,
        max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
    )  # fmt: skip
    taken = time.perf_counter() - before
    return out[0, len(inputs.ids) :].tolist(), taken


async def streamed(model: LocalModel, prompt: Prompt) -> tuple[list[int], float]:
    """The ids that the engine writes, and seconds a token after the first."""
    model.forget()
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
    return list(held[len(model._reader.inputs(prompt).ids) :]), (end - first) / (count - 1)


async def measure(model: LocalModel) -> dict[str, Any]:
    taken: dict[str, list[float]] = {arm: [] for arm in ("generate", "engine on layers", "engine")}
    written, same = 0, 0
    for index, exercise in enumerate(boards.exercises(BOARDS + WARM, 11, "validation")):
        prompt = reason(exercise.question, model.abilities.style)
        said, _ = await streamed(model, prompt)  # makes the fused decoder, and tells how much there is to say
        outs, seconds = {}, {}
        for arm in list(taken) if index % 2 else list(taken)[::-1]:
            if arm == "generate":
                outs[arm], whole = generated(model, prompt, len(said))
                seconds[arm] = (whole - generated(model, prompt, 1)[1]) / (len(said) - 1)
                continue
            may, model._may_fuse = model._may_fuse, model._may_fuse and arm == "engine"
            outs[arm], seconds[arm] = await streamed(model, prompt)
            model._may_fuse = may
        if index < WARM:
            continue
        written, same = written + 1, same + (outs["generate"] == outs["engine on layers"] == outs["engine"])
        for arm, value in seconds.items():
            taken[arm].append(value)
    if model._fused is None:
        raise SystemExit(f"{model.name}: the fused decoder was not taken")
    found: dict[str, Any] = {"prompts": written, "same tokens": same}
    for arm, values in taken.items():
        low, middle, high = statistics.quantiles(values, n=4)
        found[arm] = {"median_s_per_token": middle, "quartiles_s": [low, high]}
    base = found["generate"]["median_s_per_token"]
    found["times as fast as generate"] = {arm: base / found[arm]["median_s_per_token"] for arm in taken}
    return found


async def main() -> None:
    torch.set_num_threads(1)
    figures = {}
    for model in pair().values():
        assert isinstance(model, LocalModel)
        figures[model.name] = await measure(model)
        print(model.name, figures[model.name], flush=True)
        await model.aclose()
    print(save("decode", figures))


if __name__ == "__main__":
    asyncio.run(main())
