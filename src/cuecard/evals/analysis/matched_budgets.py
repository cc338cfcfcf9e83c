"""matched-budget.json: the accuracy of each scheme for the same tokens, the same price and the same time.

At a budget, a scheme uses the setting, or the mixture of two settings, with the best accuracy at a mean cost of at most
the budget. Settings are chosen by cross-fitting: the clusters of questions are divided into folds, and each fold uses
the best setting on the other folds. All arms are composed from the same stored calls. Intervals are 95%, by bootstrap
over clusters of questions; those of differences by the cluster-robust t test. A failed answer counts as wrong, and its
cost counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from random import Random
from statistics import fmean
from typing import Any

from cuecard.domain.errors import BadInput, did_you_mean
from cuecard.evals.analysis.ledger import Price, check_models, stages
from cuecard.evals.analysis.scores import Point, ScoredTask, beats, counted, generated, plain, scored_tasks, timed
from cuecard.evals.arm import LIVE
from cuecard.evals.database import Record, Store
from cuecard.evals.scorers import scorable
from cuecard.stats import Interval, by_cluster, holm, mean_difference, mean_interval, numpy, share_interval

CUTS = (16, 32, 64, 128)
"""Reasoning budgets in tokens; a budget that cuts nothing needs no additional call."""
ROUTES = ("short:small", "short:large", "reason:small", "reason:large", "transfer")
"""The oracle's arms, from which a router could choose. None of them samples, so that luck does not help the oracle."""
AGAINST = "mutual"
_CONFIDENCES = (0.5, 0.8, 0.9, 0.95, 0.99)
_RULES = ("agree", *(f"agree+confidence({each:g})" for each in (0.5, 0.9, 0.99)))
_SURE = tuple(f"confidence({each:g})" for each in (0.9, 0.99, 0.999))


@dataclass(frozen=True)
class Scheme:
    """One way of cooperation, and its settings as arms."""

    name: str
    arms: tuple[str, ...]


def schemes(cuts: Sequence[int] = CUTS) -> tuple[Scheme, ...]:
    """All schemes, the single models first. `cuts`: reasoning budgets in tokens, for the schemes that use them."""

    def forced(role: str) -> tuple[str, ...]:
        plain = f"reason:{role}"
        return (*(f"{plain}/budget={cut}" for cut in cuts), plain, *(f"force:{role}/waits={n}" for n in (1, 2)))

    return (
        *(Scheme(name, (name,)) for name in ("short:small", "short:large", "reason:small", "reason:large")),
        Scheme("force:small", forced("small")),
        Scheme("force:large", forced("large")),
        Scheme("transfer", (*(f"transfer/budget={cut}" for cut in cuts), "transfer", "transfer/early-stop=2:16")),
        Scheme("mutual", ("mutual", *(f"mutual/accept={rule}" for rule in (*_RULES, *_SURE)))),
        Scheme("cascade", tuple(f"cascade/confidence={each:g}" for each in _CONFIDENCES)),
        Scheme("ladder", tuple(f"ladder/confidence={each:g}" for each in _CONFIDENCES)),
        Scheme("route", tuple(f"route/difficulty={each:g}" for each in (0.1, 0.25, 0.5, 0.75))),
        Scheme("vote", tuple(f"vote/samples={count}" for count in (1, 2, 3, 5))),
        Scheme("early-vote", ("vote/samples=3/window=2", "vote/samples=5/window=2", "vote/samples=5/window=3")),
        Scheme("verdict", tuple(f"verdict/samples={count}" for count in (1, 2, 3, 5))),
        Scheme("panel", tuple(f"panel/samples={count}" for count in (1, 2, 3))),
        Scheme("steps", tuple(f"steps/score={each:g}" for each in (0.3, 0.5, 0.7, 0.9))),
    )


def chosen(names: Iterable[str], cuts: Sequence[int] = CUTS) -> tuple[Scheme, ...]:
    """The schemes with these names in the order of `schemes`; all if no name is given. Raises BadInput."""
    every, wanted = schemes(cuts), [name.strip() for name in names if name.strip()]
    known = [scheme.name for scheme in every]
    if unknown := [name for name in wanted if name not in known]:
        raise BadInput(f"unknown scheme {unknown[0]!r}", did_you_mean(unknown[0], known))
    return tuple(scheme for scheme in every if not wanted or scheme.name in wanted)


