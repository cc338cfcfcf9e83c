"""Computed prefixes: the keys and values of what a model has read, so that no prompt token is computed twice.

Transformers' cache layers make new tensors when they grow, so a shorter prefix of a sequence is a view of it: sharing
costs no copy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

LAST_WORD = 8
"""Tokens at most, as one word of a text is spelled."""


@dataclass(frozen=True)
class Computed:
    """Keys and values (1, heads, tokens, head_dim) a layer, for these ids after these images."""

    ids: tuple[int, ...]
    images: tuple[str, ...]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    rope_delta: int
    """How many positions the tokens so far fall short of their number (Qwen's images take fewer)."""
    passing: bool = False
    """It ends in a text that was still being written."""

    def begins(self, other: Computed, but: int = 0) -> bool:
        """Whether `other` goes on from here, `but` the last tokens."""
        return self.images == other.images and common(self.ids, other.ids) >= len(self.ids) - but

    def cache(self, length: int, empty: DynamicCache) -> DynamicCache:
        """A cache that holds the first `length` tokens."""
        for layer, (keys, values) in zip(empty.layers, self.layers, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys[:, :, :length], values[:, :, :length]
        return empty


def shareable(cache: DynamicCache) -> bool:
    """Whether every layer keeps all tokens (no sliding window, no recurrent state), so that any prefix can be taken."""
    return bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)


class Prefixes:
    """The sequences computed last; the longest common prefix with a new prompt is reused."""

    def __init__(self, most: int = 8) -> None:
        self._most, self._held = most, OrderedDict[int, Computed]()
        self._count = 0

    def find(self, ids: Sequence[int], images: tuple[str, ...], needed: int) -> tuple[Computed, int] | None:
        """The sequence that shares most of `ids`, and how many; at least `needed`, so that no image is cut apart."""
        best, longest = None, max(needed, 1) - 1
        for key, held in self._held.items():
            if held.images == images and (length := common(held.ids, ids)) > longest:
                best, longest = key, length
        if best is None:
            return None
        self._held.move_to_end(best)
        return self._held[best], min(longest, len(ids) - 1)

    def keep(self, computed: Computed) -> None:
        """Hold on to a sequence; those that it continues, and the oldest, are let go."""
        for key, held in list(self._held.items()):
            # of a text that is being written, the last word may be spelled otherwise when more of it is there
            if held.begins(computed, but=LAST_WORD if held.passing and computed.passing else 0):
                del self._held[key]
            elif computed.begins(held):
                return
        self._count += 1
        self._held[self._count] = computed
        while len(self._held) > self._most:
            self._held.popitem(last=False)

    def clear(self) -> None:
        self._held.clear()


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    length = min(len(one), len(other))
    if tuple(one[:length]) == tuple(other[:length]):
        return length
    return next(i for i in range(length) if one[i] != other[i])
