"""The schemes that are compared, each with settings that trade cost for accuracy; their mixtures, and the oracle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cuecard.domain.errors import BadInput, did_you_mean

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
