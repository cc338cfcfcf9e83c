"""Timed requests to a server, in closed and open loops; their bytes as events, readings, and metrics.

Each metric is as its tool defines it: vLLM (`vllm bench serve`) counts events with a choice, with or without text;
guidellm counts events with text. n is the number of tokens in the server's usage.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random
from statistics import fmean, quantiles

from cuecard.answers.reasoning_parser import ReasoningParser, Start, parse
from cuecard.domain.call import Usage
from cuecard.domain.errors import BrokenStream, ModelError
from cuecard.latency import readings
from cuecard.latency.readings import Point, Reading
from cuecard.models.openai.errors import ErrorMapper
from cuecard.models.openai.http import EventStream, HttpClient
from cuecard.models.openai.response_body import Chunk, chunk, objects

PATH = "/chat/completions"
_DONE = b"data: [DONE]"


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


# --- events and metrics -----------------------------------------------------------------------------------------------


REASONING, ANSWER, SILENT = "reasoning", "answer", "silent"
"""Kinds of events with tokens; silent ones have tokens without text: special tokens, partial characters."""
EMPTY, USAGE, DONE = "empty", "usage", "done"
"""A choice without a token (a role, a finish reason); usage only; the end of the stream."""
TOKENS = (REASONING, ANSWER, SILENT)

Event = tuple[float, str, int | None]
"""Seconds since sending, kind, number of tokens (None: not reported)."""

PERCENTILES = (50, 90, 99)
DEFINITIONS: Mapping[str, str] = {
    "queue": "waiting at this client, from the hour of its arrival (open loop) to its sending",
    "TTFT": "from sending to the first event with a token (guidellm)",
    "TTFT, vLLM": "from sending to the first event with a choice, even an empty one",
    "TTFO": "from sending to the first token of the answer, behind the reasoning (guidellm's TTFOT)",
    "TPOT, vLLM": "(E2EL, vLLM - TTFT, vLLM) / (n - 1): without the first token",
    "TPOT, guidellm": "from sending to the last event with a token, / n: with the first token",
    "ITL": "gaps between events with tokens, of all requests together",
    "ITL, vLLM": "gaps between events with a choice, of all requests together",
    "ITL, guidellm": "from the first event with a token to the last one, / (n - 1): one value a request",
    "E2EL": "from sending to the end of the stream (guidellm's request latency)",
    "E2EL, vLLM": "from sending to the last event with a choice",
    "tokens an event": "n / events with tokens, one value a request: above 1, tokens come in bundles",
}
"""All but the last in seconds."""


@dataclass(frozen=True)
class StreamEvents:
    """The events of one stream."""

    events: tuple[Event, ...]
    usage: Usage
    first_answer_s: float | None


def stream_events(raw: Raw) -> StreamEvents:
    """Parse a stream. Raises StreamError, ValueError, TooLong; BrokenStream if it contains no token."""
    chunks = list(_timed_chunks(raw))
    counts = [each.usage for _, each, _ in chunks if each is not None and each.usage is not None]
    events = _events(chunks)
    if not any(kind in TOKENS for _, kind, _ in events):
        raise BrokenStream("the stream brought no token")
    usage = counts[-1] if counts else Usage()
    return StreamEvents(_counted(events, usage), usage, _first_answer(chunks))


TimedChunk = tuple[float, Chunk | None, bool]
"""Seconds since sending, chunk (None: the end), and whether it has a choice."""


def _timed_chunks(raw: Raw) -> Iterator[TimedChunk]:
    stream = EventStream()
    for at, data in [*raw.chunks, (raw.end_s, b"")]:
        if at is None:
            return
        for sent in stream.take(data) if data else stream.end():
            since = at - raw.sent_s
            if sent.data.startswith("[DONE]"):
                yield since, None, False
                return
            for message in objects(sent.data, sent.kind) if sent.data.strip() else ():
                yield since, chunk(message), bool(message.get("choices"))


def _events(chunks: Sequence[TimedChunk]) -> list[Event]:
    """Events of the chunks; differences of a running count of tokens, if each has one, are the tokens of events."""
    runs = all(each.usage is not None for _, each, choice in chunks if choice and each is not None)
    found: list[Event] = []
    before = 0
    for since, each, choice in chunks:
        if each is None:
            found.append((since, DONE, None))
        elif not choice:
            found.append((since, USAGE, None))
        else:
            count = each.usage.completion_tokens if runs and each.usage is not None else None
            brought = None if count is None else max(0, count - before)
            before = before if count is None else max(before, count)
            silent = SILENT if brought else EMPTY
            found.append((since, REASONING if each.reasoning else ANSWER if each.content else silent, brought))
    return found


def _counted(events: Sequence[Event], usage: Usage) -> tuple[Event, ...]:
    """Without a running count: one token per event if the counts match; the last token may be an end without text."""
    texts = sum(kind in TOKENS for _, kind, _ in events)
    is_counted = any(brought is not None for _, kind, brought in events if kind in TOKENS)
    if is_counted or usage.completion_tokens not in (texts, texts + 1):
        return tuple(events)
    return tuple((since, kind, 1 if kind in TOKENS else None) for since, kind, _ in events)


def _first_answer(chunks: Sequence[TimedChunk]) -> float | None:
    """Time of the first answer token after the reasoning, which is in a field of its own or tagged in the content."""
    texts = [(since, each.content) for since, each, _ in chunks if each is not None and each.content]
    behind_reasoning = bool(parse("".join(text for _, text in texts)).reasoning)
    parser = ReasoningParser(Start.INSIDE if behind_reasoning else Start.OUTSIDE)
    return next((since for since, text in texts if any(not piece.is_reasoning for piece in parser.feed(text))), None)


def reading_of(blank: Reading, raw: Raw, start_s: float, translated: Callable[..., ModelError]) -> Reading:
    """The reading with its times, counts and events; an unreadable stream becomes an error, also stored in `raw`.

    `start_s` is the start of its load.
    """
    assert raw.end_s is not None
    queue, spent = raw.sent_s - raw.due_s, raw.end_s - raw.sent_s
    timed = replace(
        blank,
        parts_s={"queue": queue},
        total_s=queue + spent,
        sent_s=raw.sent_s - start_s,
        head_s=None if raw.head_s is None else raw.head_s - raw.sent_s,
    )
    try:
        if raw.error is not None:
            raise raw.error
        stream = stream_events(raw)
    except Exception as error:
        raw.error = translated(error, begun=True)
        return replace(timed, error=str(raw.error))
    times = [since for since, kind, _ in stream.events if kind in TOKENS]
    counts = {
        "prompt_tokens": stream.usage.prompt_tokens,
        "output_tokens": stream.usage.completion_tokens,
        "cached_tokens": stream.usage.cached_tokens,
    }
    return replace(
        timed,
        parts_s={"queue": queue, "ttft": times[0], "decode": times[-1] - times[0], "tail": spent - times[-1]},
        observed={name: count for name, count in counts.items() if count is not None},
        events=stream.events,
        first_answer_s=stream.first_answer_s,
    )


# --- metrics ----------------------------------------------------------------------------------------------------------


def figures(reading: Reading) -> dict[str, list[float]]:
    """The values of each metric in one request: none, one, or one per gap."""
    events = reading.events or ()
    choices = [since for since, kind, _ in events if kind not in (USAGE, DONE)]
    arrivals = [since for since, kind, _ in events if kind in TOKENS]
    n = reading.observed.get("output_tokens")
    found: dict[str, list[float]] = {"queue": [reading.parts_s.get("queue", 0.0)], "E2EL": [reading.latency_s]}
    if not arrivals:
        return found
    found |= {
        "TTFT": arrivals[:1],
        "TTFT, vLLM": choices[:1],
        "TTFO": [] if reading.first_answer_s is None else [reading.first_answer_s],
        "ITL": [later - earlier for earlier, later in pairwise(arrivals)],
        "ITL, vLLM": [later - earlier for earlier, later in pairwise(choices)],
        "E2EL, vLLM": choices[-1:],
    }
    if n:
        found |= {"TPOT, guidellm": [arrivals[-1] / n], "tokens an event": [n / len(arrivals)]}
    if n and n > 1:
        found["TPOT, vLLM"] = [(choices[-1] - choices[0]) / (n - 1)]
        found["ITL, guidellm"] = [(arrivals[-1] - arrivals[0]) / (n - 1)]
    return found


@dataclass(frozen=True)
class Spread:
    """The distribution of one metric over the readings of a point."""

    mean: float
    percentiles: Mapping[int, float]
    values: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Mean and percentiles, with linear interpolation as in numpy."""
        cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else [*values] * 99
        return cls(fmean(values), {p: cuts[p - 1] for p in PERCENTILES}, len(values))

    def as_dict(self) -> dict[str, float]:
        """Mean and percentiles: `p50`, …"""
        return {"mean": self.mean, **{f"p{p}": value for p, value in self.percentiles.items()}}


