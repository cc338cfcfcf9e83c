"""A study: models, tasks, arms, options, from a TOML file or a command line, checked whole before anything loads.

out = "runs/embedded"
tasks = ["boards:count=2000", "easy-vqa"]
arms = ["short:small", "short:large", "reason:large", "transfer/placebo=empty", "mutual"]

[small]
model = "demo-small"
[large]
model = "demo-large"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cuecard import settings
from cuecard.domain.errors import BadInput
from cuecard.evals import model_identity
from cuecard.evals.arm import Arm, parse_all
from cuecard.evals.item import Task
from cuecard.evals.runner.run import Plan
from cuecard.evals.storage.requests import BATCHED, Seat
from cuecard.models import spec
from cuecard.models.base import Model
from cuecard.strategies.policy import Policy, Surface, options_at, policy_with

ARMS = ("short:small", "short:large", "reason:small", "reason:large", "transfer", "mutual")
AT_ONCE_SERVED = 8
CALL_S = 600.0
"""Most seconds of a call: calls of an evaluation queue at their server, and no person waits for one of them."""
KEYS: Mapping[str, type] = {
    "name": str,
    "out": str,
    "tasks": list,
    "arms": list,
    "limit": int,
    "sample": int,
    "at_once": int,
    "live": bool,
}
"""Of a study's file, besides the options of its policy and a table for each model."""


@dataclass(frozen=True)
class Study:
    """What is to be run. `limit` bounds the items of each task; with `sample`, a seed, they are drawn by chance."""

    models: Mapping[str, str | Mapping[str, Any]]
    tasks: Sequence[str]
    arms: Sequence[str] = ARMS
    out: Path | None = None
    name: str | None = None
    limit: int | None = None
    sample: int | None = None
    at_once: int | None = None
    """None: one at a time where a model runs in this process, else 8."""
    live: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the policy that every arm begins with: some of `PolicyOptions`."""

    def __post_init__(self) -> None:
        for what in ("limit", "at_once"):
            if (value := getattr(self, what)) is not None and value < 1:
                raise BadInput(f"{what.replace('_', ' ')} must be at least 1, not {value}")
        if self.sample is not None and self.limit is None:
            raise BadInput("a sample needs to know how many are drawn", "give a limit too")
        if not self.tasks:
            raise BadInput("there is no task", "`cuecard tasks` lists those that there are")
        if missing := {"small", "large"} - set(self.models):
            raise BadInput(f"no {min(missing)} model is named", "name a small and a large one")
        if self.batched and self.live:
            why = "--live times one question after the other, and several calls at once run together"
            raise BadInput(why, "leave out one of live and at-once")
        _ = self.parsed

    @cached_property
    def base(self) -> Policy:
        """What every arm has in common."""
        return policy_with(Policy(), **{"timeout_s": CALL_S, **self.options})

    @cached_property
    def parsed(self) -> tuple[Arm, ...]:
        return parse_all(self.arms, self.base)

    @cached_property
    def _local(self) -> tuple[bool, ...]:
        return tuple(model_identity.is_local(given) for given in self.models.values())

    @property
    def local(self) -> bool:
        """Whether every model runs in this process."""
        return all(self._local)

    @property
    def slots(self) -> int:
        return self.at_once or (1 if any(self._local) else AT_ONCE_SERVED)

    @property
    def batched(self) -> bool:
        """Whether a model in this process has several calls at once, which it decodes together."""
        return any(self._local) and self.slots > 1

    def load(self) -> dict[str, Model]:
        """Every model by its role. Raises BadInput, MissingExtra, ModelError."""
        return {role: spec.load(given, role) for role, given in self.models.items()}

    def seats(self, models: Mapping[str, Model]) -> dict[str, Seat]:
        """The models as their calls are stored."""
        return {role: model_identity.seat(role, self.models[role], model) for role, model in models.items()}

    def plan(self, tasks: Sequence[Task], seats: Mapping[str, Seat]) -> Plan:
        """What `run` needs."""
        alone = self.local and self.slots == 1
        return Plan(
            tasks,
            self.parsed,
            seats,
            self.limit,
            self.sample,
            self.slots,
            self.live,
            share_machine=alone,
            batched=self.batched,
        )

    def config(self, plan: Plan) -> dict[str, Any]:
        """All that decides a row of the run."""
        config = run_config(plan.seats, plan.tasks, self.parsed, self.base)
        return {**config, "limit": self.limit, "sample": self.sample, **({BATCHED: True} if self.batched else {})}

    def joined(self, there: Mapping[str, Any]) -> Study:
        """With the arms and tasks that a run with this configuration already has: they stay part of it."""
        arms = dict.fromkeys((*there["arms"], *(arm.name for arm in self.parsed)))
        tasks = dict.fromkeys((*(task["name"] for task in there["tasks"]), *self.tasks))
        return replace(self, arms=tuple(arms), tasks=tuple(tasks))

    def given_models(self) -> dict[str, Any]:
        """The models as they were named, less their secrets."""
        return {
            role: {key: value for key, value in given.items() if key != "api_key"}
            if isinstance(given, Mapping)
            else given
            for role, given in self.models.items()
        }


def run_config(seats: Mapping[str, Seat], tasks: Sequence[Task], arms: Sequence[Arm], base: Policy) -> dict[str, Any]:
    """The configuration of a run that asks every question of its tasks."""
    limits = base.limits.as_object()
    limits.pop("timeout_s")
    return {
        "models": model_identity.configuration(seats),
        "tasks": [{"name": task.name, "revision": task.revision, "aggregate": task.aggregate} for task in tasks],
        "arms": [arm.name for arm in arms],
        "limit": None,
        "sample": None,
        "policy": {"accept": str(base.accept), "limits": limits},
    }


def opened(study: Study, open_task: Callable[[str], Task]) -> list[Task]:
    """Every task of the study, each once. Raises BadInput."""
    tasks = {task.name: task for task in map(open_task, study.tasks)}
    if len(tasks) < len(study.tasks):
        raise BadInput("a task is named twice", "name each once")
    return list(tasks.values())


def read(path: Path) -> Study:
    """The study of a TOML file. Raises BadInput."""
    tables = settings.read(path)
    models = {role: table for role, table in tables.items() if isinstance(table, dict)}
    options = {key: value for key, value in tables.items() if key not in models}
    of_policy = {name: option.kind for name, option in options_at(Surface.STUDY).items()}
    with settings.in_file(path):
        settings.check(options, {**KEYS, **of_policy})
        for role, table in models.items():
            if "model" not in table:
                raise BadInput(f"[{role}] names no model", 'write model = "…" under it')
    if "out" in options:
        options["out"] = Path(options["out"])
    policy = {name: options.pop(name) for name in of_policy if name in options}
    return Study(models, options.pop("tasks", ()), options.pop("arms", ARMS), options=policy, **options)
