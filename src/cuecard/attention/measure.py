"""Figures of one layer's attention rows: mass, sparsity, classes, positions, overlap of heads, the corollary's bound.

Every figure is taken over two sets of queries: `first` is the query that predicts the answer's first token, `all` is
the mean over it and the answer's own tokens.

The corollary: for weights that sum to 1, a kept set S of mass m, and values of norm at most c, ||o - o_S|| is at most
2 (1 - m) c if S is renormalised and (1 - m) c if it is not. It is measured in two readings. `card`: the reasoning's
tokens alone, with weights normalised to sum to 1, as in the paper. `row`: the whole row, without the reasoning tokens
that are not key tokens, as when a card is cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from cuecard.attention.store import BINS, BOUND, CLASSES, READINGS, SPANS, TOP, Array, TokenClass, classes, conclusion
from cuecard.domain.errors import CuecardError
from cuecard.models.local.attention_hook import Rows, sums
from cuecard.models.local.network import Span, Spans


class Measure:
    """A reducer for one capture. `delta`: the share of the reasoning's mass that its key tokens carry."""

    def __init__(self, delta: float, answer: str, question: str, raw: bool = False) -> None:
        self._delta, self._answer, self._question, self._raw = delta, answer, question, raw
        self._spans: Spans | None = None

    def __call__(self, rows: Rows, spans: Spans) -> Mapping[str, Array]:
        """(heads, queries, keys) rows -> named arrays; only `raw` has a dimension over all keys."""
        self._spans = spans
        weights = torch.stack((rows.weights[:, 0], rows.weights.mean(1)))  # (sets, heads, keys)
        card = weights[..., self._places]  # (sets, heads, tokens)
        learned = torch.zeros_like(rows.outputs[..., 0]) if rows.sink is None else rows.sink
        figures = {
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
            figures["raw"] = rows.weights
        return {name: value.cpu().numpy() for name, value in figures.items()}

    @cached_property
    def _places(self) -> list[int]:
        assert self._spans is not None
        return self._spans.of(Span.REASONING)

    @cached_property
    def pieces(self) -> list[str]:
        """The reasoning's tokens as text; available after the first layer."""
        assert self._spans is not None
        return [self._spans.pieces[place] for place in self._places]

    @cached_property
    def _classes(self) -> list[TokenClass]:
        return classes(self.pieces, self._answer, self._question)

    @cached_property
    def class_counts(self) -> list[int]:
        """Number of reasoning tokens in each class, and in the last sentence."""
        return [*(self._classes.count(kind) for kind in CLASSES), len(self._concluding)]

    @cached_property
    def _concluding(self) -> list[int]:
        return [place for place, last in enumerate(conclusion(self.pieces)) if last]

    @cached_property
    def _bins(self) -> torch.Tensor:
        """(tokens, bins) one-hot: equal parts of the reasoning, each token assigned by its middle."""
        count = len(self._places)
        at = ((torch.arange(count) + 0.5) * BINS / max(1, count)).long()
        return torch.nn.functional.one_hot(at, BINS).float()

    def _members(self, names: Any, of: tuple[Any, ...]) -> torch.Tensor:
        """(keys, names) one-hot."""
        return torch.tensor([[name is each for each in of] for name in names], dtype=torch.float32).reshape(-1, len(of))


def _by(weights: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """(…, keys), (keys, groups) -> (…, groups) sums."""
    return weights @ members.to(weights.device)


def sparsity(card: torch.Tensor, delta: float) -> torch.Tensor:
    """(…, tokens) mass -> (…) the smallest share of tokens that carries `delta` of it; NaN without mass."""
    count, total = card.shape[-1], card.sum(-1)
    if not count:
        return torch.full(card.shape[:-1], torch.nan)
    carried = card.sort(-1, descending=True).values.cumsum(-1)
    needed = (carried < delta * total[..., None] * (1 - 1e-6)).sum(-1) + 1
    return torch.where(total > 0, needed.clamp(max=count) / count, torch.nan)


def top(card: torch.Tensor, share: float) -> torch.Tensor:
    """(…, tokens) mass -> (…, tokens) whether a token is in the top `share` by mass."""
    count = card.shape[-1]
    kept = max(1, round(share * count))
    return torch.zeros_like(card, dtype=torch.bool).scatter_(-1, card.topk(kept, -1).indices, True)


def agreement(card: torch.Tensor, share: float) -> torch.Tensor:
    """(sets, heads, tokens) -> (sets): share of a head's top tokens that another head has too, mean over pairs."""
    if not card.shape[-1] or card.shape[1] < 2:
        return torch.full(card.shape[:1], torch.nan)
    chosen = top(card, share).float()
    shared = chosen @ chosen.transpose(-1, -2) / chosen[:, :1].sum(-1, keepdim=True)
    heads = card.shape[1]
    return (shared.sum((-1, -2)) - heads) / (heads * (heads - 1))


def with_last(card: torch.Tensor, share: float) -> torch.Tensor:
    """(sets, heads, tokens) -> (sets): share of a head's top tokens that are among the last ones, mean over heads."""
    if not card.shape[-1]:
        return torch.full(card.shape[:1], torch.nan)
    chosen = top(card, share)
    kept = int(chosen[0, 0].sum())
    return chosen[..., -kept:].float().mean((-1, -2))


SLACK = 1e-4
"""Tolerance for rounding: relative, and as a share of c."""


def bounded(rows: Rows, places: list[int], delta: float) -> Mapping[str, torch.Tensor]:
    """`bound`: (readings, heads, figures) mean over queries; `worst`: (readings, heads), maximum of error / bound.

    Raises CuecardError if the bound is violated: it is a theorem, so that would be a defect.
    """
    heads = rows.weights.shape[0]
    if not places:
        return {
            "bound": torch.full((len(READINGS), heads, len(BOUND)), torch.nan),
            "worst": torch.full((len(READINGS), heads), torch.nan),
        }
    seen = rows.values.shape[1]
    gone = rows.weights.shape[-1] - seen  # a sliding cache has dropped the values of the first keys
    inside = [place - gone for place in places if place >= gone]
    weights = rows.weights[..., gone:]
    card = torch.zeros_like(weights)
    card[..., inside] = weights[..., inside]
    left_out = card * ~_carrying(card, delta)
    total = card.sum(-1, keepdim=True)
    # no mass on the reasoning: nothing to leave out
    share = torch.where(total > 0, 1 / total, torch.nan)
    both = [
        _figures(card * share, left_out * share, rows.values, _longest(rows.values[:, inside], heads)),
        _figures(weights, left_out, rows.values, _longest(rows.values, heads)),
    ]
    return {
        "bound": torch.stack([figures.nanmean(1) for figures, _ in both]),
        "worst": torch.stack([worst.nan_to_num(0).amax(-1) for _, worst in both]),
    }


def _carrying(card: torch.Tensor, delta: float) -> torch.Tensor:
    """(heads, queries, keys) -> mask of the fewest keys that carry `delta` of the mass."""
    ordered, order = card.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    chosen = before < delta * card.sum(-1, keepdim=True) * (1 - 1e-6)
    return torch.zeros_like(chosen).scatter_(-1, order, chosen)


def _longest(values: torch.Tensor, heads: int) -> torch.Tensor:
    """(groups, keys, head_dim) -> (heads, 1) c, the norm of the longest value visible to a head."""
    if not values.shape[1]:
        return torch.zeros(heads, 1, device=values.device)
    longest = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float32).amax(-1, keepdim=True)
    return longest.repeat_interleave(heads // values.shape[0], 0)


def _summed(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(heads, queries, keys) weights, (groups, keys, head_dim) values -> (heads, queries, head_dim)."""
    heads, queries, keys = weights.shape
    return sums(weights.reshape(len(values), -1, keys), values).view(heads, queries, -1)


def _figures(
    weights: torch.Tensor, left_out: torch.Tensor, values: torch.Tensor, longest: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """-> (heads, queries, figures) and (heads, queries) the larger of both errors as shares of their bounds."""
    gone = left_out.sum(-1)
    output, missing = _summed(weights, values), _summed(left_out, values)
    kept = 1 - gone
    moved = (output - (output - missing) / kept[..., None]).norm(dim=-1)
    plain, size = missing.norm(dim=-1), output.norm(dim=-1)
    most = gone * longest
    if ((moved > 2 * most + SLACK * longest) | (plain > most + SLACK * longest)).any():
        raise CuecardError("the corollary's bound does not hold for a head: its attention or its values are misread")
    # if nothing is left out both are 0, which tells nothing about the tightness of the bound
    some = gone > 1e-6
    tight = torch.where(some, moved / (2 * most), torch.nan)
    tight_plain = torch.where(some, plain / most, torch.nan)
    return (
        torch.stack((kept, tight, tight_plain, 2 * most / size, moved / size), -1),
        torch.maximum(tight, tight_plain),
    )
