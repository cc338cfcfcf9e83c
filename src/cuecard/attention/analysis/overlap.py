"""How far two readers have the same key tokens, beside what chance and position alone would give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from cuecard.attention.axes import TOP

Array = np.ndarray[Any, Any]
DRAWS = 50
FIGURES = ("key tokens", "by chance", "by position")


def best(mass: Array, share: float = TOP) -> Array:
    """(tokens,) -> places of that share of them with the most mass, at least one."""
    return np.argsort(-mass, kind="stable")[: _kept(len(mass), share)]


def onto(pieces: Sequence[str], mass: Array, others: Sequence[str]) -> Array:
    """Mass per token of a text -> mass per token of the same text as another tokenizer cuts it.

    A token's mass lies evenly on its characters.
    """
    if list(pieces) == list(others):
        return mass
    lengths = np.array([len(piece) for piece in pieces])
    spread = np.repeat(mass / np.maximum(lengths, 1), lengths)
    ends = np.cumsum([len(piece) for piece in others])
    carried = np.concatenate(([0.0], np.cumsum(spread)))[np.minimum(ends, len(spread))]
    return np.diff(carried, prepend=0.0)


def same_text(one: Array, other: Array) -> Array:
    """Two readers of one text, (tokens,) each -> FIGURES: the part of the key tokens that both have."""
    kept = _kept(len(one), TOP)
    of_other = set(best(other).tolist())
    last = set(range(len(other) - kept, len(other)))
    shared = len(of_other & set(best(one).tolist())) / kept
    return np.array([shared, kept / len(one), len(of_other & last) / kept])


def other_text(one: Array, pieces: Sequence[str], other: Array, others: Sequence[str], seed: int) -> Array:
    """Two readers, each of a text of its own -> FIGURES: the words that both have among their key tokens (Dice)."""
    chance, keys, kept = np.random.default_rng(seed), best(other), _kept(len(one), TOP)
    drawn = [_dice(chance.choice(len(one), kept, False), pieces, keys, others) for _ in range(DRAWS)]
    last = np.arange(len(one) - kept, len(one))
    shared = _dice(best(one), pieces, keys, others)
    return np.array([shared, float(np.mean(drawn)), _dice(last, pieces, keys, others)])


def _dice(places: Array, pieces: Sequence[str], others_places: Array, others: Sequence[str]) -> float:
    ones = Counter(pieces[place].strip().casefold() for place in places)
    two = Counter(others[place].strip().casefold() for place in others_places)
    return 2 * (ones & two).total() / (ones.total() + two.total())


def _kept(count: int, share: float) -> int:
    return max(1, round(share * count))
