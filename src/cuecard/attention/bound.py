"""The corollary, on real values: what leaving out all but a reasoning's key tokens changes, against what bounds it.

With weights that sum to 1, a kept set S of mass m, and values no longer than c:
||o - o_S|| <= 2 (1 - m) c where S is renormalised, and (1 - m) c where it is not. Two readings of it are measured:
`card`: the reasoning's tokens alone, whose weights are made to sum to 1 first, as in the paper; `row`: the whole row,
of which only reasoning tokens that are no key tokens are left out, as it is when a card is cut.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from cuecard.attention.axes import BOUND, READINGS
from cuecard.domain.errors import CuecardError
from cuecard.models.local.attention_hook import Rows, sums

SLACK = 1e-4
"""Of rounding: relative, and as a share of c."""


def bounded(rows: Rows, places: list[int], delta: float) -> Mapping[str, torch.Tensor]:
    """`bound`: (readings, heads, figures) mean over queries; `worst`: (readings, heads), the most of a bound used.

    Raises CuecardError where the bound does not hold: it is a theorem, so that would be a defect.
    """
    heads = rows.weights.shape[0]
    if not places:
        return {
            "bound": torch.full((len(READINGS), heads, len(BOUND)), torch.nan),
            "worst": torch.full((len(READINGS), heads), torch.nan),
        }
    seen = rows.values.shape[1]
    gone = rows.weights.shape[-1] - seen  # a sliding cache has forgotten the values of the first keys
    inside = [place - gone for place in places if place >= gone]
    weights = rows.weights[..., gone:]
    card = torch.zeros_like(weights)
    card[..., inside] = weights[..., inside]
    left_out = card * ~_carrying(card, delta)
    total = card.sum(-1, keepdim=True)
    # no mass on the reasoning at all: there is nothing to leave out
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
    """(heads, queries, keys) -> which keys are the fewest that carry `delta` of the mass."""
    ordered, order = card.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    chosen = before < delta * card.sum(-1, keepdim=True) * (1 - 1e-6)
    return torch.zeros_like(chosen).scatter_(-1, order, chosen)


def _longest(values: torch.Tensor, heads: int) -> torch.Tensor:
    """(groups, keys, head_dim) -> (heads, 1) c, the norm of the longest value that a head sees."""
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
    """-> (heads, queries, figures) and (heads, queries) the larger share of a bound that was used."""
    gone = left_out.sum(-1)
    output, missing = _summed(weights, values), _summed(left_out, values)
    kept = 1 - gone
    moved = (output - (output - missing) / kept[..., None]).norm(dim=-1)
    plain, size = missing.norm(dim=-1), output.norm(dim=-1)
    most = gone * longest
    if ((moved > 2 * most + SLACK * longest) | (plain > most + SLACK * longest)).any():
        raise CuecardError("the corollary's bound does not hold for a head: its attention or its values are misread")
    # where nothing is left out both are 0, and say nothing about how tight the bound is
    some = gone > 1e-6
    tight = torch.where(some, moved / (2 * most), torch.nan)
    tight_plain = torch.where(some, plain / most, torch.nan)
    return (
        torch.stack((kept, tight, tight_plain, 2 * most / size, moved / size), -1),
        torch.maximum(tight, tight_plain),
    )
