"""Mixtures of settings within a mean budget, and the oracle: the upper bound of routing at that budget.

Costs are in any unit, scores are from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]
"""(cost, score)"""


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
class OracleRoute:
    """Expected score and cost of each question."""

    scores: tuple[float, ...]
    costs: tuple[float, ...]


def oracle(options: Sequence[Sequence[Point]], budget: float) -> OracleRoute | None:
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
    return OracleRoute(tuple(scores), tuple(costs))
