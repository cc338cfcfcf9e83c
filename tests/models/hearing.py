"""Listening to a call to its end."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass

from cuecard.models.base import AnswerDelta, Event, Finished, Limits, Model, Progress, ReasoningDelta
from cuecard.models.prompt import Prompt


@dataclass(frozen=True)
class Heard:
    """All that a call said."""

    events: tuple[Event, ...]

    @property
    def reasoning(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, ReasoningDelta))

    @property
    def answer(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, AnswerDelta))

    @property
    def end(self) -> Finished:
        assert isinstance(self.events[-1], Finished)
        return self.events[-1]

    @property
    def computed(self) -> int:
        """Tokens of the prompt that were computed, none of a second stage."""
        first = next(event.usage for event in self.events if isinstance(event, Progress))
        return (first.prompt_tokens or 0) - (first.cached_tokens or 0)


LIMITS = Limits(answer_tokens=16, reasoning_tokens=64, timeout_s=5)


async def hear(model: Model, prompt: Prompt, limits: Limits = LIMITS) -> Heard:
    async with aclosing(model.stream(prompt, limits)) as events:
        return Heard(tuple([event async for event in events]))