@dataclass(frozen=True)
class PointMetrics:
    """Metrics of one point of a model. `output` and `prompt` are the observed mean numbers of tokens."""

    model: str
    point: Point
    requests: int
    failed: int
    prompt: float
    output: float
    cached: float | None
    """None if the server does not report it."""
    metrics: Mapping[str, Spread]

    @property
    def load(self) -> str:
        """`4 at once`, `2/s`, `2/s, 8 at once`."""
        rate, at_once = self.point.rate, self.point.concurrency
        parts = [f"{rate:g}/s"] if rate is not None else []
        return ", ".join(parts + ([f"{at_once} at once"] if at_once is not None else []))


def served(path: Path) -> list[PointMetrics]:
    """Every point of a profile of servers, in the order of their first measurement."""
    own = (each for each in readings.read(path) if each.source == "server" and not each.warmup)
    return [metrics for group in readings.by_point(own) if (metrics := spread(group)) is not None]


def spread(group: Sequence[Reading]) -> PointMetrics | None:
    """Metrics of one point from its readings; None if all failed."""
    good = [reading for reading in group if reading.error is None]
    if not good:
        return None
    values: dict[str, list[float]] = {name: [] for name in DEFINITIONS}
    for reading in good:
        for name, own in figures(reading).items():
            values[name] += own
    if not any(values["queue"]):
        del values["queue"]
    cached = [each for reading in good if (each := reading.observed.get("cached_tokens")) is not None]
    return PointMetrics(
        good[0].model,
        good[0].point,
        len(good),
        len(group) - len(good),
        _mean(good, "prompt_tokens"),
        _mean(good, "output_tokens"),
        fmean(cached) if cached else None,
        {name: Spread.of(own) for name, own in values.items() if own},
    )


def _mean(group: Iterable[Reading], what: str) -> float:
    return fmean(reading.observed.get(what, 0) for reading in group)
