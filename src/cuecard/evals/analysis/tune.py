"""Tuning with a guarantee: of many policies the cheapest that surely keeps the baseline's accuracy.

Learn then test (Angelopoulos et al. 2021, arXiv:2110.01052) with the order of tests learnt on other questions (Pareto
testing, Laufer-Goldshtein et al. 2023, arXiv:2210.07913). A third of the clusters, by a hash of their names, is for
exploring: which candidates look cheaper and safe. On the other two thirds these are tested from the safest to the
cheapest, each at the full level, until one fails (fixed-sequence testing), so that the chance that any policy passes
that does not keep the accuracy is at most 1 - confidence, however many there were to choose from. No approximation is
made for large samples; what is assumed is that clusters are drawn alike from what the policy will meet.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

from cuecard.domain.errors import BadInput
from cuecard.stats.bootstrap import by_cluster, checked, numpy

Price = Literal["latency", "cost", "tokens"]
EXPLORE = 1 / 3
POWER = 0.8
METHOD = "learn then test: fixed sequence of betting tests, ordered on a third of the clusters"


@dataclass(frozen=True)
class Observation:
    """One arm's answer to one question; a score between 0 and 1, the cost None where no price is known."""

    item: str
    cluster: str
    arm: str
    score: float
    latency_s: float
    tokens: float = 0.0
    cost: float | None = None


@dataclass(frozen=True)
class Goal:
    """Accuracy must stay at least keep * the baseline's - margin, with this confidence."""

    keep: float = 0.99
    margin: float = 0.0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        checked(self.confidence)
        if not 0 < self.keep <= 1:
            raise BadInput(f"--keep {self.keep:g} is not above 0 and at most 1", "0.99 keeps 99% of the accuracy")
        if not 0 <= self.margin < 1:
            raise BadInput(f"a margin of {self.margin:g} is not from 0 to below 1", "0.01 is one point of accuracy")
        if self.most <= 0:
            raise BadInput("with this margin nothing has to be kept", "0.01 is one point of accuracy")

    @property
    def most(self) -> float:
        """The largest loss that a question can have."""
        return self.keep - self.margin

    def losses(self, baseline: Any, scores: Any) -> Any:
        """By question; their mean is 0 or less exactly where the goal is met."""
        return self.keep * baseline - scores - self.margin

    def __str__(self) -> str:
        share = f"{100 * self.keep:g}% of the accuracy" if self.keep < 1 else "the accuracy"
        return share + (f" less {100 * self.margin:g} points" if self.margin else "")


@dataclass(frozen=True)
class Table:
    """Scores and costs, (arms, questions); all arms answered the same questions."""

    arms: tuple[str, ...]
    clusters: tuple[str, ...]
    items: tuple[str, ...]
    scores: Any
    costs: Any


@dataclass(frozen=True)
class Look:
    """A candidate: means over all questions, and its test, if it came so far."""

    arm: str
    accuracy: float
    cost: float
    p: float | None = None
    passed: bool = False
    needs: int | None = None
    """About how many questions in all would show it with power 0.8, if it is what it looks like; None: none would."""


@dataclass(frozen=True)
class Tuning:
    """What was found. `chosen` is None where no cheaper candidate surely meets the goal: then the baseline stays."""

    goal: Goal
    baseline: Look
    chosen: Look | None
    candidates: tuple[Look, ...]
    """The cheapest first."""
    tested: tuple[str, ...]
    """In the order of the tests."""
    questions: int
    clusters: int
    explored: int
    """Questions that only set the order of the tests."""


def table(observations: Iterable[Observation], by: Price = "latency") -> Table:
    """The questions that every arm has answered. Raises BadInput when there are none, or costs are not known."""
    found: dict[str, dict[str, Observation]] = {}
    for each in observations:
        found.setdefault(each.arm, {})[each.item] = each
    if not found:
        raise BadInput("there is nothing to tune on", "run `cuecard eval` first")
    first, *more = found.values()
    items = tuple(item for item in first if all(item in other for other in more))
    if not items:
        raise BadInput("no question was answered by all arms", "let the run finish")
    np = numpy()
    return Table(
        tuple(found),
        tuple(first[item].cluster for item in items),
        items,
        np.array([[own[item].score for item in items] for own in found.values()], float),
        np.array([[_cost(own[item], by) for item in items] for own in found.values()], float),
    )


def tune(seen: Table, baseline: str, goal: Goal) -> Tuning:
    """The cheapest arm that surely meets the goal. Raises BadInput when the baseline is not among the arms."""
    if baseline not in seen.arms:
        raise BadInput(f"the run has no arm {baseline!r} to keep the accuracy of", f"there are: {', '.join(seen.arms)}")
    base = seen.arms.index(baseline)
    losses = goal.losses(seen.scores[base], seen.scores)
    explored, rest = _parts(seen.clusters)
    p_of: dict[int, float] = {}
    for arm in safest_first(seen, losses, explored, base) if explored and rest else []:
        p_of[arm] = _tested(losses[arm], seen.clusters, explored, rest, goal)
        if p_of[arm] > 1 - goal.confidence:
            break
    passed = [arm for arm, p in p_of.items() if p <= 1 - goal.confidence]
    looks = {arm: _look(seen, arm, losses[arm], p_of.get(arm), goal) for arm in range(len(seen.arms))}
    cheapest = min(passed, key=lambda arm: looks[arm].cost, default=None)
    return Tuning(
        goal,
        looks[base],
        None if cheapest is None or looks[cheapest].cost >= looks[base].cost else looks[cheapest],
        tuple(sorted((look for arm, look in looks.items() if arm != base), key=lambda look: look.cost)),
        tuple(seen.arms[arm] for arm in p_of),
        len(seen.items),
        len(set(seen.clusters)),
        len(explored),
    )


