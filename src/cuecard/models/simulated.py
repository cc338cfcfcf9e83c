"""A model whose latencies come from a profile: for virtual time, where waiting costs nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from random import Random

from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.models.base import Abilities, AnswerDelta, Event, Finished, Limits, Progress, ReasoningDelta, Started
from cuecard.models.prompt import TAGS, CardFormat, Prompt


@dataclass(frozen=True)
class Profile:
    """A linear latency model: seconds to first token = fixed + per prompt token computed; then seconds a token.

    `spread` is the standard deviation of the log of each call's speed, 0 for none.
    """

    fixed_s: float
    prefill_s_per_token: float
    decode_s_per_token: float
    image_tokens: int = 256
    spread: float = 0.0


@dataclass(frozen=True)
class Script:
    """What a simulated or scripted model says to one prompt; tokens are words."""

    answer: str
    reasoning: str = ""
    answer_logprob: float | None = None


Says = Callable[[Prompt], Script]


def words(text: str) -> list[str]:
    """A text as tokens: words, each with the white space before it."""
    pieces = text.split(" ")
    return [piece if i == 0 else " " + piece for i, piece in enumerate(pieces)] if text else []


class SimulatedModel:
    """Says what `says` tells it to, at the speed of its profile."""

    def __init__(self, name: str, profile: Profile, says: Says, rng: Random, *, prefix_sessions: bool = True) -> None:
        self._name, self._profile, self._says, self._rng = name, profile, says, rng
        self._abilities = Abilities(True, True, False, prefix_sessions, tuple(CardFormat), TAGS)
        self._known: set[str] = set()

    @property
    def name(self) -> str:
        return self._name

    @property
    def abilities(self) -> Abilities:
        return self._abilities

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        yield Started()
        pace = math.exp(self._rng.gauss(0, self._profile.spread)) if self._profile.spread else 1.0
        usage = await self._read(prompt, pace)
        yield Progress(usage)
        said = self._says(prompt)
        reasoning = words(said.reasoning) if prompt.mode is Mode.REASON else []
        budget_spent = len(reasoning) > limits.reasoning_tokens
        reasoning, answer = reasoning[: limits.reasoning_tokens], words(said.answer)
        for is_reasoning, piece in [
            *((True, w) for w in reasoning),
            *((False, w) for w in answer[: limits.answer_tokens]),
        ]:
            await asyncio.sleep(self._profile.decode_s_per_token * pace)
            usage = usage + Usage(0, 0, 1, int(is_reasoning))
            yield ReasoningDelta(piece) if is_reasoning else AnswerDelta(piece)
            yield Progress(usage)
        finish = (
            FinishReason.LENGTH
            if len(answer) > limits.answer_tokens
            else FinishReason.BUDGET
            if budget_spent
            else FinishReason.STOP
        )
        yield Finished(usage, finish, said.answer_logprob)

    async def warm(self, prompt: Prompt) -> Usage:
        return await self._read(prompt, 1.0)

    async def score(self, prompt: Prompt, answer: str) -> float:
        await self._read(prompt, 1.0)
        said = self._says(prompt)
        return 0.0 if answer.strip() == said.answer.strip() else -5.0

    async def aclose(self) -> None:
        self._known.clear()

    async def _read(self, prompt: Prompt, pace: float) -> Usage:
        """Prefill, but for the longest beginning that was read before (word by word)."""
        text = "\n".join(turn.text for turn in prompt.turns) + prompt.opening
        pieces, shared = words(text), 0
        if self._abilities.prefix_sessions:
            shared = max((_shared(pieces, words(known)) for known in self._known), default=0)
            self._known.add(text)
        images = len(prompt.images) * self._profile.image_tokens
        total, cached = len(pieces) + images, shared + (images if shared else 0)
        await asyncio.sleep(pace * (self._profile.fixed_s + self._profile.prefill_s_per_token * (total - cached)))
        return Usage(total, cached, 0, 0)


def _shared(one: list[str], other: list[str]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
