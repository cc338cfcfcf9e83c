"""findings.json: results beyond `summary.json`: intervals, differences, routes, fronts, rules, ledger.

All that a report draws is computed here and in the modules beside it. Accuracies are by unit (`units`), seconds and
tokens by question; an answer that failed has no score, and its seconds and tokens are in every mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from cuecard.evals.analysis import acceptance
from cuecard.evals.analysis.acceptance import RuleResults, SharedError
from cuecard.evals.analysis.arm_results import ArmResults, arm_results, most_accurate, with_fronts
from cuecard.evals.analysis.differences import Difference, adjusted, differences
from cuecard.evals.analysis.ledger import Price
from cuecard.evals.analysis.tune import base_of
from cuecard.evals.analysis.units import PAPER, ScoredTask, arm_named, by_arm, family, scored_tasks
from cuecard.evals.arm import LIVE, Arm, parse
from cuecard.evals.storage.database import Store
from cuecard.strategies.policy import Acceptance

VERSION = 1
BASELINE = "reason:large"
MARGIN = 0.01


class Pays(StrEnum):
    """What a comparison with the best single model shows."""

    YES = "pays"
    """A strategy of both models is significantly more accurate."""
    NO = "does not pay"
    """None is more accurate."""
    OPEN = "is not shown to pay"
    """One is more accurate, but not significantly."""


@dataclass(frozen=True)
class PairVerdict:
    """Whether the two models together pay. `shown`: the comparison of the strategy that gains most."""

    pays: Pays
    shown: Difference


@dataclass(frozen=True)
class TaskResults:
    """One task. `leading`: of the strategies of both models the most accurate, at a tie the faster one."""

    task: str
    items: int
    units: int
    unit: str
    """What is scored as one: `question`, or `group of rotations`."""
    arms: Mapping[str, ArmResults]
    differences: tuple[Difference, ...]
    best: tuple[str, ...]
    """Of all arms to choose from the most accurate, at a tie all of them, the faster ones first."""
    paper: tuple[str, ...]
    """Of each strategy of the paper the arm that is most accurate, at a tie the faster one."""
    leading: str | None
    rules: tuple[RuleResults, ...]
    shared: SharedError | None

    @property
    def composed(self) -> list[ArmResults]:
        """Arms without those run end to end."""
        return [arm for arm in self.arms.values() if not arm.arm.endswith(LIVE)]

    @property
    def plain(self) -> list[ArmResults]:
        """The same without placebos."""
        return [arm for arm in self.composed if arm.family != "placebo"]

    @property
    def verdict(self) -> PairVerdict | None:
        """Of the paper's strategies against the best single model that takes no longer.

        None where seconds are not known, or no single model is as fast.
        """
        own = [each for each in self.differences if each.family == "single"]
        if not own:
            return None
        significant = [each for each in own if each.significant and each.accuracy.difference.estimate > 0]
        shown = max(significant or own, key=lambda each: each.accuracy.difference.estimate)
        if significant:
            return PairVerdict(Pays.YES, shown)
        return PairVerdict(Pays.OPEN if shown.accuracy.difference.estimate > 0 else Pays.NO, shown)

    def difference(self, arm: str, which: str = "arms") -> Difference | None:
        return next((each for each in self.differences if (each.arm, each.family) == (arm, which)), None)


@dataclass(frozen=True)
class RunResults:
    """A whole run. `margin`: score points within which an arm counts as not worse."""

    baseline: str | None
    margin: float
    tasks: tuple[TaskResults, ...]

    def as_object(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        values = asdict(self)
        for task, results in zip(values["tasks"], self.tasks, strict=True):
            pays = results.verdict
            task["verdict"] = pays and {"pays": pays.pays, "arm": pays.shown.arm, "against": pays.shown.against}
            for name, arm in results.arms.items():
                task["arms"][name]["ledger"] = None if arm.ledger is None else arm.ledger.as_object()
            for each, difference in zip(task["differences"], results.differences, strict=True):
                each["significant"] = difference.significant
        return {"version": VERSION, **plain(values)}


def plain(value: Any) -> Any:
    """With None for what is not a number (a ratio to no seconds at all), which JSON cannot write."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def run_results(
    config: Mapping[str, Any],
    store: Store,
    against: str | None = None,
    margin: float = MARGIN,
    prices: Mapping[str, Price] | None = None,
    powers: Mapping[str, float] | None = None,
) -> RunResults:
    """`against`: the baseline, `reason:large` where the run has it. Raises BadInput, MissingExtra, LedgerError."""
    base, answers = base_of(config), list(store.answers())
    present = dict.fromkeys(answer["arm"] for answer in answers)
    order = [*config["arms"], *(arm + LIVE for arm in config["arms"])]
    arms = {name: parse(name.removesuffix(LIVE), base) for name in order if name in present}
    composed = {name: arm for name, arm in arms.items() if not name.endswith(LIVE)}
    baseline = arm_named(composed, against, base) if against else BASELINE if BASELINE in composed else None
    tasks, compared, notes = [], list[Difference](), store.notes()
    for task in scored_tasks(config["tasks"], store.items()):
        own = by_arm(answers, task.name)
        lacking = {name: len(notes.get(f"unresolved {task.name} {name}") or ()) for name in arms}
        tasks.append(
            _task(
                task,
                {
                    name: arm_results(task, (name, family(arm)), own[name], lacking[name], prices, powers)
                    for name, arm in arms.items()
                    if name in own
                },
                arms,
                acceptance.short_answers(task.items.values(), own.get("short:small", ()), own.get("short:large", ())),
            )
        )
        # where questions are unresolved, those that an arm has answered are the easy ones: no comparison
        complete = {name: each for name, each in own.items() if not lacking[name]}
        compared += differences(task, complete, arms, baseline, margin)
    all_of = adjusted(compared)
    return RunResults(
        baseline,
        margin,
        tuple(replace(task, differences=tuple(each for each in all_of if each.task == task.task)) for task in tasks),
    )


def _task(
    task: ScoredTask,
    plain: Mapping[str, ArmResults],
    arms: Mapping[str, Arm],
    short: Sequence[acceptance.ShortAnswers],
) -> TaskResults:
    """Without its differences, whose p-values are adjusted over the whole run."""
    results = {name: with_fronts(arm, plain) for name, arm in plain.items()}
    of_strategy = [[arm for name, arm in results.items() if arms[name].strategy == strategy] for strategy in PAPER]
    return TaskResults(
        task.name,
        len(task.items),
        len({task.unit(id) for id in task.items}),
        "group of rotations" if task.aggregate == "circular" else "question",
        results,
        (),
        most_accurate(results.values()),
        tuple(best[0] for own in of_strategy if (best := most_accurate(own))),
        next(iter(most_accurate(arm for arm in results.values() if arm.family == "paper")), None),
        tuple(acceptance.rule_results(rule, short) for rule in _rules(short)),
        acceptance.shared_error(short),
    )


def _rules(short: Sequence[acceptance.ShortAnswers]) -> Sequence[Acceptance]:
    """Where no answer has a probability, agreement alone decides, whatever the threshold."""
    if not short:
        return ()
    return acceptance.RULES if any(each.confidence is not None for each in short) else acceptance.RULES[:1]
