"""Resampling: confidence intervals of numbers and arrays, by a seeded bootstrap over whole clusters.

A cluster is a set of questions with correlated errors (the same image, a group of rotations). Without clusters, every
question is its own cluster. Statistics are functions of sums over questions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from cuecard.domain.errors import BadInput, required

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
else:
    Array = Any  # numpy is imported on first use

Clusters = Sequence[str] | None
DRAWS, ARRAY_DRAWS = 4000, 2000
_AT_ONCE = 2**22  # numbers per chunk of draws: 32 MiB


@dataclass(frozen=True)
class Interval:
    """An estimate and its two bounds. A bound is None if the data do not determine it (one cluster, or no spread)."""

    estimate: float
    low: float | None
    high: float | None
    confidence: float
    method: str


def mean_interval(values: Sequence[float], clusters: Clusters = None, seed: int = 0) -> Interval:
    """Mean per question (accuracy, seconds, tokens), by cluster bootstrap."""
    return ratio_interval(values, [1.0] * len(values), clusters, seed=seed)


def ratio_interval(
    tops: Sequence[float],
    bottoms: Sequence[float],
    clusters: Clusters = None,
    confidence: float = 0.95,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval:
    """Sum of `tops` / sum of `bottoms`: for the seconds of two arms, the speed-up (ratio of means, not mean of ratios).

    Bias-corrected and accelerated (BCa, Efron 1987, with the jackknife's acceleration) over draws of whole clusters
    with replacement (Davison & Hinkley 1997, section 3.8).
    """
    np = numpy()

    def ratio(totals: Any) -> Any:
        return totals[:, 0] / np.where(totals[:, 1] == 0, math.nan, totals[:, 1])

    sums = np.stack(by_cluster(clusters, tops, bottoms), axis=1)
    return resampled(sums, ratio, confidence, seed, draws)


def resampled(
    sums: Any,
    statistic: Callable[[Any], Any],
    confidence: float = 0.95,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval:
    """BCa interval of a statistic of totals. `sums`: (clusters, sums); `statistic`: (draws, sums) -> (draws,).

    Draws in which the statistic is NaN are left out.
    """
    np = numpy()
    tail, name = (1 - checked(confidence)) / 2, "BCa cluster bootstrap"
    estimate = float(statistic(sums.sum(axis=0, keepdims=True))[0]) if len(sums) else math.nan
    if len(sums) < 2 or math.isnan(estimate):
        return Interval(estimate, None, None, confidence, name)
    drawn, left_out = _drawn(sums, statistic, draws, seed), statistic(sums.sum(axis=0) - sums)
    low, high = np.quantile(drawn, _corrected([tail, 1 - tail], drawn, estimate, left_out[~np.isnan(left_out)]))
    return Interval(estimate, float(low), float(high), confidence, name)


def _drawn(sums: Any, statistic: Callable[[Any], Any], draws: int, seed: int) -> Any:
    """(draws,): the statistic of each draw of all clusters with replacement, without NaN."""
    np = numpy()
    chance, count = np.random.default_rng(seed), len(sums)
    chunks, step = [], max(1, _AT_ONCE // count)
    for begin in range(0, draws, step):
        chosen = chance.integers(0, count, size=(min(step, draws - begin), count))
        # column by column: a third axis would cost several times the memory
        totals = np.stack([column[chosen].sum(axis=1) for column in sums.T], axis=1)
        chunks.append(statistic(totals))
    drawn = np.concatenate(chunks)
    return drawn[~np.isnan(drawn)]


def _corrected(tails: list[float], drawn: Any, estimate: float, left_out: Any) -> list[float]:
    """The quantile levels that BCa uses instead of the nominal tails (Efron 1987)."""
    normal, draws = NormalDist(), len(drawn)
    share = float((drawn < estimate).mean() + (drawn == estimate).mean() / 2)
    bias = normal.inv_cdf(min(max(share, 0.5 / draws), 1 - 0.5 / draws))
    from_mean = left_out.mean() - left_out
    spread = float((from_mean**2).sum()) ** 1.5
    skew = float((from_mean**3).sum()) / (6 * spread) if spread else 0.0
    moved = [bias + normal.inv_cdf(tail) for tail in tails]
    return [normal.cdf(bias + each / (1 - skew * each)) for each in moved]


def by_cluster(clusters: Clusters, *columns: Sequence[float]) -> tuple[Any, ...]:
    """Columns with one number per question -> arrays with one sum per cluster, in order of appearance.

    Raises BadInput.
    """
    np = numpy()
    if any(len(column) != len(columns[0]) for column in columns):
        raise BadInput("the arms have different numbers of questions")
    if clusters is None:
        return tuple(np.asarray(column, float) for column in columns)
    if len(clusters) != len(columns[0]):
        raise BadInput("every question needs a cluster")
    known = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    places = [known[name] for name in clusters]
    return tuple(np.bincount(places, np.asarray(column, float), len(known)) for column in columns)


# --- arrays of figures ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Band:
    """Figures (…), each with a 95% interval, from `count` questions. NaN where no question has the figure."""

    mean: Array
    low: Array
    high: Array
    count: int

    def at(self, *place: Any) -> Band:
        """A part of the figures."""
        return Band(self.mean[place], self.low[place], self.high[place], self.count)

    def text(self, scale: float = 100, digits: int = 1) -> str:
        """One figure as text: `43.1 (40.2–46.0)`."""
        if not math.isfinite(self.mean):
            return "–"
        shown = [f"{scale * float(each):.{digits}f}" for each in (self.mean, self.low, self.high)]
        return f"{shown[0]} ({shown[1]}–{shown[2]})"

    def as_object(self) -> dict[str, Any]:
        sides = {"mean": self.mean, "low": self.low, "high": self.high}
        return {**{name: plain(side) for name, side in sides.items()}, "count": self.count}


def band(
    values: Array, clusters: Sequence[Hashable], of: Array | None = None, draws: int = ARRAY_DRAWS, seed: int = 0
) -> Band:
    """(questions, …) -> mean of the finite values, or with `of` the ratio of sums; percentile cluster bootstrap."""
    np = numpy()
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


def _quantiles(many: Array) -> Any:
    """(draws, figures) -> (2, figures): the 2.5% and 97.5% quantiles; draws without a value are left out."""
    np = numpy()
    if not np.isnan(many).any():
        return np.quantile(many, (0.025, 0.975), axis=0)
    columns = (column[np.isfinite(column)] for column in many.T)
    sides = [np.quantile(column, (0.025, 0.975)) if len(column) else (np.nan, np.nan) for column in columns]
    return np.asarray(sides).T


def plain(value: Array) -> Any:
    """The array as nested lists of numbers with six significant digits; None for values that are not finite."""
    if value.ndim:
        return [plain(each) for each in value]
    return float(f"{float(value):.6g}") if math.isfinite(value) else None


# --- shared helpers ---------------------------------------------------------------------------------------------------


def numpy() -> Any:
    """The numpy package. Raises MissingExtra."""
    return required("numpy", "a statistic")


def special() -> Any:
    """scipy.special. Raises MissingExtra."""
    return required("scipy.special", "a statistic")


def checked(confidence: float) -> float:
    """The confidence, if it is between 0 and 1. Raises BadInput."""
    if not 0 < confidence < 1:
        raise BadInput(f"a confidence of {confidence:g} is not between 0 and 1", "0.95 is usual")
    return confidence
