"""Prompts that grow while vLLM computes them: a card is prefilled piece by piece while another model writes it.

A session is one request to vLLM with streamed input (`vllm.engine.protocol.StreamingInput`). Each piece is computed and
one token sampled, which vLLM discards when the next piece comes. The last piece comes with the answer's sampling.
A piece is sent only when the one before it is computed: two at once may corrupt a session (vllm-project/vllm, issue
42490), and their outputs would be merged. The caller keeps its length below the model's maximum, beyond which vLLM
fails (issue 42489).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

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

    def __init__(self, most: int = MOST_SESSIONS, most_tokens: int | None = None) -> None:
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