def arms_of(some: Iterable[Scheme]) -> list[str]:
    """All distinct arms: those of the schemes, and those for the budgets and the oracle."""
    return list(dict.fromkeys((*ROUTES, *(arm for scheme in some for arm in scheme.arms))))


# --- the oracle -------------------------------------------------------------------------------------------------------


def hull(points: Sequence[Point]) -> list[int]:
    """Indices of the points on the upper concave hull, from the cheapest to the best: costs and scores increase."""
    order = sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1]))
    kept: list[int] = []
    for place in order:
        if kept and points[place][1] <= points[kept[-1]][1]:
            continue  # costs at least as much, and is no better
        while len(kept) > 1 and _slope(points, kept[-2], kept[-1]) <= _slope(points, kept[-1], place):
            kept.pop()
        kept.append(place)
    return kept


def _slope(points: Sequence[Point], one: int, other: int) -> float:
    cost = points[other][0] - points[one][0]
    return (points[other][1] - points[one][1]) / cost if cost else float("inf")


def mixture(points: Sequence[Point], budget: float) -> list[tuple[int, float]]:
    """(setting's index, its probability) of the mixture with the best mean score at a mean cost of at most the budget.

    At most two neighbours on the hull. If all settings cost more than the budget, the cheapest setting alone.
    """
    on_hull = hull(points)
    below = [place for place in on_hull if points[place][0] <= budget]
    if not below:
        return [(on_hull[0], 1.0)]
    lower, rest = below[-1], on_hull[len(below) :]
    if not rest:
        return [(lower, 1.0)]
    share = (budget - points[lower][0]) / (points[rest[0]][0] - points[lower][0])
    return [(lower, 1.0)] if share <= 0 else [(lower, 1 - share), (rest[0], share)]


@dataclass(frozen=True)
class Play:
    """Expected score and cost of each unit of scoring, and the settings with which a scheme gets them."""

    scores: Sequence[float]
    costs: Sequence[float]
    settings: tuple[tuple[str, float], ...] = ()


def oracle(options: Sequence[Sequence[Point]], budget: float) -> Play | None:
    """The best choice of one option per question, with known scores, at a mean cost of at most the budget.

    Linear relaxation of the multiple-choice knapsack problem (Sinha and Zoltners 1979): steps along the questions'
    hulls are taken in the order of gain / cost, the last one in part. None if the cheapest options exceed the budget.
    """
    steps: list[tuple[float, float, float, int]] = []
    scores, costs = list[float](), list[float]()
    for question, points in enumerate(options):
        places = hull(points)
        costs.append(points[places[0]][0])
        scores.append(points[places[0]][1])
        for one, other in pairwise(places):
            cost, gain = (points[other][i] - points[one][i] for i in (0, 1))
            steps.append((-_slope(points, one, other), cost, gain, question))
    left = budget * len(options) - sum(costs)
    if left < -1e-9 * max(1.0, abs(budget) * len(options)):
        return None
    for _, cost, gain, question in sorted(steps, key=lambda step: (step[0], step[3], step[1])):
        if left <= 0:
            break
        part = 1.0 if cost <= left else left / cost
        scores[question] += part * gain
        costs[question] += part * cost
        left -= part * cost
    return Play(tuple(scores), tuple(costs))


# --- results ----------------------------------------------------------------------------------------------------------

Prices = Mapping[str, Price]
"""By model."""
VERSION = 1
REFERENCE = "reason:large"
"""Budgets are given as shares of this arm's mean cost."""
BUDGETS = (0.25, 0.5, 0.75, 1.0, 2.0)
FOLDS = 5
DRAWS = 2000
ORACLE = "oracle route"
MEASURES = {
    "tokens": "generated tokens a question, all models together",
    "price": "price of a thousand questions",
    "time": "composed seconds a question",
    "live": "measured seconds a question",
}


@dataclass(frozen=True)
class FrontPoint:
    """One setting in one measure. `against`: the next cheaper setting on the front, or the one that dominates it."""

    arm: str
    scheme: str
    cost: Interval
    accuracy: Interval
    on_front: bool
    """No other setting is at least as accurate for at most the same cost, and better in one of the two."""
    draws_on_front: float
    """Share of bootstrap draws in which the setting is on the front."""
    against: str | None
    difference: Interval | None
    """Paired difference in accuracy: this setting - `against`."""