def safest_first(seen: Table, losses: Any, explored: Sequence[int], base: int) -> list[int]:
    """The order of the tests, from what exploring shows: safest first, each cheaper than all before and the baseline.

    Arms that look as if they missed the goal are left out: testing them could only end the sequence.
    """
    names, costs = [seen.clusters[place] for place in explored], seen.costs[:, explored].mean(axis=1)
    risks = []
    for own in losses[:, explored]:
        (sums,) = by_cluster(names, own)
        # one more question that went wrong keeps a few lucky ones from looking like certainty
        risks.append(float((sums.sum() + 1) / math.sqrt((sums**2).sum() + 1)))
    path, cheapest = list[int](), costs[base]
    for arm in sorted(range(len(seen.arms)), key=lambda arm: (risks[arm], costs[arm])):
        if costs[arm] < cheapest and losses[arm, explored].mean() < 0:
            path.append(arm)
            cheapest = costs[arm]
    return path


def _tested(losses: Any, clusters: Sequence[str], explored: Sequence[int], rest: Sequence[int], goal: Goal) -> float:
    """The p-value on the rest of the questions, its bet set by what was explored."""
    (seen,) = by_cluster([clusters[place] for place in explored], losses[explored])
    sums, sizes = by_cluster([clusters[place] for place in rest], losses[rest], [1.0] * len(rest))
    spread = math.sqrt((float((seen**2).sum()) + 1) / (len(seen) + 1))
    return bet_p(sums, float(sizes.max()) * goal.most, spread, goal)


def _parts(clusters: Sequence[str]) -> tuple[list[int], list[int]]:
    """Places of the questions to explore, and of the rest, in an order by the hash of clusters' names.

    Nobody can draw again until the result pleases, and the order of a file has no say.
    """
    known = {name: hashlib.sha256(name.encode()).digest() for name in set(clusters)}
    order = sorted(range(len(clusters)), key=lambda place: known[clusters[place]])
    names = list(dict.fromkeys(clusters[place] for place in order))
    first = set(names[: round(EXPLORE * len(names))])
    explored = [place for place in order if clusters[place] in first]
    return explored, order[len(explored) :]


def bet_p(losses: Sequence[float], most: float, spread: float, goal: Goal) -> float:
    """P-value that sums of losses (one a cluster, at most `most`) have a mean above 0; valid at any number of them.

    Whoever bets on every gain the same share of what is left would hardly ever grow rich if the mean were above 0: the
    chance that a fortune of 1 ever reaches f is at most 1 / f (Ville 1939; Waudby-Smith & Ramdas 2024, J. R. Stat. Soc.
    B 86, "betting"). `spread`, their standard deviation as it is known beforehand, sets the share that is best for this
    many clusters at this confidence; a wrong one costs power, never validity.
    """
    np = numpy()
    if not len(losses):
        return 1.0
    best = math.sqrt(2 * math.log(1 / (1 - goal.confidence)) / len(losses)) / spread
    fortune = np.cumsum(np.log1p(-min(best, 0.95 / most) * np.asarray(losses)))
    return math.exp(-max(0.0, float(fortune.max())))


def needed(losses: Any, clusters: Sequence[str], goal: Goal) -> int | None:
    """About how many questions in all would show the goal met with power 0.8; None where the mean says it is not met.

    The fortune's logarithm as Brownian motion with drift that must cross ln(1 / level) by the last cluster (Siegmund
    1985, chapter 3), solved for the number of clusters.
    """
    (sums,) = by_cluster(clusters, losses)
    if (mean := float(sums.mean())) >= 0:
        return None
    level, normal = math.sqrt(math.log(1 / (1 - goal.confidence)) / 2), NormalDist()

    def power(drift: float) -> float:
        return normal.cdf(drift - 2 * level) + math.exp(2 * level * (drift - level)) * normal.cdf(-drift)

    low, high = 0.0, 4 * level + 4
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    # where nothing has gone wrong yet, a certain number of gains is needed all the same
    count = max((high * float(sums.std()) / mean) ** 2, -math.log(1 - goal.confidence) / -mean)
    return math.ceil(count / (1 - EXPLORE) * len(losses) / len(sums))


def _look(seen: Table, arm: int, losses: Any, p: float | None, goal: Goal) -> Look:
    passed = p is not None and p <= 1 - goal.confidence
    accuracy, cost = float(seen.scores[arm].mean()), float(seen.costs[arm].mean())
    return Look(seen.arms[arm], accuracy, cost, p, passed, needed(losses, seen.clusters, goal))


def _cost(seen: Observation, by: Price) -> float:
    value: Mapping[str, float | None] = {"latency": seen.latency_s, "cost": seen.cost, "tokens": seen.tokens}
    if (found := value[by]) is None:
        raise BadInput(f"no price is known of all that {seen.arm} calls", "give --price MODEL=PROMPT,COMPLETION")
    return found
