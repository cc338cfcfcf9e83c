"""Computed prefixes: the keys and values of what a model has read, so that no prompt token is computed twice.

They lie in tensors with room to spare, so that a token more costs no copy of those before it (Transformers' own layers
copy all of them with each), and sequences that begin alike share them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

SPARE_TOKENS = 64
LAST_WORD = 8
"""Tokens at most, as one word of a text is spelled."""


@dataclass(eq=False)
class Room:
    """Keys and values (1, heads, capacity, head_dim) of one layer, of which the first `used` tokens are there."""

    keys: torch.Tensor
    values: torch.Tensor
    used: int

    @property
    def size_bytes(self) -> int:
        """Of the tensors, spare places included."""
        return self.keys.nbytes + self.values.nbytes

    def with_more(self, length: int, end: int) -> Room:
        """A copy of the first `length` tokens, with room for `end` and some to spare."""
        larger = Room(_empty(self.keys, end), _empty(self.values, end), length)
        larger.keys[:, :, :length], larger.values[:, :, :length] = self.keys[:, :, :length], self.values[:, :, :length]
        return larger


def _empty(like: torch.Tensor, tokens: int) -> torch.Tensor:
    spare = max(SPARE_TOKENS, tokens // 4)
    return like.new_empty((*like.shape[:2], tokens + spare, like.shape[3]))


class GrowingLayer(DynamicLayer):
    """The first `length` tokens of a room.

    Append in place, copy on write: the first sequence that continues at the end of a room's tokens writes there; others
    get a copy.
    """

    def __init__(self, room: Room | None = None, length: int = 0) -> None:
        super().__init__()
        self.room = room
        if room is not None:
            self._look(length)

    def _look(self, length: int) -> None:
        assert self.room is not None
        self.keys, self.values = self.room.keys[:, :, :length], self.room.values[:, :, :length]
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object) -> Any:
        """Append tokens; -> keys and values of all."""
        length = self.get_seq_length()
        end = length + key_states.shape[2]
        if self.room is None:
            self.room = Room(_empty(key_states, end), _empty(value_states, end), 0)
        elif self.room.used != length or self.room.keys.shape[2] < end:
            self.room = self.room.with_more(length, end)
        self.room.keys[:, :, length:end], self.room.values[:, :, length:end] = key_states, value_states
        self.room.used = end
        self._look(end)
        return self.keys, self.values


def growing(empty: DynamicCache) -> DynamicCache:
    """A cache that nothing is in yet, of layers that grow without copies."""
    empty.layers = [GrowingLayer() for _ in empty.layers]
    return empty


@dataclass(frozen=True)
class Computed:
    """What was computed for these ids after these images, a room a layer."""

    ids: tuple[int, ...]
    images: tuple[str, ...]
    rooms: tuple[Room, ...]
    rope_delta: int
    """How many positions the tokens so far fall short of their number (Qwen's images take fewer)."""
    passing: bool = False
    """It ends in a text that was still being written."""

    def begins(self, other: Computed, but: int = 0) -> bool:
        """Whether `other` goes on from here, `but` the last tokens."""
        return self.images == other.images and common(self.ids, other.ids) >= len(self.ids) - but

    def cache(self, length: int, empty: DynamicCache) -> DynamicCache:
        """A cache that holds the first `length` tokens."""
        empty.layers = [GrowingLayer(room, length) for room in self.rooms]
        return empty


def shareable(cache: DynamicCache) -> bool:
    """Whether every layer keeps all tokens (no sliding window, no recurrent state), so that any prefix can be taken."""
    return bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)


class Prefixes:
    """The sequences used last; the longest common prefix with a new prompt is reused.

    Bounded by bytes, those of a room that several sequences share counted once, and by number, as each is compared with
    a new prompt. What was used least recently goes first.
    """

    def __init__(self, most_bytes: int, most: int = 8) -> None:
        self._most_bytes, self._most, self._held = most_bytes, most, OrderedDict[int, Computed]()
        self._count = 0

    @property
    def size_bytes(self) -> int:
        """Of all rooms that are held."""
        return _size_bytes(self._held.values())

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
        """Hold on to a sequence that fits; those that it continues, and the least recently used, are let go."""
        if _size_bytes([computed]) > self._most_bytes:
            return
        for key, held in list(self._held.items()):
            # of a text that is being written, the last word may be spelled otherwise when more of it is there
            if held.begins(computed, but=LAST_WORD if held.passing and computed.passing else 0):
                del self._held[key]
            elif computed.begins(held):
                return
        self._count += 1
        self._held[self._count] = computed
        while len(self._held) > self._most or self.size_bytes > self._most_bytes:
            self._held.popitem(last=False)

    def clear(self) -> None:
        self._held.clear()


def _size_bytes(sequences: Iterable[Computed]) -> int:
    rooms = {id(room): room for each in sequences for room in each.rooms}
    return sum(room.size_bytes for room in rooms.values())


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    length = min(len(one), len(other))
    if tuple(one[:length]) == tuple(other[:length]):
        return length
    return next(i for i in range(length) if one[i] != other[i])
