"""Candidates for tuning, from a run's records: the arms that were run, and thresholds between two that were run.

Where `mutual` was run with a low and with a high threshold of confidence, what it does with any threshold between them
is known: where the low one accepts and the confidence reaches the threshold it does as the low one did, else as the
high one. Answers, calls and composed latencies are those of the records, nothing is put together here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Route
from cuecard.evals.analysis.tune import Observation
from cuecard.evals.arm import LIVE, Arm, parse
from cuecard.evals.summary.ledger import Price, ledger
from cuecard.models.base import Limits
from cuecard.strategies.policy import Acceptance, Policy, Surface, options_at
from cuecard.strategies.policy_file import PolicyFile

Record = Mapping[str, Any]
Key = tuple[str, str]
THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)


@dataclass(frozen=True)
class Candidate:
    """An arm and its answers, by task and item."""

    arm: Arm
    answers: Mapping[Key, Record]


def candidates(answers: Iterable[Record], base: Policy | None = None) -> dict[str, Candidate]:
    """By name: arms that a policy file can describe (no placebos, nothing live), and thresholds between them."""
    found: dict[str, dict[Key, Record]] = defaultdict(dict)
    for answer in answers:
        found[answer["arm"]][answer["task"], answer["id"]] = answer
    run = {name: Candidate(parse(name, base), own) for name, own in found.items() if not name.endswith(LIVE)}
    run = {name: each for name, each in run.items() if each.arm.placebo is None and each.arm.equal is None}
    return {**{each.arm.name: each for each in _between(run.values())}, **run}


def base_of(config: Mapping[str, Any]) -> Policy:
    """What every arm of a run has in common, from what `run.json` says of it."""
    told = config.get("policy", {})
    accept = Acceptance.parse(told["accept"]) if "accept" in told else Policy().accept
    return Policy(accept=accept, limits=Limits(**told.get("limits", {})))


def observations(
    found: Mapping[str, Candidate], items: Iterable[Record], baseline: str, prices: Mapping[str, Price] | None = None
) -> list[Observation]:
    """Scored questions; the rotations of one question are one, right if all of them are, at their mean cost.

    An answer that failed is wrong, but where the baseline's failed there is nothing to keep: left out, as are items of
    which an answer has no score.
    """
    of_item = {(item["task"], item["id"]): item for item in items}
    out = {key for each in found.values() for key, answer in each.answers.items() if not _is_scored(answer)}
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


def failed(found: Candidate) -> int:
    """How many of its answers failed."""
    return sum(answer["status"] == "error" for answer in found.answers.values())


def named(found: Mapping[str, Candidate], wanted: str, base: Policy | None = None) -> str:
    """The run's own name of an arm: `reason` may be `reason:large` there. Raises BadInput if there is none."""
    if wanted in found:
        return wanted
    arm = parse(wanted, base)
    alike = [name for name, each in found.items() if (each.arm.strategy, each.arm.policy) == (arm.strategy, arm.policy)]
    if not alike:
        raise BadInput(f"the run has no arm {wanted!r}", f"there are: {', '.join(found) or 'none'}")
    return alike[0]


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
    """What thresholds between two that were run would have done."""
    families: dict[Any, list[Candidate]] = defaultdict(list)
    for each in run:
        if each.arm.strategy == "mutual":
            rule = each.arm.policy.accept
            alike = replace(each.arm.policy, accept=Acceptance(rule.agreement, 0.0))
            families[alike].append(each)
    made = list[Candidate]()
    for family in families.values():
        low, high = min(family, key=_threshold), max(family, key=_threshold)
        within = [level for level in THRESHOLDS if _threshold(low) < level < _threshold(high)]
        made += [_spliced(low, high, level) for level in within]
    return made


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


def _is_scored(answer: Record) -> bool:
    return answer["score"] is not None or answer["status"] == "error"


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
