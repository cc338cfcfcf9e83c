"""A profile of models behind servers: every point of a grid under its load, in rounds, stored as readings."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from PIL import Image as PilImage

from cuecard.domain.call import Usage
from cuecard.domain.errors import BadInput, BrokenStream, Unsupported
from cuecard.domain.question import Image
from cuecard.latency.readings import Point, ProfileConfig, Reading, Readings
from cuecard.latency.rounds import Case, ProfileEnd, ProfileProgress, RoundLimits, Rounds
from cuecard.latency.server_requests import TimedClient, closed_loop, open_loop, reading_of, undisturbed
from cuecard.models.openai.call import LOSSES
from cuecard.models.openai.client import KEY_HINT
from cuecard.models.openai.connection import Connection
from cuecard.models.spec import Served

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
LEAST_REQUESTS = 8
_ENOUGH = 4
"""Output tokens of the handshake, so that a stream differs from a reply in one piece."""


@dataclass(frozen=True)
class ServerProfile(RoundLimits):
    """The settings of a profile. Without `rate` the loop is closed; with it, `concurrency` limits open requests."""

    models: Sequence[Served]
    output_tokens: tuple[int, ...]
    image_px: tuple[int | None, ...]
    text_tokens: tuple[int, ...] = (48,)
    rate: tuple[float | None, ...] = (None,)
    concurrency: tuple[int | None, ...] = (1,)
    requests: int = LEAST_REQUESTS
    """Per point and round."""
    ignore_eos: bool = True
    fresh: bool = True
    """Each prompt is new to the server; else the same one is repeated."""
    limit_s: float = 300.0
    """Timeout of one request."""
    api_key: str | None = None
    chance: Random = field(default_factory=Random)

    def as_dict(self) -> dict[str, Any]:
        """The grid, for `profile.json`."""
        names = ("output_tokens", "image_px", "text_tokens", "rate", "concurrency")
        return {name: list(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class ServedModel:
    """A model behind a server, as found by the handshake. `prompt_tokens`: by image size and words."""

    served: Served
    url: str
    """Without user and password."""
    prompt_tokens: Mapping[tuple[int | None, int], int]
    refused: frozenset[str]

    @property
    def notes(self) -> tuple[str, ...]:
        """Effects of the parameters that the server refuses."""
        return tuple(f"{self.served.name}: the server refuses {key}: {LOSSES[key]}" for key in sorted(self.refused))

    def visual(self, image_px: int | None, words: int) -> int:
        """Visual tokens: prompt tokens with the image minus those of the same words without it."""
        return max(0, self.prompt_tokens[image_px, words] - self.prompt_tokens[None, words])


@dataclass(frozen=True)
class ServerCase(Case):
    """One point of one model; the server counts the prompt."""

    model: ServedModel
    client: TimedClient
    words: int

    def bodies(self, count: int, wish: ServerProfile) -> list[bytes]:
        """Request bodies, encoded before timing starts: each prompt new, or one repeated."""
        if wish.fresh:
            return [self._body(Random(wish.chance.random())) for _ in range(count)]
        return [self._body(Random(str(self.key[1])))] * count

    def _body(self, chance: Random) -> bytes:
        name, point = self.key
        output, eos = point.output_tokens or 1, bool(point.ignore_eos)
        request = body(name, point.image_px, self.words, output, chance, ignore_eos=eos)
        return json.dumps(without(request, self.model.refused)).encode()


async def profile(
    wish: ServerProfile, out: Path, machine: Mapping[str, Any], say: Callable[[ProfileProgress], None]
) -> ProfileEnd:
    """Measure until every mean is precise enough or a limit is reached. Raises BadInput, ModelError, CannotStore."""
    names = [served.name for served in wish.models]
    if len(set(names)) < len(names):
        raise BadInput("two models have the same name", "profile them into two directories")
    async with AsyncExitStack() as held:
        models = [await handshake(served, wish) for served in wish.models]
        cases: list[ServerCase] = []
        for model in models:
            client = TimedClient(model.served.base_url, wish.api_key, wish.limit_s, model.url)
            held.push_async_callback(client.aclose)
            cases += _cases(wish, model, client)
        with Readings(out, _config(wish, models, machine)) as store:
            return await ServerMeasurement(wish, store, cases, say).all()


def _config(wish: ServerProfile, models: Sequence[ServedModel], machine: Mapping[str, Any]) -> ProfileConfig:
    config = {
        "source": "server",
        "models": {model.served.name: {"url": model.url} for model in models},
        "grid": wish.as_dict(),
        "requests": wish.requests,
        "ignore_eos": wish.ignore_eos,
        "prompts": "fresh" if wish.fresh else "cached",
    }
    return ProfileConfig(config, {"machine": machine, "date": machine["date"]})


def _cases(wish: ServerProfile, model: ServedModel, client: TimedClient) -> Iterator[ServerCase]:
    factors = product(wish.image_px, wish.text_tokens, wish.rate, wish.concurrency, wish.output_tokens)
    for px, words, rate, at_once, output in factors:
        point = Point(
            image_px=px,
            visual_tokens=model.visual(px, words),
            prompt_tokens=model.prompt_tokens[px, words],
            cached_tokens=0 if wish.fresh else None,
            output_tokens=output,
            concurrency=at_once,
            rate=rate,
            ignore_eos=wish.ignore_eos,
        )
        size = "no image" if px is None else f"{px} px"
        load = f"{rate:g}/s" if rate is not None else f"{at_once} at once"
        described = f"{model.served.name}, {size}, {output} to write, {load}"
        yield ServerCase((model.served.name, point), described, model, client, words)


async def handshake(served: Served, wish: ServerProfile) -> ServedModel:
    """Send one request for every image size and number of words. Raises BadInput, ModelError.

    It finds out whether the server streams and counts, what it refuses, and how long prompts are.
    """
    connection = Connection(served.base_url, served.name, wish.api_key, wish.limit_s, KEY_HINT)
    try:
        counted: dict[tuple[int | None, int], int] = {}
        for size in dict.fromkeys((None, *wish.image_px)):
            for count in wish.text_tokens:
                request = body(served.name, size, count, _ENOUGH, Random(0), ignore_eos=wish.ignore_eos)
                usage = await _usage(connection, request, wish.limit_s)
                if usage.prompt_tokens is None or usage.completion_tokens is None:
                    raise Unsupported(
                        f"{connection.url} streams without telling how many tokens it read and wrote",
                        "a server that heeds stream_options.include_usage is needed",
                    )
                counted[size, count] = usage.prompt_tokens
        return ServedModel(served, connection.url, counted, connection.refused)
    finally:
        await connection.aclose()


async def _usage(connection: Connection, request: dict[str, Any], limit_s: float) -> Usage:
    """The server's token counts of one request."""
    usage = Usage()
    deadline = asyncio.get_running_loop().time() + limit_s
    try:
        async with aclosing(connection.chunks(lambda refused: without(request, refused), deadline)) as chunks:
            async for chunk in chunks:
                usage = chunk.usage or usage
    except BrokenStream as error:
        raise Unsupported(
            f"{connection.url} does not stream: {error.message}", "a server that streams is needed"
        ) from error
    return usage


