"""A model with latencies from a profile, for virtual time, in which waiting costs nothing."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from random import Random

from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.errors import Unsupported
from cuecard.models.base import (
    Abilities,
    AnswerDelta,
    CallLimits,
    Event,
    Finished,
    Limits,
    Progress,
    ReasoningDelta,
    ReasoningEnded,
    Started,
)
from cuecard.models.prompt import TAGS, CardFormat, Prompt, Turn


@dataclass(frozen=True)
class Profile:
    """Cost of a call in seconds: a fixed part, the images, the computed prompt tokens, then each generated token.

    The first three fields alone are a linear model; `cuecard fit` estimates all fields. A *pair* is one token
    that attends to another: the work of attention, which grows with the square of the length.
    """

    fixed_s: float
    prefill_s_per_token: float
    decode_s_per_token: float
    image_tokens: int = 256
    spread: float = 0.0
    """Standard deviation of the log of each call's speed, 0 for none."""
    vision_fixed_s: float = 0.0
    """Per image."""
    vision_s_per_token: float = 0.0
    vision_s_per_pair: float = 0.0
    prefill_s_per_pair: float = 0.0
    decode_s_per_context_token: float = 0.0
    """Per token of the context, for each generated token."""
    decode_start_s: float = 0.0
    """Once, at the first step: the prefill has filled the processor's caches with other data."""
    decode_start_s_per_context_token: float = 0.0
    first_with_prefill: bool = False
    """The prefill yields the first token, as in real engines; otherwise the first token costs a step."""

    def vision_s(self, tokens: int) -> float:
        """Seconds to preprocess, encode and project one image of this many visual tokens."""
        return self.vision_fixed_s + self.vision_s_per_token * tokens + self.vision_s_per_pair * tokens**2

    def prefill_s(self, computed: int, cached: int = 0) -> float:
        """Seconds to prefill `computed` prompt tokens after `cached` ones, including the fixed cost of a call."""
        return self.fixed_s + self.prefill_s_per_token * computed + self.prefill_s_per_pair * pairs_of(computed, cached)

    def step_s(self, context: int) -> float:
        """Seconds to generate one token after `context` tokens."""
        return self.decode_s_per_token + self.decode_s_per_context_token * context

    def start_s(self, context: int) -> float:
        """Extra seconds of the first step."""
        return self.decode_start_s + self.decode_start_s_per_context_token * context

    def decode_s(self, tokens: float, context: int) -> float:
        """Seconds to generate this many tokens after a prompt of `context` tokens."""
        skipped = int(self.first_with_prefill and tokens > 0)
        steps = tokens - skipped
        if steps <= 0:
            return 0.0
        before = steps * (context + skipped) + steps * (steps - 1) / 2
        steps_s = self.decode_s_per_token * steps + self.decode_s_per_context_token * before
        return self.start_s(context + skipped) + steps_s

    def call_s(self, visual: int, prompt: int, output: float, cached: int = 0) -> float:
        """Seconds of a whole call with one image, or none (`visual` 0); `prompt` includes the visual tokens."""
        image_s = self.vision_s(visual) if visual and cached < visual else 0.0
        return image_s + self.prefill_s(prompt - cached, cached) + self.decode_s(output, prompt)


def pairs_of(computed: int, cached: int = 0) -> float:
    """Pairs in a prefill: each computed token attends to all cached ones, to computed ones before it, and to itself."""
    return computed * (cached + (computed + 1) / 2)


@dataclass(frozen=True)
class Script:
    """The reply of a simulated or scripted model to one prompt; tokens are words."""

    answer: str
    reasoning: str = ""
    answer_logprob: float | None = None


ScriptFor = Callable[[Prompt], Script]
PrefixTree = dict[str, "PrefixTree"]
"""The prompts computed so far, as a tree of their words and images."""


def words(text: str) -> list[str]:
    """A text as tokens: words, each with the spaces before it."""
    return re.findall(r" *[^ ]+| +", text)


def finish_reason(reasoning: Sequence[str], answer: Sequence[str], limits: CallLimits) -> FinishReason:
    """The finish reason of a call with this reasoning and answer, given as words, under these limits."""
    if len(answer) > limits.answer_tokens:
        return FinishReason.LENGTH
    return FinishReason.BUDGET if len(reasoning) > limits.reasoning_tokens else FinishReason.STOP