@dataclass(frozen=True)
class SchemeAtBudget:
    """One scheme at one budget."""

    scheme: str
    settings: tuple[tuple[str, float], ...]
    """(arm, share of questions on which it is used), chosen on all questions."""
    spent: float
    """Mean cost; like all fields below, with settings chosen on other questions (cross-fitted)."""
    accuracy: Interval
    difference: Interval | None
    """Paired difference in accuracy: this scheme - the one that all are compared with; None for that one."""
    p: float | None
    """Two-sided, by the cluster-robust t test."""
    p_adjusted: float | None
    """Holm's adjustment, over the schemes at this budget."""
    regret: Interval | None
    """Paired difference in accuracy: oracle - scheme."""

    @property
    def verdict(self) -> int:
        """1 if significantly more accurate than the scheme it is compared with, -1 if less accurate, else 0."""
        if self.p_adjusted is None or self.difference is None or self.p_adjusted > 0.05:
            return 0
        low, high = self.difference.low, self.difference.high
        return 1 if low is not None and low > 0 else -1 if high is not None and high < 0 else 0


@dataclass(frozen=True)
class BudgetResults:
    """All schemes at one budget. `too_dear`: schemes with all settings above the budget."""

    share: float
    amount: float
    oracle: float | None
    """Accuracy of the oracle; None if its cheapest arms cost more than the budget."""
    schemes: tuple[SchemeAtBudget, ...]
    too_dear: tuple[str, ...]

    def of(self, scheme: str) -> SchemeAtBudget | None:
        return next((each for each in self.schemes if each.scheme == scheme), None)


@dataclass(frozen=True)
class MeasureResults:
    """Results in one measure of cost. `measure`: a key of `MEASURES`."""

    measure: str
    front: tuple[FrontPoint, ...]
    budgets: tuple[BudgetResults, ...]


@dataclass(frozen=True)
class MatchedTask:
    """One task. `units`: number of units of scoring; calls are counted over all arms of the comparison."""

    task: str
    units: int
    schemes: tuple[str, ...]
    measures: tuple[MeasureResults, ...]
    calls_stored: int
    """Distinct calls over all arms."""
    calls_used: int
    """Sum of the arms' calls."""


@dataclass(frozen=True)
class MatchedBudgets:
    """A whole run. `against`: the scheme that the others are compared with."""

    against: str
    reference: str
    folds: int
    tasks: tuple[MatchedTask, ...]

    def as_object(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"version": VERSION, **plain(asdict(self))}


@dataclass(frozen=True)
class Comparison:
    """Options of the comparison. Raises BadInput for an unknown scheme or a budget that is not above 0."""

    schemes: Sequence[Scheme]
    against: str = AGAINST
    budgets: Sequence[float] = BUDGETS
    prices: Prices = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.against not in (names := [scheme.name for scheme in self.schemes]):
            raise BadInput(f"{self.against!r} is not among the schemes", f"there are: {', '.join(names)}")
        if not self.budgets or min(self.budgets) <= 0:
            raise BadInput(
                "a budget is a share above 0 of what the large model's reasoning costs", "for instance 0.5,1"
            )


def matched_budgets(config: Mapping[str, Any], store: Store, how: Comparison) -> MatchedBudgets:
    """Compare the schemes on a run's answers. Raises BadInput if an arm has no answers, MissingExtra."""
    tasks = scored_tasks(config, store)
    check_models("--price", how.prices, (answer for task in tasks for answer in task.all_answers))
    return MatchedBudgets(how.against, REFERENCE, FOLDS, tuple(_task(task, how) for task in tasks))


# --- scores and costs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CostTable:
    """Scores and costs of every arm per unit, in one measure."""

    measure: str
    clusters: Sequence[str]
    scores: Mapping[str, Sequence[float]]
    costs: Mapping[str, Sequence[float]]

    def point(self, arm: str, at: Sequence[int]) -> Point:
        """Mean cost and mean score over some units, given by index."""
        return fmean(self.costs[arm][i] for i in at), fmean(self.scores[arm][i] for i in at)


