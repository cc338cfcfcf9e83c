"""A small laboratory: a task of made-up items, and a scripted pair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cuecard.domain.call import Mode
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.evals.arm import parse_all
from cuecard.evals.database import Record, Store
from cuecard.evals.item import Aggregate, Item
from cuecard.evals.requests import Seat, models_config
from cuecard.evals.runner import Plan, RunProgress, run
from cuecard.models.base import Model
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.policy import Policy

ARMS = ("short:small", "short:large", "reason:small", "reason:large", "transfer", "mutual")


@dataclass(frozen=True)
class MadeUp:
    """Numbered questions, each with its own image; the right answer is A."""

    count: int = 4
    name: str = "made-up"
    revision: str = "1"
    aggregate: Aggregate = "mean"
    golds: tuple[str, ...] = ("A",)

    def items(self) -> Iterator[Item]:
        for number in range(self.count):
            image = Image(f"picture {number}".encode())
            asked = Question(f"Question {number}: which one?", (image,), ("red", "blue", "green"), AnswerKind.CHOICE)
            category = "even" if number % 2 == 0 else "odd"
            yield Item(str(number), asked, self.golds, "exact", image.digest, category=category)


def says(answers: Mapping[Mode, str], first_s: float = 0.0, token_s: float = 0.0) -> Callable[[Prompt], Says]:
    """A script with the same answer to every question of a mode."""

    def one(prompt: Prompt) -> Says:
        reasoning = "I look at it. It is red. So it is A." if prompt.mode is Mode.REASON else ""
        return Says(answers[prompt.mode], reasoning, first_s, token_s, confidence_logprob=-0.1)

    return one


SMALL = {Mode.SHORT: "B", Mode.REASON: "A", Mode.READ: "A"}
LARGE = {Mode.SHORT: "C", Mode.REASON: "A", Mode.READ: "A"}


@dataclass
class Laboratory:
    """A pair, a task, arms, and a folder with their store."""

    folder: Path
    task: Any = field(default_factory=MadeUp)
    arms: Sequence[str] = ARMS
    small: Any = None
    large: Any = None
    policy: Policy = field(default_factory=Policy)
    options: dict[str, Any] = field(default_factory=dict)
    heard: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.small = self.small or ScriptedModel("small", says(SMALL))
        self.large = self.large or ScriptedModel("large", says(LARGE))
        self.folder.mkdir(exist_ok=True)

    @property
    def models(self) -> dict[str, Model]:
        return {"small": self.small, "large": self.large}

    @property
    def seats(self) -> dict[str, Seat]:
        return {role: Seat(role, model.name, "1", model.abilities) for role, model in self.models.items()}

    @property
    def config(self) -> dict[str, Any]:
        task = {"name": self.task.name, "revision": self.task.revision, "aggregate": self.task.aggregate}
        return {"models": models_config(self.seats), "tasks": [task], "arms": list(self.arms)}

    def store(self) -> Store:
        return Store(self.folder / "run.sqlite")

    def run(self, **options: Any) -> RunProgress:
        """Run until done, in real time."""
        plan = Plan([self.task], parse_all(self.arms, self.policy), self.seats, **{**self.options, **options})
        store = self.store()
        try:
            return asyncio.run(run(plan, self.models, store, lambda progress, records: self.heard.extend(records)))
        finally:
            store.close()

    def answers(self) -> dict[tuple[str, str], Record]:
        """The stored answers by (item, arm)."""
        store = self.store()
        try:
            return {(answer["id"], answer["arm"]): answer for answer in store.answers()}
        finally:
            store.close()
