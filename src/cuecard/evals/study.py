"""A study: models, tasks, arms, options, from a TOML file or the command line, validated before any model loads.

out = "runs/embedded"
tasks = ["boards:count=2000", "easy-vqa"]
arms = ["short:small", "short:large", "reason:large", "transfer/placebo=empty", "mutual"]

[small]
model = "demo-small"
[large]
model = "demo-large"
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cuecard import disk
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import LatencyKind
from cuecard.domain.question import AnswerKind
from cuecard.evals.arm import Arm, parse_all, policies_of
from cuecard.evals.database import Record, Store
from cuecard.evals.item import Task
from cuecard.evals.requests import BATCHED, Seat, is_local, models_config, seat_of
from cuecard.evals.runner import Plan, chosen, run
from cuecard.evals.tasks.rows import RowsTask
from cuecard.models import spec
from cuecard.models.base import Model
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.policy import Calibrated, Placed, Policy, single_rules
from cuecard.strategies.policy_file import PolicyFile, Surface, options_at, policy_with

ARMS = ("short:small", "short:large", "reason:small", "reason:large", "transfer", "mutual")
AT_ONCE_SERVED = 8
CALL_S = 600.0
"""Time-out of a call in seconds; high, because the calls of an evaluation queue at their server."""
DISAGREEING: Mapping[AnswerKind | None, tuple[str, str]] = {
    AnswerKind.CHOICE: ("A", "B"),
    AnswerKind.YES_NO: ("yes", "no"),
    AnswerKind.NUMBER: ("1", "2"),
}
ASKED = 5
"""Questions of each task that are run for an estimate; the first one is a warm-up."""


@dataclass(frozen=True)
class Study:
    """What to run. `limit`: maximum items of each task; with `sample` (a seed) they are drawn at random."""

    models: Mapping[str, str | Mapping[str, Any]]
    tasks: Sequence[str]
    arms: Sequence[str] = ARMS
    out: Path | None = None
    name: str | None = None
    limit: int | None = None
    sample: int | None = None
    at_once: int | None = None
    """Concurrent calls. None: 1 if a model runs in this process, else 8."""
    live: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the arms' base policy: a subset of `PolicyOptions`."""
    policies: Mapping[str, PolicyFile] = field(default_factory=dict)
    """Contents of policy files by arm name; these files are not read from disk."""

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
        """The base policy of all arms."""
        return policy_with(Policy(), **{"timeout_s": CALL_S, **self.options})

    @cached_property
    def parsed(self) -> tuple[Arm, ...]:
        return parse_all(self.arms, self.base, self.policies)

    @cached_property
    def _local(self) -> tuple[bool, ...]:
        return tuple(is_local(given) for given in self.models.values())

    @property
    def local(self) -> bool:
        """Whether every model runs in this process."""
        return all(self._local)

    @property
    def slots(self) -> int:
        return self.at_once or (1 if any(self._local) else AT_ONCE_SERVED)

    @property
    def batched(self) -> bool:
        """Whether a model in this process gets concurrent calls, which it decodes in one batch."""
        return any(self._local) and self.slots > 1

    def load(self) -> dict[str, Model]:
        """Load all models, by role. Raises BadInput, MissingExtra, ModelError."""
        return spec.load_all(self.models)

    def seats(self, models: Mapping[str, Model]) -> dict[str, Seat]:
        """The identities under which the models' calls are stored, by role."""
        return {role: seat_of(role, self.models[role], model) for role, model in models.items()}

    def check_rules(self, models: Mapping[str, Placed]) -> None:
        """Raises BadInput if an acceptance rule needs a table that these models do not have."""
        for arm in self.parsed:
            arm.policy.accept_of(models)

    def plan(self, tasks: Sequence[Task], seats: Mapping[str, Seat]) -> Plan:
        """The plan for `run`. Raises BadInput as `check_rules`."""
        self.check_rules(seats)
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
        """The configuration that determines the run's rows."""
        config = run_config(plan.seats, plan.tasks, self.parsed, self.base)
        return {**config, "limit": self.limit, "sample": self.sample, **({BATCHED: True} if self.batched else {})}

    def joined(self, there: Mapping[str, Any]) -> Study:
        """The study with the arms and tasks added that the existing run already has. `there`: its configuration."""
        arms = dict.fromkeys((*there["arms"], *(arm.name for arm in self.parsed)))
        tasks = dict.fromkeys((*(task["name"] for task in there["tasks"]), *self.tasks))
        return replace(self, arms=tuple(arms), tasks=tuple(tasks), policies=policies_of(there))

    def given_models(self) -> dict[str, Any]:
        """The models as given, without API keys."""
        return {
            role: {key: value for key, value in given.items() if key != "api_key"}
            if isinstance(given, Mapping)
            else given
            for role, given in self.models.items()
        }