def _task(task: ScoredTask, how: Comparison) -> MatchedTask:
    arms, answers = arms_of(how.schemes), task.answers
    if lacking := [arm for arm in arms if arm not in answers]:
        raise BadInput(f"{lacking[0]} has answered nothing of {task.name}", "let the run end first")
    calls = [call["key"] for arm in arms for answer in answers[arm] for call in answer["calls"] if call["key"]]
    tables = [table for measure in MEASURES if (table := _costs(task, arms, measure, how.prices)) is not None]
    return MatchedTask(
        task.name,
        len(tables[0].clusters),
        tuple(scheme.name for scheme in how.schemes),
        tuple(_measure(table, how) for table in tables),
        len(set(calls)),
        len(calls),
    )


def _costs(task: ScoredTask, arms: Sequence[str], measure: str, prices: Prices) -> CostTable | None:
    """The cost table; None if the measure is unknown for an answer. The rotations of one unit have their mean cost."""
    own = {arm: task.answers.get(arm + LIVE if measure == "live" else arm, ()) for arm in arms}
    costs = {arm: dict[str, list[float]]() for arm in arms}
    for arm, given in own.items():
        for answer in given:
            if (cost := _cost(answer, measure, prices)) is None:
                return None
            costs[arm].setdefault(task.unit(answer["id"]), []).append(cost)
    if not all(own.values()):
        return None
    scores = {arm: task.graded(_failed_is_wrong(task, given)) for arm, given in own.items()}
    units = [unit for unit in next(iter(scores.values())) if all(unit in each for each in scores.values())]
    if not units:
        raise BadInput(f"{task.name} has no question that every arm has answered", "let the run end first")
    return CostTable(
        measure,
        task.clusters(units),
        {arm: [each[unit] for unit in units] for arm, each in scores.items()},
        {arm: [fmean(each[unit]) for unit in units] for arm, each in costs.items()},
    )


def _cost(answer: Record, measure: str, prices: Prices) -> float | None:
    """The cost of one answer; None if it is unknown."""
    match measure:
        case "tokens":
            return float(generated(answer)) if counted([answer]) else None
        case "price":
            if not prices or not timed([answer]) or any(call["model"] not in prices for call in answer["calls"]):
                return None
            calls = ((call["model"], spent) for call in answer["calls"] for _, spent in stages(call, answer))
            return 1000 * sum(prices[model].of(spent) for model, spent in calls)
        case _:
            seconds: float | None = answer["latency"]["total_s"]
            return seconds


def _failed_is_wrong(task: ScoredTask, answers: Sequence[Record]) -> list[Record]:
    def wrong(answer: Record) -> bool:
        item = task.items[answer["id"]]
        return answer["status"] == "error" and scorable(item["golds"], item.get("scorer"))

    return [{**answer, "score": 0.0} if wrong(answer) else answer for answer in answers]


# --- one measure ------------------------------------------------------------------------------------------------------


def _measure(table: CostTable, how: Comparison) -> MeasureResults:
    whole = fmean(table.costs[REFERENCE])
    budgets = tuple(_budget(table, how, share, share * whole) for share in how.budgets)
    return MeasureResults(table.measure, _front(table, how.schemes), budgets)


def _front(table: CostTable, schemes: Sequence[Scheme]) -> tuple[FrontPoint, ...]:
    """All settings, the cheapest first."""
    scheme_of = {arm: scheme.name for scheme in reversed(schemes) for arm in scheme.arms}
    everywhere = range(len(table.clusters))
    points = {arm: table.point(arm, everywhere) for arm in scheme_of}
    order = sorted(points, key=lambda arm: (points[arm][0], -points[arm][1]))
    front = [arm for arm in order if not any(beats(points[other], points[arm]) for other in order)]
    drawn = _drawn_on_front(table, order)
    found = []
    for arm in order:
        rivals = [other for other in order if other != arm and points[other][0] <= points[arm][0]]
        if arm in front:
            rivals = [other for other in front[: front.index(arm)] if points[other] != points[arm]]
        against = max(rivals, key=lambda other: (points[other][1], -points[other][0]), default=None)
        found.append(
            FrontPoint(
                arm,
                scheme_of[arm],
                mean_interval(table.costs[arm], table.clusters),
                share_interval(table.scores[arm], table.clusters),
                arm in front,
                drawn[arm],
                against,
                None
                if against is None
                else mean_difference(table.scores[arm], table.scores[against], table.clusters).interval,
            )
        )
    return tuple(found)


