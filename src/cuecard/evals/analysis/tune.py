"""Tuning with a guarantee: the cheapest policy that keeps the baseline's accuracy with a given confidence.

Learn then test (Angelopoulos et al. 2021, arXiv:2110.01052), with the order of tests learnt on other questions (Pareto
testing, Laufer-Goldshtein et al. 2023, arXiv:2210.07913). A third of the clusters, by a hash of their names, is for
exploration: it shows which candidates look cheaper and safe. These are tested on the other two thirds, from the safest
to the cheapest, each at the full level, until one fails (fixed-sequence testing). So the probability that any policy
passes without keeping the accuracy is at most 1 - confidence, for any number of candidates. This holds for finite
samples; the assumption is that clusters are drawn identically from the questions that the policy will get.

A candidate that is itself fitted (an acceptance table) is fitted on the explored questions only.

Candidates are the arms of a run, and acceptance rules that the run did not use. If `mutual` was run with two rules, its
answer with a third rule is known for every question that the third rule accepts or rejects like one of the two. So
confidence thresholds between two that were run need no calls. The same holds for rules by an acceptance table, if one
arm accepted a question and another did not. Whether the small model's short answer was needed can differ: the cost of a
threshold may include a call too many, never one too few.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from cuecard.domain.call import FinishReason, Mode
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Route
from cuecard.domain.question import AnswerKind
from cuecard.evals.analysis.acceptance import CALIBRATED_RULES, ShortAnswers, accepts
from cuecard.evals.analysis.ledger import Ledger, Price, ledger
from cuecard.evals.arm import FILE, LIVE, Arm, parse
from cuecard.evals.database import Record
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.stats import bet_p, by_cluster, checked, numpy, questions_for_bet
from cuecard.strategies.policy import Acceptance, AcceptanceRule, Calibrated, Policy
from cuecard.strategies.policy_file import PolicyFile, Surface, options_at

Key = tuple[str, str]
Measure = Literal["latency", "cost", "tokens"]
EXPLORE = 1 / 3
THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
METHOD = "learn then test: fixed sequence of betting tests, ordered on a third of the clusters"


@dataclass(frozen=True)
class Observation:
    """One arm's answer to one question. `score`: 0 to 1; `cost`: None if a price is unknown."""

    item: str
    cluster: str
    arm: str
    score: float
    latency_s: float
    tokens: float = 0.0
    cost: float | None = None

    def at_least(self, other: Observation) -> Observation:
        """The observation with latency, tokens and cost at least those of the other; unknown costs stay unknown."""
        cost = None if self.cost is None or other.cost is None else max(self.cost, other.cost)
        latency_s, tokens = max(self.latency_s, other.latency_s), max(self.tokens, other.tokens)
        return replace(self, latency_s=latency_s, tokens=tokens, cost=cost)

    def measure(self, by: Measure) -> float:
        """The value of a measure. Raises BadInput if it is unknown."""
        value = {"latency": self.latency_s, "cost": self.cost, "tokens": self.tokens}[by]
        if value is None:
            raise BadInput(f"no price is known of all that {self.arm} calls", "give --price MODEL=PROMPT,COMPLETION")
        return value


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
        """The maximum loss of a question."""
        return self.keep - self.margin

    def losses(self, baseline: Any, scores: Any) -> Any:
        """Loss per question; the goal is met exactly if their mean is 0 or less."""
        return self.keep * baseline - scores - self.margin

    def __str__(self) -> str:
        share = f"{100 * self.keep:g}% of the accuracy" if self.keep < 1 else "the accuracy"
        return share + (f" less {100 * self.margin:g} points" if self.margin else "")


@dataclass(frozen=True)
class Table:
    """Scores and costs, each (arms, questions); all arms answered the same questions."""

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
    """Approximate number of questions to show it with power 0.8, if the observed losses are typical; None: none do."""


