"""The language model: embeddings after a KV cache to logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuecard.models.local.embedded.arrays import IGNORING_OVERFLOW, Floats, Weights, matrix, softmax
from cuecard.models.local.prefix import Room, with_room

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