def _drawn_on_front(table: CostTable, arms: Sequence[str]) -> dict[str, float]:
    """By arm, the share of cluster bootstrap draws in which no other arm dominates it."""
    np = numpy()
    columns = [*(table.costs[arm] for arm in arms), *(table.scores[arm] for arm in arms)]
    sums = np.stack(by_cluster(table.clusters, *columns), axis=1)
    count, chance = len(sums), np.random.default_rng(0)
    times = chance.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(float)
    totals = times @ sums
    costs, scores = totals[:, : len(arms)], totals[:, len(arms) :]
    shares = {}
    for place, arm in enumerate(arms):
        cheaper, better = costs - costs[:, [place]], scores - scores[:, [place]]
        beaten = (cheaper <= 1e-9) & (better >= -1e-9) & ((cheaper < -1e-9) | (better > 1e-9))
        shares[arm] = float(1 - beaten.any(axis=1).mean())
    return shares


def _budget(table: CostTable, how: Comparison, share: float, amount: float) -> BudgetResults:
    units = range(len(table.clusters))
    best = oracle([[(table.costs[arm][i], table.scores[arm][i]) for arm in ROUTES] for i in units], amount)
    plays = {scheme.name: play for scheme in how.schemes if (play := _play(table, scheme, amount)) is not None}
    against = plays.get(how.against)
    found = [_at_budget(table, play, name, None if name == how.against else against) for name, play in plays.items()]
    if best is not None:
        regrets = {
            name: mean_difference(best.scores, play.scores, table.clusters).interval for name, play in plays.items()
        }
        found = [replace(each, regret=regrets[each.scheme]) for each in found]
    adjusted = holm({each.scheme: each.p for each in found if each.p is not None})
    found = [replace(each, p_adjusted=adjusted.get(each.scheme)) for each in found]
    dear = tuple(scheme.name for scheme in how.schemes if scheme.name not in plays)
    return BudgetResults(share, amount, None if best is None else fmean(best.scores), tuple(found), dear)


def _play(table: CostTable, scheme: Scheme, budget: float) -> Play | None:
    """The cross-fitted settings of a scheme; None if every setting costs more than the budget."""
    everywhere = range(len(table.clusters))
    if min(fmean(table.costs[arm]) for arm in scheme.arms) > budget * (1 + 1e-9):
        return None
    scores, costs = [0.0] * len(everywhere), [0.0] * len(everywhere)
    for fold in folds(table.clusters):
        inside = set(fold)
        others = [i for i in everywhere if i not in inside] or list(everywhere)
        for arm, share in _mixed(table, scheme, others, budget):
            for i in fold:
                scores[i] += share * table.scores[arm][i]
                costs[i] += share * table.costs[arm][i]
    return Play(scores, costs, tuple(_mixed(table, scheme, everywhere, budget)))


def _mixed(table: CostTable, scheme: Scheme, at: Sequence[int], budget: float) -> list[tuple[str, float]]:
    points = [table.point(arm, at) for arm in scheme.arms]
    return [(scheme.arms[place], share) for place, share in mixture(points, budget)]


def folds(clusters: Sequence[str]) -> list[list[int]]:
    """Indices of the units by fold: whole clusters are assigned at random; empty folds are left out."""
    names = list(dict.fromkeys(clusters))
    Random(0).shuffle(names)
    of = {name: place % FOLDS for place, name in enumerate(names)}
    dealt = [[i for i, cluster in enumerate(clusters) if of[cluster] == fold] for fold in range(FOLDS)]
    return [fold for fold in dealt if fold]


def _at_budget(table: CostTable, play: Play, name: str, against: Play | None) -> SchemeAtBudget:
    accuracy = share_interval(play.scores, table.clusters)
    found = None if against is None else mean_difference(play.scores, against.scores, table.clusters)
    difference, p = (None, None) if found is None else (found.interval, found.p)
    return SchemeAtBudget(name, play.settings, fmean(play.costs), accuracy, difference, p, None, None)
