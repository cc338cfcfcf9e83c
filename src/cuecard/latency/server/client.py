"""Timed requests: bytes with the time of their arrival; closed and open loops of such requests."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random

from cuecard.domain.errors import ModelError
from cuecard.models.openai.errors import ErrorMapper
from cuecard.models.openai.http import HttpClient

PATH = "/chat/completions"
_DONE = b"data: [DONE]"


@dataclass
class Raw:
    """What was seen of one request. Times are those of the event loop's monotonic clock."""

    due_s: float
    """When it was to be sent; what lies between this and `sent_s` is waiting at the client."""
    sent_s: float
    head_s: float | None = None
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    """As they came, each with its time."""
    end_s: float | None = None
    """When the stream's end came, or when it failed."""
    error: ModelError | None = None


Ask = Callable[[bytes, float | None], Awaitable[Raw]]


class TimedClient:
    """Timed requests to one server. A connection that has idled for seconds is made anew, inside the measured time."""

    def __init__(self, base_url: str, api_key: str | None, limit_s: float, shown: str | None = None) -> None:
        """`shown`: the address in errors, where `base_url` holds a password."""
        self._faults, self._limit_s = ErrorMapper(shown or base_url, secrets=(api_key,) if api_key else ()), limit_s
        self._server = HttpClient(base_url, api_key, None)

    async def ask(self, body: bytes, due_s: float | None = None) -> Raw:
        """Send, listen to the end. A failure is kept in `error`; only cancelling raises."""
        clock = asyncio.get_running_loop().time
        sent = clock()
        raw = Raw(sent if due_s is None else due_s, sent)
        try:
            async with asyncio.timeout(self._limit_s):
                answer = await self._server.post(PATH, body)
                raw.head_s = clock()
                try:
                    while data := await answer.read():
                        raw.chunks.append((clock(), data))
                        if b"\n" + _DONE in data or data.startswith(_DONE):
                            break
                    raw.end_s = raw.chunks[-1][0] if data else clock()
                    await answer.settle()
                finally:
                    answer.close()
        except Exception as error:
            raw.end_s = clock()
            raw.error = self.translated(error, begun=raw.head_s is not None)
        return raw

    def translated(self, error: Exception, *, begun: bool) -> ModelError:
        """The error of ours, without the key, which some servers repeat when they refuse it."""
        return self._faults.translated(error, begun=begun)

    async def aclose(self) -> None:
        await self._server.aclose()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Garbage is collected before, and not while others wait to be timed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def closed_loop(bodies: Sequence[bytes], at_once: int, ask: Ask) -> list[Raw]:
    """In the order of the bodies. Nothing waits at the client: a request is due when it is sent."""
    left = iter(enumerate(bodies))
    found: dict[int, Raw] = {}

    async def one_after_another() -> None:
        for number, body in left:
            found[number] = await ask(body, None)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(bodies))):
            group.create_task(one_after_another())
    return [found[number] for number in sorted(found)]


async def open_loop(bodies: Sequence[bytes], rate: float, at_once: int | None, chance: Random, ask: Ask) -> list[Raw]:
    """Arrivals of a Poisson process, whatever the server does; of more than `at_once` the others wait here, due."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    gaps = [chance.expovariate(rate) for _ in bodies]
    slots = nullcontext() if at_once is None else asyncio.Semaphore(at_once)

    async def arriving(body: bytes, due_s: float) -> Raw:
        await asyncio.sleep(due_s - loop.time())
        async with slots:
            return await ask(body, due_s)

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(arriving(body, start + after))
            for body, after in zip(bodies, accumulate(gaps), strict=True)
        ]
    return [task.result() for task in tasks]
