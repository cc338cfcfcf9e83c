"""Results by category: the accuracy of every arm in each, and POPE's five figures, as texts and as rows for a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from cuecard.evals.scoring.scorers import Pope
from cuecard.report.evaluation.sentences import share

Texts = tuple[list[str], list[list[str]]]
Told = Mapping[str, Any]
"""A task as `summary.json` has it."""
FIGURES = tuple(field.name for field in fields(Pope))


def accuracies(task: Told, arms: Sequence[str]) -> Texts | None:
    """Arms by categories, with how many questions each has; under circular evaluation by groups of rotations."""
    counts = _counts(task, arms)
    if len(counts) < 2:
        return None
    heads = ["arm", *(f"{name} ({count:,})" for name, count in counts.items()), "all"]
    rows = [
        [arm, *(share(_accuracy(told["by_category"].get(name))) for name in counts), share(_accuracy(told))]
        for arm, told in _of(task, arms)
    ]
    return heads, rows


def pope(task: Told, arms: Sequence[str]) -> Texts | None:
    """POPE's five figures of every arm, over all questions and by category."""
    heads = ["arm", "questions", "n", *(name.replace("_", " ") for name in FIGURES)]
    rows = [
        [arm, name, f"{part['scored']:,}", *(share((part["pope"] or {}).get(figure)) for figure in FIGURES)]
        for arm, told in _of(task, arms)
        if "pope" in told
        for name, part in (("all", told), *told["by_category"].items())
    ]
    return (heads, rows) if rows else None


def rows(tasks: Mapping[str, Told]) -> list[dict[str, Any]]:
    """One row an arm and category of every task."""
    return [
        {
            "task": task,
            "arm": arm,
            "category": name,
            "answered": part["n"],
            "scored": part["scored"],
            "accuracy": part["accuracy"],
            **({"groups": part["circular"]["groups"], "circular": _accuracy(part)} if part.get("circular") else {}),
            **(part.get("pope") or {}),
        }
        for task, told in tasks.items()
        for arm, of_arm in told["arms"].items()
        for name, part in of_arm["by_category"].items()
    ]


def _of(task: Told, arms: Sequence[str]) -> list[tuple[str, Told]]:
    return [(arm, task["arms"][arm]) for arm in arms if arm in task["arms"]]


def _counts(task: Told, arms: Sequence[str]) -> dict[str, int]:
    """Answers to each category's questions, of the arm that has most."""
    found: dict[str, int] = {}
    for _, told in _of(task, arms):
        for name, part in told["by_category"].items():
            found[name] = max(found.get(name, 0), part["n"])
    return found


def _accuracy(part: Told | None) -> float | None:
    if part is None:
        return None
    value: float | None = part["circular"]["accuracy"] if part.get("circular") else part["accuracy"]
    return value