def run_config(seats: Mapping[str, Seat], tasks: Sequence[Task], arms: Sequence[Arm], base: Policy) -> dict[str, Any]:
    """The configuration of a run over all questions of its tasks, with the acceptance rule that applies."""
    table = base.table_of(seats)
    policies = (base, *(arm.policy for arm in arms))
    by_table = any(
        isinstance(rule, Calibrated) for policy in policies for rule in single_rules(policy.accept_of(seats))
    )
    limits = base.limits.as_object()
    limits.pop("timeout_s")
    files = {arm.name: arm.file.as_object() for arm in arms if arm.file is not None}
    return {
        "models": models_config(seats),
        "tasks": [{"name": task.name, "revision": task.revision, "aggregate": task.aggregate} for task in tasks],
        "arms": [arm.name for arm in arms],
        "limit": None,
        "sample": None,
        **({"policies": files} if files else {}),
        "policy": {
            "accept": str(base.accept_of(seats)),
            "limits": limits,
            **({"table": table.as_object()} if table is not None and by_table else {}),
        },
    }


def opened(study: Study, open_task: Callable[[str], Task]) -> list[Task]:
    """Open every task of the study. Raises BadInput, also if a task is named twice or has no questions."""
    tasks = {task.name: task for task in map(open_task, study.tasks)}
    if len(tasks) < len(study.tasks):
        raise BadInput("a task is named twice", "name each once")
    for task in tasks.values():
        if not task.count or isinstance(task, RowsTask):  # the first row shows most mistakes in a file
            next(chosen(task, 1, None))
    return list(tasks.values())


def read(path: Path) -> Study:
    """The study of a TOML file. Raises BadInput."""
    tables = disk.read_toml(path)
    models = {role: table for role, table in tables.items() if isinstance(table, dict)}
    options = {key: value for key, value in tables.items() if key not in models}
    of_policy = {name: option.kind for name, option in options_at(Surface.STUDY).items()}
    kinds = {name: kind for name, kind in disk.kinds_of(Study).items() if kind is not dict}
    with disk.in_file(path):
        disk.check_table(options, {**kinds, "out": str, **of_policy})
        for role, table in models.items():
            if "model" not in table:
                raise BadInput(f"[{role}] names no model", 'write model = "…" under it')
    if "out" in options:
        options["out"] = Path(options["out"])
    policy = {name: options.pop(name) for name in of_policy if name in options}
    return Study(models, options.pop("tasks", ()), options.pop("arms", ARMS), options=policy, **options)


# --- what a run will cost ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Mean cost per question. `questions`: the number averaged over; `seconds`: model time, None if not timed."""

    questions: int
    calls: float
    prompt_tokens: float
    completion_tokens: float
    seconds: float | None


def of_stored(store: Store, task: str, arms: Sequence[Arm], skip: int = 0) -> Cost | None:
    """Cost of the task's questions that every arm has answered, without the first `skip`; None if there are none."""
    keys: dict[str, dict[str, None]] = {}
    wanted, answered = {arm.name for arm in arms}, Counter[str]()
    for answer in store.answers():
        if answer["task"] == task and answer["arm"] in wanted:
            answered[answer["id"]] += 1
            keys.setdefault(answer["id"], {}).update({call["key"]: None for call in answer["calls"] if call["key"]})
    chosen = [own for id, own in keys.items() if answered[id] == len(wanted)][skip:]
    calls = [call for key in {key: None for own in chosen for key in own} if (call := store.call(key))]
    if not calls:
        return None
    took = [round(1e6 * ((call["end_s"] or 0.0) + (call["hot_end_s"] or 0.0))) for call in calls]
    return Cost(
        len(chosen),
        len(calls) / len(chosen),
        sum((call["prompt_tokens"] or 0) * (1 if call["hot_end_s"] is None else 2) for call in calls) / len(chosen),
        sum(call["completion_tokens"] or 0 for call in calls) / len(chosen),
        None if any(call["end_s"] is None for call in calls) else sum(took) / 1e6 / len(chosen),
    )


