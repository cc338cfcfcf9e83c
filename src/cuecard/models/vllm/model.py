"""A model in vLLM's engine as a Model: streamed cards, two-stage decoding, grammars, scoring."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from statistics import fmean
from typing import Any

from cuecard.domain.call import Mode, Usage
from cuecard.domain.errors import BadInput, ModelError, Unsupported, one_line
from cuecard.models.base import PENALTIES, SAMPLING, Abilities, CallLimits, Event, Limits, Progress, Started
from cuecard.models.local.network import tokenized
from cuecard.models.prompt import CardFormat, Prompt, neutral, style_of
from cuecard.models.reasoning_events import TwoStages
from cuecard.models.vllm.engine import EngineHost
from cuecard.models.vllm.loading import EngineSettings
from cuecard.models.vllm.prompts import (
    MOST_SESSIONS,
    CardSession,
    CardSessions,
    VllmPrompts,
    generated,
    is_structured,
    sampling,
)

HELD_BACK = 4
"""Tokens at the end of an unfinished card that are not sent yet: they may change when more text follows."""
RESETS, RESET_S = 20, 0.05
"""How often the prefix cache is tried to be dropped, and how long apart in seconds."""
_numbers = itertools.count(1)


class VllmModel:
    """A checkpoint in vLLM, in this process; its engine computes in a child process."""

    def __init__(self, name: str, host: EngineHost, *, constrained: bool = False) -> None:
        """`constrained`: brief answers are decoded under a grammar. Raises BadInput without a chat template."""
        self.name, self._host = name, host
        engine = host.engine
        config, cache = engine.model_config, engine.vllm_config.cache_config
        tokenizer, sees = engine.get_tokenizer(), bool(config.is_multimodal_model)
        self._prompts = VllmPrompts(name, tokenizer, config.max_model_len, sees_images=sees)
        blocks = cache.num_gpu_blocks
        slots = engine.vllm_config.scheduler_config.max_num_seqs // 2
        self._sessions = CardSessions(
            max(1, min(MOST_SESSIONS, slots)), None if not blocks else blocks * cache.block_size // 2
        )
        self._no_sessions: str | None = None
        """Why cards are not streamed; None if they are."""
        if not slots:
            self.stop_streaming("max_num_seqs is 1, and a prompt that grows would keep other calls waiting")
        if engine.vllm_config.speculative_config is not None:
            self.stop_streaming("vLLM streams no prompts with speculative decoding")
        trained = getattr(config.hf_config, "cuecard_wording", None) == "trained"
        style = replace(style_of(tokenizer, trained=trained), constrained=constrained)
        self._abilities = Abilities(
            images=sees,
            logprobs=True,
            scoring=True,
            prefix_sessions=bool(cache.enable_prefix_caching),
            card_formats=tuple(CardFormat),
            style=style,
            resumes=True,
            place=None,  # engines batch concurrent calls, so that the schedule need not be thrifty
            honours=frozenset({*SAMPLING, *PENALTIES, "logit_bias", "logprobs", "top_logprobs"}),
        )

    @classmethod
    def load(cls, name: str, source: str, settings: EngineSettings | None = None) -> VllmModel:
        """Load a directory or a repository of the hub. Raises BadInput, MissingExtra, ModelRefused."""
        settings = settings or EngineSettings()
        host = EngineHost(name, source, settings)
        try:
            return cls(name, host, constrained=settings.constraint is not None)
        except BaseException:
            host.stop()
            raise

    @property
    def abilities(self) -> Abilities:
        if self._no_sessions is None:
            return self._abilities
        return replace(self._abilities, notes=(f"cards are warmed, not streamed: {self._no_sessions}",))

    @property
    def engine(self) -> Any:
        """The AsyncLLM, which belongs to the host's event loop."""
        return self._host.engine

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        async with aclosing(self._host.stream(lambda engine: self._generate(engine, prompt, limits))) as events:
            async for event in events:
                yield event

    async def warm(self, prompt: Prompt) -> Usage:
        """As `Model.warm`; an unfinished card grows in a session, which the call that reads it continues."""
        if not self._abilities.prefix_sessions:
            raise Unsupported(f"{self.name} keeps no prefixes", "leave enable_prefix_caching on")
        return await self._host.call(lambda engine: self._warm(engine, prompt))

    async def score(self, prompt: Prompt, answer: str) -> float:
        return await self._host.call(lambda engine: self._score(engine, prompt, answer))

    def stop_streaming(self, reason: str) -> None:
        """Warm cards by requests of one token from now on; the notes give the reason."""
        self._no_sessions = reason

    def forget(self) -> None:
        self._host.now(self._forget)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._host.stop)

    # --- everything below runs on the engine's loop -------------------------------------------------------------------

    async def _generate(self, engine: Any, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        yield Started()
        limits = limits.of(prompt)
        ids = self._prompts.ids(prompt)
        stages: TwoStages | None = None
        tokenizer, shows = self._prompts.tokenizer, limits.extras.top_logprobs is not None
        splits = prompt.question is not None and prompt.question.schema is not None
        while True:
            async with aclosing(self._outputs(engine, prompt, ids, limits)) as outputs:
                async for usage, output in outputs:
                    if stages is None:
                        yield Progress(usage)
                        stages = TwoStages(tokenizer, prompt, limits, self._prompts.most, usage, splits=splits)
                    for token, likelihood, ends, shown in generated(output, tokenizer, shown=shows):
                        for event in stages.offer(token, likelihood, ends=ends, shown=shown):
                            yield event
                        if stages.over or stages.closing is not None:
                            break
                        ids = [*ids, token]
                    if stages.over or stages.closing is not None:
                        break
            if stages is None:
                raise ModelError(f"{self.name} generated nothing")
            if stages.closing is None:
                break
            ids, prompt = [*ids, *stages.closing], replace(prompt, mode=Mode.READ)
            stages.closing, used = None, stages.usage
            if (used.prompt_tokens or 0) + (used.completion_tokens or 0) >= self._prompts.most:
                break
        for event in stages.end():
            yield event

    async def _outputs(
        self, engine: Any, prompt: Prompt, ids: Sequence[int], limits: CallLimits
    ) -> AsyncGenerator[tuple[Usage, Any]]:
        """The usage of a prompt, and vLLM's outputs for it: from a session that began it, else as a whole."""
        answered = False
        if not is_structured(prompt) and not limits.extras.top_logprobs:
            async with aclosing(self._continued(engine, prompt, ids, limits)) as continued:
                async for usage, output in continued:
                    answered = True
                    yield usage, output
        if answered:
            return
        given = await self._prompts.rendered(engine, prompt, ids)
        tokens = len(given["prompt_token_ids"])
        params = sampling(limits, prompt, self._room(limits, prompt, Usage(tokens)))
        async with aclosing(engine.generate(given, params, f"call-{next(_numbers)}")) as outputs:
            async for output in outputs:
                yield Usage(tokens, output.num_cached_tokens or 0, 0, 0), output

    async def _continued(
        self, engine: Any, prompt: Prompt, ids: Sequence[int], limits: CallLimits
    ) -> AsyncGenerator[tuple[Usage, Any]]:
        """As `_outputs`, from a session; nothing without one."""
        session = self._sessions.find(engine, ids, _images(prompt))
        if session is None or not (rest := list(ids[len(session.ids) :])):
            return
        self._sessions.drop(session)
        before = session.tokens
        usage = Usage(before + len(rest), before, 0, 0)
        try:
            self._prompts.check_length(before + len(rest))
            params = sampling(limits, prompt, self._room(limits, prompt, usage))
            async with aclosing(session.answer(_tokens_input(rest), params, ids)) as outputs:
                async for output in outputs:
                    yield usage, output
        finally:
            await session.aclose()

    def _room(self, limits: CallLimits, prompt: Prompt, usage: Usage) -> int:
        """Maximum tokens of a request: one more than the limits, as the end of the turn is a token too."""
        wanted = limits.answer_tokens + (limits.reasoning_tokens if prompt.mode is Mode.REASON else 0) + 1
        return max(1, min(wanted, self._prompts.most - (usage.prompt_tokens or 0)))

    async def _warm(self, engine: Any, prompt: Prompt) -> Usage:
        ids = self._prompts.ids(prompt)
        if prompt.unfinished and self._no_sessions is None and not is_structured(prompt):
            return await self._grow(engine, prompt, ids[:-HELD_BACK] if prompt.card else ids)
        given = await self._prompts.rendered(engine, prompt, ids)
        async with aclosing(engine.generate(given, self._one_token(prompt), f"warm-{next(_numbers)}")) as outputs:
            cached = [output.num_cached_tokens or 0 async for output in outputs]
        return Usage(len(given["prompt_token_ids"]), cached[0], 0, 0)

    async def _grow(self, engine: Any, prompt: Prompt, ids: Sequence[int]) -> Usage:
        """Append the new tokens of an unfinished prompt to its session; open one if there is none."""
        images = _images(prompt)
        session = self._sessions.find(engine, ids, images)
        if session is None or session.lock.locked():
            session = CardSession(engine, images)
            given = await self._prompts.rendered(engine, prompt, ids)
        else:
            given = _tokens_input(list(ids[len(session.ids) :]))
            if not given["prompt_token_ids"]:
                return Usage(session.tokens, session.tokens, 0, 0)
        before = session.tokens
        self._prompts.check_length(before + len(given["prompt_token_ids"]) + 1)
        self._sessions.keep(session)
        try:
            await session.piece(given, self._one_token(prompt), ids)
        except (ValueError, NotImplementedError, TypeError) as error:  # this model or setup cannot stream prompts
            self._sessions.drop(session)
            self.stop_streaming(one_line(error))
            raise Unsupported(f"{self.name} streams no prompts: {self._no_sessions}") from error
        except BaseException:
            self._sessions.drop(session)
            await session.aclose()
            raise
        return Usage(session.tokens, before, 0, 0)

    def _one_token(self, prompt: Prompt) -> Any:
        return sampling(Limits().of(prompt), replace(prompt, mode=Mode.REASON), 1)

    async def _score(self, engine: Any, prompt: Prompt, answer: str) -> float:
        wanted = tokenized(self._prompts.tokenizer, neutral(answer))
        if not wanted:
            raise BadInput("an empty answer has no likelihood")
        given = await self._prompts.rendered(engine, prompt, [*self._prompts.ids(prompt), *wanted])
        params = self._one_token(prompt)
        params.prompt_logprobs = 0
        found: list[Any] = []
        async with aclosing(engine.generate(given, params, f"score-{next(_numbers)}")) as outputs:
            async for output in outputs:
                found += output.prompt_logprobs or []
        likely = [each[token].logprob for each, token in zip(found[-len(wanted) :], wanted, strict=True)]
        if not all(map(math.isfinite, likely)):
            raise ModelError(f"{self.name} gave no log probabilities for the answer {answer[:40]!r}")
        return min(0.0, fmean(likely))

    async def _forget(self, engine: Any) -> None:
        await self._sessions.clear()
        for _ in range(RESETS):
            if await engine.reset_prefix_cache():
                break
            await asyncio.sleep(RESET_S)  # blocks of an aborted request are not free yet
        await engine.reset_mm_cache()
        await engine.reset_encoder_cache()


def _images(prompt: Prompt) -> tuple[str, ...]:
    return tuple(image.digest for image in prompt.images)


def _tokens_input(ids: list[int]) -> dict[str, Any]:
    return {"type": "token", "prompt_token_ids": ids}
