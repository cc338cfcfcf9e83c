"""Means, quantiles, intervals, paired tests, sample sizes and the bootstrap: functions over numbers.

A cluster is a set of questions with correlated errors (the same image, a group of rotations). Without clusters, every
question is its own cluster. Whatever draws at random takes a seed, and draws whole clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from cuecard.domain.errors import BadInput, required

Clusters = Sequence[str] | None
DRAWS = 4000
Z = NormalDist().inv_cdf(0.975)
"""Normal quantile of a two-sided 95% interval."""
_AT_ONCE = 2**22  # numbers per chunk of draws: 32 MiB
SCORE, ROBUST, NO_SPREAD = "Tango's score test", "cluster-robust t test", "sign test of clusters"
"""Names of methods: a p-value is shown beside the interval that inverts the same test."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its two bounds. A bound is None if the data do not determine it (one cluster, or no spread)."""

    estimate: float
    low: float | None
    high: float | None
    confidence: float
    method: str


def mean(values: Iterable[float]) -> float | None:
    """The mean; None if there are no values."""
    known = list(values)
    return sum(known) / len(known) if known else None


def share(part: int, whole: int) -> float | None:
    """part / whole; None if the whole is 0."""
    return part / whole if whole else None


def quantile(ordered: Sequence[float], level: float) -> float:
    """The quantile of sorted values, at least one: linear interpolation between neighbours."""
    at = level * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    if ordered[low] == ordered[high]:
        return ordered[low]  # also if both are infinite
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of at least two values, from the sample standard deviation."""
    middle = sum(values) / len(values)
    return math.sqrt(sum((each - middle) ** 2 for each in values) / (len(values) - 1)) / math.sqrt(len(values))


# --- shares and means, with intervals ---------------------------------------------------------------------------------


def wilson(right: int, of: int) -> Interval:
    """95% score interval of a proportion of independent answers (Wilson 1927)."""
    low, high = wilson_bounds(right, of, Z)
    return Interval(right / of if of else math.nan, low, high, 0.95, "Wilson")


def wilson_bounds(right: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """The two ends of Wilson's score interval; 0 and 1 if there are no answers."""
    if not of:
        return 0.0, 1.0
    share, scale = right / of, 1 + z * z / of
    middle = (share + z * z / (2 * of)) / scale
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def share_interval(scores: Sequence[float], clusters: Clusters = None) -> Interval:
    """Interval of the accuracy: Wilson if scores are 0 or 1 and independent, else a BCa cluster bootstrap.

    If all clustered scores are the same 0 or 1, there is no spread to resample: Wilson over the clusters, as if each
    were one answer, which is the widest interval that clustering can give. If all answers are in one cluster, there are
    no bounds.
    """
    count = len(scores)
    several = clusters is not None and len(set(clusters)) < count
    if several and len(set(clusters or ())) < 2:
        return mean_interval(scores, clusters)
    binary = all(score in (0, 1) for score in scores)
    if count and binary and (not several or len(set(scores)) == 1):
        of = len(set(clusters or ())) if several else count
        return wilson(round(of * sum(scores) / count), of)
    return mean_interval(scores, clusters)


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
    chance, count, chunks = np.random.default_rng(seed), len(sums), []
    step = max(1, _AT_ONCE // count)
    for begin in range(0, draws, step):
        chosen = chance.integers(0, count, size=(min(step, draws - begin), count))
        # column by column: a third axis would cost several times the memory
        chunks.append(statistic(np.stack([column[chosen].sum(axis=1) for column in sums.T], axis=1)))
    drawn, left_out = (
        values[~np.isnan(values)] for values in (np.concatenate(chunks), statistic(sums.sum(axis=0) - sums))
    )
    low, high = np.quantile(drawn, _corrected([tail, 1 - tail], drawn, estimate, left_out))
    return Interval(estimate, float(low), float(high), confidence, name)


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


# --- paired differences -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeanDifference:
    """A paired mean difference: its interval, and the two-sided p of no difference by the test that this inverts."""

    interval: Interval
    p: float
    test: str


def mean_difference(ones: Sequence[float], others: Sequence[float], clusters: Clusters = None) -> MeanDifference:
    """Mean of `ones` - mean of `others`, for the same questions in the same order: Student's t over clusters.

    With the cluster-robust standard error (Liang & Zeger 1986; Miller 2024, arXiv:2411.00640, eq. 4). If clusters have
    no spread, or there is only one, there is no interval, and p is that of the sign test over clusters.
    """
    mean, error, count = _robust(_pairs(ones, others), clusters)
    if error:
        reach = float(special().stdtrit(count - 1, 0.975)) * error
        within = Interval(mean, mean - reach, mean + reach, 0.95, ROBUST)
        return MeanDifference(within, 2 * _t_above(abs(mean) / error, count), ROBUST)
    p = min(1.0, 2 / 2**count) if mean else 1.0
    return MeanDifference(Interval(mean, None, None, 0.95, NO_SPREAD), p, NO_SPREAD)


@dataclass(frozen=True)
class PairedComparison:
    """Two arms on the same questions; `better` and `worse` count questions on which the first is better or worse."""

    difference: Interval
    better: int
    worse: int
    same: int
    p: float
    """Two-sided, of no difference, by the test that the interval inverts: p <= 0.05 if the interval excludes 0."""
    test: str


def compare(ones: Sequence[float], others: Sequence[float], clusters: Clusters = None) -> PairedComparison:
    """Paired scores: Tango's score test and interval if scores are 0 or 1 and independent, else cluster-robust t.

    At no difference Tango's test equals McNemar's. With clusters, if no score differs, or all scores differ by 1 the
    same way, the score test is over clusters, as if each were one question. A single cluster has no interval.
    """
    pairs = _pairs(ones, others)
    better, worse, binary = _counts(pairs)
    of = len(pairs) if clusters is None else len(set(clusters))
    same = len(pairs) - better - worse
    if binary and of == len(pairs):
        return PairedComparison(tango_interval(better, worse, of), better, worse, same, mcnemar(better, worse), SCORE)
    if of > 1 and (same == len(pairs) or (binary and len(pairs) in (better, worse))):
        gained, lost = (of if count else 0 for count in (better, worse))
        return PairedComparison(tango_interval(gained, lost, of), better, worse, same, mcnemar(gained, lost), SCORE)
    found = mean_difference(ones, others, clusters)
    return PairedComparison(found.interval, better, worse, same, found.p, found.test)


def mcnemar(better: int, worse: int) -> float:
    """Two-sided p of no difference between paired answers, from the counts that differ each way (McNemar 1947).

    The score test without continuity correction: unlike the exact test it is not conservative, and its level is at most
    5.4% at 5% (Fagerland, Lydersen & Laake 2013, BMC Med. Res. Methodol. 13:91). Equals Tango's test at no difference.
    """
    return math.erfc(abs(better - worse) / math.sqrt(2 * (better + worse))) if better + worse else 1.0


def holm(family: Mapping[str, float]) -> dict[str, float]:
    """P-values adjusted so that the chance of any false finding in the family stays below the level (Holm 1979)."""
    adjusted, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(family.items(), key=lambda each: each[1])):
        largest = max(largest, min(1.0, (len(family) - rank) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in family}


@dataclass(frozen=True)
class NonInferiority:
    """Whether an arm is at most `margin` worse than another: shown, with this confidence, if p is at most 0.05."""

    difference: float
    margin: float
    p: float
    """One-sided, of the hypothesis that the arm is worse by the margin or more."""
    confidence: float
    shown: bool
    method: str


def non_inferiority(
    ones: Sequence[float], others: Sequence[float], margin: float, clusters: Clusters = None
) -> NonInferiority:
    """Paired one-sided test: mean of `ones` > mean of `others` - margin (score points, 0.01 = 1 point).

    By the methods of `compare`, which are approximate: for a finite-sample guarantee see `tune`. Raises BadInput.
    """
    if not 0 < margin < 1:
        raise BadInput(f"a margin of {margin:g} is not between 0 and 1", "0.01 is one point of accuracy")
    pairs = _pairs(ones, others)
    if not pairs:
        raise BadInput("there are no pairs to compare")
    difference = sum(one - other for one, other in pairs) / len(pairs)
    better, worse, binary = _counts(pairs)
    if binary and (clusters is None or len(set(clusters)) == len(pairs)):
        p, method = tango_p(better, worse, len(pairs), margin), SCORE
    else:
        mean, error, count = _robust(pairs, clusters)
        if error is None:
            p, method = 1.0, "one cluster shows nothing"
        elif error:
            p, method = _t_above((mean + margin) / error, count), ROBUST
        else:  # no spread: the conservative test takes clusters without any difference
            p, method = tango_p(0, 0, count, margin) if mean >= 0 else 1.0, f"{SCORE} over clusters"
    return NonInferiority(difference, margin, p, 0.95, p <= 0.05, method)


def tango_p(better: int, worse: int, of: int, margin: float) -> float:
    """One-sided p that a paired difference of proportions is -margin or less (Tango 1998, Stat. in Medicine 17)."""
    z = _tango_z(better, worse, of, -margin)
    return 1.0 if z is None else 1 - NormalDist().cdf(z)


def tango_interval(better: int, worse: int, of: int) -> Interval:
    """95% score interval of a paired difference of proportions, at least one pair (Tango 1998, Stat. in Medicine 17).

    It holds the differences that the score test does not reject. Like Wilson's, it has a width even if no pair differs.
    """
    estimate = (better - worse) / of

    def bound(end: float) -> float:
        """The bound between the estimate (not rejected) and the end of the scale; the statistic is monotonic."""
        inside, outside = estimate, end
        while abs(outside - inside) > 1e-9:
            middle = (inside + outside) / 2
            z = _tango_z(better, worse, of, middle)
            if z is None or abs(z) < Z:
                inside = middle
            else:
                outside = middle
        return inside

    return Interval(estimate, bound(-1.0), bound(1.0), 0.95, SCORE)


def _tango_z(better: int, worse: int, of: int, difference: float) -> float | None:
    """The score statistic of this difference; None if it has no variance."""
    a, b = 2 * of, -better - worse + (2 * of - better + worse) * difference
    c = -worse * difference * (1 - difference)
    share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = of * (2 * share + difference * (1 - difference))
    return (better - worse - of * difference) / math.sqrt(variance) if variance > 1e-12 else None


def _robust(pairs: Sequence[tuple[float, float]], clusters: Clusters) -> tuple[float, float | None, int]:
    """(mean difference, its cluster-robust standard error, clusters) of at least one pair.

    The error is None for one cluster, and 0 if clusters have no spread.
    """
    sums, sizes = by_cluster(clusters, [one - other for one, other in pairs], [1.0] * len(pairs))
    count, total = len(sums), float(sizes.sum())
    mean = float(sums.sum()) / total
    if count < 2:
        return mean, None, count
    left = sums - mean * sizes
    error = math.sqrt(count / (count - 1) * float((left**2).sum())) / total
    # if every cluster has the same mean, rounding leaves a small error
    return mean, error if error > 1e-9 * abs(mean) else 0.0, count


def _t_above(t: float, clusters: int) -> float:
    """The probability that Student's t with clusters - 1 degrees of freedom is above t."""
    return float(special().stdtr(clusters - 1, -t))


def _counts(pairs: Sequence[tuple[float, float]]) -> tuple[int, int, bool]:
    """The numbers of pairs in which the first is better and worse, and whether all scores are 0 or 1."""
    better, worse = sum(one > other for one, other in pairs), sum(one < other for one, other in pairs)
    return better, worse, all(score in (0, 1) for pair in pairs for score in pair)


def _pairs(ones: Sequence[float], others: Sequence[float]) -> list[tuple[float, float]]:
    if len(ones) != len(others):
        raise BadInput(f"the arms answered {len(ones)} and {len(others)} questions", "compare them on the same ones")
    return list(zip(ones, others, strict=True))


# --- betting ----------------------------------------------------------------------------------------------------------


def bet_p(losses: Sequence[float], most: float, spread: float, confidence: float) -> float:
    """P-value of the hypothesis that sums of losses (one per cluster, at most `most`) have a mean above 0.

    Valid for any number of clusters. Betting a fixed share of a fortune on every gain rarely pays if the mean is above
    0: the probability that a fortune of 1 ever reaches f is at most 1 / f (Ville 1939; Waudby-Smith & Ramdas 2024, J.
    R. Stat. Soc. B 86, "betting"). `spread`, a standard deviation known beforehand, sets the share that is best for
    this number of clusters at this confidence; a wrong value costs power, never validity.
    """
    np = numpy()
    if not len(losses):
        return 1.0
    best = math.sqrt(2 * math.log(1 / (1 - confidence)) / len(losses)) / spread
    fortune = np.cumsum(np.log1p(-min(best, 0.95 / most) * np.asarray(losses)))
    return math.exp(-max(0.0, float(fortune.max())))


def questions_for_bet(losses: Any, clusters: Sequence[str], confidence: float, explore: float) -> int | None:
    """Approximate number of questions for `bet_p` to show losses below 0 with power 0.8; None if their mean is >= 0.

    `explore`: the share of clusters that only set the bet; the result includes their questions.

    Models the fortune's logarithm as Brownian motion with drift that must cross ln(1 / level) by the last cluster
    (Siegmund 1985, chapter 3), and solves for the number of clusters.
    """
    (sums,) = by_cluster(clusters, losses)
    if (mean := float(sums.mean())) >= 0:
        return None
    level, normal = math.sqrt(math.log(1 / (1 - confidence)) / 2), NormalDist()

    def power(drift: float) -> float:
        return normal.cdf(drift - 2 * level) + math.exp(2 * level * (drift - level)) * normal.cdf(-drift)

    low, high = 0.0, 4 * level + 4
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= 0.8 else (middle, high)
    # if there was no loss yet, a minimum number of gains is still needed
    count = max((high * float(sums.std()) / mean) ** 2, -math.log(1 - confidence) / -mean)
    return math.ceil(count / (1 - explore) * len(losses) / len(sums))


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
