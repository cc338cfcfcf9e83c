"""A Transformers checkpoint as a Model: shared prefixes, streamed prefill, two-stage decoding, scoring."""

from __future__ import annotations

import asyncio
import inspect
import math
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.errors import BadInput, ModelError, Unsupported
from cuecard.models import scope as scopes
from cuecard.models.base import Abilities, Event, Finished, Limits, Progress, Started, Weighing
from cuecard.models.extras import SAMPLING
from cuecard.models.local import fused_decoder, loading
from cuecard.models.local.attention_hook import Attended, Rows, listening
from cuecard.models.local.decoding import TokenDecoder, chance, choose
from cuecard.models.local.engine import Engine
from cuecard.models.local.fused_decoder import StaticDecoder, Step, applies, grown
from cuecard.models.local.inputs import Inputs, PromptReader, tokenized
from cuecard.models.local.prefix import Computed, Prefixes, growing, shareable
from cuecard.models.local.token_spans import Span, spans
from cuecard.models.prompt import CUE, EMBEDDED, PROSE, TAGS, CardFormat, Prompt, Style, neutral
from cuecard.models.scope import Scope

PREFILL_CHUNK = 8192
PREFIX_CACHE_MIB, ACCELERATED_PREFIX_CACHE_MIB = 1024, 4096
"""Kept keys and values at most: on the CPU, and in an accelerator's memory."""
SAME = 1e-4
"""By how much of the largest logit the fused decoder may differ from Transformers' layers."""

T = TypeVar("T")


@dataclass
class Running:
    """A sequence being computed: ids so far, their cache, and logits of the next token."""

    ids: list[int]
    images: tuple[str, ...]
    cache: DynamicCache
    rope_delta: int
    logits: torch.Tensor
    reused: int


