"""The embedded pair's prefill and decode step, compared with the least time at this core's measured speed.

A roofline (Williams et al. 2009): prefill cannot be faster than its multiplications at the rate of the fastest matrix
product measured here, and a decode step not faster than reading its weights once at the rate of a matrix-vector product
over as many bytes. Each rate is the best of several runs, each time a median, all in this run on one thread.

    python benchmarks/roofline.py
"""

from __future__ import annotations

import json
import os
import statistics
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from common import save
from cuecard.demo import boards
from cuecard.models.local.engine import VARIABLE
from cuecard.models.local.model import LocalModel
from cuecard.models.prompt import short
from cuecard.models.spec import EMBEDDED, Embedded

REPEATS = 40


def seconds(work: Callable[[], Any], repeats: int = REPEATS) -> list[float]:
    work()
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return taken


def flops_per_s() -> float:
    """FLOP/s of the fastest of several products of square matrices."""
    best = 0.0
    for side in (256, 512, 1024):
        one = np.ones((side, side), np.float32)
        best = max(best, 2 * side**3 / min(seconds(lambda one=one: one @ one, 10)))
    return best


def bytes_per_s(size: int) -> float:
    """Bytes/s of a vector times matrices of 128 rows that have about `size` bytes together."""
    matrices = [np.ones((128, 384), np.float32) for _ in range(max(1, size // (128 * 384 * 4)))]
    vector = np.ones((1, 128), np.float32)
    return sum(each.nbytes for each in matrices) / min(seconds(lambda: [vector @ each for each in matrices]))


def weights_of(model: LocalModel) -> tuple[int, int, int]:
    """The number of weights in the vision tower, in the text layers, and in the token embedding."""
    path = Embedded(model.name).folder / "model.safetensors"
    with path.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    sizes = {name: int(np.prod(entry["shape"])) for name, entry in header.items() if name != "__metadata__"}
    vision = sum(size for name, size in sizes.items() if ".visual." in name and "pos_embed" not in name)
    table = sum(size for name, size in sizes.items() if "embed_tokens" in name)
    return vision, sum(sizes.values()) - table - sum(s for n, s in sizes.items() if ".visual." in n), table


def measured(name: str, rate: float) -> dict[str, Any]:
    model = LocalModel.load(Embedded(name).folder)
    network: Any = model._network
    vision, text, table = weights_of(model)
    question = boards.exercises(1, 5)[0].question
    inputs = model._reader.inputs(short(question, model.abilities.style))
    tokens, patches = len(inputs.ids), 64
    prefill_flop = 2 * (tokens * text + patches * vision + table)

    def prefill() -> tuple[Any, int]:
        cache = network.cache()
        return cache, network.read(inputs, cache, tokens)[1]

    took = statistics.median(seconds(prefill))
    cache, shift = prefill()

    def step() -> None:
        network.append([inputs.ids[-1]], [tokens + shift], [cache])
        cache.drop_last()

    step_bytes = 4 * (text + table)
    stepped = statistics.median(seconds(step, 200))
    bandwidth = bytes_per_s(step_bytes)
    return {
        "model": name,
        "prompt_tokens": tokens,
        "prefill": {
            "flop": prefill_flop,
            "took_s": took,
            "least_s": prefill_flop / rate,
            "times": took * rate / prefill_flop,
        },
        "step": {
            "bytes": step_bytes,
            "bytes_per_s": bandwidth,
            "took_s": stepped,
            "least_s": step_bytes / bandwidth,
            "times": stepped * bandwidth / step_bytes,
        },
    }


def main() -> None:
    rate = flops_per_s()
    rows = [measured(name, rate) for name in EMBEDDED]
    for row in rows:
        for part in ("prefill", "step"):
            found = row[part]
            print(f"{row['model']} {part}: {1000 * found['took_s']:.2f} ms, {found['times']:.1f} times its least")
    print(save("roofline", {"flop_per_s": rate, "rows": rows}))


if __name__ == "__main__":
    os.environ[VARIABLE] = "1"
    main()
