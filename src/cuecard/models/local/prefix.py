"""Computed prefixes: the keys and values of what a model has read, so that no prompt token is computed twice.

They lie in arrays with room to spare, so that a token more costs no copy of those before it (Transformers' own layers
copy all of them with each), and sequences that begin alike share them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cuecard.domain.question import Image

SPARE_TOKENS = 64
LAST_WORD = 8
"""Tokens at most, as one word of a text is spelled."""


@dataclass(eq=False)
class Room:
    """Keys and values (…, capacity, head_dim) of one layer, of which the first `used` tokens are there.

    Arrays of NumPy or tensors of PyTorch.
    """

    keys: Any
    values: Any
    used: int

    @property
    def size_bytes(self) -> int:
        """Of both arrays, spare places included."""
        return int(self.keys.nbytes + self.values.nbytes)


def with_room(room: Room | None, like: Any, start: int, end: int) -> Room:
    """A room for tokens `start` to `end`, whose numbers are like these (…, tokens, head_dim): this one, or a copy.

    Append in place, copy on write: the first sequence that continues at the end of a room's tokens writes there; others
    get a copy of the first `start` tokens.
    """
    if room is not None and room.used == start and room.keys.shape[-2] >= end:
        room.used = end
        return room
    larger = Room(_empty(like, end), _empty(like, end), end)
    if room is not None:
        larger.keys[..., :start, :], larger.values[..., :start, :] = (
            room.keys[..., :start, :],
            room.values[..., :start, :],
        )
    return larger


def _empty(like: Any, tokens: int) -> Any:
    shape = (*like.shape[:-2], tokens + max(SPARE_TOKENS, tokens // 4), like.shape[-1])
    return np.empty(shape, like.dtype) if isinstance(like, np.ndarray) else like.new_empty(shape)


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

    def holds(self, images: Sequence[Image]) -> bool:
        """Whether a sequence with these images is held."""
        digests = tuple(image.digest for image in images)
        return any(held.images == digests for held in list(self._held.values()))

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
