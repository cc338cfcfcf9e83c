"""Tokens of several calls decoded in one step: weights are read once for all of them, attention is each call's own.

In float32 a row of a batch differs from the same row alone by the order of sums, about a millionth of the largest
logit. Where the two best tokens are closer than a hundred times that, the step is done again alone, so that what a
greedy call says does not depend on who is decoded beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from cuecard.models.local.fused_decoder import Growing, StaticDecoder

CLOSE = 1e-4
"""Of the largest logit: two best tokens that are closer are decided alone."""


@dataclass(eq=False)
class Step:
    """A call that wants a token appended. `alone`: it is sampled, and its draws are not to depend on others.

    `together` appends those of all its model's calls.
    """

    sequence: Any
    token: int
    alone: bool
    together: Callable[[Sequence[Step]], None]


class Several:
    """One layer of several calls' caches."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self._each = [Growing(layer) for layer in layers]

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """As `static.Held.attend`, row by row, as their lengths differ."""
        rows = (
            place.attend(query[i : i + 1], keys[i : i + 1], values[i : i + 1]) for i, place in enumerate(self._each)
        )
        return torch.cat(list(rows))


def logits(
    decoder: StaticDecoder, tokens: torch.Tensor, positions: Sequence[int], caches: Sequence[Any]
) -> torch.Tensor:
    """(batch,) tokens, each at its position behind its cache -> (batch, vocabulary)."""
    if (last := max(positions)) >= len(decoder.cos):
        decoder.make_room(2 * last)
    at = torch.tensor(positions, device=tokens.device)
    cos, sin = decoder.cos[at][:, None], decoder.sin[at][:, None]
    hidden = functional.embedding(tokens, decoder.embedding)
    for index, weights in enumerate(decoder.layers):
        held = Several([cache.layers[index] for cache in caches])
        hidden = decoder.layer(hidden, weights, held, *decoder.turned(index, cos, sin))
    return decoder.last(hidden)


def close(logits: torch.Tensor) -> list[bool]:
    """(batch, vocabulary) -> of each row, whether another order of sums could choose another token."""
    best = logits.topk(2, -1).values
    near: list[bool] = (best[:, 0] - best[:, 1] <= CLOSE * logits.abs().amax(-1)).tolist()
    return near
