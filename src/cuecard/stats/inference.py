"""Means, quantiles, intervals, paired tests and sample sizes: pure functions over numbers, clustered where answers are.

Whatever draws at random (bootstraps, sign flips) is in `bootstrap`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from cuecard.domain.errors import BadInput
from cuecard.stats.bootstrap import Clusters, Interval, by_cluster, checked, flip_p, mean_interval, special


def mean(values: Iterable[float]) -> float | None:
    """None of no values."""
    known = list(values)
    return sum(known) / len(known) if known else None


def share(part: int, whole: int) -> float | None:
    """None of an empty whole."""
    return part / whole if whole else None


def quantile(ordered: Sequence[float], level: float) -> float:
    """Of sorted values, at least one: interpolated linearly between neighbours."""
    at = level * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    if ordered[low] == ordered[high]:
        return ordered[low]  # also of two infinities
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of at least two values, with the sample's standard deviation."""
    middle = sum(values) / len(values)
    return math.sqrt(sum((each - middle) ** 2 for each in values) / (len(values) - 1)) / math.sqrt(len(values))


def z_of(confidence: float) -> float:
    """Normal quantile of a two-sided interval: 0.95 -> 1.96."""
    return NormalDist().inv_cdf((1 + checked(confidence)) / 2)


def wilson(right: int, of: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion of independent answers (Wilson 1927)."""
    low, high = wilson_bounds(right, of, z_of(confidence))
    return Interval(right / of if of else math.nan, low, high, confidence, "Wilson")


def wilson_bounds(right: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """The two ends of Wilson's score interval; 0 and 1 of no answers."""
    if not of:
        return 0.0, 1.0
    share, scale = right / of, 1 + z * z / of
    middle = (share + z * z / (2 * of)) / scale
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def share_interval(scores: Sequence[float], clusters: Clusters = None, confidence: float = 0.95) -> Interval:
    """Accuracy: Wilson where answers are right or wrong and independent, else a BCa cluster bootstrap.

    Where all scores are the same there is nothing to draw from: then Wilson over the clusters, as if each were one
    answer, which is the widest that clustering can make it.
    """
    count = len(scores)
    several = clusters is not None and len(set(clusters)) < count
    binary = all(score in (0, 1) for score in scores)
    if count and binary and (not several or len(set(scores)) == 1):
        of = len(set(clusters or ())) if several else count
        return wilson(round(of * sum(scores) / count), of, confidence)
    return mean_interval(scores, clusters, confidence)


def difference_interval(
    ones: Sequence[float],
    others: Sequence[float],
    clusters: Clusters = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of `ones` less mean of `others`, of the same questions in the same order, by paired cluster bootstrap."""
    differences = [one - other for one, other in _pairs(ones, others)]
    return mean_interval(differences, clusters, confidence, seed=seed)


@dataclass(frozen=True)
class PairedComparison:
    """Two arms on the same questions; `better` and `worse` count questions on which the first is so."""

    difference: Interval
    better: int
    worse: int
    same: int
    p: float
    """Two-sided, of no difference."""
    test: str


def compare(
    ones: Sequence[float], others: Sequence[float], clusters: Clusters = None, confidence: float = 0.95, seed: int = 0
) -> PairedComparison:
    """Paired scores: exact McNemar where they are right or wrong and independent, else a sign-flip test by cluster."""
    pairs = _pairs(ones, others)
    better, worse = sum(one > other for one, other in pairs), sum(one < other for one, other in pairs)
    clustered = clusters is not None and len(set(clusters)) < len(pairs)
    if not clustered and all(score in (0, 1) for pair in pairs for score in pair):
        p, test = mcnemar(better, worse), "McNemar, exact"
    else:
        p = flip_p([one - other for one, other in pairs], clusters, seed=seed)
        test = "sign flips of clusters"
    within = difference_interval(ones, others, clusters, confidence, seed=seed)
    return PairedComparison(within, better, worse, len(pairs) - better - worse, p, test)


def mcnemar(better: int, worse: int) -> float:
    """Two-sided exact p of independent questions of which so many differ each way (McNemar 1947, binomial form)."""
    n, k = better + worse, min(better, worse)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0


def holm(family: Mapping[str, float]) -> dict[str, float]:
    """P-values adjusted so that the chance of any false finding in the family stays below the level (Holm 1979)."""
    adjusted, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(family.items(), key=lambda each: each[1])):
        largest = max(largest, min(1.0, (len(family) - rank) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in family}


@dataclass(frozen=True)
class NonInferiority:
    """Whether an arm is at most `margin` worse than another: shown when p is at most 1 - confidence."""

    difference: float
    margin: float
    p: float
    """One-sided, of being worse by the margin or more."""
    confidence: float
    shown: bool
    method: str


def non_inferiority(
    ones: Sequence[float],
    others: Sequence[float],
    margin: float,
    clusters: Clusters = None,
    confidence: float = 0.95,
) -> NonInferiority:
    """Paired, one-sided: is the mean of `ones` above that of `others` less the margin (score points, 0.01 = 1 point)?

    Tango's score test (1998) where scores are right or wrong and independent; else Student's t on cluster sums with
    the cluster-robust standard error (Liang & Zeger 1986; Miller 2024, arXiv:2411.00640, eq. 4). Both are approximate:
    for a finite-sample guarantee see `tune`.
    """
    if not 0 < margin < 1:
        raise BadInput(f"a margin of {margin:g} is not between 0 and 1", "0.01 is one point of accuracy")
    pairs = _pairs(ones, others)
    if not pairs:
        raise BadInput("there are no pairs to compare")
    difference = sum(one - other for one, other in pairs) / len(pairs)
    clustered = clusters is not None and len(set(clusters)) < len(pairs)
    if not clustered and all(score in (0, 1) for pair in pairs for score in pair):
        better, worse = sum(one > other for one, other in pairs), sum(one < other for one, other in pairs)
        p, method = tango_p(better, worse, len(pairs), margin), "Tango's score test"
    else:
        p, method = _robust_p([one - other for one, other in pairs], clusters, margin)
    return NonInferiority(difference, margin, p, confidence, p <= 1 - checked(confidence), method)


def tango_p(better: int, worse: int, of: int, margin: float) -> float:
    """One-sided p that a paired difference of proportions is -margin or less (Tango 1998, Stat. in Medicine 17)."""
    limit = -margin
    a, b, c = 2 * of, -better - worse + (2 * of - better + worse) * limit, -worse * limit * (1 - limit)
    share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = of * (2 * share + limit * (1 - limit))
    return 1 - NormalDist().cdf((better - worse - of * limit) / math.sqrt(variance)) if variance > 0 else 1.0


def _robust_p(differences: Sequence[float], clusters: Clusters, margin: float) -> tuple[float, str]:
    sums, sizes = by_cluster(clusters, differences, [1.0] * len(differences))
    count, mean = len(sums), float(sums.sum() / sizes.sum())
    if count < 2:
        return 1.0, "one cluster shows nothing"
    error = math.sqrt(count / (count - 1) * float(((sums - mean * sizes) ** 2).sum())) / float(sizes.sum())
    if not error:  # no spread at all: the least that is known is known of clusters without a difference
        return (tango_p(0, 0, count, margin) if mean >= 0 else 1.0), "Tango's score test over clusters"
    return 1 - float(special().stdtr(count - 1, (mean + margin) / error)), "t test, cluster-robust"


def questions_for_half_width(half_width: float, share: float = 0.5, confidence: float = 0.95) -> int:
    """Least number of independent questions whose Wilson interval reaches at most so far from its middle."""
    if not 0 < half_width < 0.5:
        raise BadInput(f"a half-width of {half_width:g} is not between 0 and 0.5", "0.02 is two points of accuracy")
    z = z_of(confidence)
    least, most = 1, math.ceil((z / (2 * half_width)) ** 2) + 1
    while least < most:
        middle = (least + most) // 2
        spread = math.sqrt(share * (1 - share) / middle + (z / (2 * middle)) ** 2)
        if z * spread / (1 + z * z / middle) <= half_width:
            most = middle
        else:
            least = middle + 1
    return least


def questions_for_difference(differing: float, difference: float, power: float = 0.8, level: float = 0.05) -> int:
    """Questions for a two-sided McNemar test, of which a share `differing` is right for one arm only (Connor 1987)."""
    if not 0 < abs(difference) <= differing <= 1:
        raise BadInput("the arms must differ on at least as many questions as their accuracies differ by")
    z_level, z_power = NormalDist().inv_cdf(1 - level / 2), NormalDist().inv_cdf(power)
    root = z_level * math.sqrt(differing) + z_power * math.sqrt(differing - difference**2)
    return math.ceil((root / difference) ** 2)


def questions_for_non_inferiority(
    differing: float, margin: float, difference: float = 0.0, power: float = 0.8, level: float = 0.05
) -> int:
    """Questions to show, one-sided, that an arm is at most `margin` worse when it truly differs by `difference`.

    Normal approximation with the variance of a paired difference, differing - difference^2 (Liu et al. 2002).
    """
    if not (abs(difference) <= differing <= 1 and difference + margin > 0):
        raise BadInput("no number of questions shows this: the true difference must lie above -margin")
    z = NormalDist().inv_cdf(1 - level) + NormalDist().inv_cdf(power)
    return math.ceil(z**2 * max(differing - difference**2, 1e-12) / (difference + margin) ** 2)


def design_effect(questions_per_cluster: float, correlation: float) -> float:
    """Factor by which clusters of equal size raise the number of questions needed (Kish 1965)."""
    return 1 + (questions_per_cluster - 1) * correlation


def _pairs(ones: Sequence[float], others: Sequence[float]) -> list[tuple[float, float]]:
    if len(ones) != len(others):
        raise BadInput(f"the arms answered {len(ones)} and {len(others)} questions", "compare them on the same ones")
    return list(zip(ones, others, strict=True))
