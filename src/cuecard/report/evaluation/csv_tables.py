"""The tables of an evaluation as rows of values, for files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from cuecard.evals.analysis.results import RunResults, TaskResults
from cuecard.stats.bootstrap import Interval

Row = Mapping[str, Any]


def tables(found: RunResults) -> dict[str, list[Row]]:
    """Every table but the answers, by its name."""
    return {name: [row for task in found.tasks for row in rows_of(task)] for name, rows_of in TABLES.items()}


def _arms(task: TaskResults) -> list[Row]:
    return [
        {
            "task": task.task,
            "arm": arm.arm,
            "family": arm.family,
            "answered": arm.answered,
            "errors": arm.errors,
            "units": arm.units,
            **_ends("accuracy", arm.accuracy),
            "unresolved": arm.unresolved,
            "bounds_low": arm.bounds and arm.bounds[0],
            "bounds_high": arm.bounds and arm.bounds[1],
            **_ends("generated_tokens", arm.generated),
            "all_tokens": arm.spent,
            **_ends("seconds", arm.latency),
            "p50_s": arm.p50_s,
            "p90_s": arm.p90_s,
            "handoff_s": arm.handoff_mean_s,
            "latency": arm.kind and str(arm.kind),
            "price": arm.price,
            "unparsed": arm.unparsed,
            "truncated": arm.truncated,
            "on_front": " ".join(arm.fronts),
        }
        for arm in task.arms.values()
    ]


def _differences(task: TaskResults) -> list[Row]:
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
            "latency": each.kind and str(each.kind),
            **_ends("times_faster_live", each.times_faster_live),
            **_ends("generated_tokens", each.tokens),
        }
        for each in task.differences
    ]


def _routes(task: TaskResults) -> list[Row]:
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
            "latency": arm.kind and str(arm.kind),
        }
        for arm in task.arms.values()
        for route in arm.routes
    ]


def _extractors(task: TaskResults) -> list[Row]:
    return [{"task": task.task, "arm": arm.arm, **arm.extractors} for arm in task.arms.values() if arm.extractors]


def _rules(task: TaskResults) -> list[Row]:
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


def _ledger(task: TaskResults) -> list[Row]:
    return [
        {"task": task.task, "arm": arm.arm, **row}
        for arm in task.arms.values()
        if arm.ledger is not None
        for row in arm.ledger.as_object()["rows"]
    ]


TABLES: Mapping[str, Callable[[TaskResults], list[Row]]] = {
    "arms": _arms,
    "differences": _differences,
    "routes": _routes,
    "extractors": _extractors,
    "acceptance": _rules,
    "ledger": _ledger,
}


def _ends(name: str, interval: Interval | None) -> Row:
    ends = asdict(interval) if interval is not None else {}
    return {name: ends.get("estimate"), f"{name}_low": ends.get("low"), f"{name}_high": ends.get("high")}


def categories(tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row an arm and category of every task of `summary.json`."""
    return [
        {
            "task": task,
            "arm": arm,
            "category": name,
            "answered": part["n"],
            "scored": part["scored"],
            "accuracy": part["accuracy"],
            **(
                {"groups": part["circular"]["groups"], "circular": part["circular"]["accuracy"]}
                if part.get("circular")
                else {}
            ),
            **(part.get("pope") or {}),
        }
        for task, of_task in tasks.items()
        for arm, of_arm in of_task["arms"].items()
        for name, part in of_arm["by_category"].items()
    ]
