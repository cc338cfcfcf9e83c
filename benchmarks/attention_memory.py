"""Memory to capture attention at up to 32k tokens, compared with one layer's row and with whole attention maps.

    python benchmarks/attention_memory.py [KEYS …]

The model has Qwen3's architecture, small dimensions (it runs on a CPU) and random weights; the figures do not depend on
the weights. The context is in the KV cache before the pass, as after a decode. Only what the pass allocates is counted,
by the allocator (`torch.profiler`, memory). One row is heads x queries x keys x 4 bytes; `eager` attentions of the
whole context would be layers x heads x keys x keys x 4 bytes.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from common import save
from cuecard.models.local.attention_hook import Rows, listening
from cuecard.models.local.transformers_network import GrowingLayer, growing

KEYS = (2048, 8192, 32768)
QUERIES, HEADS, GROUPS, LAYERS, CHUNK = 4, 16, 4, 4, 1024
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "head_dim": 64,
    "max_position_embeddings": 2**16,
}


def row_bytes(keys: int) -> int:
    return 4 * HEADS * QUERIES * keys


@torch.inference_mode()
def measure(model: Qwen3ForCausalLM, keys: int) -> dict[str, Any]:
    """Figures of one pass of QUERIES tokens after keys - QUERIES cached tokens."""
    ids, held = torch.randint(0, 512, (1, keys), generator=torch.Generator().manual_seed(0)), keys - QUERIES
    cache = growing(model.config)
    for start in range(0, held, CHUNK):
        piece = ids[:, start : min(start + CHUNK, held)]
        model(input_ids=piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
    rooms = [layer.room for layer in cache.layers]

    def kept(rows: Rows) -> float:
        return float(rows.weights.sum(-1).sub(1).abs().max())

    def one_pass() -> list[float]:
        for room in rooms:  # as before the pass
            room.used = held
        cache.layers = [GrowingLayer(room, held) for room in rooms]
        with listening(model, kept, keys) as heard:
            model(input_ids=ids[:, -QUERIES:], past_key_values=cache, use_cache=True)
        return heard

    one_pass()
    largest, total = allocations(one_pass)
    start = time.perf_counter()
    errors = one_pass()
    return {
        "keys": keys,
        "row_bytes": row_bytes(keys),
        "most_allocated_bytes": total,
        "largest_allocation_bytes": largest,
        "of_a_row": total / row_bytes(keys),
        "whole_maps_bytes": 4 * LAYERS * HEADS * keys * keys,
        "pass_s": time.perf_counter() - start,
        "largest_error_of_a_sum": max(errors),
    }


def allocations(work: Any) -> tuple[int, int]:
    """Bytes of the largest allocation, and the most bytes allocated at once, while `work` runs."""
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    held = most = largest = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most, largest = max(most, held), max(largest, event.nbytes())
    return largest, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("keys", nargs="*", type=int, default=list(KEYS), help="tokens of the context")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SHAPE)).eval()
    measured = []
    for keys in options.keys:
        measured.append(measure(model, keys))
        print({name: round(value, 4) for name, value in measured[-1].items()}, flush=True)
    shape = {"heads": HEADS, "groups": GROUPS, "layers": LAYERS, "head_dim": 64, "queries": QUERIES, "dtype": "float32"}
    print(save("attention_memory", {"shape": shape, "measured": measured}))


if __name__ == "__main__":
    main()