async def spoken(
    script: Script, prompt: Prompt, limits: CallLimits, usage: Usage, before: Callable[[int, int], Awaitable[None]]
) -> AsyncGenerator[Event]:
    """The events of a script, from its first token to Finished. `usage`: usage of the prompt.

    `before`: awaited before each token and before the end, with the numbers of tokens so far and still to come.
    """
    awaits_end = prompt.mode is Mode.REASON
    thought, answer = words(script.reasoning) if awaits_end else [], words(script.answer)
    reasoning = thought[: limits.reasoning_tokens]
    pieces = [*((True, w) for w in reasoning), *((False, w) for w in answer[: limits.answer_tokens])]
    for index, (is_reasoning, piece) in enumerate(pieces):
        await before(index, len(pieces) - index)
        usage = usage + Usage(0, 0, 1, int(is_reasoning))
        if awaits_end and not is_reasoning:
            awaits_end = False
            yield ReasoningEnded()
        yield ReasoningDelta(piece) if is_reasoning else AnswerDelta(piece)
        if index == len(reasoning) - 1:
            awaits_end = False
            yield ReasoningEnded()
        yield Progress(usage)
    await before(len(pieces), 0)
    if awaits_end:
        yield ReasoningEnded()
    yield Finished(usage, finish_reason(thought, answer, limits), script.answer_logprob)


class SimulatedModel:
    """A model that answers from a script, at the speed of its profile."""

    def __init__(
        self, name: str, profile: Profile, script_for: ScriptFor, rng: Random, *, prefix_sessions: bool = True
    ) -> None:
        self.name, self._profile, self._script_for, self._rng = name, profile, script_for, rng
        self.abilities = Abilities(True, True, True, prefix_sessions, tuple(CardFormat), TAGS, resumes=True)
        self._known: PrefixTree = {}

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        yield Started()
        pace = math.exp(self._rng.gauss(0, self._profile.spread)) if self._profile.spread else 1.0
        usage = await self._read(prompt, pace)
        yield Progress(usage)
        prompt_tokens, free = usage.prompt_tokens or 0, int(self._profile.first_with_prefill)

        async def step(done: int, left: int) -> None:
            if left and done >= free:
                start_s = self._profile.start_s(prompt_tokens + done) if done == free else 0.0
                await asyncio.sleep((start_s + self._profile.step_s(prompt_tokens + done)) * pace)

        async with aclosing(spoken(self._script_for(prompt), prompt, limits.of(prompt), usage, step)) as events:
            async for event in events:
                yield event

    async def warm(self, prompt: Prompt) -> Usage:
        if not self.abilities.prefix_sessions:
            raise Unsupported(f"{self.name} keeps no prefixes")
        return await self._read(prompt, 1.0)

    async def score(self, prompt: Prompt, answer: str) -> float:
        await self._read(prompt, 1.0)
        script = self._script_for(prompt)
        return 0.0 if answer.strip() == script.answer.strip() else -5.0

    def forget(self) -> None:
        self._known.clear()

    async def aclose(self) -> None:
        self.forget()

    async def _read(self, prompt: Prompt, pace: float) -> Usage:
        """Prefill the prompt, reusing its longest known prefix."""
        pieces = [piece for turn in prompt.turns for piece in self._pieces(turn)]
        pieces += [(word, 1, False) for word in words(prompt.opening)]
        total, cached, known, computed = sum(size for _, size, _ in pieces), 0, self._known, pieces
        shared = pieces if self.abilities.prefix_sessions else []
        for place, (piece, size, _) in enumerate(shared, start=1):
            if piece not in known:
                break
            known, cached, computed = known[piece], cached + size, pieces[place:]
        images_s = sum(self._profile.vision_s(size) for _, size, is_image in computed if is_image)
        await asyncio.sleep(pace * (images_s + self._profile.prefill_s(total - cached, cached)))
        known = self._known
        for piece, _, _ in shared:
            known = known.setdefault(piece, {})
        return Usage(total, cached, 0, 0)

    def _pieces(self, turn: Turn) -> list[tuple[str, int, bool]]:
        """(piece, number of tokens, whether it is an image) for the images of a turn, then for its words."""
        images = [(image.digest, self._profile.image_tokens, True) for image in turn.images]
        return [*images, *((word, 1, False) for word in words(turn.text))]
