"""Tuning with a guarantee: of many policies the cheapest that surely keeps the baseline's accuracy.

Learn then test (Angelopoulos et al. 2021, arXiv:2110.01052) with the order of tests learnt on other questions (Pareto
testing, Laufer-Goldshtein et al. 2023, arXiv:2210.07913). A third of the clusters, by a hash of their names, is for
exploring: which candidates look cheaper and safe. On the other two thirds these are tested from the safest to the
cheapest, each at the full level, until one fails (fixed-sequence testing), so that the chance that any policy passes
that does not keep the accuracy is at most 1 - confidence, however many there were to choose from. No approximation is
made for large samples; what is assumed is that clusters are drawn alike from what the policy will meet.

Candidates are the arms that were run, and thresholds between two that were run: where `mutual` was run with a low and
with a high threshold of confidence, its answer with any threshold between them is known. Where the low one accepts and
the confidence reaches the threshold it is the low one's, else the high one's.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Route
from cuecard.evals.analysis.ledger import Price, ledger
from cuecard.evals.arm import LIVE, Arm, parse
from cuecard.evals.storage.database import Record
from cuecard.models.base import Limits
from cuecard.stats.bootstrap import by_cluster, checked, numpy
from cuecard.strategies.policy import Acceptance, Policy, Surface, options_at
from cuecard.strategies.policy_file import PolicyFile

Measure = Literal["latency", "cost", "tokens"]
EXPLORE = 1 / 3
POWER = 0.8
Key = tuple[str, str]
THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
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
class CandidateResult:
    """A candidate's means over all questions, and its test, if it was tested."""

    arm: str
    accuracy: float
    cost: float
    p: float | None = None
    passed: bool = False
    needs: int | None = None
    """About how many questions in all would show it with power 0.8, if it is what it looks like; None: none would."""


@dataclass(frozen=True)
class Tuning:
    """`chosen` is None where no cheaper candidate surely meets the goal: then the baseline stays."""

    goal: Goal
    baseline: CandidateResult
    chosen: CandidateResult | None
    candidates: tuple[CandidateResult, ...]
    """The cheapest first."""
    tested: tuple[str, ...]
    """In the order of the tests."""
    questions: int
    clusters: int
    explored: int
    """Questions that only set the order of the tests."""


