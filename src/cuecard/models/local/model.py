"""A checkpoint in this process as a Model: shared prefixes, streamed prefill, two-stage decoding, scoring."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

from cuecard.domain.call import Usage
from cuecard.domain.errors import BadInput, Unsupported
from cuecard.models import acceptance_table
from cuecard.models import scope as scopes
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.models.base import SAMPLING, Abilities, Event, Limits, Progress, Started, Weighed, Weighing
from cuecard.models.images.image_scope import ImageScope
from cuecard.models.local.embedded_network import NumpyNetwork, PlainReader, is_embedded
from cuecard.models.local.engine import READY, SEEN, Engine, Job, ModelProcess, ProcessEnded, Step, may_start, refusing
from cuecard.models.local.network import (
    Computed,
    Inputs,
    Logits,
    Network,
    Prefixes,
    PromptReader,
    Span,
    spans,
    tokenized,
)
from cuecard.models.prompt import CardFormat, Prompt, neutral, style_of
from cuecard.models.reasoning_events import TwoStages
from cuecard.models.scope import Scope

if TYPE_CHECKING:  # PyTorch need not be there
    from cuecard.models.local.attention_hook import Attended, Rows

PREFILL_CHUNK = 8192
PREFIX_CACHE_MIB, ACCELERATED_PREFIX_CACHE_MIB = 1024, 4096
"""Maximum MiB of cached keys and values: on the CPU, and in an accelerator's memory."""
T = TypeVar("T")


@dataclass(eq=False)
class Running:
    """A sequence being computed: ids so far, their cache, and logits of the next token."""

    ids: list[int]
    images: tuple[str, ...]
    cache: Any
    rope_delta: int
    logits: Logits
    reused: int

    @property
    def position(self) -> int:
        """Position of the next token."""
        return len(self.ids) + self.rope_delta


