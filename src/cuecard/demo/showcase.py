"""The showcase: every strategy on the same held-out questions, live, and what to show of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from random import Random
from statistics import fmean

from cuecard.demo import boards, easyvqa
from cuecard.demo.evaluate import Trial, examine
from cuecard.domain.errors import CuecardError
from cuecard.domain.outcome import LatencyKind, Outcome, Route
from cuecard.models.base import Model
from cuecard.report.showcase.records import NEITHER, Exhibit, Sample, Showcase, StrategyAnswer, StrategyRow
from cuecard.stats.inference import wilson_bounds
from cuecard.strategies.policy import Policy, Schedule

REFERENCE = "reason:large"
HEADLINE = "mutual, overlap"
"""What `cuecard ask` does by default."""
GALLERY = 8

# name -> strategy and schedule; None where the schedule changes nothing, as only one call runs at a time
ARMS: Mapping[str, tuple[str, Schedule | None]] = {
    "short:small": ("short:small", None),
    "short:large": ("short:large", None),
    "reason:small": ("reason:small", None),
    REFERENCE: (REFERENCE, None),
    "transfer, thrifty": ("transfer", Schedule.THRIFTY),
    "transfer, overlap": ("transfer", Schedule.OVERLAP),
    "mutual, thrifty": ("mutual", Schedule.THRIFTY),
    "mutual, overlap": ("mutual", Schedule.OVERLAP),
    "mutual, eager": ("mutual", Schedule.EAGER),
    "cascade": ("cascade", None),
    "route": ("route", None),
}


async def showcase(
    models: Mapping[str, Model], boards_count: int, vqa_count: int, seed: int, tick: Callable[[], None]
) -> Showcase:
    """Every strategy on so many boards and easy-VQA questions; `tick` is called after each question."""
    arms = {
        name: (strategy, Policy(schedule=schedule or Schedule.THRIFTY)) for name, (strategy, schedule) in ARMS.items()
    }
    asked = questions(boards_count, vqa_count, seed)
    await examine(models, boards.exercises(1, -1, "validation"), arms, lambda: None)  # first calls are slower
    trials = await examine(models, asked, arms, tick)
    return Showcase(
        questions=len(asked),
        rows=tuple(row(name, [trial for trial in trials if trial.arm == name], trials, len(asked)) for name in ARMS),
        headline=HEADLINE,
        sample=sample(trials, asked),
        gallery=gallery(trials, asked),
        answers=tuple(_answered(trial, asked[trial.index]) for trial in trials),
    )


def questions(boards_count: int, vqa_count: int, seed: int) -> list[boards.Exercise]:
    """Held-out boards, then questions drawn from easy-VQA's own test split: the same for the same seed."""
    drawn = Random(f"{seed} easy-vqa").sample(easyvqa.items("test"), vqa_count) if vqa_count else []
    photos = [boards.Exercise("easy-vqa", item.question(), item.answer, "") for item in drawn]
    return [*boards.exercises(boards_count, seed), *photos]


def row(name: str, own: Sequence[Trial], trials: Sequence[Trial], asked: int) -> StrategyRow:
    """One strategy's means. Raises CuecardError unless each question was answered once, by one route."""
    if sorted(trial.index for trial in own) != list(range(asked)):
        raise CuecardError(f"{name} did not answer each of the {asked} questions exactly once")
    strategy, schedule = ARMS[name]
    right, mean_s = sum(trial.right for trial in own), fmean(trial.seconds for trial in own)
    parts = [busy(trial.outcome) for trial in own]
    low, high = wilson_bounds(right, asked)
    return StrategyRow(
        strategy=strategy,
        schedule=schedule,
        questions=asked,
        right=right,
        low=low,
        high=high,
        tokens={role: fmean(_tokens(t.outcome).get(role, 0) for t in own) for role in ("small", "large")},
        mean_s=mean_s,
        parts_s={
            who: fmean(part.get(who, 0.0) for part in parts) for who in dict.fromkeys(who for p in parts for who in p)
        },
        speed_up=fmean(t.seconds for t in trials if t.arm == REFERENCE) / mean_s,
        routes=dict(Counter(trial.outcome.route for trial in own)),
        latency=_weakest(trial.outcome.latency_kind for trial in own),
    )


def busy(outcome: Outcome) -> dict[str, float]:
    """The request's seconds by who worked meanwhile (as `Row.parts_s`); they sum to the total."""
    cuts = sorted(
        {0.0, outcome.total_s} | {min(t, outcome.total_s) for c in outcome.calls for t in (c.start_s, c.end_s)}
    )
    spent: dict[str, float] = {}
    for begin, end in pairwise(cuts):
        working = {call.role for call in outcome.calls if call.start_s <= begin and call.end_s >= end}
        who = " + ".join(sorted(working, key=lambda role: (role == "large", role != "small", role))) or NEITHER
        spent[who] = spent.get(who, 0.0) + end - begin
    return spent


def sample(trials: Sequence[Trial], asked: Sequence[boards.Exercise]) -> Sample | None:
    """The transferred question of median latency, under several strategies; None if nothing was transferred."""
    for arm in (HEADLINE, "transfer, overlap"):
        found = [t for t in trials if t.arm == arm and t.outcome.route is Route.TRANSFERRED]
        if found:
            chosen = sorted(found, key=lambda trial: trial.seconds)[len(found) // 2].index
            shown = (REFERENCE, arm.replace("overlap", "thrifty"), arm, *(["mutual, eager"] if arm == HEADLINE else []))
            outcomes = {t.arm: t.outcome for t in trials if t.index == chosen and t.arm in shown}
            return Sample(asked[chosen].question, asked[chosen].truth, {name: outcomes[name] for name in shown})
    return None


def gallery(trials: Sequence[Trial], asked: Sequence[boards.Exercise]) -> tuple[Exhibit, ...]:
    """A few questions as the headline strategy answered them: every route, both sources, right and wrong, by turns."""
    reference_s = {trial.index: trial.seconds for trial in trials if trial.arm == REFERENCE}
    kinds: dict[tuple[Route, bool, bool], list[Trial]] = {}
    for trial in trials:
        if trial.arm == HEADLINE:
            kinds.setdefault((trial.outcome.route, trial.right, trial.task == "easy-vqa"), []).append(trial)
    deepest = max((len(own) for own in kinds.values()), default=0)
    by_turns = [own[turn] for turn in range(deepest) for own in kinds.values() if turn < len(own)]
    return tuple(
        Exhibit(
            asked[t.index].question, _source(t.task), asked[t.index].truth, t.right, t.outcome, reference_s[t.index]
        )
        for t in by_turns[:GALLERY]
    )


def _answered(trial: Trial, exercise: boards.Exercise) -> StrategyAnswer:
    outcome = trial.outcome
    shown = (_source(trial.task), trial.arm, outcome.answer, exercise.truth, trial.right)
    return StrategyAnswer(trial.index, *shown, outcome.route, outcome.total_s, _tokens(outcome))


def _tokens(outcome: Outcome) -> dict[str, int]:
    """Generated tokens by role, cancelled and failed calls included."""
    spent: dict[str, int] = {}
    for call in outcome.calls:
        spent[call.role] = spent.get(call.role, 0) + (call.usage.completion_tokens or 0)
    return spent


def _source(task: str) -> str:
    return "easy-VQA" if task == "easy-vqa" else f"board, {task}"


def _weakest(kinds: Iterable[LatencyKind]) -> LatencyKind:
    """A mean is as good as the least direct of its latencies."""
    return max(kinds, key=list(LatencyKind).index)
