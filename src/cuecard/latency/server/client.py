"""Timed requests to a server: request bodies of a given size, bytes with arrival times, closed and open loops."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from typing import Any

from PIL import Image as PilImage

from cuecard.domain.errors import ModelError
from cuecard.models.openai.errors import ErrorMapper
from cuecard.models.openai.http import HttpClient

PATH = "/chat/completions"
_DONE = b"data: [DONE]"
_WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work government number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house service friend father power
hour game line end member law car city name team minute idea body back parent face level office door
"""
WORDS = tuple(_WORDS.split())
"""Common words, one token each in most tokenizers."""
AHEAD = 8
"""Number of words before the image; if they are drawn again, nothing after them is cached."""
_CELLS = 16


@dataclass
class Raw:
    """One request as observed. Times are on the event loop's monotonic clock."""

    due_s: float
    """Scheduled time of sending; from then to `sent_s` the request waits at the client."""
    sent_s: float
    head_s: float | None = None
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    """Chunks as received, each with its time."""
    end_s: float | None = None
    """Time of the end of the stream, or of the failure."""
    error: ModelError | None = None


Ask = Callable[[bytes, float | None], Awaitable[Raw]]


class TimedClient:
    """Timed requests to one server. Replacing an idle connection is part of the measured time."""

    def __init__(self, base_url: str, api_key: str | None, limit_s: float, shown: str | None = None) -> None:
        """`shown`: the address in errors, if `base_url` contains a password."""
        self._faults, self._limit_s = ErrorMapper(shown or base_url, secrets=(api_key,) if api_key else ()), limit_s
        self._server = HttpClient(base_url, api_key, None)

    async def ask(self, body: bytes, due_s: float | None = None) -> Raw:
        """Send, and read to the end. A failure is stored in `error`; only cancellation raises."""
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
        """Map an error to a ModelError, without the key, which some servers repeat when they refuse it."""
        return self._faults.translated(error, begun=begun)

    async def aclose(self) -> None:
        await self._server.aclose()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Collect garbage beforehand, and disable collection while requests are timed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def closed_loop(bodies: Sequence[bytes], at_once: int, ask: Ask) -> list[Raw]:
    """Send the bodies, `at_once` at a time, and return in their order. A request is due when it is sent."""
    left = iter(enumerate(bodies))
    answers: dict[int, Raw] = {}

    async def one_after_another() -> None:
        for number, body in left:
            answers[number] = await ask(body, None)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(bodies))):
            group.create_task(one_after_another())
    return [answers[number] for number in sorted(answers)]


async def open_loop(bodies: Sequence[bytes], rate: float, at_once: int | None, chance: Random, ask: Ask) -> list[Raw]:
    """Send at the arrivals of a Poisson process; beyond `at_once` open requests, due ones wait at the client."""
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


# --- bodies -----------------------------------------------------------------------------------------------------------


def body(
    model: str, image_px: int | None, words: int, output_tokens: int, chance: Random, *, ignore_eos: bool
) -> dict[str, Any]:
    """A streamed request: words, a square image with this many pixels a side, and the rest of the words."""
    drawn = chance.choices(WORDS, k=words)
    content: list[dict[str, Any]] = [{"type": "text", "text": " ".join(drawn[:AHEAD])}]
    if image_px is not None:
        content.append({"type": "image_url", "image_url": {"url": picture(image_px, chance)}})
    if drawn[AHEAD:]:
        content.append({"type": "text", "text": " ".join(drawn[AHEAD:])})
    text_only = image_px is None  # not every server accepts content parts
    message = {"role": "user", "content": " ".join(drawn) if text_only else content}
    asked = {
        "model": model,
        "messages": [message],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": output_tokens,
        "temperature": 0.0,
    }
    return {**asked, "ignore_eos": True, "min_tokens": output_tokens} if ignore_eos else asked


def without(asked: dict[str, Any], refused: Iterable[str]) -> dict[str, Any]:
    """The request without refused parameters; if `max_tokens` is refused, its newer name is used."""
    left = {key: value for key, value in asked.items() if key not in refused}
    if "continuous_usage_stats" in refused and "stream_options" in left:
        left["stream_options"] = {"include_usage": True}
    if "max_tokens" in refused:
        left["max_completion_tokens"] = asked["max_tokens"]
    return left


def picture(side: int, chance: Random) -> str:
    """A data URL: coloured cells, a new picture each time, few bytes at any size."""
    cells = PilImage.frombytes("RGB", (_CELLS, _CELLS), chance.randbytes(3 * _CELLS * _CELLS))
    file = io.BytesIO()
    cells.resize((side, side), PilImage.Resampling.NEAREST).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
