"""A Transformers checkpoint as a Model: shared prefixes, streamed prefill, two-stage decoding, scoring."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, DynamicCache, PreTrainedModel
from transformers.utils import logging

from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.errors import BadInput, ModelError, ModelRefused
from cuecard.models.base import Abilities, AnswerDelta, Event, Finished, Limits, Progress, ReasoningDelta, Started
from cuecard.models.local.engine import Engine
from cuecard.models.local.inputs import Inputs, Reader, make_reader, tokenized
from cuecard.models.local.prefix import Computed, Prefixes, shareable
from cuecard.models.prompt import PROSE, TAGS, CardFormat, Prompt
from cuecard.models.thinking import Splitter

PREFILL_CHUNK = 8192


@dataclass
class Running:
    """A sequence being computed: ids so far, their cache, and logits of the next token."""

    ids: list[int]
    images: tuple[str, ...]
    cache: DynamicCache
    rope_delta: int
    logits: torch.Tensor
    reused: int


class LocalModel:
    """A checkpoint in this process. Calls take turns, a token each, on a thread of the model's own."""

    def __init__(
        self, name: str, model: PreTrainedModel, reader: Reader, card_formats: Sequence[CardFormat] | None = None
    ) -> None:
        self._name, self._model, self._reader = name, model.eval(), reader
        self._engine, self._prefixes = Engine(name), Prefixes()
        self._has_rope_delta = hasattr(getattr(model, "model", None), "rope_deltas")
        tokenizer = reader.tokenizer
        ends = model.generation_config.eos_token_id if model.generation_config is not None else None
        self._ends = {
            i for i in (*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id) if i is not None
        }
        self._shares = shareable(DynamicCache(config=model.config))
        template = getattr(getattr(reader, "processor", None), "chat_template", None) or tokenizer.chat_template or ""
        style = TAGS if "<think>" in str(template) or "<think>" in tokenizer.get_vocab() else PROSE
        notes = () if self._shares else ("keeps no prefixes (its cache forgets): every call is computed whole",)
        self._abilities = Abilities(
            images=hasattr(model.config, "vision_config"),
            logprobs=True,
            scoring=True,
            prefix_sessions=self._shares,
            card_formats=tuple(card_formats or CardFormat),
            style=style,
            notes=notes,
        )

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        name: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
    ) -> LocalModel:
        """Load a directory or a hub's repository. Raises BadInput when there is no such checkpoint, ModelRefused when it does not load."""
        source = str(source)
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        device = device or (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
        try:
            config = AutoConfig.from_pretrained(source, revision=revision)
        except (OSError, ValueError) as error:
            raise BadInput(
                f"no checkpoint at {source!r}: {_first_line(error)}",
                "give a directory in the Hugging Face layout, or hf:ORG/NAME",
            ) from error
        auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
        # a CPU computes fastest in float32; an accelerator in the type that the checkpoint was saved in
        chosen = getattr(torch, dtype) if dtype else torch.float32 if device == "cpu" else "auto"
        try:
            model = auto.from_pretrained(source, revision=revision, dtype=chosen, attn_implementation="sdpa").to(device)
            return cls(name or Path(source).name, model, make_reader(source, config, revision))
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise ModelRefused(
                f"{source} does not load: {_first_line(error)}", "is the checkpoint whole, and is there memory for it?"
            ) from error

    @property
    def name(self) -> str:
        return self._name

    @property
    def abilities(self) -> Abilities:
        return self._abilities

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        async with aclosing(self._engine.run(partial(self._generate, prompt, limits))) as events:
            async for event in events:
                yield event

    async def warm(self, prompt: Prompt) -> Usage:
        return await self._once(partial(self._warm, prompt))

    async def score(self, prompt: Prompt, answer: str) -> float:
        return await self._once(partial(self._score, prompt, answer))

    async def aclose(self) -> None:
        self._engine.stop()
        self.forget()

    def forget(self) -> None:
        """Drop what was computed before, so that the next call is timed as a first one. Not while calls are under way."""
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
        self._hold(sequence)
        yield Usage(len(sequence.ids), sequence.reused, 0, 0)

    def _score(self, prompt: Prompt, answer: str) -> Generator[float]:
        inputs = self._reader.inputs(prompt)
        wanted = tokenized(self._reader.tokenizer, answer)
        if not wanted:
            raise BadInput("an empty answer has no likelihood")
        sequence = self._read(inputs)
        self._hold(sequence)
        first = torch.log_softmax(sequence.logits.float(), -1)
        rest = torch.log_softmax(self._extend(sequence, wanted[:-1], keep=0).float(), -1) if wanted[1:] else first[:0]
        each = torch.cat([first, rest]).gather(-1, torch.tensor(wanted, device=first.device)[:, None])
        yield float(each.mean())

    def _generate(self, prompt: Prompt, limits: Limits) -> Generator[Event]:
        yield Started()
        sequence = self._read(self._reader.inputs(prompt))
        self._hold(sequence)
        prompt_tokens, cached = len(sequence.ids), sequence.reused
        yield Progress(Usage(prompt_tokens, cached, 0, 0))
        generator = torch.Generator(sequence.logits.device)
        generator.manual_seed(limits.seed) if limits.seed is not None else generator.seed()
        decoder = _Decoder(self._reader.tokenizer, prompt)
        spent_on_reasoning = spent = 0
        budget_spent, finish, logprob = False, FinishReason.LENGTH, 0.0
        # two stages: the reasoning within its budget, then the answer within its own
        while True:
            in_reasoning = decoder.splitter.is_reasoning
            token, likelihood = _choose(sequence.logits[-1], limits, generator)
            over = token in self._ends or spent_on_reasoning >= limits.reasoning_tokens
            if in_reasoning and over and prompt.mode is Mode.REASON:
                # the reasoning did not close by itself: close it, so that no answer is taken from it
                yield from decoder.rest()
                closing = tokenized(self._reader.tokenizer, prompt.style.closing)
                prompt_tokens += len(closing)
                self._extend(sequence, closing)
                decoder = _Decoder(self._reader.tokenizer, replace(prompt, mode=Mode.READ))
                budget_spent = True
                continue
            if token in self._ends:
                finish = FinishReason.STOP
                break
            if spent - spent_on_reasoning >= limits.answer_tokens:
                break
            spent += 1
            yield from decoder.feed(token)
            if in_reasoning:
                spent_on_reasoning += 1
            else:
                logprob += likelihood
            yield Progress(Usage(prompt_tokens, cached, spent, spent_on_reasoning))
            self._extend(sequence, [token])
        yield from decoder.rest()
        self._hold(sequence)
        reason = FinishReason.BUDGET if budget_spent and finish is FinishReason.STOP else finish
        answered = spent > spent_on_reasoning
        yield Finished(Usage(prompt_tokens, cached, spent, spent_on_reasoning), reason, logprob if answered else None)

    @torch.inference_mode()
    def _read(self, inputs: Inputs) -> Running:
        """Compute a prompt, but for what is known of it."""
        if not inputs.ids:
            raise BadInput("the prompt is empty")
        self._fits(len(inputs.ids))
        empty = DynamicCache(config=self._model.config)
        found = self._prefixes.find(inputs.ids, inputs.images, inputs.images_end) if self._shares else None
        if found is not None:
            held, length = found
            sequence = Running(
                inputs.ids[:length], inputs.images, held.cache(length, empty), held.rope_delta, torch.empty(0), length
            )
            self._extend(sequence, inputs.ids[length:])
            return sequence
        device = self._model.device
        tensors = {
            k: v.to(device, self._model.dtype if v.is_floating_point() else None) for k, v in inputs.tensors.items()
        }
        # long texts are read in pieces, which bounds memory; images go with the first piece
        first = max(inputs.images_end, PREFILL_CHUNK)
        if "mm_token_type_ids" in tensors:
            tensors["mm_token_type_ids"] = tensors["mm_token_type_ids"][:, :first]
        ids = torch.tensor([inputs.ids[:first]], device=device)
        out = self._model(input_ids=ids, past_key_values=empty, use_cache=True, logits_to_keep=1, **tensors)
        delta = int(self._model.model.rope_deltas[0, 0]) if self._has_rope_delta and inputs.images else 0
        sequence = Running(inputs.ids[:first], inputs.images, empty, delta, out.logits[0], 0)
        if inputs.ids[first:]:
            self._extend(sequence, inputs.ids[first:])
        return sequence

    @torch.inference_mode()
    def _extend(self, sequence: Running, ids: list[int], keep: int = 1) -> torch.Tensor:
        """Append tokens; -> (kept, vocabulary) logits, of the last one, or with keep=0 of all."""
        logits = sequence.logits
        for start in range(0, len(ids), PREFILL_CHUNK):
            piece, at = ids[start : start + PREFILL_CHUNK], len(sequence.ids)
            extra = {}
            if self._has_rope_delta:
                where = torch.arange(at, at + len(piece), device=self._model.device) + sequence.rope_delta
                extra["position_ids"] = where.expand(3, 1, -1)
            tokens = torch.tensor([piece], device=self._model.device)
            out = self._model(
                input_ids=tokens, past_key_values=sequence.cache, use_cache=True, logits_to_keep=keep, **extra
            )
            logits = out.logits[0] if start == 0 or keep else torch.cat([logits, out.logits[0]])
            sequence.ids = [*sequence.ids, *piece]
        sequence.logits = logits[-1:]
        return logits

    def _hold(self, sequence: Running) -> None:
        if self._shares:
            layers = tuple((layer.keys, layer.values) for layer in sequence.cache.layers)
            self._prefixes.keep(Computed(tuple(sequence.ids), sequence.images, layers, sequence.rope_delta))

    def _fits(self, tokens: int) -> None:
        config = self._model.config.get_text_config()
        most = getattr(config, "max_position_embeddings", None)
        if most is not None and tokens >= most:
            raise BadInput(
                f"the prompt has {tokens} tokens and {self._name} reads at most {most}",
                "use fewer or smaller images, or a shorter text",
            )


class _Decoder:
    """Tokens to text as it becomes certain (a character may take several tokens), told apart by the splitter."""

    def __init__(self, tokenizer: Any, prompt: Prompt) -> None:
        self.splitter, self._tokenizer = Splitter(prompt), tokenizer
        self._ids: list[int] = []
        self._told = 0

    def feed(self, token: int) -> Generator[Event]:
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if not text.endswith("\ufffd"):
            fresh, self._told = text[self._told :], len(text)
            yield from map(_event, self.splitter.feed(fresh))
            # what came before the last token no longer changes how the next ones are spelled
            self._ids = self._ids[-1:]
            self._told = len(self._tokenizer.decode(self._ids))

    def rest(self) -> Generator[Event]:
        text = self._tokenizer.decode(self._ids)[self._told :]
        self._told += len(text)
        yield from map(_event, [*self.splitter.feed(text), *self.splitter.rest()])


def _event(piece: Any) -> Event:
    return ReasoningDelta(piece.text) if piece.is_reasoning else AnswerDelta(piece.text)


def _choose(logits: torch.Tensor, limits: Limits, generator: torch.Generator) -> tuple[int, float]:
    """The next token and the log of its probability (before temperature). Greedy, or sampled from the nucleus."""
    logits = logits.float()
    if limits.temperature == 0:
        token = int(logits.argmax())
    else:
        chances, order = torch.softmax(logits / limits.temperature, -1).sort(descending=True)
        chances[chances.cumsum(0) - chances >= limits.top_p] = 0
        token = int(order[torch.multinomial(chances, 1, generator=generator)])
    return token, float(torch.log_softmax(logits, -1)[token])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
