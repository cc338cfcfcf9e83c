"""The tables of an evaluation as the page shows them: heads, and rows of texts."""

from __future__ import annotations

from cuecard.evals.analysis.results import ArmFound, TaskFound
from cuecard.evals.scoring.extractors import EXTRACTORS
from cuecard.evals.summary.ledger import Ledger
from cuecard.report.evaluation import sentences
from cuecard.report.evaluation.sentences import between, share
from cuecard.stats.bootstrap import Interval

Texts = tuple[list[str], list[list[str]]]
SPENT = ("prompt", "cached", "computed", "completion", "reasoning", "wasted")


def results(task: TaskFound) -> Texts:
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


def against(task: TaskFound, margin: float) -> Texts:
    """Every arm against the baseline."""
    lost = f"loses < {100 * margin:g} point{'' if margin == 0.01 else 's'}"
    heads = ["arm", "points", "95% interval", "+/−", "p", "extractors", lost, "speed, 95% interval", "end to end"]
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
            "" if each.times_faster_live is None else f"{each.times_faster_live.estimate:.2f}×",
        ]
        for each in task.differences
        if each.family == "arms"
    ]
    return heads, rows


def _speed(times: Interval | None) -> str:
    return "–" if times is None else f"{times.estimate:.2f}× ({between(times, 1, '.2f')})"


def routes(arm: ArmFound) -> Texts:
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


def reading(task: TaskFound) -> Texts:
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


def accepting(task: TaskFound) -> Texts:
    heads = ["rule", "accepted", "wrong", "false accepts", "95% interval", "wrong alike in both"]
    rows = [
        [
            rule.rule,
            f"{rule.accepted:,} of {rule.questions:,}",
            f"{rule.wrong:,}",
            share(rule.false_accepts.estimate) if rule.accepted else "–",
            between(rule.false_accepts) if rule.accepted else "–",
            f"{rule.shared:,}",
        ]
        for rule in task.rules
    ]
    return heads, rows


def spending(task: TaskFound) -> Texts:
    """What every arm spent on the whole task."""
    books = [(arm, arm.ledger) for arm in task.composed if arm.ledger is not None]
    priced = any(arm.price is not None for arm, _ in books)
    driven = any(made.energy_j is not None for _, made in books)
    heads = ["arm", "calls", *SPENT, "models' seconds", "askers' seconds", *(["price"] if priced else [])]
    heads += ["joules, estimated"] if driven else []
    rows = [
        [
            arm.arm,
            f"{made.total.calls:,}",
            *(f"{getattr(made.total, f'{name}_tokens'):,}" for name in SPENT),
            f"{made.total.seconds:,.1f}",
            f"{made.latency_s:,.1f}",
            *(["–" if made.price is None else f"{made.price:.4g}"] if priced else []),
            *(["–" if made.energy_j is None else f"{made.energy_j:,.1f}"] if driven else []),
        ]
        for arm, made in books
    ]
    return heads, rows


def booked(made: Ledger) -> Texts:
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
        for row in made.rows
    ]
    total = made.total
    sums = [f"{getattr(total, f'{name}_tokens'):,}" for name in SPENT]
    return heads, [*rows, ["all", "", "", "", f"{total.calls:,}", *sums, f"{total.seconds:,.2f}"]]
