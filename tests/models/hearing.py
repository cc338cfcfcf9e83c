"""Collects the events of a call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from cuecard.models.base import AnswerDelta, Event, Finished, Limits, Model, Progress, ReasoningDelta
from cuecard.models.prompt import Prompt


@dataclass(frozen=True)
class Heard:
    """All events of a call."""

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
        """Prompt tokens computed in the first stage, without cached ones."""
        first = next(event.usage for event in self.events if isinstance(event, Progress))
        return (first.prompt_tokens or 0) - (first.cached_tokens or 0)


LIMITS = Limits(answer_tokens=16, reasoning_tokens=64, timeout_s=5)


async def hear(model: Model, prompt: Prompt, limits: Limits = LIMITS) -> Heard:
    async with aclosing(model.stream(prompt, limits)) as events:
        return Heard(tuple([event async for event in events]))


def before_each_computation(model: Any, act: Callable[[], Any]) -> Callable[[], None]:
    """Call `act` before every computation of a local model's network, to delay, fail or count; returns the undo."""
    network = model._network
    names = [name for name in ("read", "extend", "append") if name not in vars(network)]

    def changed(method: Callable[..., Any]) -> Callable[..., Any]:
        def computed(*arguments: Any) -> Any:
            act()
            return method(*arguments)

        return computed

    def stop() -> None:
        for name in names:
            delattr(network, name)

    for name in names:
        setattr(network, name, changed(getattr(network, name)))
    return stop
