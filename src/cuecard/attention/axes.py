"""The axes of a run's arrays, and the names of what answers were given from."""

from __future__ import annotations

from cuecard.attention.token_classes import TokenClass
from cuecard.models.local.token_spans import Span

QUERIES = ("first", "all")
"""The query that predicts the answer's first token; the mean over it and the answer's own tokens."""
SPANS = tuple(Span)
CLASSES = tuple(TokenClass)
BINS = 20
TOP = 0.2
"""The share of a reasoning's tokens that readers are compared by: those with the most mass."""
READINGS = ("card", "row")
"""Of the corollary: weights on the reasoning alone, made to sum to 1; or the whole row."""
BOUND = ("kept", "tight", "tight_plain", "bound", "moved")
"""Mass m that is kept; ||o - o_S|| as a share of its bound, renormalised and not; the renormalised bound, and
||o - o_S||, as shares of ||o||."""

OWN, CARD, NONE = "own reasoning", "small's card", "no reasoning"
LARGE_OWN, LARGE_CARD, SMALL_OWN = f"large: {OWN}", f"large: {CARD}", f"small: {OWN}"
