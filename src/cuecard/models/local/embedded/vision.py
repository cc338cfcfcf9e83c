"""The vision tower: image patches to visual tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuecard.models.local.embedded.arrays import IGNORING_OVERFLOW, Floats, Weights, matrix, softmax

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
