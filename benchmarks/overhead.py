"""Orchestration overhead: the time of `mutual` in which none of its calls runs, and its share of the total time.

On the thrifty schedule the calls follow one another, so this is the request's time minus the sum of its calls; on the
other schedules it is the time minus the union of the calls' intervals. Also counted: prompt tokens that one model
computes twice for one question, by comparing all its prompts token by token.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from common import pair, save
from cuecard.demo import boards
from cuecard.domain.call import Usage
from cuecard.models.base import Event, Limits
from cuecard.models.local.model import LocalModel
from cuecard.models.prompt import Prompt
from cuecard.strategies.policy import Policy, Schedule
from cuecard.strategies.run import answer

BOARDS = 60


class Watched:
    """A local model that records the token ids of every prompt."""

    def __init__(self, model: LocalModel) -> None:
        self.model, self.prompts = model, list[list[int]]()
        self.name, self.abilities = model.name, model.abilities

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        self.prompts.append(self.model._reader.inputs(prompt).ids)
        async with aclosing(self.model.stream(prompt, limits)) as events:
            async for event in events:
                yield event

    async def warm(self, prompt: Prompt) -> Usage:
        self.prompts.append(self.model._reader.inputs(prompt).ids)
        return await self.model.warm(prompt)

    async def score(self, prompt: Prompt, text: str) -> float:
        return await self.model.score(prompt, text)

    def forget(self) -> None:
        self.prompts.clear()
        self.model.forget()

    async def aclose(self) -> None:
        await self.model.aclose()


def distinct(prompts: Sequence[Sequence[int]]) -> int:
    """The number of tokens in a set of prompts, with the tokens of a common prefix counted once."""
    return len({tuple(ids[: n + 1]) for ids in prompts for n in range(len(ids))})


async def measure() -> dict[str, Any]:
    models: dict[str, Any] = {role: Watched(model) for role, model in pair().items()}  # type: ignore[arg-type]
    figures: dict[str, Any] = {}
    for schedule in Schedule:
        idle, totals, twice, counted = [], [], 0, 0
        for index, exercise in enumerate(boards.exercises(BOARDS, 7, "validation")):
            for watched in models.values():
                watched.forget()
            outcome = await answer(exercise.question, models, "mutual", Policy(schedule=schedule))
            if index < 3:
                continue  # warm-up
            idle.append(outcome.overhead_s)
            totals.append(outcome.total_s)
            for watched in models.values():
                used = [call.usage for call in outcome.calls if call.model == watched.name and not call.cancelled]
                computed = sum((u.prompt_tokens or 0) - (u.cached_tokens or 0) for u in used)
                if len(used) == len(watched.prompts):  # what a cancelled call computed is not known
                    twice, counted = twice + computed - distinct(watched.prompts), counted + 1
        figures[schedule] = {
            "questions": len(idle),
            "idle_ms_median": statistics.median(idle) * 1000,
            "idle_ms_worst": max(idle) * 1000,
            "share_median": statistics.median(part / whole for part, whole in zip(idle, totals, strict=True)),
            "share_of_total": sum(idle) / sum(totals),
            "prompt_tokens_computed_twice": twice,
            "model_questions_counted": counted,
        }
        print(schedule, figures[schedule], flush=True)
    return figures


if __name__ == "__main__":
    print(save("overhead", asyncio.run(measure())))
