"""Questions shown one by one: each token's part of a row, for every layer and head and their means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cuecard.attention import store
from cuecard.attention.store import Record
from cuecard.domain.question import Image
from cuecard.stats.bootstrap import Array


@dataclass(frozen=True)
class Shades:
    """One condition. The first layer and the first head of each array are the means over all."""

    answer: str
    right: float | None
    pieces: Sequence[str]
    rows: Array
    """(sets, 1 + layers, 1 + heads, tokens) parts of whole rows."""
    carrying: Array
    """(sets, 1 + layers, 1 + heads) how many tokens carry delta of the mass on the reasoning."""


@dataclass(frozen=True)
class ShadedQuestion:
    """One question."""

    meta: Mapping[str, Any]
    images: Sequence[Image]
    shades: Mapping[str, Shades]


def shaded_questions(path: Path, delta: float, most: int) -> list[ShadedQuestion]:
    """The first questions of a run whose tokens' mass was kept, at most so many."""
    shown: list[ShadedQuestion] = []
    for index, record in store.records(path):
        shades = {name: made for name in record.conditions if (made := _shades(name, record, delta)) is not None}
        if shades and len(shown) < most:
            shown.append(ShadedQuestion(record.meta, store.images(path, index), shades))
    return shown


def _shades(name: str, record: Record, delta: float) -> Shades | None:
    keys, condition = record.array(name, "keys"), record.conditions[name]
    if keys is None or not keys.shape[-1]:
        return None
    rows = keys.astype(np.float64).swapaxes(0, 1)  # (sets, layers, heads, tokens)
    for axis in (1, 2):
        rows = np.concatenate((rows.mean(axis, keepdims=True), rows), axis)
    carried = np.cumsum(-np.sort(-rows, -1), -1)
    needed = (carried < delta * rows.sum(-1, keepdims=True) * (1 - 1e-6)).sum(-1) + 1
    carrying = np.minimum(needed, rows.shape[-1])
    return Shades(condition["answer"], condition["right"], condition["pieces"], rows, carrying)
