"""Resampling: intervals and a test by drawing whole clusters, seeded.

A cluster is what questions share that makes their errors alike (an image, a group of rotations). Where no clusters are
given every question is one. Every statistic here is a ratio of two sums over questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from statistics import NormalDist
from typing import Any, Literal

from cuecard.domain.errors import BadInput, MissingExtra

Clusters = Sequence[str] | None
Method = Literal["percentile", "bca"]
DRAWS = 4000
_AT_ONCE = 2**22  # numbers of a chunk of draws: 32 MiB


@dataclass(frozen=True)
class Interval:
    """An estimate between two bounds; None where the data say nothing of them (one cluster, no spread to draw from)."""

    estimate: float
    low: float | None
    high: float | None
    confidence: float
    method: str


def mean_interval(
    values: Sequence[float], clusters: Clusters = None, confidence: float = 0.95, method: Method = "bca", seed: int = 0
) -> Interval:
    """Mean per question (accuracy, seconds, tokens), by cluster bootstrap."""
    return ratio_interval(values, [1.0] * len(values), clusters, confidence, method, seed)


def ratio_interval(
    tops: Sequence[float],
    bottoms: Sequence[float],
    clusters: Clusters = None,
    confidence: float = 0.95,
    method: Method = "bca",
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval:
    """Sum of `tops` over sum of `bottoms`: of two arms' seconds, the speed-up (a ratio of means, not a mean of ratios).

    Percentile (Efron 1979) or bias-corrected and accelerated (BCa, Efron 1987, with the jackknife's acceleration) over
    draws of whole clusters with replacement (Davison & Hinkley 1997, section 3.8).
    """
    np = numpy()
    tail = (1 - checked(confidence)) / 2
    above, below = by_cluster(clusters, tops, bottoms)
    name = f"{'BCa' if method == 'bca' else method} cluster bootstrap"
    estimate = float(above.sum() / below.sum()) if len(above) and below.sum() else math.nan
    if len(above) < 2 or math.isnan(estimate):
        return Interval(estimate, None, None, confidence, name)
    drawn, tails = _drawn(above, below, draws, seed), [tail, 1 - tail]
    if method == "bca":
        left_out = (above.sum() - above) / _not_0(below.sum() - below)
        tails = _corrected(tails, drawn, estimate, left_out[~np.isnan(left_out)])
    low, high = np.quantile(drawn, tails)
    return Interval(estimate, float(low), float(high), confidence, name)


def _drawn(above: Any, below: Any, draws: int, seed: int) -> Any:
    """(clusters,), (clusters,) -> (draws,): the ratio in each draw of as many clusters as there are."""
    np = numpy()
    chance, count = np.random.default_rng(seed), len(above)
    chunks = []
    for begin in range(0, draws, max(1, _AT_ONCE // count)):
        size = min(max(1, _AT_ONCE // count), draws - begin)
        chosen = chance.integers(0, count, size=(size, count))
        chunks.append(above[chosen].sum(axis=1) / _not_0(below[chosen].sum(axis=1)))
    drawn = np.concatenate(chunks)
    return drawn[~np.isnan(drawn)]  # a draw without anything below the line says nothing


def _corrected(tails: list[float], drawn: Any, estimate: float, left_out: Any) -> list[float]:
    """Tails of the bootstrap distribution that BCa reads instead of the nominal ones (Efron 1987, eq. 2.3)."""
    normal, draws = NormalDist(), len(drawn)
    share = float((drawn < estimate).mean() + (drawn == estimate).mean() / 2)
    bias = normal.inv_cdf(min(max(share, 0.5 / draws), 1 - 0.5 / draws))
    from_mean = left_out.mean() - left_out
    spread = float((from_mean**2).sum()) ** 1.5
    skew = float((from_mean**3).sum()) / (6 * spread) if spread else 0.0
    moved = [bias + normal.inv_cdf(tail) for tail in tails]
    return [normal.cdf(bias + each / (1 - skew * each)) for each in moved]


def flip_p(differences: Sequence[float], clusters: Clusters = None, draws: int = 9999, seed: int = 0) -> float:
    """Two-sided p of no difference: signs of whole clusters flipped at random (Fisher 1935).

    The observed signs count as one of the draws, so p is never 0 (Phipson & Smyth 2010).
    """
    np = numpy()
    (sums,) = by_cluster(clusters, differences)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    chance, reached = np.random.default_rng(seed), 0
    for begin in range(0, draws, max(1, _AT_ONCE // len(sums))):
        size = min(max(1, _AT_ONCE // len(sums)), draws - begin)
        flipped = (2 * chance.integers(0, 2, size=(size, len(sums))) - 1) @ sums
        reached += int((np.abs(flipped) >= abs(sums.sum()) - 1e-9).sum())
    return (1 + reached) / (1 + draws)


def by_cluster(clusters: Clusters, *columns: Sequence[float]) -> tuple[Any, ...]:
    """Columns of one number a question -> arrays of one sum a cluster, in the order in which clusters appear."""
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


def numpy() -> Any:
    """The package. Raises MissingExtra."""
    try:
        import numpy
    except ImportError as error:
        raise MissingExtra("statistics need numpy", "pip install 'cuecard[evals]'") from error
    return numpy


def special() -> Any:
    """scipy.special. Raises MissingExtra."""
    try:
        return import_module("scipy.special")
    except ImportError as error:
        raise MissingExtra("statistics need scipy", "pip install 'cuecard[evals]'") from error


def checked(confidence: float) -> float:
    """The confidence, if it is one. Raises BadInput."""
    if not 0 < confidence < 1:
        raise BadInput(f"a confidence of {confidence:g} is not between 0 and 1", "0.95 is usual")
    return confidence


def _not_0(sums: Any) -> Any:
    return numpy().where(sums == 0, math.nan, sums)
