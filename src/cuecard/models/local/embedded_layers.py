"""The language model, embeddings after a KV cache to logits; the vision tower, image patches to visual tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuecard.models.local.engine import lacking
from cuecard.models.local.network import Room, with_room

Floats = NDArray[Any]
"""Arrays in single precision."""
WEIGHT_TYPES: dict[str, Any] = {"F16": np.float16, "F32": np.float32}
IGNORING_OVERFLOW = np.errstate(over="ignore")
"""x / (1 + exp(-x)) is correct even if the exponential overflows to infinity."""


class Weights(dict[str, Floats]):
    """The tensors of a safetensors file (https://huggingface.co/docs/safetensors) by name, as float32.

    Raises ModelRefused for a missing tensor, ValueError for a file that is damaged.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._folder = path.parent
        data = np.fromfile(path, np.uint8)
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        if start > len(data):
            raise ValueError(f"{path.name} has {len(data):,} bytes and is no whole safetensors file")
        header: dict[str, Any] = json.loads(data[8:start].tobytes())
        header.pop("__metadata__", None)
        if (whole := start + max(entry["data_offsets"][1] for entry in header.values())) > len(data):
            raise ValueError(f"{path.name} is truncated: {len(data):,} of {whole:,} bytes")
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            if (kind := WEIGHT_TYPES.get(entry["dtype"])) is None:
                raise ValueError(f"{name} is in {entry['dtype']}; the embedded pair's weights are in F16 or F32")
            values = data[start + begin : start + end].view(kind)
            if not np.isfinite(values).all():
                raise ValueError(f"{name} in {path.name} has values that are not finite")
            self[name] = values.reshape(entry["shape"]).astype(np.float32)

    def __missing__(self, name: str) -> Floats:
        raise lacking(str(self._folder), [name])

    def shaped(self, name: str, *shape: int) -> Floats:
        """The tensor of this name. Raises ValueError if its shape is not that of the configuration."""
        if self[name].shape != shape:
            raise ValueError(f"{name} has shape {self[name].shape}, not {shape}")
        return self[name]


def matrix(weight: Floats) -> Floats:
    """(out, in), as in checkpoints -> (in, out)."""
    return np.ascontiguousarray(weight.T)


def softmax(scores: Floats) -> Floats:
    """Softmax over the last axis, in place."""
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(-1, keepdims=True)
    return scores


def log_softmax(logits: Floats) -> Floats:
    """Log softmax over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


TEXT = "model.language_model."


@dataclass(frozen=True)
class TextLayer:
    """One layer's matrices (in, out); those with the same input are joined, and include the norm's weights."""

    qkv: Floats
    turned: Floats
    """(heads + kv heads, head_dim) weights of the query and key norms, each times head_dim**-0.25, to scale scores."""
    rolled: Floats
    """`turned` with its halves swapped, for the rotation."""
    out: Floats
    gate_up: Floats
    down: Floats


class LayerCache:
    """The first `length` tokens of a room: (kv heads, capacity, head_dim) keys and values of one layer."""

    def __init__(self, room: Room | None = None, length: int = 0) -> None:
        self.room, self.length = room, length

    def append(self, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
        """(kv heads, tokens, head_dim) keys and values of new tokens -> those of all; in place, or in a larger copy."""
        start, end = self.length, self.length + keys.shape[1]
        self.room = with_room(self.room, keys, start, end)
        self.room.keys[:, start:end], self.room.values[:, start:end] = keys, values
        self.length = end
        return self.room.keys[:, :end], self.room.values[:, :end]


class NumpyCache:
    """The layers' keys and values of one sequence."""

    def __init__(self, layers: int, rooms: Sequence[Room] = (), length: int = 0) -> None:
        self.layers = [LayerCache(room, length) for room in rooms] or [LayerCache() for _ in range(layers)]

    @property
    def rooms(self) -> tuple[Room, ...]:
        return tuple(layer.room for layer in self.layers if layer.room is not None)

    def drop_last(self) -> None:
        """Drop the last token."""
        for layer in self.layers:
            layer.length -= 1


class TextDecoder:
    """The language model: embeddings after a KV cache to logits."""

    def __init__(self, config: Mapping[str, Any], weights: Weights) -> None:
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim, self._eps = config["head_dim"], np.float32(config["rms_norm_eps"])
        self.embedding = weights[f"{TEXT}embed_tokens.weight"]
        head = weights.get("lm_head.weight", self.embedding)
        self._head = matrix(head * weights[f"{TEXT}norm.weight"])
        self.layers = [self._layer(f"{TEXT}layers.{at}.", config, weights) for at in range(config["num_hidden_layers"])]
        rope = config["rope_parameters"]
        half = np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim)
        self._frequencies = (1.0 / rope["rope_theta"] ** half).astype(np.float32)
        # the position that each frequency rotates by: time, or row or column at every third one
        self._axis = np.zeros(self.head_dim // 2, int)
        for axis in (1, 2):
            self._axis[axis : 3 * rope["mrope_section"][axis] : 3] = axis

    def _layer(self, name: str, config: Mapping[str, Any], weights: Weights) -> TextLayer:
        wide, inner, size = config["hidden_size"], config["intermediate_size"], self.head_dim

        def part(of: str, *shape: int) -> Floats:
            return weights.shaped(f"{name}{of}.weight", *shape)

        norms = [part("self_attn.q_norm", size)] * self.heads + [part("self_attn.k_norm", size)] * self.kv_heads
        turned = np.stack(norms) * np.float32(size**-0.25)
        heads = {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads}
        qkv = np.concatenate([part(f"self_attn.{each}_proj", count * size, wide) for each, count in heads.items()])
        gate_up = np.concatenate([part(f"mlp.{each}_proj", inner, wide) for each in ("gate", "up")])
        return TextLayer(
            qkv=matrix(qkv * part("input_layernorm", wide)),
            turned=turned,
            rolled=np.roll(turned, size // 2, -1),
            out=matrix(part("self_attn.o_proj", wide, self.heads * size)),
            gate_up=matrix(gate_up * part("post_attention_layernorm", wide)),
            down=matrix(part("mlp.down_proj", wide, inner)),
        )

    def rotations(self, positions: NDArray[np.int_]) -> tuple[Floats, Floats]:
        """(3, tokens) positions by time, row and column -> (tokens, 1, head_dim) cosines and signed sines."""
        angles = positions.astype(np.float32)[self._axis].T * self._frequencies
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([cos, cos], 1)[:, None], np.concatenate([-sin, sin], 1)[:, None]

    @IGNORING_OVERFLOW
    def read(
        self,
        hidden: Floats,
        positions: NDArray[np.int_],
        cache: NumpyCache,
        keep: int,
        deep: Sequence[Floats] = (),
        image: NDArray[np.int_] | None = None,
        watch: Callable[[int, Floats, Floats, Floats], None] | None = None,
        unseen: Sequence[int] = (),
    ) -> Floats:
        """(tokens, width) embeddings after a cache -> (kept, vocabulary) logits of the last; keep=0: of all.

        `deep`: vectors that each of the first layers adds to the image tokens, at the positions `image`. `watch` gets
        each layer's number, its weights (heads, tokens, keys), values (kv heads, keys, head_dim) and outputs (heads,
        tokens, head_dim). No query attends to the keys at `unseen`.
        """
        tokens, kept = len(hidden), keep or len(hidden)
        cos, sin = self.rotations(positions)
        later = np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1)
        last = len(self.layers) - 1
        for index, (layer, held) in enumerate(zip(self.layers, cache.layers, strict=True)):
            query, keys, values = self._projected(hidden, layer, cos, sin)
            keys, values = held.append(keys, values)
            group = self.heads // self.kv_heads
            # heads of a group are adjacent, so that its keys and values are not repeated
            wide = query.reshape(tokens, self.kv_heads, group, -1).transpose(1, 2, 0, 3)
            scores = wide.reshape(self.kv_heads, group * tokens, -1) @ keys.transpose(0, 2, 1)
            scores.reshape(self.kv_heads, group, tokens, -1)[..., -tokens:] += later
            if unseen:
                scores[..., list(unseen)] = -np.inf
            outputs = softmax(scores) @ values
            if watch is not None:
                weights, each_head = (part.reshape(self.heads, tokens, -1) for part in (scores, outputs))
                watch(index, weights, values, each_head)
            found = outputs.reshape(self.kv_heads, group, tokens, -1).transpose(2, 0, 1, 3).reshape(tokens, -1)
            if index == last:  # nothing reads the other tokens' outputs
                hidden, found = hidden[-kept:], found[-kept:]
            hidden = self._finished(hidden + found @ layer.out, layer)
            if index < len(deep):
                hidden[image] += deep[index]
        return self._logits(hidden)

    @IGNORING_OVERFLOW
    def step(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[NumpyCache]) -> Floats:
        """One token per sequence, at its position after its cache -> (sequences, vocabulary) logits."""
        hidden = self.embedding[list(tokens)]
        cos, sin = self.rotations(np.broadcast_to(positions, (3, len(tokens))))
        for index, layer in enumerate(self.layers):
            query, keys, values = self._projected(hidden, layer, cos, sin)
            grouped = query.reshape(len(tokens), self.kv_heads, -1, self.head_dim)
            found = []
            for row, cache in enumerate(caches):
                held = cache.layers[index].append(keys[:, row : row + 1], values[:, row : row + 1])
                found.append((softmax(grouped[row] @ held[0].transpose(0, 2, 1)) @ held[1]).reshape(-1))
            hidden = self._finished(hidden + np.stack(found) @ layer.out, layer)
        return self._logits(hidden)

    def _projected(self, hidden: Floats, layer: TextLayer, cos: Floats, sin: Floats) -> tuple[Floats, Floats, Floats]:
        """-> (tokens, heads, head_dim) queries, (kv heads, tokens, head_dim) keys and values, rotated and scaled."""
        both = self.heads + self.kv_heads
        qkv = (self._normed(hidden) @ layer.qkv).reshape(len(hidden), both + self.kv_heads, self.head_dim)
        plain = self._normed(qkv[:, :both])
        half = self.head_dim // 2
        swapped = np.concatenate([plain[..., half:], plain[..., :half]], -1)
        turned = plain * (layer.turned * cos) + swapped * (layer.rolled * sin)
        return turned[:, : self.heads], turned[:, self.heads :].swapaxes(0, 1), qkv[:, both:].swapaxes(0, 1)

    def _finished(self, hidden: Floats, layer: TextLayer) -> Floats:
        """The output of the feed-forward half of a layer."""
        both = self._normed(hidden) @ layer.gate_up
        gate, up = both[:, : len(layer.down)], both[:, len(layer.down) :]
        return hidden + (gate / (1 + np.exp(-gate)) * up) @ layer.down

    def _normed(self, hidden: Floats) -> Floats:
        """RMS norm over the last axis; its weights are folded into the matrix after it."""
        squares = np.einsum("...d,...d->...", hidden, hidden)
        return hidden * (1 / np.sqrt(squares / hidden.shape[-1] + self._eps))[..., None]

    def _logits(self, hidden: Floats) -> Floats:
        return self._normed(hidden) @ self._head


def mrope_positions(is_image: NDArray[np.bool_], grids: Sequence[tuple[int, int]]) -> NDArray[np.int_]:
    """(tokens,) mask, each image's (rows, columns) of visual tokens -> (3, tokens) positions by time, row and column.

    An image takes as many positions as its longer side has tokens (Qwen2-VL, arXiv 2409.12191).
    """
    positions, at, token = np.empty((3, len(is_image)), int), 0, 0
    for rows, columns in grids:
        start = token + int(np.argmax(is_image[token:]))
        positions[:, token:start] = np.arange(at, at + start - token)
        at, token = at + start - token, start + rows * columns
        positions[0, start:token] = at
        positions[1:, start:token] = at + np.indices((rows, columns)).reshape(2, -1)
        at += max(rows, columns)
    positions[:, token:] = np.arange(at, at + len(is_image) - token)
    return positions


# --- the vision tower -------------------------------------------------------------------------------------------------

VISION = "model.visual."
NORM_EPS = 1e-6
"""Epsilon of the vision tower's norms, which is not in its configuration."""


class VisionTower:
    """Image patches to visual tokens, and to the DeepStack vectors for the language model's first layers."""

    def __init__(self, config: Mapping[str, Any], weights: Weights) -> None:
        self._config, self._merge = config, config["spatial_merge_size"]
        self._heads, self._width = config["num_heads"], config["hidden_size"]
        self._weights = weights
        self._places = weights[f"{VISION}pos_embed.weight"]
        self._lines: dict[str, tuple[Floats, Floats]] = {}
        self._deep = list(config["deepstack_visual_indexes"])
        self._tables = lru_cache(maxsize=64)(self._tables_of)

    @IGNORING_OVERFLOW
    def see(self, patches: Floats, grid: tuple[int, int]) -> tuple[Floats, list[Floats]]:
        """(patches, values) and the (rows, columns) of an image -> (tokens, width), and the same per deep layer."""
        places, cos, sin = self._tables(grid)
        hidden, deep = self._line("patch_embed.proj", patches) + places, []
        for index in range(self._config["depth"]):
            name = f"blocks.{index}."
            seen = self._line(f"{name}attn.qkv", self._normed(f"{name}norm1", hidden))
            query, key, value = seen.reshape(len(hidden), 3, self._heads, -1).transpose(1, 2, 0, 3)
            query, key = (_rotated(each, cos, sin) for each in (query, key))
            scores = query @ key.transpose(0, 2, 1) * np.float32(query.shape[-1] ** -0.5)
            found = (softmax(scores) @ value).transpose(1, 0, 2).reshape(hidden.shape)
            hidden = hidden + self._line(f"{name}attn.proj", found)
            wide = self._line(f"{name}mlp.linear_fc1", self._normed(f"{name}norm2", hidden))
            hidden = hidden + self._line(f"{name}mlp.linear_fc2", _gelu_tanh(wide))
            if index in self._deep:
                deep.append(self._merged(f"deepstack_merger_list.{self._deep.index(index)}.", hidden, norm_first=False))
        return self._merged("merger.", hidden, norm_first=True), deep

    def _merged(self, name: str, hidden: Floats, *, norm_first: bool) -> Floats:
        """Merge neighbouring patches into one token."""
        if norm_first:
            hidden = self._normed(f"{name}norm", hidden)
        joined = hidden.reshape(-1, self._width * self._merge**2)
        if not norm_first:
            joined = self._normed(f"{name}norm", joined)
        return self._line(f"{name}linear_fc2", _gelu(self._line(f"{name}linear_fc1", joined)))

    def _line(self, name: str, values: Floats) -> Floats:
        if name not in self._lines:
            weight, bias = self._weights[f"{VISION}{name}.weight"], self._weights[f"{VISION}{name}.bias"]
            self._lines[name] = matrix(weight.reshape(len(bias), -1)), bias
        weight, bias = self._lines[name]
        return values @ weight + bias

    def _normed(self, name: str, values: Floats) -> Floats:
        centred = values - values.mean(-1, keepdims=True)
        scale = 1 / np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(NORM_EPS))
        return centred * scale * self._weights[f"{VISION}{name}.weight"] + self._weights[f"{VISION}{name}.bias"]

    def _tables_of(self, grid: tuple[int, int]) -> tuple[Floats, Floats, Floats]:
        """For a grid: (patches, width) position embeddings, bilinear between those of the table; cosines and sines."""
        rows, columns = (self._in_merge_order(each) for each in np.indices(grid))
        side = math.isqrt(len(self._places))
        table = self._places.reshape(side, side, -1)
        (top, bottom, down), (left, right, along) = (
            _between(side, count, at) for count, at in zip(grid, (rows, columns), strict=True)
        )
        upper = table[top, left] * (1 - along) + table[top, right] * along
        lower = table[bottom, left] * (1 - along) + table[bottom, right] * along
        size = self._width // self._heads // 2
        half = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
        frequencies = 1.0 / self._config["rope_parameters"]["rope_theta"] ** half
        angles = np.concatenate([rows[:, None] * frequencies, columns[:, None] * frequencies], 1).astype(np.float32)
        angles = np.concatenate([angles, angles], 1)
        return upper * (1 - down) + lower * down, np.cos(angles), np.sin(angles)

    def _in_merge_order(self, grid: NDArray[np.int_]) -> NDArray[np.int_]:
        rows, columns = (size // self._merge for size in grid.shape)
        return grid.reshape(rows, self._merge, columns, self._merge).swapaxes(1, 2).reshape(-1)


def _between(side: int, count: int, at: NDArray[np.int_]) -> tuple[NDArray[np.int_], NDArray[np.int_], Floats]:
    """Places `at` of `count`, mapped to `side` places: index before, index after, and the fraction between (n, 1)."""
    exact = np.linspace(0, side - 1, count, dtype=np.float32)[at]
    before = exact.astype(int)
    return before, np.minimum(before + 1, side - 1), (exact - before)[:, None]


def _rotated(values: Floats, cos: Floats, sin: Floats) -> Floats:
    half = values.shape[-1] // 2
    return values * cos + np.concatenate([-values[..., half:], values[..., :half]], -1) * sin


def _gelu_tanh(values: Floats) -> Floats:
    # 1 + tanh(x) = 2 / (1 + exp(-2 x))
    inner = np.float32(-2 * math.sqrt(2 / math.pi)) * (values + np.float32(0.044715) * values * values * values)
    return values / (1 + np.exp(inner))


def _gelu(values: Floats) -> Floats:
    """GELU, with the error function of Abramowitz and Stegun 7.1.26 (error at most 1.5e-7)."""
    size = np.abs(values) * np.float32(math.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * size)
    terms = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
    series = np.zeros_like(t)
    for term in reversed(terms):
        series = (series + np.float32(term)) * t
    erf = np.copysign(1 - series * np.exp(-size * size), values)
    return np.float32(0.5) * values * (1 + erf)