def table(observations: Iterable[Observation], by: Measure = "latency") -> Table:
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
    results = {arm: _result(seen, arm, losses[arm], p_of.get(arm), goal) for arm in range(len(seen.arms))}
    cheapest = min(passed, key=lambda arm: results[arm].cost, default=None)
    return Tuning(
        goal,
        results[base],
        None if cheapest is None or results[cheapest].cost >= results[base].cost else results[cheapest],
        tuple(sorted((each for arm, each in results.items() if arm != base), key=lambda each: each.cost)),
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

    No other draw can be chosen to please, and the order of a file does not matter.
    """
    known = {name: hashlib.sha256(name.encode()).digest() for name in set(clusters)}
    order = sorted(range(len(clusters)), key=lambda place: known[clusters[place]])
    names = list(dict.fromkeys(clusters[place] for place in order))
    first = set(names[: round(EXPLORE * len(names))])
    explored = [place for place in order if clusters[place] in first]
    return explored, order[len(explored) :]


def bet_p(losses: Sequence[float], most: float, spread: float, goal: Goal) -> float:
    """P-value that sums of losses (one a cluster, at most `most`) have a mean above 0; valid at any number of them.

    A bet of the same share of a fortune on every gain hardly ever grows if the mean is above 0: the chance that a
    fortune of 1 ever reaches f is at most 1 / f (Ville 1939; Waudby-Smith & Ramdas 2024, J. R. Stat. Soc. B 86,
    "betting"). `spread`, the standard deviation as known beforehand, sets the share that is best for this many clusters
    at this confidence; a wrong one costs power, never validity.
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


def _result(seen: Table, arm: int, losses: Any, p: float | None, goal: Goal) -> CandidateResult:
    passed = p is not None and p <= 1 - goal.confidence
    accuracy, cost = float(seen.scores[arm].mean()), float(seen.costs[arm].mean())
    return CandidateResult(seen.arms[arm], accuracy, cost, p, passed, needed(losses, seen.clusters, goal))


def _cost(seen: Observation, by: Measure) -> float:
    value: Mapping[str, float | None] = {"latency": seen.latency_s, "cost": seen.cost, "tokens": seen.tokens}
    if (found := value[by]) is None:
        raise BadInput(f"no price is known of all that {seen.arm} calls", "give --price MODEL=PROMPT,COMPLETION")
    return found


# --- candidates from records ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """An arm and its answers, by task and item."""

    arm: Arm
    answers: Mapping[Key, Record]

    @property
    def failed(self) -> int:
        """How many of its answers failed."""
        return sum(answer["status"] == "error" for answer in self.answers.values())


def candidates(answers: Iterable[Record], base: Policy | None = None) -> dict[str, Candidate]:
    """By name: arms that a policy file can describe (no placebos, nothing live), and thresholds between them."""
    found: dict[str, dict[Key, Record]] = defaultdict(dict)
    for answer in answers:
        found[answer["arm"]][answer["task"], answer["id"]] = answer
    run = {name: Candidate(parse(name, base), own) for name, own in found.items() if not name.endswith(LIVE)}
    run = {name: each for name, each in run.items() if each.arm.placebo is None and each.arm.equal is None}
    return {**{each.arm.name: each for each in _between(run.values())}, **run}


def base_of(config: Mapping[str, Any]) -> Policy:
    """The policy that every arm of a run starts from, by `run.json`."""
    policy = config.get("policy", {})
    accept = Acceptance.parse(policy["accept"]) if "accept" in policy else Policy().accept
    return Policy(accept=accept, limits=Limits(**policy.get("limits", {})))


def observations(
    found: Mapping[str, Candidate], items: Iterable[Record], baseline: str, prices: Mapping[str, Price] | None = None
) -> list[Observation]:
    """Scored questions; the rotations of one question are one, right if all of them are, at their mean cost.

    An answer that failed is wrong, but where the baseline's failed there is nothing to keep: left out, as are items of
    which an answer has no score.
    """
    of_item = {(item["task"], item["id"]): item for item in items}
    out = {
        key
        for each in found.values()
        for key, answer in each.answers.items()
        if answer["score"] is None and answer["status"] != "error"
    }
    out |= {key for key, answer in found[baseline].answers.items() if answer["status"] == "error"}
    seen, known = list[Observation](), dict[int, Observation]()
    for name, each in found.items():
        units: dict[str, list[Observation]] = defaultdict(list)
        for key, answer in each.answers.items():
            if key in of_item and key not in out:
                item = of_item[key]
                unit = f"{key[0]}/group {item['group']}" if item.get("group") else "/".join(key)
                if (at := id(answer)) not in known:  # thresholds share most of their answers
                    known[at] = _observed(unit, item["cluster"], answer, prices)
                units[unit].append(known[at])
        seen += [replace(_as_one(parts), arm=name) for parts in units.values()]
    return seen


def file_of(arm: Arm) -> PolicyFile:
    """The arm as a policy file, all that matters to its strategy written out."""
    options = {
        name: value
        for name, option in options_at(Surface.POLICY_FILE).items()
        if (value := option.of(arm.policy)) is not None
    }
    plain = arm.strategy.partition(":")[0]
    if plain != "mutual":
        del options["accept"]
    if plain not in ("vote", "verdict"):
        del options["samples"]
    if plain == "short":
        del options["budget"]
    return PolicyFile(arm.strategy, options)


def _between(run: Iterable[Candidate]) -> list[Candidate]:
    """Candidates for the thresholds between two that were run."""
    families: dict[Any, list[Candidate]] = defaultdict(list)
    for each in run:
        if each.arm.strategy == "mutual":
            rule = each.arm.policy.accept
            alike = replace(each.arm.policy, accept=Acceptance(rule.agreement, 0.0))
            families[alike].append(each)
    result = list[Candidate]()
    for family in families.values():
        low, high = min(family, key=_threshold), max(family, key=_threshold)
        within = [level for level in THRESHOLDS if _threshold(low) < level < _threshold(high)]
        result += [_spliced(low, high, level) for level in within]
    return result


def _spliced(low: Candidate, high: Candidate, threshold: float) -> Candidate:
    rule = Acceptance(low.arm.policy.accept.agreement, threshold)
    words = [part for part in low.arm.name.split("/") if not part.startswith("accept=")]
    name = "/".join([*words, f"accept={rule}"])
    answers = {
        key: low.answers[key] if _accepts(low.answers[key], threshold) else high.answers[key]
        for key in low.answers
        if key in high.answers
    }
    return Candidate(replace(low.arm, name=name, policy=replace(low.arm.policy, accept=rule)), answers)


def _accepts(answer: Record, threshold: float) -> bool:
    """Without probabilities agreement alone decides, whatever the threshold."""
    sure = answer["confidence"]
    return answer["route"] == Route.AGREED and (sure is None or sure >= threshold)


def _threshold(each: Candidate) -> float:
    return each.arm.policy.accept.confidence or 0.0


def _observed(item: str, cluster: str, answer: Record, prices: Mapping[str, Price] | None) -> Observation:
    spent = ledger([answer], prices)
    tokens = spent.total.prompt_tokens + spent.total.completion_tokens
    cost = spent.price if answer["calls"] else 0.0
    return Observation(item, cluster, answer["arm"], float(answer["score"] or 0.0), spent.latency_s, tokens, cost)


def _as_one(parts: Sequence[Observation]) -> Observation:
    """The rotations of a question as one."""
    count, costs = len(parts), [part.cost for part in parts if part.cost is not None]
    return replace(
        parts[0],
        score=min(part.score for part in parts),
        latency_s=sum(part.latency_s for part in parts) / count,
        tokens=sum(part.tokens for part in parts) / count,
        cost=sum(costs) / count if len(costs) == count else None,
    )
