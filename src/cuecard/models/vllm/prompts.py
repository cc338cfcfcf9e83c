"""Prompts and limits as vLLM takes them: token ids with images, sampling parameters, and prompts that grow.

A growing prompt lets a card be prefilled piece by piece while another model writes it. Its session is one request to
vLLM with streamed input (`vllm.engine.protocol.StreamingInput`). Each piece is computed and one token sampled, which
vLLM discards when the next piece comes. The last piece comes with the answer's sampling. A piece is sent only when the
one before it is computed: two at once may corrupt a session (vllm-project/vllm, issue 42490), and their outputs would
be merged. The caller keeps its length below the model's maximum, beyond which vLLM fails (issue 42489).
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from cuecard.answers.kinds import KINDS
from cuecard.answers.schemas import ANY_OBJECT
from cuecard.domain.call import AnswerToken, Mode
from cuecard.domain.errors import BadInput, BrokenStream, Unsupported, one_line
from cuecard.models.base import CallLimits
from cuecard.models.images.images import opened
from cuecard.models.local.network import render, tokenized
from cuecard.models.prompt import Prompt

PromptInput = Mapping[str, Any]
"""A prompt as vLLM's renderer returns it: `prompt_token_ids`, in which each image has all of its tokens."""


class VllmPrompts:
    """Converts prompts to vLLM's inputs. Token ids have one placeholder for each image."""

    def __init__(self, name: str, tokenizer: Any, most: int, *, sees_images: bool) -> None:
        """`most`: maximum tokens of a sequence. Raises BadInput without a chat template."""
        if not tokenizer.chat_template:
            raise BadInput(f"{name} has no chat template", "use an instruction-tuned model")
        self.tokenizer, self.most = tokenizer, most
        self._name, self._sees_images = name, sees_images

    def ids(self, prompt: Prompt) -> list[int]:
        """Raises Unsupported for images that the model cannot take."""
        if prompt.images and not self._sees_images:
            raise Unsupported(f"{self._name} is a language model and cannot see images")
        return tokenized(self.tokenizer, render(self.tokenizer, prompt, parts=self._sees_images))

    async def rendered(self, engine: Any, prompt: Prompt, ids: Sequence[int]) -> PromptInput:
        """The engine's input for these ids and the prompt's images. Raises BadInput if it is empty or too long."""
        # a copy: vLLM appends to the list that it is given (vllm-project/vllm, issue 54215)
        asked: dict[str, Any] = {"prompt_token_ids": list(ids)}
        if prompt.images:
            asked["multi_modal_data"] = {"image": [opened(image) for image in prompt.images]}
            asked["multi_modal_uuids"] = {"image": [image.digest for image in prompt.images]}
        if not asked["prompt_token_ids"]:
            raise BadInput("the prompt is empty")
        self.check_length(len(ids))
        try:
            [found] = await engine.renderer.render_cmpl_async([asked])
        except ValueError as error:
            raise BadInput(f"{self._name} cannot take this prompt: {one_line(error)}") from error
        self.check_length(len(found["prompt_token_ids"]))
        return dict(found)

    def check_length(self, tokens: int) -> None:
        """Raises BadInput for a prompt that leaves no room for an answer."""
        if tokens >= self.most:
            raise BadInput(
                f"the prompt has {tokens} tokens and {self._name} reads at most {self.most}",
                "use fewer or smaller images, or a shorter text, or raise max_len",
            )


