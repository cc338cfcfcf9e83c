"""findings.json: what answers show beyond `summary.json`: intervals, differences, routes, fronts, rules, ledger.

What a report draws is computed here and in the modules beside it. Accuracies are by unit (`units`), seconds and tokens
by question; an answer that failed has no score, and its seconds and tokens are in every mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cuecard.evals.analysis import acceptance
from cuecard.evals.analysis.acceptance import RuleTold, SharedError
from cuecard.evals.analysis.arm_results import ArmFound, competes, described, most_accurate, with_fronts
from cuecard.evals.analysis.candidates import base_of
from cuecard.evals.analysis.differences import Difference, adjusted, differences
from cuecard.evals.analysis.units import PAPER, Bench, benches, by_arm, family, named, parsed
from cuecard.evals.analysis.verdict import Verdict, verdict
from cuecard.evals.arm import LIVE, Arm
from cuecard.evals.storage.database import Record, Store
from cuecard.evals.summary.ledger import Price
from cuecard.strategies.policy import Acceptance

VERSION = 1
BASELINE = "reason:large"
MARGIN = 0.01


@dataclass(frozen=True)
class TaskFound:
    """One task. `leading`: of the strategies of both models the most accurate, at a tie the faster one."""

    task: str
    items: int
    units: int
    unit: str
    """What is scored as one: `question`, or `group of rotations`."""
    arms: Mapping[str, ArmFound]
    differences: tuple[Difference, ...]
    best: tuple[str, ...]
    """Of all arms to choose from the most accurate, at a tie all of them, the faster ones first."""
    paper: tuple[str, ...]
    """Of each strategy of the paper the arm that is most accurate, at a tie the faster one."""
    leading: str | None
    rules: tuple[RuleTold, ...]
    shared: SharedError | None

    @property
    def composed(self) -> list[ArmFound]:
        """Arms without those run end to end."""
        return [arm for arm in self.arms.values() if not arm.arm.endswith(LIVE)]

    @property
    def plain(self) -> list[ArmFound]:
        """The same without placebos."""
        return [arm for arm in self.composed if arm.family != "placebo"]

    @property
    def verdict(self) -> Verdict | None:
        """Whether the pair pays."""
        return verdict(self.differences)

    def difference(self, arm: str, which: str = "arms") -> Difference | None:
        return next((each for each in self.differences if (each.arm, each.family) == (arm, which)), None)


@dataclass(frozen=True)
class Findings:
    """A whole run. `margin`: score points within which an arm counts as not worse."""

    baseline: str | None
    margin: float
    tasks: tuple[TaskFound, ...]

    def as_object(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        told = asdict(self)
        for task, found in zip(told["tasks"], self.tasks, strict=True):
            pays = found.verdict
            task["verdict"] = pays and {"pays": pays.pays, "arm": pays.shown.arm, "against": pays.shown.against}
            for name, arm in found.arms.items():
                task["arms"][name]["ledger"] = None if arm.ledger is None else arm.ledger.as_object()
            for each, made in zip(task["differences"], found.differences, strict=True):
                each["significant"] = made.significant
        return {"version": VERSION, **plain(told)}


def plain(value: Any) -> Any:
    """What is not a number (a ratio to no seconds at all) is not known: JSON has no word for it."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def findings(
    config: Mapping[str, Any],
    store: Store,
    against: str | None = None,
    margin: float = MARGIN,
    prices: Mapping[str, Price] | None = None,
    powers: Mapping[str, float] | None = None,
) -> Findings:
    """`against`: the baseline, `reason:large` where the run has it. Raises BadInput, MissingExtra, LedgerError."""
    base, answers = base_of(config), list(store.answers())
    present = dict.fromkeys(answer["arm"] for answer in answers)
    order = [*config["arms"], *(arm + LIVE for arm in config["arms"])]
    arms = parsed((name for name in order if name in present), base)
    composed = {name: arm for name, arm in arms.items() if not name.endswith(LIVE)}
    baseline = named(composed, against, base) if against else BASELINE if BASELINE in composed else None
    found, compared, notes = [], list[Difference](), store.notes()
    for bench in benches(config["tasks"], store.items()):
        told = by_arm(answers, bench.name)
        lacking = {name: len(notes.get(f"unresolved {bench.name} {name}") or ()) for name in arms}
        found.append(_task(bench, told, arms, lacking, (prices, powers)))
        # what an arm has answered apart from questions that nobody can resolve are the easy ones: no comparison
        whole = {name: own for name, own in told.items() if not lacking[name]}
        compared += differences(bench, whole, arms, baseline, margin)
    all_of = adjusted(compared)
    tasks = (_with(task, [each for each in all_of if each.task == task.task]) for task in found)
    return Findings(baseline, margin, tuple(tasks))


def _task(
    bench: Bench,
    told: Mapping[str, Sequence[Record]],
    arms: Mapping[str, Arm],
    lacking: Mapping[str, int],
    rates: tuple[Mapping[str, Price] | None, Mapping[str, float] | None],
) -> TaskFound:
    plain = {
        name: described(bench, (name, family(arms[name])), told[name], lacking[name], *rates)
        for name in arms
        if name in told
    }
    whole = {name: with_fronts(arm, plain) for name, arm in plain.items()}
    short = acceptance.from_records(bench.items.values(), told.get("short:small", ()), told.get("short:large", ()))
    return TaskFound(
        bench.name,
        len(bench.items),
        len({bench.unit(id) for id in bench.items}),
        "group of rotations" if bench.aggregate == "circular" else "question",
        whole,
        (),
        most_accurate(whole.values()),
        tuple(best[0] for strategy in PAPER if (best := most_accurate(_of(strategy, whole, arms)))),
        next(iter(most_accurate(arm for arm in whole.values() if arm.family == "paper")), None),
        tuple(acceptance.told(rule, short) for rule in _rules(short)),
        acceptance.shared_error(short),
    )


def _with(task: TaskFound, compared: Sequence[Difference]) -> TaskFound:
    return replace(task, differences=tuple(compared))


def _rules(short: Sequence[acceptance.ShortAnswers]) -> Sequence[Acceptance]:
    """Where no answer has a probability, agreement alone decides, whatever the threshold."""
    if not short:
        return ()
    return acceptance.RULES if any(each.confidence is not None for each in short) else acceptance.RULES[:1]


def _of(strategy: str, told: Mapping[str, ArmFound], arms: Mapping[str, Arm]) -> list[ArmFound]:
    return [arm for name, arm in told.items() if arms[name].strategy == strategy]


__all__ = ["ArmFound", "Findings", "TaskFound", "competes", "findings", "plain"]
