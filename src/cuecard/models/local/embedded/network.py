"""Qwen3-VL in NumPy: the embedded pair without PyTorch, because importing PyTorch takes longer than an answer.

For small checkpoints in float32 on a CPU, where a token costs as much as its operations: weights with the same input
are one matrix, and the norms' weights are folded into the matrices after them. The architecture is that of
Transformers' `Qwen3VLForConditionalGeneration` (interleaved M-RoPE, DeepStack); logits differ only by the order of
sums.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cuecard.models.base import Limits
from cuecard.models.local.embedded.layers import (
    Floats,
    NumpyCache,
    TextDecoder,
    VisionTower,
    Weights,
    log_softmax,
    mrope_positions,
)
from cuecard.models.local.inputs import Inputs
from cuecard.models.local.network import LEAST_TEMPERATURE, Watch
from cuecard.models.local.prefix import Room

if TYPE_CHECKING:
    from cuecard.models.local.attention_hook import Rows

CLOSE = 1e-4
"""Fraction of the largest logit: two best tokens closer than this are computed again alone, as sums may swap them."""


class NumpyNetwork:
    """A `Network` of a small Qwen3-VL checkpoint in the Hugging Face layout."""

    place = "cpu"
    sees_images = shares_prefixes = True

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights, text = Weights(folder / "model.safetensors"), config["text_config"]
        self._text, self._vision = TextDecoder(text, weights), VisionTower(config["vision_config"], weights)
        self._merge = config["vision_config"]["spatial_merge_size"]
        self.image_token: int = config["image_token_id"]
        self.most_tokens: int = text["max_position_embeddings"]
        self.ends = frozenset([text["eos_token_id"]])
        self.is_trained_pair = config.get("cuecard_wording") == "trained"
        # find shapes that do not fit now
        values = weights["model.visual.patch_embed.proj.weight"][0].size
        self._vision.see(np.zeros((self._merge**2, values), np.float32), (self._merge, self._merge))
        self.append([0], [1], [self.cache()])

    def cache(self, rooms: Sequence[Room] = (), length: int = 0) -> NumpyCache:
        return NumpyCache(len(self._text.layers), rooms, length)

    def read(self, inputs: Inputs, cache: NumpyCache, most: int, watch: Watch | None = None) -> tuple[Floats, int]:
        ids = np.array(inputs.ids[: max(inputs.images_end, most)])
        hidden, places = self._text.embedding[ids], np.flatnonzero(ids == self.image_token)
        seen = [self._vision.see(*picture) for picture in inputs.pictures]
        if seen:
            hidden[places] = np.concatenate([tokens for tokens, _ in seen])
        if watch is not None:
            watch([tokens for tokens, _ in seen])
        deep = [np.concatenate(parts) for parts in zip(*(parts for _, parts in seen), strict=True)]
        grids = [(rows // self._merge, columns // self._merge) for _, (rows, columns) in inputs.pictures]
        positions = mrope_positions(ids == self.image_token, grids)
        logits = self._text.read(hidden, positions, cache, 1, deep, places)
        return logits, int(positions.max()) + 1 - len(ids)

    def extend(self, ids: Sequence[int], position: int, cache: NumpyCache, keep: int) -> Floats:
        positions = np.broadcast_to(np.arange(position, position + len(ids)), (3, len(ids)))
        return self._text.read(self._text.embedding[list(ids)], positions, cache, keep)

    def append(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[NumpyCache]) -> list[Floats]:
        logits = self._text.step(tokens, positions, caches)
        if len(tokens) == 1:
            return [logits]
        best = np.partition(logits, -2, -1)[:, -2:]
        near = best[:, 1] - best[:, 0] <= CLOSE * np.abs(logits).max(-1)
        for row in np.flatnonzero(near).tolist():
            caches[row].drop_last()
            logits[row] = self._text.step([tokens[row]], [positions[row]], [caches[row]])
        return list(logits[:, None])

    def joined(self, parts: Sequence[Floats]) -> Floats:
        return np.concatenate(list(parts))

    def logprobs(self, logits: Floats, ids: Sequence[int]) -> list[float]:
        each: list[float] = log_softmax(logits)[np.arange(len(ids)), list(ids)].tolist()
        return each

    def chance(self, limits: Limits) -> np.random.Generator:
        # 64 bits as unsigned, as NumPy takes no negative seed
        return np.random.default_rng(None if limits.seed is None else limits.seed % 2**64)

    def choose(self, logits: Floats, limits: Limits, chance: np.random.Generator) -> tuple[int, float]:
        row = logits[-1]
        token = int(row.argmax()) if limits.temperature == 0 else _drawn(row, limits, chance)
        return token, float(log_softmax(row)[token])

    def attend(
        self, ids: Sequence[int], position: int, cache: NumpyCache, reduce: Callable[[Rows], Any], hidden: Sequence[int]
    ) -> tuple[list[Any], Floats]:
        import torch

        from cuecard.models.local.attention_hook import Rows

        reduced = []

        def look(layer: int, *arrays: Floats) -> None:
            weights, values, outputs = map(torch.from_numpy, arrays)
            reduced.append(reduce(Rows(layer, weights, None, None, values, outputs)))

        positions = np.broadcast_to(np.arange(position, position + len(ids)), (3, len(ids)))
        logits = self._text.read(self._text.embedding[list(ids)], positions, cache, 0, watch=look, unseen=hidden)
        return reduced, logits


def _drawn(row: Floats, limits: Limits, chance: np.random.Generator) -> int:
    """Sample from the tokens inside `top_k`, `min_p` (relative to the likeliest token) and the nucleus `top_p`."""
    order = np.argsort(-row, kind="stable")
    scaled = (row[order] - row.max()).astype(float) / max(limits.temperature, LEAST_TEMPERATURE)
    chances = np.exp(scaled)
    chances /= chances.sum()
    if wanted := dict(limits.extras.sampling):
        chances[int(wanted.get("top_k", len(chances))) :] = 0
        chances[chances < wanted.get("min_p", 0.0) * chances[0]] = 0
        chances /= chances.sum()
    beyond = chances.cumsum() - chances >= limits.top_p
    chances[1:][beyond[1:]] = 0
    return int(order[chance.choice(len(order), p=chances / chances.sum())])


def is_embedded(folder: Path) -> bool:
    """Whether a folder holds a checkpoint with the embedded pair's architecture and wordings."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("cuecard_wording") == "trained"
