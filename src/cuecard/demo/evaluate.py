"""What the embedded pair shows on held-out boards:  python -m cuecard.demo.evaluate --boards 1000 --seed 0 --json

Every arm answers every question live, in an order that rotates from question to question, from cold (nothing computed
for another arm is reused), so times compare side by side.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cuecard.answers import agree, extract, score
from cuecard.demo import boards, easyvqa
from cuecard.domain.call import Mode
from cuecard.domain.errors import CuecardError
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import Question
from cuecard.models import spec
from cuecard.models.base import Model
from cuecard.report.page.machine import machine
from cuecard.stats.inference import mcnemar, wilson_bounds
from cuecard.strategies.policy import Acceptance, Policy, Schedule
from cuecard.strategies.run import answer

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
RULES = [Acceptance(True, None), *(Acceptance(both, t) for both in (True, False) for t in LEVELS)]
THRIFTY = Policy(schedule=Schedule.THRIFTY)
ARMS: Mapping[str, tuple[str, Policy]] = {
    "small_short": ("short:small", THRIFTY),
    "large_short": ("short:large", THRIFTY),
    "small_reason": ("reason:small", THRIFTY),
    "large_reason": ("reason:large", THRIFTY),
    "transfer": ("transfer", THRIFTY),
    "mutual": ("mutual", THRIFTY),
    "mutual_agree": ("mutual", replace(THRIFTY, accept=Acceptance(agreement=True, confidence=None))),
}


@dataclass(frozen=True)
class Trial:
    """One question answered by one arm."""

    index: int
    task: str
    arm: str
    right: bool
    seconds: float
    tokens: int
    outcome: Outcome


async def examine(
    models: Mapping[str, Model],
    exercises: Sequence[boards.Exercise],
    arms: Mapping[str, tuple[str, Policy]],
    tick: Callable[[], None],
) -> list[Trial]:
    """Every arm on every exercise; `tick` is called after each question."""
    trials, names = [], list(arms)
    for index, exercise in enumerate(exercises):
        turn = index % len(names)
        for arm in names[turn:] + names[:turn]:
            for model in models.values():
                model.forget()
            strategy, policy = arms[arm]
            outcome = await answer(exercise.question, models, strategy, policy)
            tokens = sum(call.usage.completion_tokens or 0 for call in outcome.calls)
            trials.append(
                Trial(index, exercise.task, arm, is_right(outcome, exercise), outcome.total_s, tokens, outcome)
            )
        tick()
    return trials


def is_right(outcome: Outcome, exercise: boards.Exercise) -> bool:
    """Exactly right: boards have exact answers, so no tolerance."""
    found = extract(outcome.answer, exercise.question)
    return score(found, [exercise.truth], exercise.question, tolerance=0) == 1


def summary(trials: Sequence[Trial]) -> dict[str, Any]:
    """Accuracy with interval, mean seconds and tokens per arm; what was accepted without reasoning, and wrongly."""
    arms: dict[str, Any] = {}
    for arm in dict.fromkeys(trial.arm for trial in trials):
        own = [trial for trial in trials if trial.arm == arm]
        right = sum(trial.right for trial in own)
        low, high = wilson_bounds(right, len(own))
        arms[arm] = {
            "accuracy": right / len(own),
            "low": low,
            "high": high,
            "mean_s": sum(trial.seconds for trial in own) / len(own),
            "mean_tokens": sum(trial.tokens for trial in own) / len(own),
        }
    summed: dict[str, Any] = {"arms": arms}
    for arm, prefix in (("mutual", ""), ("mutual_agree", "agree_")):
        taken = [trial for trial in trials if trial.arm == arm and trial.outcome.route is Route.AGREED]
        summed |= {f"{prefix}accepted": len(taken), f"{prefix}accepted_wrong": sum(not trial.right for trial in taken)}
    return summed


def paired(trials: Sequence[Trial], one: str, other: str) -> dict[str, float]:
    """How much more often `one` is right than `other` on the same questions, with a 95% interval and McNemar's p."""
    right = {arm: {t.index: t.right for t in trials if t.arm == arm} for arm in (one, other)}
    better = sum(right[one][i] and not right[other][i] for i in right[one])
    worse = sum(right[other][i] and not right[one][i] for i in right[one])
    n = len(right[one])
    difference = (better - worse) / n
    half = 1.96 * math.sqrt(max(0.0, (better + worse) / n - difference**2) / n)
    return {
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "better": better,
        "worse": worse,
        "p": mcnemar(better, worse),
    }