async def asked_now(plan: Plan, task: Task, models: Mapping[str, Model]) -> Cost | None:
    """Cost measured by running a few questions of the task now; the results are discarded."""
    few = replace(
        plan, tasks=[task], limit=min(plan.limit or ASKED, ASKED), sample=None, live=False, at_once=1, batched=False
    )
    with TemporaryDirectory() as folder:
        store = Store(Path(folder) / "run.sqlite")
        try:
            await run(few, models, store, lambda progress, records: None)
            return of_stored(store, task.name, plan.arms, skip=1) or of_stored(store, task.name, plan.arms)
        finally:
            store.close()


async def rehearsed(plan: Plan, task: Task) -> Cost | None:
    """Upper bound of the cost: no answers agree, every budget is spent. Tokens are words, without images or seconds."""
    budget = max(arm.policy.limits.reasoning_tokens for arm in plan.arms)

    def says(role: str, prompt: Prompt) -> Says:
        kind = None if prompt.question is None else prompt.question.kind
        answer = DISAGREEING.get(kind, ("this", "that"))[role == "large"]
        return Says(answer, " so" * budget if prompt.mode is Mode.REASON else "")

    models: dict[str, Model] = {
        role: ScriptedModel(
            seat.name,
            partial(says, role),
            style=seat.abilities.style,
            card_formats=seat.abilities.card_formats,
            scores=(lambda answer: -1.0 if answer else 0.0) if seat.abilities.scoring else None,
        )
        for role, seat in plan.seats.items()
    }
    cost = await asked_now(plan, task, models)
    return None if cost is None else replace(cost, seconds=None)


async def estimate(plan: Plan, models: Mapping[str, Model], store: Store | None, local: bool) -> Record:
    """Estimated cost of the rest of a run, by task and in total, with the basis of each estimate."""
    tasks: dict[str, Any] = {}
    for task in plan.tasks:
        cost = of_stored(store, task.name, plan.arms) if store is not None else None
        basis = f"{cost.questions} stored questions" if cost else ""
        if cost is None and local:
            cost = await asked_now(plan, task, models)
            basis = f"{cost.questions} questions asked now" if cost else ""
        if cost is None:
            cost = await rehearsed(plan, task)
            basis = "at most: no answers agree, every budget is spent; tokens are words, images not counted"
        if task.count is None:  # count the items
            questions = sum(1 for _ in chosen(task, plan.limit, plan.sample))
        else:
            questions = task.count if plan.limit is None else min(task.count, plan.limit)
        answers = () if store is None else store.answers()
        answered = Counter(answer["id"] for answer in answers if answer["task"] == task.name)
        left = max(0, questions - sum(count >= len(plan.arms) for count in answered.values()))
        tasks[task.name] = {"questions": questions, "left": left, "basis": basis}
        if cost is not None:
            at_once = 1 if plan.batched else plan.at_once  # wall-clock seconds, with all slots in use
            tasks[task.name] |= {
                "calls": round(cost.calls * left),
                "prompt_tokens": round(cost.prompt_tokens * left),
                "completion_tokens": round(cost.completion_tokens * left),
                "seconds": None if cost.seconds is None else cost.seconds * left / at_once,
            }
    total: Record = {}
    for name in ("calls", "prompt_tokens", "completion_tokens", "seconds"):
        values = [of.get(name) for of in tasks.values()]
        total[name] = None if None in values else sum(values)
    return {"kind": LatencyKind.ESTIMATED, "at_once": plan.at_once, "tasks": tasks, "total": total}
