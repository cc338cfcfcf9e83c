"""The computation of a checkpoint, apart from a model's decisions: the interface for Transformers and NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cuecard.models.base import Limits
from cuecard.models.local.inputs import Inputs
from cuecard.models.local.prefix import Room

if TYPE_CHECKING:  # PyTorch need not be there
    from cuecard.models.local.attention_hook import Rows

LEAST_TEMPERATURE = 1e-5
"""Below this, sampling is greedy already, and float32 would overflow."""
Logits = Any
"""(kept, vocabulary) numbers of a network's own kind."""
Watch = Callable[[Sequence[Any]], object]
"""Takes the (tokens, width) visual tokens of each image, as NumPy arrays."""


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
