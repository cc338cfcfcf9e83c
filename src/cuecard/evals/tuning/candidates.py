"""The candidates of `cuecard tune`: the arms of a run, and acceptance rules that the run did not use.

If `mutual` was run with two rules, its answer with a third rule is known for every question that the third rule accepts
or rejects like one of the two. So confidence thresholds between two that were run need no calls. The same holds for
rules by an acceptance table, if one arm accepted a question and another did not. Whether the small model's short answer
was needed can differ: the cost of a threshold may include a call too many, never one too few.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cuecard.domain.call import FinishReason, Mode
from cuecard.domain.outcome import Route
from cuecard.domain.question import AnswerKind
from cuecard.evals.analysis.acceptance import CALIBRATED_RULES, ShortAnswers, accepts
from cuecard.evals.arm import FILE, LIVE, Arm, parse
from cuecard.evals.database import Record
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.strategies.acceptance_rules import Acceptance, AcceptanceRule, Calibrated
from cuecard.strategies.policy import Policy
from cuecard.strategies.policy_file import PolicyFile

Key = tuple[str, str]
THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)


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
        (least, low), (most, high) = min(family, key=_threshold), max(family, key=_threshold)
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


def _threshold(each: tuple[Acceptance, Candidate]) -> float:
    return each[0].confidence or 0.0
