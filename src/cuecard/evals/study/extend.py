"""A run that grows by arms, tasks or questions: what is stored keeps its meaning, or the growth is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cuecard import disk
from cuecard.domain.errors import BadInput
from cuecard.evals.study.study import Study

Config = Mapping[str, Any]


def joined(study: Study, there: Config) -> Study:
    """The study and what a run holds already: arms and tasks of a run stay part of it, whoever goes on with it."""
    names = [task["name"] for task in there["tasks"]]
    return replace(
        study, arms=_union(there["arms"], (arm.name for arm in study.parsed)), tasks=_union(names, study.tasks)
    )


def added(there: Config, asked: Config, path: Path) -> list[str]:
    """What is asked beyond what is there, in words; nothing where both are the same run.

    Raises BadInput where rows that are stored would not be what is asked: another model, other data, another sample.
    """
    asked = json.loads(json.dumps(asked))
    shared = {name: task for name, task in _tasks(asked).items() if name in _tasks(there)}
    arms = [arm for arm in asked["arms"] if arm in there["arms"]]
    disk.same(_core(there, _tasks(there), there["arms"]), _core(asked, shared, arms), path)
    most, wanted = there.get("limit"), asked.get("limit")
    if wanted is not None and (most is None or wanted < most):
        has = "all questions of each task" if most is None else f"{most} questions of each task"
        raise BadInput(
            f"{path} asks {has}, not only {wanted}", "a run can grow only: give another --out, or that limit"
        )
    told = [f"arm {arm}" for arm in asked["arms"] if arm not in arms]
    told += [f"task {name}" for name in _tasks(asked) if name not in shared]
    if wanted != most:
        told.append(f"{'all' if wanted is None else wanted} instead of {most} questions of each task")
    return told


def _core(config: Config, tasks: Config, arms: Iterable[str]) -> dict[str, Any]:
    """What has to be the same; arms in no order."""
    return {**config, "tasks": dict(tasks), "arms": sorted(arms), "limit": None}


def _tasks(config: Config) -> dict[str, Any]:
    return {task["name"]: task for task in config.get("tasks", [])}


def _union(first: Iterable[str], more: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *more)))