@dataclass(frozen=True)
class Tuning:
    """The result of tuning. `chosen`: None if no cheaper candidate is shown to meet the goal (the baseline stays)."""

    goal: Goal
    baseline: CandidateResult
    chosen: CandidateResult | None
    candidates: tuple[CandidateResult, ...]
    """All arms but the baseline, the cheapest first."""
    tested: tuple[str, ...]
    """The tested arms, in the order of the tests."""
    questions: int
    clusters: int
    explored: int
    """Questions that are used only for exploration."""


def data_digest(seen: Table) -> str:
    """Hash of the answers used for tuning, 16 hex digits."""
    rows = [seen.arms, seen.items, seen.clusters, seen.scores.tolist(), seen.costs.tolist()]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def table(observations: Iterable[Observation], by: Measure = "latency") -> Table:
    """The questions that every arm has answered. Raises BadInput if there are none, or costs are unknown."""
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
        np.array([[own[item].measure(by) for item in items] for own in found.values()], float),
    )


def tune(seen: Table, baseline: str, goal: Goal) -> Tuning:
    """Choose the cheapest arm that is shown to meet the goal. Raises BadInput if the baseline is not among the arms."""
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
    results = {
        arm: CandidateResult(
            name,
            float(seen.scores[arm].mean()),
            float(seen.costs[arm].mean()),
            p_of.get(arm),
            arm in passed,
            questions_for_bet(losses[arm], seen.clusters, goal.confidence, EXPLORE),
        )
        for arm, name in enumerate(seen.arms)
    }
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


def explored_clusters(seen: Table) -> set[str]:
    """The clusters of the exploration questions, on which no policy is tested."""
    return {seen.clusters[place] for place in _parts(seen.clusters)[0]}


def safest_first(seen: Table, losses: Any, explored: Sequence[int], base: int) -> list[int]:
    """The order of the tests, from the exploration: safest first, each cheaper than the baseline and all before it.

    Of equally safe arms the dearest comes first, because the first test that fails ends the sequence. Arms that miss
    the goal in the exploration are left out: their tests could only end the sequence.
    """
    names, costs = [seen.clusters[place] for place in explored], seen.costs[:, explored].mean(axis=1)
    risks = []
    for own in losses[:, explored]:
        (sums,) = by_cluster(names, own)
        # one additional loss, so that a few gains by luck do not look certain
        risks.append(float((sums.sum() + 1) / math.sqrt((sums**2).sum() + 1)))
    path, cheapest = list[int](), costs[base]
    for arm in sorted(range(len(seen.arms)), key=lambda arm: (risks[arm], -costs[arm])):
        if costs[arm] < cheapest and losses[arm, explored].mean() < 0:
            path.append(arm)
            cheapest = costs[arm]
    return path


def _tested(losses: Any, clusters: Sequence[str], explored: Sequence[int], rest: Sequence[int], goal: Goal) -> float:
    """The p-value on the remaining questions; the exploration sets the bet."""
    (seen,) = by_cluster([clusters[place] for place in explored], losses[explored])
    sums, sizes = by_cluster([clusters[place] for place in rest], losses[rest], [1.0] * len(rest))
    spread = math.sqrt((float((seen**2).sum()) + 1) / (len(seen) + 1))
    return bet_p(sums, float(sizes.max()) * goal.most, spread, goal.confidence)


def _parts(clusters: Sequence[str]) -> tuple[list[int], list[int]]:
    """Indices of the exploration questions and of the rest, ordered by the hash of their clusters' names.

    The hash leaves no choice of a favourable split, and makes it independent of the file's order.
    """
    known = {name: hashlib.sha256(name.encode()).digest() for name in set(clusters)}
    order = sorted(range(len(clusters)), key=lambda place: known[clusters[place]])
    names = list(dict.fromkeys(clusters[place] for place in order))
    first = set(names[: round(EXPLORE * len(names))])
    explored = [place for place in order if clusters[place] in first]
    return explored, order[len(explored) :]


# --- candidates -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """An arm and its answers, by task and item."""

    arm: Arm
    answers: Mapping[Key, Record]

    @property
    def failed(self) -> int:
        """The number of failed answers."""
        return sum(answer["status"] == "error" for answer in self.answers.values())