class LocalModel:
    """A checkpoint in this process. The model's own thread advances calls token by token, batched or in turn."""

    def __init__(
        self,
        name: str,
        network: Network,
        reader: PromptReader,
        prefix_cache_mib: float | None = None,
        scope: Scope | None = None,
        process: ModelProcess | None = None,
        image_scope: ImageScope | None = None,
    ) -> None:
        """`prefix_cache_mib`: maximum size of the prefix cache; None: a default for the device.

        `process`: runs calls once it has started. `image_scope`: describes the images inside the scope.
        """
        self._process, self._image_scope = process, image_scope
        if process is not None and scope is not None:
            process.on_seen = scope.seen.keep
        self.name, self._network, self._reader = name, network, reader
        usual = PREFIX_CACHE_MIB if network.place == "cpu" else ACCELERATED_PREFIX_CACHE_MIB
        most = usual if prefix_cache_mib is None else prefix_cache_mib
        self.engine, self._prefixes = Engine(name), Prefixes(int(most * 2**20))
        end = reader.tokenizer.eos_token_id
        self._ends = network.ends if end is None else network.ends | {end}
        self._most = network.most_tokens
        shares = network.shares_prefixes
        notes = () if shares else ("keeps no prefixes (its cache forgets): every call is computed whole",)
        self.abilities = Abilities(
            images=network.sees_images,
            logprobs=True,
            scoring=True,
            prefix_sessions=shares,
            card_formats=tuple(CardFormat),
            style=style_of(reader.tokenizer, trained=network.is_trained_pair),
            weighing=True,
            resumes=True,
            place=f"this process, {network.place}",
            notes=notes,
            scope=scope,
            honours=frozenset(SAMPLING),
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
        prefix_cache_mib: float | None = None,
    ) -> LocalModel:
        """Load a directory, a GGUF file or a repository of the hub. Raises BadInput, ModelRefused, MissingExtra.

        The embedded pair runs on NumPy, unless a device or a dtype is given; all else runs on Transformers.
        """
        if prefix_cache_mib is not None and not 0 < prefix_cache_mib < math.inf:
            raise BadInput(f"prefix_cache_mib is {prefix_cache_mib:g}", "give a number of MiB above 0")
        network: Network
        reader: PromptReader
        process, called = None, name or Path(source).name
        if device is None and dtype is None and is_embedded(Path(source)):
            with refusing(str(source)):
                network = NumpyNetwork(Path(source))
                reader = PlainReader(Path(source), network.image_token)
            if may_start():
                process = ModelProcess(called, str(source), prefix_cache_mib)
        else:
            from cuecard.models.local import transformers_network

            model, reader = transformers_network.load(str(source), device, dtype, revision)
            network = transformers_network.TransformersNetwork(model)
        file, images = (Path(source) / name for name in scopes.FILES)
        scope = Scope.read(file) if file.is_file() else None
        looks = ImageScope.read(images) if scope is not None and images.is_file() else None
        loaded = cls(called, network, reader, prefix_cache_mib, scope, process, looks)
        if (there := Path(source) / acceptance_table.FILE).is_file():
            table = replace(AcceptanceTable.read(there), large=called)  # the folder may have been renamed
            loaded.abilities = replace(loaded.abilities, acceptance=table)
        return loaded

    @property
    def tokenizer(self) -> Any:
        return self._reader.tokenizer

    @property
    def image_token(self) -> int | None:
        """The token id at the places of images; None for a language model."""
        return self._network.image_token

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        async with aclosing(self._run("generate", prompt, limits)) as events:
            async for event in events:
                yield event

    async def warm(self, prompt: Prompt) -> Usage:
        if not self._network.shares_prefixes:
            raise Unsupported(f"{self.name} keeps no prefixes")
        return await self._once("warm", prompt)

    async def score(self, prompt: Prompt, answer: str) -> float:
        return await self._once("score", prompt, answer)

    async def tokens(self, prompt: Prompt, answer: str) -> tuple[tuple[int, ...], int]:
        """Ids of a prompt followed by an answer, and how many of them are the answer's. Raises BadInput."""
        return await self._once("tokens", prompt, answer)

    async def attend(
        self, prompt: Prompt, answer: str, reduce: Callable[[Rows], T], hidden: Sequence[int] = ()
    ) -> Attended[T]:
        """Attention of this answer's tokens in each layer: one pass over these tokens, reduced layer by layer.

        Prompt tokens from earlier calls are not computed again. No query attends to `hidden` keys. Raises BadInput for
        an empty answer, Unsupported for a model without a hook, ModelError if memory is too small.
        """
        return await self._once("attend", prompt, answer, reduce, hidden)

    async def weigh(self, prompt: Prompt, answer: str, by: Weighing) -> tuple[Weighed, Usage]:
        """As `Weigher.weigh`. If the prompt is cached, attention costs only the answer's tokens."""
        ids, answered = await self.tokens(prompt, answer)
        places = spans(prompt, ids, answered, self.tokenizer, self.image_token)
        card = places.of(Span.REASONING)
        if not card:
            raise BadInput("no reasoning to look at: the card is empty")
        if by is Weighing.SURPRISE:
            weights, usage = await self._once("surprise", prompt, card)
        else:
            weights, usage = await self._once("attention", prompt, answer, card)
        return tuple(zip((places.pieces[place] for place in card), weights, strict=True)), usage

    async def aclose(self) -> None:
        await asyncio.to_thread(self.engine.stop)
        if self._process is not None:
            await asyncio.to_thread(self._process.stop)
        self.forget()

    def forget(self) -> None:
        """As `Model.forget`."""
        self._prefixes.clear()
        self._reader.forget()
        if self._process is not None:
            self._process.forget()

    def steps(self, name: str, *arguments: Any) -> Callable[[], Generator[Any]]:
        """The steps of a call by name: `generate`, `warm`, `score`, `tokens`, `attend`, `attention`, `surprise`."""
        return partial(getattr(self, f"_{name}"), *arguments)

    async def _run(self, name: str, prompt: Prompt, *arguments: Any) -> AsyncGenerator[Any]:
        """A call's results, from the child process or the engine's thread.

        The engine runs calls about images with cached prefixes, so that nothing is computed twice, and `attend`, as its
        function cannot be sent. It also runs a call that the process ended before it had begun.
        """
        process, begun = self._process if name != "attend" else None, False
        if process is not None and process.takes_calls() and not self._prefixes.holds(prompt.images):
            try:
                async with aclosing(process.run(name, prompt, *arguments)) as items:
                    async for item in items:
                        begun = True
                        yield item
                return
            except ProcessEnded:
                if begun:
                    raise
        async with aclosing(self.engine.run(self.steps(name, prompt, *arguments))) as items:
            async for item in items:
                yield item

    async def _once(self, name: str, prompt: Prompt, *arguments: Any) -> Any:
        async with aclosing(self._run(name, prompt, *arguments)) as results:
            return await anext(results)

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
        yield fmean(self._likelihoods(sequence, wanted))

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
            raise BadInput(f"prompt and answer have {len(ids)} tokens, more than {self.name} reads at once")
        sequence = self._read(inputs.first(len(inputs.ids) - 1))
        self._hold(sequence)
        queries = [inputs.ids[-1], *wanted]
        reduced, logits = self._network.attend(queries, sequence.position, sequence.cache, reduce, hidden)
        from cuecard.models.local.attention_hook import Attended

        yield Attended(tuple(reduced), logits, ids, len(queries), sequence.reused)

    def _attention(self, prompt: Prompt, answer: str, card: Sequence[int]) -> Generator[tuple[list[float], Usage]]:
        def mean_of_heads(rows: Rows) -> list[float]:
            weights: list[float] = rows.weights[..., list(card)].mean((0, 1)).tolist()
            return weights

        (seen,) = self._attend(prompt, answer, mean_of_heads, ())
        yield [fmean(each) for each in zip(*seen.layers, strict=True)], Usage(len(seen.ids), seen.reused, 0, 0)

    def _surprise(self, prompt: Prompt, card: Sequence[int]) -> Generator[tuple[list[float], Usage]]:
        inputs = self._reader.inputs(prompt)
        sequence = self._read(inputs.first(card[0]))
        likelihoods = self._likelihoods(sequence, inputs.ids[card[0] : card[-1] + 1])
        self._hold(sequence)
        each = [-likelihoods[place - card[0]] for place in card]
        yield each, Usage(len(sequence.ids), sequence.reused, 0, 0)

    def _likelihoods(self, sequence: Running, text: list[int]) -> list[float]:
        """The log probability of each token of a text after a sequence. Appends all of them but the last."""
        first = self._network.logprobs(sequence.logits, text[:1])
        rest = self._extend(sequence, text[:-1], keep=0) if text[1:] else None
        return first if rest is None else first + self._network.logprobs(rest, text[1:])

    def _generate(self, prompt: Prompt, limits: Limits) -> Generator[Event | Step]:
        yield Started()
        limits = limits.of(prompt)
        sequence = self._read(self._reader.inputs(prompt))
        self._hold(sequence)
        prompt_tokens, cached = len(sequence.ids), sequence.reused
        yield Progress(Usage(prompt_tokens, cached, 0, 0))
        chance = self._network.chance(limits)
        stages = TwoStages(self._reader.tokenizer, prompt, limits, self._most, Usage(prompt_tokens, cached))
        while len(sequence.ids) < self._most:
            token, likelihood = self._network.choose(sequence.logits, limits, chance)
            yield from stages.offer(token, likelihood, ends=token in self._ends)
            if stages.over:
                break
            if stages.closing is not None:
                self._extend(sequence, stages.closing)
            else:
                yield Step(sequence, token, limits.temperature != 0, self._step)
        self._hold(sequence)
        yield from stages.end()

    def _read(self, inputs: Inputs) -> Running:
        """Prefill a prompt, reusing its longest cached prefix. Raises BadInput if it is empty or too long."""
        if not inputs.ids:
            raise BadInput("the prompt is empty")
        if len(inputs.ids) >= self._most:
            raise BadInput(
                f"the prompt has {len(inputs.ids)} tokens and {self.name} reads at most {self._most}",
                "use fewer or smaller images, or a shorter text",
            )
        found = None
        if self._network.shares_prefixes:
            found = self._prefixes.find(inputs.ids, inputs.images, inputs.images_end)
        if found is not None:
            held, length = found
            cache = self._network.cache(held.rooms, length)
            sequence = Running(inputs.ids[:length], inputs.images, cache, held.rope_delta, None, length)
        else:
            # long texts are prefilled in chunks, which bounds memory; images go with the first chunk
            cache, first = self._network.cache(), max(inputs.images_end, PREFILL_CHUNK)
            watch = None if self._image_scope is None else partial(self._compare, inputs.images, self._image_scope)
            logits, delta = self._network.read(inputs, cache, PREFILL_CHUNK, watch)
            sequence = Running(inputs.ids[:first], inputs.images, cache, delta, logits, 0)
        self._extend(sequence, inputs.ids[len(sequence.ids) :])
        return sequence

    def _compare(self, digests: Sequence[str], images: ImageScope, visual_tokens: Sequence[Any]) -> None:
        """Store the distances of images from the training images, by visual tokens that are computed in any case."""
        if self.abilities.scope is not None:
            for digest, tokens in zip(digests, visual_tokens, strict=True):
                self.abilities.scope.seen.keep(digest, images.distances(tokens))

    def _step(self, steps: Sequence[Step]) -> None:
        """Append a token to each of several sequences: as one batch, then those with `alone` one by one."""
        together = [step for step in steps if not step.alone]
        for group in (together, *([step] for step in steps if step.alone)):
            if group:
                sequences = [step.sequence for step in group]
                found = self._network.append(
                    [step.token for step in group],
                    [each.position for each in sequences],
                    [each.cache for each in sequences],
                )
                for step, logits in zip(group, found, strict=True):
                    step.sequence.ids, step.sequence.logits = [*step.sequence.ids, step.token], logits

    def _extend(self, sequence: Running, ids: list[int], keep: int = 1) -> Logits:
        """Append tokens; -> (kept, vocabulary) logits, of the last one, or with keep=0 of all."""
        parts = []
        for start in range(0, len(ids), PREFILL_CHUNK):
            piece = ids[start : start + PREFILL_CHUNK]
            if len(piece) == 1:
                parts += self._network.append(piece, [sequence.position], [sequence.cache])
            else:
                parts.append(self._network.extend(piece, sequence.position, sequence.cache, keep))
            sequence.ids = [*sequence.ids, *piece]
        if not parts:
            return sequence.logits
        logits = parts[-1] if keep else self._network.joined(parts)
        sequence.logits = logits[-1:]
        return logits

    def _hold(self, sequence: Running, passing: bool = False) -> None:
        if self._network.shares_prefixes:
            ids, rooms = tuple(sequence.ids), sequence.cache.rooms
            self._prefixes.keep(Computed(ids, sequence.images, rooms, sequence.rope_delta, passing))


# --- in the child of `ModelProcess` -----------------------------------------------------------------------------------


def serve(descriptor: int, given: tuple[str, float | None]) -> None:
    """Run one model's calls, received from a pipe, and send their events back through it, until it closes."""
    connection: Connection[Any, Any] = Connection(descriptor)
    sending = threading.Lock()
    model = LocalModel.load(given[0], prefix_cache_mib=given[1])
    jobs: dict[int, Job] = {}

    def send(number: int, items: list[Any], ended: bool) -> None:
        with sending:
            connection.send((number, items, ended))
        if ended:
            jobs.pop(number, None)

    if (scope := model.abilities.scope) is not None:
        scope.seen.on_keep = lambda digest, distances: send(SEEN, [digest, distances], False)
    send(READY, [], False)
    try:
        while True:
            number, name, arguments = connection.recv()
            if name == "stop":
                break
            if name == "forget":
                model.forget()
            elif name is None:
                if job := jobs.get(number):
                    job.cancelled = True
            else:
                jobs[number] = job = Job(model.steps(name, *arguments), partial(send, number))
                model.engine.take(job)
    except (EOFError, KeyboardInterrupt):
        pass
    finally:
        model.engine.stop()
