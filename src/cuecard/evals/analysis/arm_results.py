"""Results of one arm on one task: accuracy, tokens, seconds, routes, ledger, and the fronts that it is on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cuecard.domain.outcome import LatencyKind, Route
from cuecard.evals.analysis.differences import kind_of
from cuecard.evals.analysis.ledger import Ledger, Price, ledger, route_of
from cuecard.evals.analysis.summary import latency
from cuecard.evals.analysis.units import ScoredTask, counted, generated, spent, timed
from cuecard.evals.arm import LIVE
from cuecard.evals.scoring.extractors import EXTRACTORS
from cuecard.evals.storage.database import Record
from cuecard.stats.bootstrap import Interval, mean_interval
from cuecard.stats.inference import mean, share, share_interval

MEASURES = ("latency", "tokens", "price")


@dataclass(frozen=True)
class RouteResults:
    """One route of an arm; routes sum to the arm's answers. Tokens: generated a question, by role."""

    route: str
    questions: int
    share: float
    accuracy: float | None
    tokens: Mapping[str, float]
    mean_s: float | None


@dataclass(frozen=True)
class ArmResults:
    """One arm on one task. Means are a question."""

    arm: str
    family: str
    answered: int
    errors: int
    units: int
    """That have a score."""
    accuracy: Interval | None
    unresolved: int
    """Questions whose answer does not follow from the files that a run was imported from."""
    bounds: tuple[float, float] | None
    """Accuracy with all of them wrong and all of them right; None where there are none, then `accuracy` is known."""
    generated: Interval | None
    """Tokens; None where they were not counted."""
    by_role: Mapping[str, float]
    """Generated tokens."""
    spent: float | None
    """Prompt and generated tokens."""
    latency: Interval | None
    """Seconds; None where they are not known."""
    p50_s: float | None
    p90_s: float | None
    handoff_mean_s: float | None
    kind: LatencyKind | None
    price: float | None
    """In the currency of the prices given; None as soon as one model that was called has none."""
    unparsed: float | None
    truncated: float | None
    extractors: Mapping[str, float]
    """Accuracy by extractor."""
    routes: tuple[RouteResults, ...]
    fronts: tuple[str, ...]
    """Of `MEASURES` those by which no other arm is at least as accurate and costs no more."""
    ledger: Ledger | None

    @property
    def span(self) -> tuple[float, float]:
        """Between which accuracies the extractors lie."""
        return min(self.extractors.values()), max(self.extractors.values())

    def cost(self, measure: str) -> float | None:
        seconds = None if self.latency is None else self.latency.estimate
        return {"latency": seconds, "tokens": self.spent, "price": self.price}[measure]


def arm_results(
    task: ScoredTask,
    names: tuple[str, str],
    answers: Sequence[Record],
    lacking: int,
    prices: Mapping[str, Price] | None,
    powers: Mapping[str, float] | None = None,
) -> ArmResults:
    """`names`: the arm's and its family's. `lacking`: how many questions are unresolved. Raises LedgerError."""
    scores, clusters = task.graded(answers), task.clusters_of(answers)
    given = [each for each in answers if each["status"] != "error"]
    known, numbered = timed(answers), counted(answers)
    took = latency(answers) if known else {}
    costs = ledger(answers, prices, powers=powers) if known else None
    by = {extractor: mean(task.graded(answers, extractor).values()) for extractor in EXTRACTORS}
    sure = share_interval(list(scores.values()), task.clusters(scores)) if scores and not lacking else None
    return ArmResults(
        *names,
        len(answers),
        len(answers) - len(given),
        len(scores),
        sure,
        lacking,
        _bounds(sum(scores.values()), len(scores), lacking) if lacking else None,
        mean_interval([generated(answer) for answer in answers], clusters) if numbered else None,
        {role: tokens_of(answers, role) for role in roles_of(answers) if numbered},
        mean(spent(answer) for answer in answers) if numbered else None,
        mean_interval([answer["latency"]["total_s"] for answer in answers], clusters) if known else None,
        took.get("p50_s"),
        took.get("p90_s"),
        took.get("handoff_mean_s"),
        kind_of(answers[0]),
        None if costs is None or costs.price is None or not prices else costs.price / len(answers),
        share(sum(not answer["parsed"] for answer in given), len(given)),
        share(sum(bool(answer["truncated"]) for answer in given), len(given)),
        {extractor: value for extractor, value in by.items() if value is not None and not lacking},
        routes(answers),
        (),
        costs,
    )


def _bounds(right: float, known: int, lacking: int) -> tuple[float, float]:
    return right / (known + lacking), (right + lacking) / (known + lacking)


def routes(answers: Sequence[Record]) -> tuple[RouteResults, ...]:
    """Every route that occurs, in the order of `Route`, then errors."""
    of: dict[str, list[Record]] = {route: [] for route in (*map(str, Route), "error")}
    for answer in answers:
        of[route_of(answer)].append(answer)
    return tuple(_route(route, own, len(answers)) for route, own in of.items() if own)


def _route(route: str, own: Sequence[Record], whole: int) -> RouteResults:
    return RouteResults(
        route,
        len(own),
        len(own) / whole,
        mean(answer["score"] for answer in own if answer["score"] is not None),
        {role: tokens_of(own, role) for role in roles_of(own) if counted(own)},
        mean(answer["latency"]["total_s"] for answer in own) if timed(own) else None,
    )


def roles_of(answers: Iterable[Record]) -> list[str]:
    """The roles that were called: small first, large last."""
    roles = {call["role"] for answer in answers for call in answer["calls"]}
    return sorted(roles, key=lambda role: (role == "large", role != "small", role))


def tokens_of(answers: Sequence[Record], role: str) -> float:
    """Generated by one role, mean a question."""
    calls = (call for answer in answers for call in answer["calls"] if call["role"] == role)
    return sum(call["completion_tokens"] or 0 for call in calls) / len(answers)


def with_fronts(arm: ArmResults, arms: Mapping[str, ArmResults]) -> ArmResults:
    """With the fronts that it is on among these arms."""
    rivals = [other for other in arms.values() if competes(other)]
    fronts = tuple(measure for measure in MEASURES if competes(arm) and on_front(arm, rivals, measure))
    return replace(arm, fronts=fronts)


def competes(arm: ArmResults) -> bool:
    """Whether it is one of the arms to choose from: no placebo, composed, scored."""
    return arm.family != "placebo" and not arm.arm.endswith(LIVE) and arm.accuracy is not None


def on_front(arm: ArmResults, rivals: Iterable[ArmResults], measure: str) -> bool:
    """No rival is at least as accurate for no more, and better in one of the two."""
    cost = arm.cost(measure)
    if cost is None or arm.accuracy is None:
        return False
    for rival in rivals:
        theirs = rival.cost(measure)
        if theirs is None or rival.accuracy is None:
            continue
        gain, saving = rival.accuracy.estimate - arm.accuracy.estimate, cost - theirs
        if gain >= 0 and saving >= 0 and (gain > 0 or saving > 0):
            return False
    return True


def most_accurate(arms: Iterable[ArmResults]) -> tuple[str, ...]:
    """Of the arms to choose from; at a tie all of them, the faster ones first."""
    ranked = sorted((-arm.accuracy.estimate, _seconds(arm), arm.arm) for arm in arms if arm.accuracy and competes(arm))
    return tuple(name for least, _, name in ranked if least == ranked[0][0])


def _seconds(arm: ArmResults) -> float:
    return math.inf if arm.latency is None else arm.latency.estimate