def candidates(
    answers: Iterable[Record], base: Policy | None = None, policies: Mapping[str, PolicyFile] | None = None
) -> dict[str, Candidate]:
    """By name: arms that a policy file can describe (no placebos, `equal` or live arms), and thresholds between them.

    `policies`: contents of the run's policy files, as in `arm.parse`.
    """
    found: dict[str, dict[Key, Record]] = defaultdict(dict)
    for answer in answers:
        found[answer["arm"]][answer["task"], answer["id"]] = answer
    arms = {name: parse(name, base, policies) for name in found if not name.endswith(LIVE)}
    run = {name: Candidate(arm, found[name]) for name, arm in arms.items()}
    run = {name: each for name, each in run.items() if each.arm.placebo is None and each.arm.equal is None}
    return {**{each.arm.name: each for each in _between(run.values())}, **run}


def calibrated(
    found: Mapping[str, Candidate], short: Mapping[Key, ShortAnswers], table: AcceptanceTable
) -> dict[str, Candidate]:
    """By name: `mutual` with each calibrated rule for which every question's answer is known from some arm.

    Empty if a question asks for free text: a model decides whether two such texts agree. Names of arms that the run has
    are left out.
    """
    if any(each.kind == AnswerKind.FREE_TEXT for each in short.values()):
        return {}
    keys = set.intersection(*(set(each.answers) for each in found.values())) if found else set()
    families: dict[Policy, list[Candidate]] = defaultdict(list)
    for each in found.values():
        if each.arm.strategy == "mutual" and not each.arm.name.startswith(FILE):
            families[replace(each.arm.policy, accept=None, table=None)].append(each)
    made = dict[str, Candidate]()
    for family in families.values():
        for rule in CALIBRATED_RULES:
            arm = _under(family[0].arm, rule, table)
            answers = {key: _answered(family, key, short.get(key), rule, table) for key in keys}
            known = {key: answer for key, answer in answers.items() if answer is not None}
            if arm.name not in found and len(known) == len(keys):
                made[arm.name] = Candidate(arm, known)
    return made


def _answered(
    family: Sequence[Candidate], key: Key, short: ShortAnswers | None, rule: Calibrated, table: AcceptanceTable
) -> Record | None:
    """A question's answer with this rule: from an arm that accepted or rejected its short answers like the rule.

    Arms that made the small model's short call exactly if the rule needs it are preferred. None if there is no arm.
    """
    is_accepted = short is not None and accepts(rule, short, table)
    answers = [each.answers[key] for each in family if (each.answers[key]["route"] == Route.AGREED) == is_accepted]
    needs_small = True
    if short is not None and (sure := short.confidence) is not None:
        needs_small = table.alone(short.kind, sure) < rule.least <= table.most(short.kind, sure)
    return min(answers, key=lambda answer: _has_small_short(answer) != needs_small, default=None)


def _has_small_short(answer: Record) -> bool:
    """Whether the small model's short call was made and not cancelled."""
    short = (call for call in answer["calls"] if (call["role"], call["mode"]) == ("small", Mode.SHORT))
    return any(call["finish_reason"] != FinishReason.CANCELLED for call in short)


def _between(run: Iterable[Candidate]) -> list[Candidate]:
    """Candidates for the thresholds between the lowest and the highest that were run."""
    families: dict[Any, list[tuple[Acceptance, Candidate]]] = defaultdict(list)
    for each in run:
        if each.arm.strategy == "mutual" and isinstance(rule := each.arm.policy.accept, Acceptance):
            families[replace(each.arm.policy, accept=Acceptance(rule.agreement, 0.0))].append((rule, each))
    result = list[Candidate]()
    for family in families.values():
        ordered = sorted(family, key=lambda each: each[0].confidence or 0.0)
        (least, low), (most, high) = ordered[0], ordered[-1]
        span = least.confidence or 0.0, most.confidence or 0.0
        result += [_spliced(low, high, Acceptance(least.agreement, t), t) for t in THRESHOLDS if span[0] < t < span[1]]
    return result


