"""One timed request: while it runs, bytes are kept with the time of their arrival, and nothing else is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

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


class Client:
    """Timed requests to one server. A connection that has idled for seconds is made anew, inside the measured time."""

    def __init__(self, base_url: str, api_key: str | None, limit_s: float, shown: str | None = None) -> None:
        """`shown`: the address in errors, where `base_url` holds a password."""
        self._faults, self._limit_s = ErrorMapper(shown or base_url, secrets=(api_key,) if api_key else ()), limit_s
        self._server = HttpClient(base_url, api_key, None)

    async def ask(self, body: bytes, due_s: float | None = None) -> Raw:
        """Send, listen to the end. What fails is told in `error`; only cancelling raises."""
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
            raw.error = self.told(error, begun=raw.head_s is not None)
        return raw

    def told(self, error: Exception, *, begun: bool) -> ModelError:
        """The error of ours, without the key, which some servers repeat when they refuse it."""
        return self._faults.translated(error, begun=begun)

    async def aclose(self) -> None:
        await self._server.aclose()
