"""The tables of an evaluation as the page shows them: heads, and rows of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from cuecard.evals.analysis.arm_results import ArmResults
from cuecard.evals.analysis.examples import Example
from cuecard.evals.analysis.ledger import Ledger
from cuecard.evals.analysis.results import TaskResults
from cuecard.evals.scoring.extractors import EXTRACTORS
from cuecard.evals.scoring.scorers import Pope
from cuecard.report.evaluation import sentences
from cuecard.report.evaluation.sentences import between, share
from cuecard.report.page import formatting
from cuecard.report.page.html import clipped
from cuecard.stats.bootstrap import Interval

Texts = tuple[list[str], list[list[str]]]
POPE = tuple(field.name for field in fields(Pope))
SPENT = ("prompt", "cached", "computed", "completion", "reasoning", "wasted")


def results(task: TaskResults) -> Texts:
    """Every arm but placebos and those run end to end."""
    roles = list(dict.fromkeys(role for arm in task.plain for role in arm.by_role))
    heads = [
        "arm",
        "right",
        "95% interval",
        *(f"tokens, {role}" for role in roles),
        "latency",
        "p90",
        "on the front of",
    ]
    rows = [
        [
            arm.arm,
            sentences.right(arm),
            between(arm.accuracy) if arm.accuracy else "–",
            *(f"{arm.by_role.get(role, 0):.1f}" for role in roles),
            sentences.seconds(arm.cost("latency")),
            sentences.seconds(arm.p90_s),
            ", ".join(arm.fronts),
        ]
        for arm in task.plain
    ]
    return heads, rows


def against(task: TaskResults, margin: float) -> Texts:
    """Every arm against the baseline; `end to end` where arms were run so too."""
    lost = f"loses < {100 * margin:g} point{'' if margin == 0.01 else 's'}"
    compared = [each for each in task.differences if each.family == "arms"]
    live = any(each.times_faster_live is not None for each in compared)
    heads = ["arm", "points", "95% interval", "+/−", "p", "extractors", lost, "speed, 95% interval"]
    rows = [
        [
            each.arm,
            sentences.signed(100 * each.accuracy.difference.estimate),
            between(each.accuracy.difference),
            f"{each.accuracy.better}/{each.accuracy.worse}",
            f"{each.p_adjusted:.2g}",
            "agree" if each.survives else "differ",
            "shown" if each.not_worse.shown else "not shown",
            _speed(each.times_faster),
            *(["–" if each.times_faster_live is None else f"{each.times_faster_live.estimate:.2f}×"] if live else []),
        ]
        for each in compared
    ]
    return [*heads, *(["end to end"] if live else [])], rows


def _speed(times: Interval | None) -> str:
    return "–" if times is None else f"{times.estimate:.2f}× ({between(times, 1, '.2f')})"


def routes(arm: ArmResults) -> Texts:
    """As table 10 of the paper, with the sum below."""
    roles = list(arm.by_role)
    heads = ["route", "questions", "share", "right", *(f"tokens, {role}" for role in roles), "latency"]
    rows = [
        [
            route.route,
            f"{route.questions:,}",
            share(route.share),
            share(route.accuracy),
            *(f"{route.tokens.get(role, 0):.1f}" for role in roles),
            sentences.seconds(route.mean_s),
        ]
        for route in arm.routes
    ]
    own = [f"{arm.by_role[role]:.1f}" for role in roles]
    took = sentences.seconds(arm.cost("latency"))
    rows.append(["all", f"{arm.answered:,}", share(1.0), sentences.right(arm), *own, took])
    return heads, rows


def reading(task: TaskResults) -> Texts:
    """What each extractor makes of the same replies, and what could not be read."""
    heads = ["arm", *EXTRACTORS, "between", "not parsed", "cut off"]
    rows = []
    for arm in task.composed:
        if arm.extractors:
            low, high = arm.span
            values = [share(arm.extractors.get(name)) for name in EXTRACTORS]
            width = f"{100 * (high - low):.1f} points"
            rows.append([arm.arm, *values, width, share(arm.unparsed), share(arm.truncated)])
    return heads, rows


def accepting(task: TaskResults) -> Texts:
    """What each acceptance rule lets through; rules with the same counts share a row."""
    heads = ["rule", "accepted", "wrong", "false accepts", "95% interval", "wrong alike in both"]
    rules: dict[tuple[str, ...], list[str]] = {}
    for rule in task.rules:
        cells = (
            f"{rule.accepted:,} of {rule.questions:,}",
            f"{rule.wrong:,}",
            share(rule.false_accepts.estimate) if rule.accepted else "–",
            between(rule.false_accepts) if rule.accepted else "–",
            f"{rule.shared:,}",
        )
        rules.setdefault(cells, []).append(rule.rule)
    return heads, [[", ".join(names), *cells] for cells, names in rules.items()]


def live(arms: Mapping[str, Mapping[str, Any]]) -> Texts:
    """Composed against measured, of every arm that was run end to end too."""
    heads = ["arm", "questions", "composed", "measured", "ratio", "same answer", "same route"]
    rows = [
        [
            arm,
            f"{each['questions']:,}",
            sentences.seconds(each["composed_mean_s"]),
            sentences.seconds(each["measured_mean_s"]),
            "–" if each["ratio"] is None else f"{each['ratio']:.2f}",
            share(each["same_answer"]),
            share(each["same_route"]),
        ]
        for arm, each in arms.items()
    ]
    return heads, rows


def spending(task: TaskResults) -> Texts:
    """What every arm spent on the whole task."""
    books = [(arm, arm.ledger) for arm in task.composed if arm.ledger is not None]
    priced = any(arm.price is not None for arm, _ in books)
    driven = any(ledger.energy_j is not None for _, ledger in books)
    heads = ["arm", "calls", *SPENT, "models' seconds", "askers' seconds", *(["price"] if priced else [])]
    heads += ["joules, estimated"] if driven else []
    rows = [
        [
            arm.arm,
            f"{ledger.total.calls:,}",
            *(f"{getattr(ledger.total, f'{name}_tokens'):,}" for name in SPENT),
            f"{ledger.total.seconds:,.1f}",
            f"{ledger.latency_s:,.1f}",
            *(["–" if ledger.price is None else f"{ledger.price:.4g}"] if priced else []),
            *(["–" if ledger.energy_j is None else f"{ledger.energy_j:,.1f}"] if driven else []),
        ]
        for arm, ledger in books
    ]
    return heads, rows


def booked(ledger: Ledger) -> Texts:
    """One arm's ledger by route, model, mode and stage."""
    heads = ["route", "model", "mode", "stage", "calls", *SPENT, "seconds"]
    rows = [
        [
            row.route,
            row.model,
            row.mode,
            row.stage,
            f"{row.spent.calls:,}",
            *(f"{getattr(row.spent, f'{name}_tokens'):,}" for name in SPENT),
            f"{row.spent.seconds:,.2f}",
        ]
        for row in ledger.rows
    ]
    total = ledger.total
    sums = [f"{getattr(total, f'{name}_tokens'):,}" for name in SPENT]
    return heads, [*rows, ["all", "", "", "", f"{total.calls:,}", *sums, f"{total.seconds:,.2f}"]]