def _spliced(low: Candidate, high: Candidate, rule: Acceptance, threshold: float) -> Candidate:
    answers = dict[Key, Record]()
    for key, answer in low.answers.items():
        if key in high.answers:
            # without probabilities, agreement alone decides at every threshold
            unsure = answer["confidence"] is not None and answer["confidence"] < threshold
            answers[key] = high.answers[key] if answer["route"] == Route.AGREED and unsure else answer
    return Candidate(_under(low.arm, rule, low.arm.policy.table), answers)


def _under(arm: Arm, rule: AcceptanceRule, table: AcceptanceTable | None) -> Arm:
    """The arm with another acceptance rule, and its name changed accordingly."""
    words = [part for part in arm.name.split("/") if not part.startswith("accept=")]
    name = "/".join([*words, f"accept={rule}"])
    return replace(arm, name=name, policy=replace(arm.policy, accept=rule, table=table))


# --- observations from records ----------------------------------------------------------------------------------------


def observations(
    found: Mapping[str, Candidate], items: Iterable[Record], baseline: str, prices: Mapping[str, Price] | None = None
) -> list[Observation]:
    """Observations of scored questions; the rotations of a question are one, with their lowest score and mean cost.

    A failed answer is wrong, and costs at least as much as the baseline's. Questions on which the baseline failed, and
    those with an answer without a score, are left out (`left_out`).
    """
    of_item = {(item["task"], item["id"]): item for item in items}
    out, seen, known = left_out(found, baseline), list[Observation](), dict[int, Ledger]()
    whole = dict[str, Observation]()
    for name in sorted(found, key=lambda name: name != baseline):
        each = found[name]
        units: dict[str, list[Key]] = defaultdict(list)
        for key in each.answers:
            if key in of_item and key not in out:
                group = of_item[key].get("group")
                units[f"{key[0]}/group {group}" if group else "/".join(key)].append(key)
        for unit, keys in units.items():
            answers = [each.answers[key] for key in keys]
            for answer in answers:
                if id(answer) not in known:  # thresholds share most of their answers
                    known[id(answer)] = ledger([answer], prices)
            ledgers, count = [known[id(answer)] for answer in answers], len(answers)
            totals = [own.total for own in ledgers]
            costs = [own.price if answer["calls"] else 0.0 for own, answer in zip(ledgers, answers, strict=True)]
            priced = [cost for cost in costs if cost is not None]
            observation = Observation(
                unit,
                of_item[keys[0]]["cluster"],
                name,
                min(float(answer["score"] or 0.0) for answer in answers),
                sum(own.latency_s for own in ledgers) / count,
                sum(total.prompt_tokens + total.completion_tokens for total in totals) / count,
                sum(priced) / count if len(priced) == count else None,
            )
            if name == baseline:
                whole[unit] = observation
            elif unit in whole and any(answer["status"] == "error" for answer in answers):
                observation = observation.at_least(whole[unit])
            seen.append(observation)
    return seen


def left_out(found: Mapping[str, Candidate], baseline: str) -> set[Key]:
    """Questions that tuning does not use: the baseline failed on them, or an answer has no score."""
    out = {
        key
        for each in found.values()
        for key, answer in each.answers.items()
        if answer["score"] is None and answer["status"] != "error"
    }
    return out | {key for key, answer in found[baseline].answers.items() if answer["status"] == "error"}


def file_of(arm: Arm, table: AcceptanceTable | None = None) -> PolicyFile:
    """The arm as a policy file with all options that its strategy uses. `table`: used if its policy has none."""
    options = {
        name: value
        for name, option in options_at(Surface.POLICY_FILE).items()
        if (value := option.of(arm.policy)) is not None
    }
    plain = arm.strategy.partition(":")[0]
    if plain != "mutual":
        options.pop("accept", None)
    if plain not in ("vote", "verdict"):
        del options["samples"]
    if plain == "short":
        del options["budget"]
    return PolicyFile(arm.strategy, options, table=(arm.policy.table or table) if plain == "mutual" else None)