def sampling(limits: CallLimits, prompt: Prompt, max_tokens: int) -> Any:
    """vLLM's SamplingParams of a call. Raises BadInput if vLLM refuses the limits or the schema."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    extras = limits.extras
    given: dict[str, Any] = dict(extras.sampling)
    if prompt.mode is Mode.REASON or not prompt.is_brief:
        given |= dict(extras.penalties)
    if "top_k" in given:
        given["top_k"] = int(given["top_k"])
    try:
        return SamplingParams(
            **given,
            max_tokens=max_tokens,
            temperature=limits.temperature,
            top_p=limits.top_p,
            seed=limits.seed,
            logit_bias={int(token): bias for token, bias in extras.logit_bias} or None,
            logprobs=extras.top_logprobs or 0,
            structured_outputs=_structured(prompt),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
    except (ValueError, TypeError) as error:
        raise BadInput(f"vLLM cannot decode with these limits: {one_line(error)}") from error


def is_structured(prompt: Prompt) -> bool:
    """Whether the answer is decoded under a grammar, which a streamed prompt cannot have."""
    return prompt.constrained or prompt.schema is not None


def _structured(prompt: Prompt) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    if prompt.schema is not None:
        if prompt.schema == ANY_OBJECT:
            return StructuredOutputsParams(json_object=True)
        return StructuredOutputsParams(json=json.loads(prompt.schema))
    if prompt.constrained and prompt.question is not None:
        grammar = KINDS[prompt.question.kind].grammar
        assert grammar is not None
        return StructuredOutputsParams(regex=grammar(prompt.question).regex)
    return None


def generated(output: Any, tokenizer: Any, *, shown: bool) -> list[tuple[int, float, bool, AnswerToken | None]]:
    """The new tokens of a RequestOutput: id, log probability, whether it ends the turn, and, if `shown`, as a value."""
    [made] = output.outputs
    if made.finish_reason in ("abort", "error"):
        raise BrokenStream(f"vLLM gave the answer up ({made.finish_reason})")
    last, ended = len(made.token_ids) - 1, made.finish_reason == "stop"
    found = []
    for place, (token, likely) in enumerate(zip(made.token_ids, made.logprobs or (), strict=True)):
        value = _answer_token(token, likely, tokenizer) if shown else None
        found.append((token, min(0.0, likely[token].logprob), ended and place == last, value))
    return found


def _answer_token(token: int, likely: Mapping[int, Any], tokenizer: Any) -> AnswerToken:
    def alone(each: int) -> AnswerToken:
        return AnswerToken(tokenizer.decode([each]), min(0.0, likely[each].logprob))

    best = sorted(likely, key=lambda each: -likely[each].logprob)
    own = alone(token)
    return AnswerToken(own.text, own.logprob, None, tuple(alone(each) for each in best))


# --- prompts that grow ------------------------------------------------------------------------------------------------

IDLE_S = 10.0
"""Seconds after which an unused session is dropped: its reader may never come, and it occupies KV cache until then."""
MOST_SESSIONS = 8
Images = tuple[str, ...]
_numbers = itertools.count(1)


class CardSession:
    """One streamed prompt. `ids`: sent so far, with one placeholder for each image; `tokens`: with all image tokens."""

    def __init__(self, engine: Any, images: Images) -> None:
        self.images, self.ids, self.tokens = images, tuple[int, ...](), 0
        self.lock = asyncio.Lock()
        self._inbox = asyncio.Queue[Any]()
        self.engine = engine
        self._outputs: AsyncGenerator[Any] | None = None
        self.used = 0

    def holds(self, ids: Sequence[int], images: Images) -> bool:
        """Whether the session is a beginning of this prompt."""
        return self.images == images and self.ids == tuple(ids[: len(self.ids)])

    async def piece(self, given: Any, params: Any, ids: Sequence[int]) -> None:
        """Compute a piece of the prompt, which then consists of `ids`."""
        async with self.lock:
            async for _ in self._sent(given, params, ids, last=False):
                pass

    async def answer(self, given: Any, params: Any, ids: Sequence[int]) -> AsyncGenerator[Any]:
        """vLLM's outputs for the last piece of the prompt, which then consists of `ids`."""
        async with self.lock, aclosing(self._sent(given, params, ids, last=True)) as outputs:
            async for output in outputs:
                yield output

    async def aclose(self) -> None:
        """Abort the request, once its piece is computed, unless it has ended."""
        async with self.lock:
            if self._outputs is not None:
                await self._outputs.aclose()

    async def _sent(self, given: Any, params: Any, ids: Sequence[int], *, last: bool) -> AsyncGenerator[Any]:
        from vllm.engine.protocol import StreamingInput

        self.ids, self.tokens = tuple(ids), self.tokens + len(given["prompt_token_ids"])
        self._inbox.put_nowait(StreamingInput(given, params))
        if last:
            self._inbox.put_nowait(None)
        if self._outputs is None:
            self._outputs = self.engine.generate(self._inputs(), params, f"card-{next(_numbers)}")
        async for output in _until_finished(self._outputs):
            yield output

    async def _inputs(self) -> AsyncGenerator[Any]:
        while (item := await self._inbox.get()) is not None:
            yield item


async def _until_finished(outputs: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    """The outputs of one piece, without closing the request after it."""
    while True:
        try:
            output = await anext(outputs)
        except StopAsyncIteration:
            return
        yield output
        if output.outputs and output.outputs[0].finish_reason is not None:
            return


class CardSessions:
    """The open sessions of an engine, oldest first. Used on the engine's loop only."""

    def __init__(self, most: int, most_tokens: int | None) -> None:
        """`most_tokens`: maximum tokens of all sessions together, so that other calls find room in the KV cache."""
        self._most, self._most_tokens = most, most_tokens
        self._open: list[CardSession] = []
        self._closing: set[asyncio.Task[None]] = set()

    def find(self, engine: Any, ids: Sequence[int], images: Images) -> CardSession | None:
        """The longest session of this engine (not of one that died) that is a beginning of this prompt."""
        fitting = [each for each in self._open if each.engine is engine and each.holds(ids, images)]
        return max(fitting, key=lambda each: len(each.ids), default=None)

    def keep(self, session: CardSession) -> None:
        """Add a session, or mark it as used; close the oldest ones beyond the limits, and this one once it is idle."""
        self.drop(session)
        self._open.append(session)
        session.used += 1
        while len(self._open) > self._most or self._is_full():
            self._close(self._open[0])
        self._expire_later(session)

    def drop(self, session: CardSession) -> None:
        """Forget a session, without closing it."""
        self._open = [each for each in self._open if each is not session]

    async def clear(self) -> None:
        """Close every session."""
        sessions, self._open = self._open, []
        for each in sessions:
            await each.aclose()

    def _is_full(self) -> bool:
        most = self._most_tokens
        return most is not None and len(self._open) > 1 and sum(each.tokens for each in self._open) > most

    def _expire_later(self, session: CardSession) -> None:
        asyncio.get_running_loop().call_later(IDLE_S, self._expire, session, session.used)

    def _expire(self, session: CardSession, used: int) -> None:
        if session.used != used or session not in self._open:
            return
        if session.lock.locked():  # a piece takes long to compute
            self._expire_later(session)
        else:
            self._close(session)

    def _close(self, session: CardSession) -> None:
        self.drop(session)
        task = asyncio.get_running_loop().create_task(session.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