def report(trials: Sequence[Trial], asked: Sequence[Question], count: int, seed: int) -> dict[str, Any]:
    """The whole result as one object."""
    tasks = {task: [t for t in trials if t.task == task] for task in boards.TASKS}
    routes = [t.outcome.route for t in trials if t.arm == "mutual"]
    reasoning = [call.usage.reasoning_tokens for t in trials if t.arm == "large_reason" for call in t.outcome.calls]
    per_token = {role: seconds_a_token([t for t in trials if t.arm == f"{role}_reason"]) for role in ("small", "large")}
    whole = summary(trials)
    return {
        "boards": count,
        "seed": seed,
        **whole,
        "routes": {route: routes.count(route) for route in Route if route in routes},
        "paired": {
            "transfer - small_reason": paired(trials, "transfer", "small_reason"),
            "mutual - large_reason": paired(trials, "mutual", "large_reason"),
        },
        "acceptance": acceptance(trials, asked),
        "machine": machine(),
        "reasoning_tokens": sum(n or 0 for n in reasoning) / len(reasoning),
        "seconds_a_token": per_token | {"ratio": per_token["large"] / per_token["small"]},
        "speed_up": whole["arms"]["large_reason"]["mean_s"] / whole["arms"]["mutual"]["mean_s"],
        "kinds": {
            task: {"boards": len(own) // len(ARMS), **(own_summary := summary(own)), "speed_up": _speed_up(own_summary)}
            for task, own in tasks.items()
            if own
        },
    }


def acceptance(trials: Sequence[Trial], asked: Sequence[Question]) -> dict[str, dict[str, float]]:
    """What `mutual` would do under other rules, from the answers of the other arms, which are the same (greedy).

    By rule: questions accepted without reasoning, those of them that are wrong, and the accuracy of the whole.
    """
    by_arm = {arm: {t.index: t for t in trials if t.arm == arm} for arm in ("small_short", "large_short", "transfer")}
    figures: dict[str, dict[str, float]] = {}
    for rule in RULES:
        accepted = wrong = right = 0
        for index, question in enumerate(asked):
            small, large, read = (by_arm[arm][index] for arm in ("small_short", "large_short", "transfer"))
            own = extract(large.outcome.answer, question)
            written = next(call for call in read.outcome.calls if call.mode is Mode.REASON)
            agreed = agree(extract(small.outcome.answer, question), own, question)
            sure = rule.confidence is None or (large.outcome.confidence or 0) >= rule.confidence
            if own.parsed and sure and (agreed or not rule.agreement):
                accepted, wrong, right = accepted + 1, wrong + (not large.right), right + large.right
            elif agree(extract(written.answer or "", question), own, question):
                right += large.right
            else:
                right += read.right
        figures[str(rule)] = {"accepted": accepted, "wrong": wrong, "accuracy": right / len(asked)}
    return figures


def _speed_up(summed: Mapping[str, Any]) -> float:
    ratio: float = summed["arms"]["large_reason"]["mean_s"] / summed["arms"]["mutual"]["mean_s"]
    return ratio


def seconds_a_token(trials: Iterable[Trial]) -> float:
    """Mean seconds between generated tokens of reasoning calls (time per output token)."""
    seconds, tokens = 0.0, 0
    for trial in trials:
        for call in trial.outcome.calls:
            if call.first_token_s is not None and (call.usage.completion_tokens or 0) > 1:
                seconds += call.end_s - call.first_token_s
                tokens += (call.usage.completion_tokens or 0) - 1
    return seconds / max(1, tokens)


async def easy_vqa_short(model: Model, count: int, seed: int, tick: Callable[[], None]) -> dict[str, Any]:
    """The large model's short answers on questions of easy-VQA's own test split (all of them when count allows)."""
    items = list(easyvqa.items("test"))
    chosen = items if count >= len(items) else Random(seed).sample(items, count)
    right = 0
    for item in chosen:
        asked: Question = item.question()
        outcome = await answer(asked, {"large": model}, "short:large", Policy())
        right += score(extract(outcome.answer, asked), [item.answer], asked) == 1
        tick()
    low, high = wilson_bounds(right, len(chosen))
    return {"questions": len(chosen), "accuracy": right / max(1, len(chosen)), "low": low, "high": high}


def table(result: Mapping[str, Any]) -> Table:
    """The result for a person."""
    shown = Table(title=f"{result['boards']} held-out boards, seed {result['seed']}")
    for column in ("", *ARMS, "accepted", "of them wrong", "speed-up"):
        shown.add_column(column, justify="left" if not column else "right")
    for name, part in (("all", result), *result["kinds"].items()):
        cells = [f"{part['arms'][arm]['accuracy']:.3f}" for arm in ARMS]
        wrong = f"{part['accepted_wrong'] / part['accepted']:.3f}" if part["accepted"] else "-"
        shown.add_row(name, *cells, str(part["accepted"]), wrong, f"{part['speed_up']:.2f}")
    shown.add_row("seconds", *(f"{result['arms'][arm]['mean_s']:.3f}" for arm in ARMS))
    shown.add_row("tokens", *(f"{result['arms'][arm]['mean_tokens']:.1f}" for arm in ARMS))
    return shown


def remarks(result: Mapping[str, Any]) -> list[str]:
    """What the table has no room for, a line each."""
    lines = [f"{arm}: {100 * figures['accuracy']:.1f}%, {_span(figures)}" for arm, figures in result["arms"].items()]
    for pair, figures in result["paired"].items():
        points = f"{100 * figures['difference']:+.1f} points"
        lines.append(f"{pair}: {points}, {_span(figures)}, p = {figures['p']:.2g} (McNemar, exact)")
    lines.append(f"routes of mutual: {', '.join(f'{route} {count}' for route, count in result['routes'].items())}")
    lines.append(
        f"accepted by agreement alone: {result['agree_accepted']}, {result['agree_accepted_wrong']} of them wrong"
    )
    lines.append(f"reasoning of the large model: {result['reasoning_tokens']:.1f} tokens on average")
    pace = result["seconds_a_token"]
    lines.append(
        f"ms a token: small {1000 * pace['small']:.2f}, large {1000 * pace['large']:.2f}, {pace['ratio']:.2f} to 1"
    )
    if vqa := result.get("easy_vqa"):
        share = f"{100 * vqa['accuracy']:.1f}% of {vqa['questions']} questions"
        lines.append(f"easy-VQA, large model, short: {share}, {_span(vqa)}")
    return lines


def _span(figures: Mapping[str, float]) -> str:
    return f"95% interval {100 * figures['low']:.1f} to {100 * figures['high']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Examine the embedded pair on held-out boards.")
    parser.add_argument("--boards", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--split", choices=boards.SPLITS[1:], default="test", help="validation boards are for choosing settings"
    )
    parser.add_argument("--small", default="demo-small")
    parser.add_argument("--large", default="demo-large")
    parser.add_argument("--accept", help="acceptance rule of `mutual`, instead of the default")
    parser.add_argument(
        "--easy-vqa",
        type=int,
        default=1000,
        help="questions of easy-VQA's test split for the large model's short answers",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.boards < 1 or options.easy_vqa < 0:
        parser.error("--boards must be at least 1, --easy-vqa at least 0")
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

    async def work(progress: Progress) -> dict[str, Any]:
        models = {"small": spec.load(options.small), "large": spec.load(options.large)}
        exercises = boards.exercises(options.boards, options.seed, options.split)
        arms = dict(ARMS)
        if options.accept:
            arms["mutual"] = ("mutual", replace(THRIFTY, accept=Acceptance.parse(options.accept)))
        await examine(
            models, boards.exercises(2, -1, options.split), arms, lambda: None
        )  # warm-up: first calls are slower
        bar = progress.add_task("boards", total=len(exercises))
        trials = await examine(models, exercises, arms, lambda: progress.advance(bar))
        result = report(trials, [exercise.question for exercise in exercises], options.boards, options.seed)
        if options.easy_vqa:
            bar = progress.add_task("easy-VQA", total=options.easy_vqa)
            result["easy_vqa"] = await easy_vqa_short(
                models["large"], options.easy_vqa, options.seed, lambda: progress.advance(bar)
            )
        return result

    try:
        with Progress(*columns, console=console) as progress:
            result = asyncio.run(work(progress))
    except CuecardError as error:
        console.print(f"[red]error:[/] {error}")
        sys.exit(2)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        shown = Console(highlight=False)
        shown.print(table(result))
        for line in remarks(result):
            shown.print(line, markup=False)


if __name__ == "__main__":
    main()
