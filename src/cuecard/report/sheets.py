"""The tables of an evaluation: as rows of texts for the page, and as rows of values for CSV and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cuecard.evals.extractors import EXTRACTORS
from cuecard.evals.findings import ArmFound, Findings, TaskFound
from cuecard.evals.resampling import Interval
from cuecard.report import sentences, wording
from cuecard.report.sentences import between, share

Row = Mapping[str, Any]
Texts = tuple[list[str], list[list[str]]]


# --- values -----------------------------------------------------------------------------------------------------------


def tables(found: Findings) -> dict[str, list[Row]]:
    """Every table but the answers, by its name."""
    return {name: [row for task in found.tasks for row in make(task)] for name, make in _MADE.items()}


def _arms(task: TaskFound) -> list[Row]:
    return [
        {
            "task": task.task,
            "arm": arm.arm,
            "family": arm.family,
            "answered": arm.answered,
            "errors": arm.errors,
            "units": arm.units,
            **_ends("accuracy", arm.accuracy),
            **_ends("generated_tokens", arm.generated),
            "all_tokens": arm.spent,
            **_ends("seconds", arm.latency),
            "p50_s": arm.p50_s,
            "p90_s": arm.p90_s,
            "handoff_s": arm.handoff_mean_s,
            "latency": str(arm.kind),
            "price": arm.price,
            "unparsed": arm.unparsed,
            "truncated": arm.truncated,
            "on_front": " ".join(arm.fronts),
        }
        for arm in task.arms.values()
    ]


def _differences(task: TaskFound) -> list[Row]:
    return [
        {
            "task": task.task,
            "family": each.family,
            "arm": each.arm,
            "against": each.against,
            "pairs": each.pairs,
            **_ends("difference", each.accuracy.difference),
            "better": each.accuracy.better,
            "worse": each.accuracy.worse,
            "test": each.accuracy.test,
            "p": each.accuracy.p,
            "p_adjusted": each.p_adjusted,
            "significant": each.significant,
            "margin": each.not_worse.margin,
            "not_worse_p": each.not_worse.p,
            "not_worse_shown": each.not_worse.shown,
            "survives_extractors": each.survives,
            **{f"difference_{name}": one.difference for name, one in each.extractors.items()},
            **_ends("times_faster", each.times_faster),
            "latency": str(each.kind),
            **_ends("times_faster_live", each.times_faster_live),
            **_ends("generated_tokens", each.tokens),
        }
        for each in task.differences
    ]


def _routes(task: TaskFound) -> list[Row]:
    return [
        {
            "task": task.task,
            "arm": arm.arm,
            "route": route.route,
            "questions": route.questions,
            "share": route.share,
            "accuracy": route.accuracy,
            **{f"generated_{role}": route.tokens.get(role, 0.0) for role in arm.by_role},
            "mean_s": route.mean_s,
            "latency": str(arm.kind),
        }
        for arm in task.arms.values()
        for route in arm.routes
    ]


def _extractors(task: TaskFound) -> list[Row]:
    return [{"task": task.task, "arm": arm.arm, **arm.extractors} for arm in task.arms.values() if arm.extractors]


def _rules(task: TaskFound) -> list[Row]:
    return [
        {
            "task": task.task,
            "rule": rule.rule,
            "questions": rule.questions,
            "accepted": rule.accepted,
            "wrong": rule.wrong,
            "shared": rule.shared,
            **_ends("false_accepts", rule.false_accepts if rule.accepted else None),
        }
        for rule in task.rules
    ]


def _ledger(task: TaskFound) -> list[Row]:
    return [
        {"task": task.task, "arm": arm.arm, **row}
        for arm in task.arms.values()
        for row in arm.ledger.as_object()["rows"]
    ]


_MADE: Mapping[str, Callable[[TaskFound], list[Row]]] = {
    "arms": _arms,
    "differences": _differences,
    "routes": _routes,
    "extractors": _extractors,
    "acceptance": _rules,
    "ledger": _ledger,
}


def _ends(name: str, interval: Interval | None) -> Row:
    told = asdict(interval) if interval is not None else {}
    return {name: told.get("estimate"), f"{name}_low": told.get("low"), f"{name}_high": told.get("high")}


# --- files ------------------------------------------------------------------------------------------------------------


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """All columns that any row has. A text that a spreadsheet would take for a formula gets a quote before it."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        written = csv.DictWriter(file, columns, restval="")
        written.writeheader()
        written.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)


def _harmless(value: Any) -> Any:
    if not isinstance(value, str) or not value or value[0] not in "=+-@\t\r":
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def write_parquet(path: Path, rows: Sequence[Row]) -> bool:
    """False where pyarrow is not installed, or there is nothing to write."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return False
    if rows:
        parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    return bool(rows)


# --- texts ------------------------------------------------------------------------------------------------------------


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
            share(sentences.accuracy(arm)) if arm.accuracy else "–",
            between(arm.accuracy) if arm.accuracy else "–",
            *(f"{arm.by_role.get(role, 0):.1f}" for role in roles),
            wording.duration(arm.latency.estimate),
            wording.duration(arm.p90_s),
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


def _speed(times: Interval) -> str:
    return f"{times.estimate:.2f}× ({between(times, 1, '.2f')})"


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
            wording.duration(route.mean_s),
        ]
        for route in arm.routes
    ]
    own = [f"{arm.by_role[role]:.1f}" for role in roles]
    whole = share(sentences.accuracy(arm)) if arm.accuracy else "–"
    rows.append(["all", f"{arm.answered:,}", share(1.0), whole, *own, wording.duration(arm.latency.estimate)])
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


SPENT = ("prompt", "cached", "computed", "completion", "reasoning", "wasted")


def spending(task: TaskFound) -> Texts:
    """What every arm spent on the whole task."""
    priced = [arm.ledger.price for arm in task.composed if arm.price is not None]
    heads = ["arm", "calls", *SPENT, "models' seconds", "askers' seconds", *(["price"] if priced else [])]
    rows = [
        [
            arm.arm,
            f"{arm.ledger.total.calls:,}",
            *(f"{getattr(arm.ledger.total, f'{name}_tokens'):,}" for name in SPENT),
            f"{arm.ledger.total.seconds:,.1f}",
            f"{arm.ledger.latency_s:,.1f}",
            *([_price(arm)] if priced else []),
        ]
        for arm in task.composed
    ]
    return heads, rows


def _price(arm: ArmFound) -> str:
    return "–" if arm.price is None or arm.ledger.price is None else f"{arm.ledger.price:.4g}"


def booked(arm: ArmFound) -> Texts:
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
        for row in arm.ledger.rows
    ]
    total = arm.ledger.total
    sums = [f"{getattr(total, f'{name}_tokens'):,}" for name in SPENT]
    return heads, [*rows, ["all", "", "", "", f"{total.calls:,}", *sums, f"{total.seconds:,.2f}"]]