def _style(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Style:
    """How a checkpoint is prompted: its template tells whether it marks reasoning, its configuration the wording."""
    if getattr(model.config, "cuecard_wording", None) == "trained":
        return EMBEDDED
    # a vocabulary may know the tags of a thinking sister model; only the template tells what this one was taught
    return TAGS if "</think>" in str(tokenizer.chat_template) else replace(PROSE, cue=CUE)


class LocalModel:
    """A checkpoint in this process. Calls take turns, a token each, or all at once, on a thread of the model's own."""

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        reader: PromptReader,
        card_formats: Sequence[CardFormat] | None = None,
        prefix_cache_mib: float | None = None,
        scope: Scope | None = None,
    ) -> None:
        """`prefix_cache_mib`: the most that is kept of computed prompts; None: as suits the device."""
        self._name, self._model, self._reader = name, model, reader
        usual = PREFIX_CACHE_MIB if model.device.type == "cpu" else ACCELERATED_PREFIX_CACHE_MIB
        most = usual if prefix_cache_mib is None else prefix_cache_mib
        self._engine, self._prefixes = Engine(name), Prefixes(int(most * 2**20))
        self._has_rope_delta = hasattr(getattr(model, "model", None), "rope_deltas")
        tokenizer = reader.tokenizer
        ends = model.generation_config.eos_token_id if model.generation_config is not None else None
        self._ends = {
            i for i in (*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id) if i is not None
        }
        self._most = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
        self._keeps_some_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._shares = shareable(DynamicCache(config=model.config))
        # in half precision another order of sums is another answer now and then
        self._may_fuse = self._shares and model.dtype == torch.float32 and applies(model)
        self._fused: StaticDecoder | None = None
        notes = () if self._shares else ("keeps no prefixes (its cache forgets): every call is computed whole",)
        self._abilities = Abilities(
            images=hasattr(model.config, "vision_config"),
            logprobs=True,
            scoring=True,
            prefix_sessions=self._shares,
            card_formats=tuple(card_formats or CardFormat),
            style=_style(model, tokenizer),
            weighing=True,
            place=f"this process, {model.device}",
            notes=notes,
            scope=scope,
            honours=frozenset(SAMPLING),
        )
        self._settle_on_a_decoder()

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        name: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        prefix_cache_mib: float | None = None,
    ) -> LocalModel:
        """Load a directory or a hub's repository. Raises BadInput, ModelRefused."""
        if prefix_cache_mib is not None and not 0 < prefix_cache_mib < math.inf:
            raise BadInput(f"prefix_cache_mib is {prefix_cache_mib:g}", "give a number of MiB above 0")
        model, reader = loading.load(str(source), device, dtype, revision)
        file = Path(source) / scopes.FILE
        scope = Scope.read(file) if file.is_file() else None
        return cls(name or Path(source).name, model, reader, prefix_cache_mib=prefix_cache_mib, scope=scope)

    @property
    def name(self) -> str:
        return self._name

    @property
    def abilities(self) -> Abilities:
        return self._abilities

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._reader.tokenizer

    @property
    def image_token(self) -> int | None:
        """The id that stands where an image is; None for a language model."""
        config = self._model.config
        return getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        async with aclosing(self._engine.run(partial(self._generate, prompt, limits))) as events:
            async for event in events:
                yield event

    async def warm(self, prompt: Prompt) -> Usage:
        if not self._shares:
            raise Unsupported(f"{self._name} keeps no prefixes")
        return await self._once(partial(self._warm, prompt))

    async def score(self, prompt: Prompt, answer: str) -> float:
        return await self._once(partial(self._score, prompt, answer))

    async def tokens(self, prompt: Prompt, answer: str) -> tuple[tuple[int, ...], int]:
        """Ids of a prompt and an answer behind it, and how many of them are the answer's. Raises BadInput."""
        return await self._once(partial(self._tokens, prompt, answer))

    async def attend(
        self, prompt: Prompt, answer: str, reduce: Callable[[Rows], T], hidden: Sequence[int] = ()
    ) -> Attended[T]:
        """Each layer's attention over this answer: one pass over its tokens alone, reduced layer by layer.

        What earlier calls computed of the prompt is not computed again. `hidden` keys are seen by none of the queries.
        Raises BadInput for an empty answer, Unsupported for a model without a hook, ModelError without memory.
        """
        return await self._once(partial(self._attend, prompt, answer, reduce, hidden))

    async def weigh(self, prompt: Prompt, answer: str, by: Weighing) -> tuple[tuple[tuple[str, float], ...], Usage]:
        """As `Weigher.weigh`. Attention costs the answer's tokens alone where the prompt was computed before."""
        ids, answered = await self.tokens(prompt, answer)
        places = spans(prompt, ids, answered, self.tokenizer, self.image_token)
        card = places.of(Span.REASONING)
        if not card:
            raise BadInput("no reasoning to look at: the card is empty")
        if by is Weighing.SURPRISE:
            weights, usage = await self._once(partial(self._surprise, prompt, card))
        else:
            seen = await self.attend(prompt, answer, lambda rows: rows.weights[..., card].mean((0, 1)))
            weights = torch.stack(seen.layers).mean(0).tolist()
            usage = Usage(len(seen.ids), seen.reused, 0, 0)
        return tuple(zip((places.pieces[place] for place in card), weights, strict=True)), usage

    async def aclose(self) -> None:
        await asyncio.to_thread(self._engine.stop)
        self.forget()

    def forget(self) -> None:
        """As `Model.forget`."""
        self._prefixes.clear()
        self._reader.forget()

    async def _once(self, steps: Any) -> Any:
        async with aclosing(self._engine.run(steps)) as results:
            async for result in results:
                return result
        raise ModelError(f"{self._name} gave nothing back")

    # --- everything below runs on the engine's thread -----------------------------------------------------------------

    def _warm(self, prompt: Prompt) -> Generator[Usage]:
        sequence = self._read(self._reader.inputs(prompt))
        self._hold(sequence, passing=prompt.unfinished)
        yield Usage(len(sequence.ids), sequence.reused, 0, 0)

    def _score(self, prompt: Prompt, answer: str) -> Generator[float]:
        inputs = self._reader.inputs(prompt)
        wanted = tokenized(self._reader.tokenizer, neutral(answer))
        if not wanted:
            raise BadInput("an empty answer has no likelihood")
        sequence = self._read(inputs)
        self._hold(sequence)
        first = torch.log_softmax(sequence.logits.float(), -1)
        rest = torch.log_softmax(self._extend(sequence, wanted[:-1], keep=0).float(), -1) if wanted[1:] else first[:0]
        each = torch.cat([first, rest]).gather(-1, torch.tensor(wanted, device=first.device)[:, None])
        yield float(each.mean())

    def _tokens(self, prompt: Prompt, answer: str) -> Generator[tuple[tuple[int, ...], int]]:
        inputs, wanted = self._behind(prompt, answer)
        yield (*inputs.ids, *wanted), len(wanted)

    def _behind(self, prompt: Prompt, answer: str) -> tuple[Inputs, list[int]]:
        wanted = tokenized(self._reader.tokenizer, neutral(answer))
        if not wanted:
            raise BadInput("the answer is empty: nothing in it looks at the reasoning")
        return self._reader.inputs(prompt), wanted

    def _attend(
        self, prompt: Prompt, answer: str, reduce: Callable[[Rows], T], hidden: Sequence[int]
    ) -> Generator[Attended[T]]:
        inputs, wanted = self._behind(prompt, answer)
        ids = (*inputs.ids, *wanted)
        if len(ids) > self._most or len(wanted) >= PREFILL_CHUNK:
            raise BadInput(f"prompt and answer have {len(ids)} tokens, more than {self._name} reads at once")
        sequence = self._read(inputs.first(len(inputs.ids) - 1))
        self._hold(sequence)
        with listening(self._model, reduce, len(ids), hidden) as heard:
            logits = self._extend(sequence, [inputs.ids[-1], *wanted], keep=0)
        yield Attended(tuple(heard), logits, ids, len(wanted) + 1, sequence.reused)

    def _surprise(self, prompt: Prompt, card: Sequence[int]) -> Generator[tuple[list[float], Usage]]:
        inputs = self._reader.inputs(prompt)
        sequence = self._read(inputs.first(card[0]))
        text = inputs.ids[card[0] : card[-1] + 1]
        logits = torch.cat([sequence.logits[-1:], self._extend(sequence, text, keep=0)[:-1]])
        wanted = torch.tensor(text, device=logits.device)[:, None]
        surprise = -torch.log_softmax(logits.float(), -1).gather(-1, wanted)[:, 0]
        each = [float(surprise[place - card[0]]) for place in card]
        yield each, Usage(len(sequence.ids), sequence.reused, 0, 0)

    def _generate(self, prompt: Prompt, limits: Limits) -> Generator[Event | Step]:
        yield Started()
        limits = limits.of(prompt)
        sequence = self._read(self._reader.inputs(prompt))
        self._hold(sequence)
        prompt_tokens, cached = len(sequence.ids), sequence.reused
        yield Progress(Usage(prompt_tokens, cached, 0, 0))
        generator = chance(limits, sequence.logits.device)
        closing = tokenized(self._reader.tokenizer, prompt.style.closing)
        budget = min(limits.reasoning_tokens, self._most - prompt_tokens - len(closing) - limits.answer_tokens)
        reasons = prompt.mode is Mode.REASON
        decoder = TokenDecoder(self._reader.tokenizer, prompt)
        spent_on_reasoning = spent = 0
        cut: FinishReason | None = None
        finish, logprob = FinishReason.LENGTH, 0.0
        # two stages: the reasoning within its budget, then the answer within its own
        while len(sequence.ids) < self._most:
            in_reasoning = decoder.parser.inside
            token, likelihood = choose(sequence.logits[-1], limits, generator)
            if reasons and in_reasoning and (token in self._ends or spent_on_reasoning >= budget or decoder.repeats):
                # the budget is spent, the reasoning repeats itself, or the turn ended: unless it is prose with a
                # conclusion, the reasoning is closed here and the answer decoded behind it
                ended = token in self._ends
                yield from decoder.rest(whole=ended and not prompt.style.opening)
                yield from decoder.close()
                if decoder.parser.answering:
                    finish = FinishReason.STOP
                    break
                if not ended:
                    cut = FinishReason.REPETITION if decoder.repeats else FinishReason.BUDGET
                prompt_tokens += len(closing)
                self._extend(sequence, closing)
                decoder = TokenDecoder(self._reader.tokenizer, replace(prompt, mode=Mode.READ))
                continue
            if token in self._ends:
                finish = FinishReason.STOP
                break
            # reasoning that was not requested is paid from the answer's limit
            if spent - (spent_on_reasoning if reasons else 0) >= limits.answer_tokens:
                break
            spent += 1
            yield from decoder.feed(token)
            if in_reasoning or decoder.parser.inside:
                spent_on_reasoning += 1
            else:
                logprob += likelihood
            yield Progress(Usage(prompt_tokens, cached, spent, spent_on_reasoning))
            yield Step(sequence, token, limits.temperature != 0, self._step)
        yield from decoder.rest(whole=finish is FinishReason.STOP)
        yield from decoder.close()
        self._hold(sequence)
        reason = cut if cut is not None and finish is FinishReason.STOP else finish
        answered = spent > spent_on_reasoning
        yield Finished(Usage(prompt_tokens, cached, spent, spent_on_reasoning), reason, logprob if answered else None)

    @torch.inference_mode()
    def _read(self, inputs: Inputs) -> Running:
        """Compute a prompt, but for what is known of it."""
        if not inputs.ids:
            raise BadInput("the prompt is empty")
        if len(inputs.ids) >= self._most:
            raise BadInput(
                f"the prompt has {len(inputs.ids)} tokens and {self._name} reads at most {self._most}",
                "use fewer or smaller images, or a shorter text",
            )
        empty = DynamicCache(config=self._model.config)
        if self._shares:
            empty = growing(empty)
        found = self._prefixes.find(inputs.ids, inputs.images, inputs.images_end) if self._shares else None
        if found is not None:
            held, length = found
            sequence = Running(
                inputs.ids[:length], inputs.images, held.cache(length, empty), held.rope_delta, torch.empty(0), length
            )
            self._extend(sequence, inputs.ids[length:])
            return sequence
        device = self._model.device
        # long texts are read in pieces, which bounds memory; images go with the first piece
        first = max(inputs.images_end, PREFILL_CHUNK)
        tensors = {
            name: (part[:, :first] if part.shape[:2] == (1, len(inputs.ids)) else part).to(
                device, self._model.dtype if part.is_floating_point() else None
            )
            for name, part in inputs.tensors.items()
        }
        ids = torch.tensor([inputs.ids[:first]], device=device)
        logits = self._forward(ids, empty, 1, tensors)
        delta = int(self._model.model.rope_deltas[0, 0]) if self._has_rope_delta and inputs.images else 0
        sequence = Running(inputs.ids[:first], inputs.images, empty, delta, logits, 0)
        if inputs.ids[first:]:
            self._extend(sequence, inputs.ids[first:])
        return sequence

    @torch.inference_mode()
    def _step(self, steps: Sequence[Step]) -> None:
        """Append a token to each of several sequences, those in one go that say the same so as alone."""
        several = [] if self._fused is None else [step for step in steps if not step.alone]
        if self._fused is not None and len(several) > 1:
            self._at_once(self._fused, several)
            steps = [step for step in steps if step.alone]
        for step in steps:
            self._extend(step.sequence, [step.token])

    def _at_once(self, decoder: StaticDecoder, steps: Sequence[Step]) -> None:
        sequences = [step.sequence for step in steps]
        positions = [len(each.ids) + each.rope_delta for each in sequences]
        tokens = torch.tensor([step.token for step in steps], device=self._model.device)
        found = fused_decoder.batched_logits(decoder, tokens, positions, [each.cache for each in sequences])
        for step, row, near in zip(steps, found, fused_decoder.are_close(found), strict=True):
            sequence = step.sequence
            if near:
                sequence.cache.crop(-1)
                self._extend(sequence, [step.token])
            else:
                sequence.ids, sequence.logits = [*sequence.ids, step.token], row[None]

    @torch.inference_mode()
    def _extend(self, sequence: Running, ids: list[int], keep: int = 1) -> torch.Tensor:
        """Append tokens; -> (kept, vocabulary) logits, of the last one, or with keep=0 of all."""
        logits = sequence.logits
        for start in range(0, len(ids), PREFILL_CHUNK):
            piece = ids[start : start + PREFILL_CHUNK]
            fresh = self._one(sequence, piece[0]) if len(piece) == 1 else self._some(sequence, piece, keep)
            logits = fresh if start == 0 or keep else torch.cat([logits, fresh])
            sequence.ids = [*sequence.ids, *piece]
        sequence.logits = logits[-1:]
        return logits

    def _settle_on_a_decoder(self) -> None:
        """Take a first step, so that no request pays for making the fused decoder and looking at what it says."""
        if self._may_fuse:
            empty = growing(DynamicCache(config=self._model.config))
            sequence = Running([], (), empty, 0, torch.empty(0), 0)
            self._extend(sequence, [0, 1])
            self._extend(sequence, [0])

    def _one(self, sequence: Running, token: int) -> torch.Tensor:
        """Append a token; -> (1, vocabulary) logits. By the fused decoder, if it says the same as the layers do."""
        if not self._may_fuse:
            return self._some(sequence, [token], 1)
        tokens = torch.tensor([token], device=self._model.device)
        position = len(sequence.ids) + sequence.rope_delta
        if self._fused is not None:
            return self._fused.logits(tokens, position, grown(sequence.cache))
        decoder = StaticDecoder(self._model)
        found = decoder.logits(tokens, position, grown(sequence.cache))
        sequence.cache.crop(-1)
        wanted = self._some(sequence, [token], 1)
        self._may_fuse = bool((found - wanted).abs().max() <= SAME * wanted.abs().max())
        self._fused = decoder if self._may_fuse else None
        return wanted

    def _some(self, sequence: Running, ids: list[int], keep: int) -> torch.Tensor:
        """Append tokens by the checkpoint's own layers; -> (kept, vocabulary) logits."""
        at, extra = len(sequence.ids), {}
        if self._has_rope_delta:
            where = torch.arange(at, at + len(ids), device=self._model.device) + sequence.rope_delta
            extra["position_ids"] = where.expand(3, 1, -1)
        tokens = torch.tensor([ids], device=self._model.device)
        return self._forward(tokens, sequence.cache, keep, extra)

    def _forward(self, ids: torch.Tensor, cache: DynamicCache, keep: int, more: dict[str, Any]) -> torch.Tensor:
        """(1, tokens) ids behind what the cache holds -> (kept, vocabulary) logits of the last; keep=0: of all."""
        trimmed = {"logits_to_keep": keep} if self._keeps_some_logits else {}
        out = self._model(input_ids=ids, past_key_values=cache, use_cache=True, **trimmed, **more)
        return out.logits[0, -keep:]

    def _hold(self, sequence: Running, passing: bool = False) -> None:
        if self._shares:
            rooms = tuple(layer.room for layer in sequence.cache.layers)
            self._prefixes.keep(Computed(tuple(sequence.ids), sequence.images, rooms, sequence.rope_delta, passing))
