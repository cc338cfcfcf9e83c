"""The computation of a checkpoint, apart from a model's decisions: prefix caching, and the interface of networks.

The prefix cache holds keys and values of computed tokens, so that no prompt token is computed twice. They are in arrays
with spare capacity, so that a new token costs no copy of those before it (Transformers' own layers copy all of them for
each token), and sequences with a common prefix share them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cuecard.domain.question import Image
from cuecard.models.base import Limits
from cuecard.models.local.inputs import Inputs

if TYPE_CHECKING:  # PyTorch need not be there
    from cuecard.models.local.attention_hook import Rows

LEAST_TEMPERATURE = 1e-5
"""Below this, sampling is greedy already, and float32 would overflow."""
Logits = Any
"""(kept, vocabulary) numbers of a network's own kind."""
Watch = Callable[[Sequence[Any]], object]
"""Takes the (tokens, width) visual tokens of each image, as NumPy arrays."""
SPARE_TOKENS = 64
LAST_WORD = 8
"""Maximum tokens of one word."""


@dataclass(eq=False)
class Room:
    """Keys and values (…, capacity, head_dim) of one layer, of which the first `used` tokens are filled.

    NumPy arrays or PyTorch tensors.
    """

    keys: Any
    values: Any
    used: int

    @property
    def size_bytes(self) -> int:
        """Size of both arrays, including spare capacity."""
        return int(self.keys.nbytes + self.values.nbytes)


def with_room(room: Room | None, like: Any, start: int, end: int) -> Room:
    """A room for tokens `start` to `end`: this one, or a copy; type and other axes as `like` (…, tokens, head_dim).

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
    """The keys and values of these ids with these images, one room per layer."""

    ids: tuple[int, ...]
    images: tuple[str, ...]
    rooms: tuple[Room, ...]
    rope_delta: int
    """Positions minus tokens so far; at most 0 (Qwen's images take fewer positions)."""
    passing: bool = False
    """It ends in an unfinished text."""

    def begins(self, other: Computed, but: int = 0) -> bool:
        """Whether `other` continues this sequence without its last `but` tokens."""
        return self.images == other.images and common(self.ids, other.ids) >= len(self.ids) - but


class Prefixes:
    """The most recently used sequences; a new prompt reuses the longest common prefix.

    Bounded by bytes (a room that several sequences share counts once) and by number (each is compared with a new
    prompt). The least recently used is dropped first.
    """

    def __init__(self, most_bytes: int, most: int = 8) -> None:
        self._most_bytes, self._most, self._held = most_bytes, most, OrderedDict[int, Computed]()
        self._count = 0

    @property
    def size_bytes(self) -> int:
        """Size of all rooms that are held."""
        return _size_bytes(self._held.values())

    def find(self, ids: Sequence[int], images: tuple[str, ...], needed: int) -> tuple[Computed, int] | None:
        """The sequence with the longest common prefix, and its length: at least `needed`, so that no image is split."""
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
        """Hold a sequence if it fits; drop those that it continues, and the least recently used."""
        if _size_bytes([computed]) > self._most_bytes:
            return
        for key, held in list(self._held.items()):
            # the last word of an unfinished text may be tokenized differently when more text follows
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


# --- networks, of Transformers and of NumPy ---------------------------------------------------------------------------


class Network(Protocol):
    """A checkpoint in memory. Used by one thread at a time."""

    @property
    def place(self) -> str:
        """The device, as PyTorch names it."""
        ...

    @property
    def sees_images(self) -> bool: ...

    @property
    def image_token(self) -> int | None:
        """The token id at the places of images; None for a language model."""
        ...

    @property
    def most_tokens(self) -> int: ...

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer, besides the tokenizer's."""
        ...

    @property
    def is_trained_pair(self) -> bool:
        """Whether prompts have the wordings of the embedded pair's training."""
        ...

    @property
    def shares_prefixes(self) -> bool:
        """Every layer keeps all tokens (no sliding window, no recurrent state), so that prefixes can be reused."""
        ...

    def cache(self, rooms: Sequence[Room] = (), length: int = 0) -> Any:
        """A cache that holds the first `length` tokens of these rooms.

        Its `rooms`: one per layer, none if prefixes cannot be shared; `drop_last()` drops the last token.
        """
        ...

    def read(self, inputs: Inputs, cache: Any, most: int, watch: Watch | None = None) -> tuple[Logits, int]:
        """Prefill a prompt up to its last image, or its first `most` tokens if that is more.

        -> (1, vocabulary) logits, and positions minus tokens (at most 0, as images take fewer positions). `watch` gets
        the visual tokens of the prompt's images, if the network can provide them.
        """
        ...

    def extend(self, ids: Sequence[int], position: int, cache: Any, keep: int) -> Logits:
        """Prefill text at a position after a cache -> (kept, vocabulary) logits of the last tokens; keep=0: of all."""
        ...

    def append(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[Any]) -> list[Logits]:
        """Append a token to each sequence -> (1, vocabulary) logits of each; the greedy choice is the same as alone."""
        ...

    def joined(self, parts: Sequence[Logits]) -> Logits:
        """The logits of a whole text, from those of its pieces."""
        ...

    def chance(self, limits: Limits) -> Any:
        """A random generator for one call, seeded by its limits."""
        ...

    def choose(self, logits: Logits, limits: Limits, chance: Any) -> tuple[int, float]:
        """The next token, and its log probability before temperature."""
        ...

    def logprobs(self, logits: Logits, ids: Sequence[int]) -> list[float]:
        """Log probability of each id, by its row of logits."""
        ...

    def attend(
        self, ids: Sequence[int], position: int, cache: Any, reduce: Callable[[Rows], Any], hidden: Sequence[int]
    ) -> tuple[list[Any], Logits]:
        """As `extend` with keep=0, with each layer's attention rows reduced; no query attends to `hidden` keys."""
        ...