# --- one question -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """How many arms are right and wrong on a question, placebos left out. `kinds`: what it is filtered by."""

    right: int
    wrong: int
    kinds: str


def scored(example: Example, task: TaskResults) -> Scored:
    arms = [arm.arm for arm in task.plain if arm.arm in example.answers]
    wrong = [example.wrong(arm) for arm in arms]
    kinds = ["differs"] * (len({example.answers[arm].score for arm in arms}) > 1) + ["wrong"] * any(wrong)
    return Scored(wrong.count(False), wrong.count(True), " ".join(kinds))


def answers(example: Example, task: TaskResults) -> Texts:
    """What each arm answered."""
    rows = [
        [
            given.arm,
            "–" if given.answer is None else clipped(given.answer, 80),
            "–" if given.score is None else f"{given.score:g}",
            given.route or "error",
            "–" if given.total_s is None else f"{formatting.duration(given.total_s)} {given.kind}",
            ", ".join(f"{role} {count}" for role, count in given.tokens.items()),
        ]
        for arm in task.composed
        if (given := example.answers.get(arm.arm)) is not None
    ]
    return ["arm", "answer", "score", "route", "latency", "tokens"], rows


# --- by category ------------------------------------------------------------------------------------------------------


def accuracies(task: Mapping[str, Any], arms: Sequence[str]) -> Texts | None:
    """Arms by categories, with how many questions each has; under circular evaluation by groups of rotations."""
    counts = _counts(task, arms)
    if len(counts) < 2:
        return None
    heads = ["arm", *(f"{name} ({count:,})" for name, count in counts.items()), "all"]
    rows = [
        [arm, *(share(_accuracy(of_arm["by_category"].get(name))) for name in counts), share(_accuracy(of_arm))]
        for arm, of_arm in _of(task, arms)
    ]
    return heads, rows


def pope(task: Mapping[str, Any], arms: Sequence[str]) -> Texts | None:
    """POPE's five figures of every arm, over all questions and by category."""
    heads = ["arm", "questions", "n", *(name.replace("_", " ") for name in POPE)]
    rows = [
        [arm, name, f"{part['scored']:,}", *(share((part["pope"] or {}).get(figure)) for figure in POPE)]
        for arm, of_arm in _of(task, arms)
        if "pope" in of_arm
        for name, part in (("all", of_arm), *of_arm["by_category"].items())
    ]
    return (heads, rows) if rows else None


def _of(task: Mapping[str, Any], arms: Sequence[str]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(arm, task["arms"][arm]) for arm in arms if arm in task["arms"]]


def _counts(task: Mapping[str, Any], arms: Sequence[str]) -> dict[str, int]:
    """Answers to each category's questions, of the arm that has most."""
    counts: dict[str, int] = {}
    for _, of_arm in _of(task, arms):
        for name, part in of_arm["by_category"].items():
            counts[name] = max(counts.get(name, 0), part["n"])
    return counts


def _accuracy(part: Mapping[str, Any] | None) -> float | None:
    if part is None:
        return None
    value: float | None = part["circular"]["accuracy"] if part.get("circular") else part["accuracy"]
    return value
