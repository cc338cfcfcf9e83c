"""The cost of a run before it starts: from stored questions, from a few asked now, or from a rehearsal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cuecard.domain.call import Mode
from cuecard.domain.outcome import LatencyKind
from cuecard.domain.question import AnswerKind
from cuecard.evals.arm import Arm
from cuecard.evals.item import Task
from cuecard.evals.runner.run import Plan, chosen, run
from cuecard.evals.storage.database import Record, Store
from cuecard.models.base import Model
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel

DISAGREEING: Mapping[AnswerKind | None, tuple[str, str]] = {
    AnswerKind.CHOICE: ("A", "B"),
    AnswerKind.YES_NO: ("yes", "no"),
    AnswerKind.NUMBER: ("1", "2"),
}
ASKED = 5
"""Questions of each task that are asked for an estimate, the first of them for warming up only."""


@dataclass(frozen=True)
class Cost:
    """Means a question; seconds of model time, None where nothing was timed."""

    questions: int
    calls: float
    prompt_tokens: float
    completion_tokens: float
    seconds: float | None


def of_stored(store: Store, task: str, arms: Sequence[Arm], skip: int = 0) -> Cost | None:
    """Of the questions of this task that every arm has answered, without the first `skip`; None without any."""
    keys: dict[str, dict[str, None]] = {}
    wanted, answered = {arm.name for arm in arms}, Counter[str]()
    for answer in store.answers():
        if answer["task"] == task and answer["arm"] in wanted:
            answered[answer["id"]] += 1
            keys.setdefault(answer["id"], {}).update({call["key"]: None for call in answer["calls"] if call["key"]})
    chosen = [own for id, own in keys.items() if answered[id] == len(wanted)][skip:]
    calls = [call for key in {key: None for own in chosen for key in own} if (call := store.call(key))]
    return _cost(len(chosen), calls) if calls else None


def _cost(questions: int, calls: list[Record]) -> Cost:
    sums: Counter[str] = Counter()
    for call in calls:
        again = call["hot_end_s"] is not None
        sums["prompt"] += (call["prompt_tokens"] or 0) * (1 + again)
        sums["completion"] += call["completion_tokens"] or 0
        sums["microseconds"] += round(1e6 * ((call["end_s"] or 0.0) + (call["hot_end_s"] or 0.0)))
    return Cost(
        questions,
        len(calls) / questions,
        sums["prompt"] / questions,
        sums["completion"] / questions,
        None if any(call["end_s"] is None for call in calls) else sums["microseconds"] / 1e6 / questions,
    )


async def asked_now(plan: Plan, task: Task, models: Mapping[str, Model]) -> Cost | None:
    """A few questions of the task, asked of the models now; nothing of it is kept."""
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
    """The most that a question can cost: no answers agree, every budget is spent. Tokens are words, without images."""
    models: dict[str, Model] = {
        role: ScriptedModel(
            seat.name,
            _worst(role, plan),
            style=seat.abilities.style,
            card_formats=seat.abilities.card_formats,
            scores=(lambda answer: -1.0 if answer else 0.0) if seat.abilities.scoring else None,
        )
        for role, seat in plan.seats.items()
    }
    cost = await asked_now(plan, task, models)
    return None if cost is None else replace(cost, seconds=None)


def _worst(role: str, plan: Plan) -> Any:
    budget = max(arm.policy.limits.reasoning_tokens for arm in plan.arms)

    def says(prompt: Prompt) -> Says:
        kind = None if prompt.question is None else prompt.question.kind
        answer = DISAGREEING.get(kind, ("this", "that"))[role == "large"]
        return Says(answer, " so" * budget if prompt.mode is Mode.REASON else "")

    return says


async def estimate(plan: Plan, models: Mapping[str, Model], store: Store | None, local: bool) -> Record:
    """The cost of the rest of a run, by task and in all, with the basis of each figure. All are estimated."""
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
        questions = _questions(task, plan)
        left = max(0, questions - _done(store, task.name, plan))
        tasks[task.name] = {"questions": questions, "left": left, "basis": basis}
        tasks[task.name] |= {} if cost is None else _times(cost, left, 1 if plan.batched else plan.at_once)
    names = ("calls", "prompt_tokens", "completion_tokens", "seconds")
    total = {name: _sum([of.get(name) for of in tasks.values()]) for name in names}
    return {"kind": LatencyKind.ESTIMATED, "at_once": plan.at_once, "tasks": tasks, "total": total}


def _times(cost: Cost, questions: int, at_once: int) -> Record:
    """Tokens and calls of so many questions; seconds by the clock, with every slot in use."""
    return {
        "calls": round(cost.calls * questions),
        "prompt_tokens": round(cost.prompt_tokens * questions),
        "completion_tokens": round(cost.completion_tokens * questions),
        "seconds": None if cost.seconds is None else cost.seconds * questions / at_once,
    }


def _questions(task: Task, plan: Plan) -> int:
    """How many there will be; a task that does not know is read through."""
    if task.count is None:
        return sum(1 for _ in chosen(task, plan.limit, plan.sample))
    return task.count if plan.limit is None else min(task.count, plan.limit)


def _done(store: Store | None, task: str, plan: Plan) -> int:
    """Questions that every arm has answered."""
    answered = Counter(answer["id"] for answer in store.answers() if answer["task"] == task) if store else Counter()
    return sum(count >= len(plan.arms) for count in answered.values())


def _sum(values: list[Any]) -> Any:
    """None as soon as one is not known."""
    return None if None in values else sum(values)
