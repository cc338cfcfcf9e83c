"""A model whose latencies come from a profile: for virtual time, where waiting costs nothing."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from random import Random

from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.errors import Unsupported
from cuecard.models.base import Abilities, AnswerDelta, Event, Finished, Limits, Progress, ReasoningDelta, Started
from cuecard.models.prompt import TAGS, CardFormat, Prompt, Turn


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
Known = dict[str, "Known"]
"""The prompts read so far, as a tree of their words and images."""


def words(text: str) -> list[str]:
    """A text as tokens: words, each with the white space before it."""
    return re.findall(r" *[^ ]+| +", text)


def finish_reason(reasoning: Sequence[str], answer: Sequence[str], limits: Limits) -> FinishReason:
    """Why a call ends that has so many words to say."""
    if len(answer) > limits.answer_tokens:
        return FinishReason.LENGTH
    return FinishReason.BUDGET if len(reasoning) > limits.reasoning_tokens else FinishReason.STOP


class SimulatedModel:
    """Says what `says` tells it to, at the speed of its profile."""

    def __init__(self, name: str, profile: Profile, says: Says, rng: Random, *, prefix_sessions: bool = True) -> None:
        self._name, self._profile, self._says, self._rng = name, profile, says, rng
        self._abilities = Abilities(True, True, True, prefix_sessions, tuple(CardFormat), TAGS)
        self._known: Known = {}

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
        answer = words(said.answer)
        for is_reasoning, piece in [
            *((True, w) for w in reasoning[: limits.reasoning_tokens]),
            *((False, w) for w in answer[: limits.answer_tokens]),
        ]:
            await asyncio.sleep(self._profile.decode_s_per_token * pace)
            usage = usage + Usage(0, 0, 1, int(is_reasoning))
            yield ReasoningDelta(piece) if is_reasoning else AnswerDelta(piece)
            yield Progress(usage)
        yield Finished(usage, finish_reason(reasoning, answer, limits), said.answer_logprob)

    async def warm(self, prompt: Prompt) -> Usage:
        if not self._abilities.prefix_sessions:
            raise Unsupported(f"{self._name} keeps no prefixes")
        return await self._read(prompt, 1.0)

    async def score(self, prompt: Prompt, answer: str) -> float:
        await self._read(prompt, 1.0)
        said = self._says(prompt)
        return 0.0 if answer.strip() == said.answer.strip() else -5.0

    def forget(self) -> None:
        self._known.clear()

    async def aclose(self) -> None:
        self.forget()

    async def _read(self, prompt: Prompt, pace: float) -> Usage:
        """Prefill, but for the longest beginning that was read before."""
        pieces = [piece for turn in prompt.turns for piece in self._pieces(turn)]
        pieces += [(word, 1) for word in words(prompt.opening)]
        total, cached, known = sum(size for _, size in pieces), 0, self._known
        shared = pieces if self._abilities.prefix_sessions else []
        for piece, size in shared:
            if piece not in known:
                break
            known, cached = known[piece], cached + size
        await asyncio.sleep(pace * (self._profile.fixed_s + self._profile.prefill_s_per_token * (total - cached)))
        known = self._known
        for piece, _ in shared:
            known = known.setdefault(piece, {})
        return Usage(total, cached, 0, 0)

    def _pieces(self, turn: Turn) -> list[tuple[str, int]]:
        """What a turn is read as: its images, then its words, with the tokens of each."""
        images = [(image.digest, self._profile.image_tokens) for image in turn.images]
        return [*images, *((word, 1) for word in words(turn.text))]
