"""Means and ratios over questions with bootstrap intervals, for whole arrays of figures at once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
DRAWS = 2000


@dataclass(frozen=True)
class Band:
    """Figures (…) with a 95% interval each; `count` questions. Not a number where no question has the figure."""

    mean: Array
    low: Array
    high: Array
    count: int

    def at(self, *place: Any) -> Band:
        """A part of the figures."""
        return Band(self.mean[place], self.low[place], self.high[place], self.count)

    def told(self, scale: float = 100, digits: int = 1) -> str:
        """One figure in words: `43.1 (40.2–46.0)`."""
        if not np.isfinite(self.mean):
            return "–"
        shown = [f"{scale * float(each):.{digits}f}" for each in (self.mean, self.low, self.high)]
        return f"{shown[0]} ({shown[1]}–{shown[2]})"

    def as_object(self) -> dict[str, Any]:
        sides = {"mean": self.mean, "low": self.low, "high": self.high}
        return {**{name: plain(side) for name, side in sides.items()}, "count": self.count}


def band(
    values: Array, clusters: Sequence[Hashable], of: Array | None = None, draws: int = DRAWS, seed: int = 0
) -> Band:
    """(questions, …) -> the mean of what is a number, or with `of` the ratio of sums; percentile cluster bootstrap."""
    values = np.asarray(values, dtype=np.float64)
    weights = np.isfinite(values).astype(np.float64) if of is None else np.where(np.isfinite(values), of, 0.0)
    shape, flat = values.shape[1:], np.nan_to_num(values).reshape(len(values), -1)
    names = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    member = np.zeros((len(names), len(values)))
    member[[names[cluster] for cluster in clusters], np.arange(len(values))] = 1
    tops, bottoms = member @ flat, member @ np.broadcast_to(weights, values.shape).reshape(len(values), -1)
    chance = np.random.default_rng(seed)
    drawn = chance.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, many = tops.sum(0) / bottoms.sum(0), (drawn @ tops) / (drawn @ bottoms)
    if not flat.size or np.isnan(mean).all():
        empty = np.full(shape, np.nan)
        return Band(empty, empty, empty, len(values))
    low, high = _quantiles(many)
    return Band(mean.reshape(shape), low.reshape(shape), high.reshape(shape), len(values))


def _quantiles(many: Array) -> Array:
    """(draws, figures) -> (2, figures); draws without a single value are left out."""
    if not np.isnan(many).any():
        return np.quantile(many, (0.025, 0.975), axis=0)
    columns = (column[np.isfinite(column)] for column in many.T)
    sides = [np.quantile(column, (0.025, 0.975)) if len(column) else (np.nan, np.nan) for column in columns]
    return np.asarray(sides).T


def plain(value: Array) -> Any:
    """Numbers and lists of them, six digits each; None for what is not a number."""
    if value.ndim:
        return [plain(each) for each in value]
    return float(f"{float(value):.6g}") if np.isfinite(value) else None