class ServerMeasurement:
    """The measurement rounds over all cases."""

    def __init__(
        self, wish: ServerProfile, store: Readings, cases: Sequence[ServerCase], say: Callable[[ProfileProgress], None]
    ) -> None:
        self._wish, self._store, self._cases = wish, store, cases
        self._rounds = Rounds(cases, store, wish, say, wish.requests)
        self._failures: list[str] = []
        self._short = False

    async def all(self) -> ProfileEnd:
        """Measure all rounds. Each case starts with one warm-up request per slot, which also fills the cache."""
        clock = asyncio.get_running_loop().time
        for case, round in self._rounds:
            if self._rounds.is_cold(case):
                await self._load(case, round, min(self._wish.requests, case.key[1].concurrency or 1), warmup=True)
            begun = clock()
            latencies_s = await self._load(case, round, self._wish.requests, warmup=False)
            self._rounds.add(case, fmean(latencies_s), clock() - begun)
        return self._rounds.end(self._notes())

    def _notes(self) -> Iterator[str]:
        yield from dict.fromkeys(note for case in self._cases for note in case.model.notes)
        if self._failures:
            yield f"{len(self._failures)} requests failed, the first with: {self._failures[0]}"
        if self._short:
            yield "answers are shorter than asked for: the server does not heed ignore_eos"

    async def _load(self, case: ServerCase, round: int, count: int, *, warmup: bool) -> list[float]:
        """Latencies of successful requests. Raises the first error if all failed; an interrupted load is not stored."""
        bodies, (name, point) = case.bodies(count, self._wish), case.key
        ask, chance = case.client.ask, self._wish.chance
        with undisturbed():
            start = asyncio.get_running_loop().time()
            if point.rate is None or warmup:
                seen = await closed_loop(bodies, point.concurrency or 1, ask)
            else:
                seen = await open_loop(bodies, point.rate, point.concurrency, chance, ask)
        blank = Reading(name, "server", round, 0, warmup, point, {}, 0.0)
        made = [reading_of(blank, raw, start, case.client.translated) for raw in seen]
        failed = [raw.error for raw in seen if raw.error is not None]
        if len(failed) == len(seen):
            raise failed[0]
        self._failures += map(str, failed)
        if point.ignore_eos and point.output_tokens:
            self._short |= any(
                each.observed.get("output_tokens", point.output_tokens) < point.output_tokens for each in made
            )
        for reading in made:
            self._store.append(replace(reading, position=self._store.count()))
        return [reading.latency_s for reading in made if reading.error is None]


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
    return Image(file.getvalue()).data_url
