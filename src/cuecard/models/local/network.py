"""What a checkpoint computes, apart from what a model decides: the seam between Transformers and NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cuecard.models.base import Limits
from cuecard.models.local.inputs import Inputs
from cuecard.models.local.prefix import Room

if TYPE_CHECKING:  # PyTorch need not be there
    from cuecard.models.local.attention_hook import Rows

LEAST_TEMPERATURE = 1e-5
"""Below this the draw is greedy already, and float32 would overflow."""
Logits = Any
"""(kept, vocabulary) numbers of a network's own kind."""
Watch = Callable[[Sequence[Any]], object]
"""Takes the (tokens, width) visual tokens of each image, in arrays of NumPy."""


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
        """The id that stands where an image is; None for a language model."""
        ...

    @property
    def most_tokens(self) -> int: ...

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer, besides the tokenizer's."""
        ...

    @property
    def is_trained_pair(self) -> bool:
        """Prompts have the wordings that the embedded pair was trained on."""
        ...

    @property
    def shares_prefixes(self) -> bool:
        """Every layer keeps all tokens (no sliding window, no recurrent state), so that any prefix can be taken."""
        ...

    def cache(self, rooms: Sequence[Room] = (), length: int = 0) -> Any:
        """A cache that holds the first `length` tokens of these rooms.

        Its `rooms`: one a layer, none where prefixes cannot be shared; `drop_last()` drops the last token.
        """
        ...

    def read(self, inputs: Inputs, cache: Any, most: int, watch: Watch | None = None) -> tuple[Logits, int]:
        """A prompt up to its last image, or its first `most` tokens if that is more.

        -> (1, vocabulary) logits, and how many positions its tokens fall short of their number (images take fewer).
        `watch` takes the visual tokens of the prompt's images, where the network knows them.
        """
        ...

    def extend(self, ids: Sequence[int], position: int, cache: Any, keep: int) -> Logits:
        """Text at a position behind a cache -> (kept, vocabulary) logits of the last tokens; keep=0: of all."""
        ...

    def append(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[Any]) -> list[Logits]:
        """A token of each sequence -> (1, vocabulary) logits of each; the greedy choice is the same as alone."""
        ...

    def joined(self, parts: Sequence[Logits]) -> Logits:
        """Logits of pieces of one text as those of the whole."""
        ...

    def chance(self, limits: Limits) -> Any:
        """A call's own source of randomness."""
        ...

    def choose(self, logits: Logits, limits: Limits, chance: Any) -> tuple[int, float]:
        """The token behind the last one, and its log probability before temperature."""
        ...

    def logprobs(self, logits: Logits, ids: Sequence[int]) -> list[float]:
        """Of each id by its row of logits."""
        ...

    def attend(
        self, ids: Sequence[int], position: int, cache: Any, reduce: Callable[[Rows], Any], hidden: Sequence[int]
    ) -> tuple[list[Any], Logits]:
        """As `extend` of all, each layer's attention rows reduced; `hidden` keys are seen by no query."""
        ...
