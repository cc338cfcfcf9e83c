"""One layer's rows in figures: mass, sparsity, classes, positions, overlap of heads, and the corollary's bound.

Every figure is taken over two sets of queries: `first` is the one that predicts the answer's first token, `all` is
the mean over it and the answer's own tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch

from cuecard.attention.axes import BINS, CLASSES, SPANS, TOP
from cuecard.attention.bound import bounded
from cuecard.attention.token_classes import TokenClass, classes, conclusion
from cuecard.models.local.attention_hook import Rows
from cuecard.models.local.token_spans import Span, Spans

Array = np.ndarray[Any, Any]


class Measure:
    """A reducer for one capture. `delta`: the share of the reasoning's mass that its key tokens carry."""

    def __init__(self, delta: float, answer: str, question: str, raw: bool = False) -> None:
        self._delta, self._answer, self._question, self._raw = delta, answer, question, raw
        self._spans: Spans | None = None

    def __call__(self, rows: Rows, spans: Spans) -> Mapping[str, Array]:
        """(heads, queries, keys) rows -> named arrays, all but `raw` without a dimension of keys beyond the card's."""
        self._spans = spans
        weights = torch.stack((rows.weights[:, 0], rows.weights.mean(1)))  # (sets, heads, keys)
        card = weights[..., self._places]  # (sets, heads, tokens)
        learned = torch.zeros_like(rows.outputs[..., 0]) if rows.sink is None else rows.sink
        made = {
            "mass": _by(weights, self._members(spans.names, SPANS)),
            "learned": torch.stack((learned[:, 0], learned.mean(1))),
            "sparsity": sparsity(card, self._delta),
            "sparsity_of_mean": sparsity(card.mean(1), self._delta),
            "classes": _by(card, self._members(self._classes, CLASSES)),
            "conclusion": card[..., self._concluding].sum(-1),
            "bins": _by(card.mean(1), self._bins),
            "keys": card,
            "agree": agreement(card, TOP),
            "last": with_last(card, TOP),
            "window": torch.tensor(torch.nan if rows.window is None else float(rows.window)),
            "visible": (rows.weights[:, 0, self._places] > 0).any(0).float().mean(),
            **bounded(rows, self._places, self._delta),
        }
        if self._raw:
            made["raw"] = rows.weights
        return {name: value.cpu().numpy() for name, value in made.items()}

    @cached_property
    def _places(self) -> list[int]:
        assert self._spans is not None
        return self._spans.of(Span.REASONING)

    @cached_property
    def pieces(self) -> list[str]:
        """The reasoning's tokens as text, once a layer was seen."""
        assert self._spans is not None
        return [self._spans.pieces[place] for place in self._places]

    @cached_property
    def _classes(self) -> list[TokenClass]:
        return classes(self.pieces, self._answer, self._question)

    @cached_property
    def class_counts(self) -> list[int]:
        """Tokens of the reasoning in each class, and in its last sentence."""
        return [*(self._classes.count(kind) for kind in CLASSES), len(self._concluding)]

    @cached_property
    def _concluding(self) -> list[int]:
        return [place for place, last in enumerate(conclusion(self.pieces)) if last]

    @cached_property
    def _bins(self) -> torch.Tensor:
        """(tokens, bins) 0 or 1: the reasoning cut into equal parts, a token by its middle."""
        count = len(self._places)
        at = ((torch.arange(count) + 0.5) * BINS / max(1, count)).long()
        return torch.nn.functional.one_hot(at, BINS).float()

    def _members(self, names: Any, of: tuple[Any, ...]) -> torch.Tensor:
        """(keys, names) 0 or 1."""
        return torch.tensor([[name is each for each in of] for name in names], dtype=torch.float32).reshape(-1, len(of))


def _by(weights: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """(…, keys), (keys, groups) -> (…, groups) sums."""
    return weights @ members.to(weights.device)


def sparsity(card: torch.Tensor, delta: float) -> torch.Tensor:
    """(…, tokens) mass -> (…) the smallest share of tokens that carries `delta` of it; not a number without mass."""
    count, total = card.shape[-1], card.sum(-1)
    if not count:
        return torch.full(card.shape[:-1], torch.nan)
    carried = card.sort(-1, descending=True).values.cumsum(-1)
    needed = (carried < delta * total[..., None] * (1 - 1e-6)).sum(-1) + 1
    return torch.where(total > 0, needed.clamp(max=count) / count, torch.nan)


def top(card: torch.Tensor, share: float) -> torch.Tensor:
    """(…, tokens) mass -> (…, tokens) whether a token is among that share of them with the most."""
    count = card.shape[-1]
    kept = max(1, round(share * count))
    return torch.zeros_like(card, dtype=torch.bool).scatter_(-1, card.topk(kept, -1).indices, True)


def agreement(card: torch.Tensor, share: float) -> torch.Tensor:
    """(sets, heads, tokens) -> (sets): the part of a head's top tokens that another head has too, mean over pairs."""
    if not card.shape[-1] or card.shape[1] < 2:
        return torch.full(card.shape[:1], torch.nan)
    chosen = top(card, share).float()
    shared = chosen @ chosen.transpose(-1, -2) / chosen[:, :1].sum(-1, keepdim=True)
    heads = card.shape[1]
    return (shared.sum((-1, -2)) - heads) / (heads * (heads - 1))


def with_last(card: torch.Tensor, share: float) -> torch.Tensor:
    """(sets, heads, tokens) -> (sets): the part of a head's top tokens that are the last ones, mean over heads."""
    if not card.shape[-1]:
        return torch.full(card.shape[:1], torch.nan)
    chosen = top(card, share)
    kept = int(chosen[0, 0].sum())
    return chosen[..., -kept:].float().mean((-1, -2))
