"""A profile of models behind servers: every point of a grid under its load, round after round, into readings."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from cuecard.domain.errors import BadInput
from cuecard.latency import readings
from cuecard.latency.grid import drifts, is_narrow, turned
from cuecard.latency.progress import ProfileEnd, ProfileProgress
from cuecard.latency.readings import Point, ProfileConfig, Reading, Readings
from cuecard.latency.server import prompts
from cuecard.latency.server.client import TimedClient, closed_loop, open_loop, undisturbed
from cuecard.latency.server.events import reading_of
from cuecard.latency.server.handshake import Met, met
from cuecard.models.spec import Served

LEAST_REQUESTS = 8


@dataclass(frozen=True)
class ServerProfile:
    """What a profile is to be. Without a rate the loop is closed; with one, `concurrency` is the most at once."""

    models: Sequence[Served]
    output_tokens: tuple[int, ...]
    image_px: tuple[int | None, ...]
    text_tokens: tuple[int, ...] = (48,)
    rate: tuple[float | None, ...] = (None,)
    concurrency: tuple[int | None, ...] = (1,)
    requests: int = LEAST_REQUESTS
    """Of each point, in each round."""
    ignore_eos: bool = True
    fresh: bool = True
    """Prompts that the server has not seen; else the same one again and again."""
    repeats: int = 12
    precision: float = 0.03
    max_s: float | None = None
    limit_s: float = 300.0
    """Of one request."""
    api_key: str | None = None
    chance: Random = field(default_factory=Random)

    def as_dict(self) -> dict[str, Any]:
        """The grid, for `profile.json`."""
        names = ("output_tokens", "image_px", "text_tokens", "rate", "concurrency")
        return {name: list(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class ServerCase:
    """One point of one model."""

    model: Met
    client: TimedClient
    words: int
    point: Point
    """As asked for; its prompt is counted by the server."""

    def bodies(self, count: int, wish: ServerProfile) -> list[bytes]:
        """Prompts of this point: all anew, or one again and again."""
        if wish.fresh:
            return [self._body(Random(wish.chance.random())) for _ in range(count)]
        return [self._body(Random(str(self.point)))] * count

    def _body(self, chance: Random) -> bytes:
        point, name = self.point, self.model.served.name
        output, eos = point.output_tokens or 1, bool(point.ignore_eos)
        asked = prompts.body(name, point.image_px, self.words, output, chance, ignore_eos=eos)
        return prompts.encoded(prompts.without(asked, self.model.refused))


async def profile(
    wish: ServerProfile, out: Path, machine: Mapping[str, Any], say: Callable[[ProfileProgress], None]
) -> ProfileEnd:
    """Measure until every point is narrow, or a limit is reached. Raises BadInput, ModelError, CannotStore."""
    names = [served.name for served in wish.models]
    if len(set(names)) < len(names):
        raise BadInput("two models have the same name", "profile them into two directories")
    async with AsyncExitStack() as held:
        known = [await met(served, wish.api_key, wish.image_px, wish.text_tokens, wish.limit_s, wish.ignore_eos)
                 for served in wish.models]  # fmt: skip
        cases = []
        for model in known:
            client = TimedClient(model.served.base_url, wish.api_key, wish.limit_s, model.url)
            held.push_async_callback(client.aclose)
            cases += list(_cases(wish, model, client))
        with Readings(out, _asked(wish, known, machine)) as store:
            return await ServerMeasurement(wish, store, cases, say).all()


def _asked(wish: ServerProfile, known: Sequence[Met], machine: Mapping[str, Any]) -> ProfileConfig:
    config = {
        "source": "server",
        "models": {model.served.name: {"url": model.url} for model in known},
        "grid": wish.as_dict(),
        "requests": wish.requests,
        "ignore_eos": wish.ignore_eos,
        "prompts": "fresh" if wish.fresh else "cached",
    }
    return ProfileConfig(config, {"machine": machine, "date": machine["date"]})


def _cases(wish: ServerProfile, model: Met, client: TimedClient) -> Iterator[ServerCase]:
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
        yield ServerCase(model, client, words, point)


class ServerMeasurement:
    """The rounds over all cases."""

    def __init__(
        self, wish: ServerProfile, store: Readings, cases: Sequence[ServerCase], say: Callable[[ProfileProgress], None]
    ) -> None:
        self._wish, self._store, self._cases, self._say = wish, store, cases, say
        self._start_s = asyncio.get_running_loop().time()
        self._means: dict[tuple[str, Point], list[float]] = defaultdict(list)
        """Of each round: readings of one round have shared one load."""
        rounds: dict[tuple[str, Point, int], list[float]] = defaultdict(list)
        for reading in readings.read(store.path):
            if not reading.warmup and reading.error is None:
                rounds[reading.model, reading.point, reading.round].append(_latency_s(reading))
        for (model, point, _), latencies in rounds.items():
            self._means[model, point].append(fmean(latencies))
        self._warm: set[tuple[str, Point]] = set()
        self._cost_s: dict[tuple[str, Point], float] = {}
        self._made = 0
        self._failures: list[str] = []
        self._short = False

    async def all(self) -> ProfileEnd:
        """Round after round, each in the other order, over the points that are not narrow yet."""
        late = False
        for round in range(self._wish.repeats):
            for case in turned(self._cases, round):
                if self._is_narrow(case) or self._done(case, round):
                    continue
                if late := self._left_s() <= 0:
                    break
                self._say(self._progress(case, round))
                await self._measure(case, round)
            if late:
                break
        drift = drifts(replace(each, total_s=_latency_s(each), parts_s={}) for each in readings.read(self._store.path))
        wide = sum(not self._is_narrow(case) for case in self._cases)
        return ProfileEnd(self._made, wide, late, drift, (*self._store.notes, *self._notes()))

    def _notes(self) -> Iterator[str]:
        yield from dict.fromkeys(note for case in self._cases for note in case.model.notes)
        if self._failures:
            yield f"{len(self._failures)} requests failed, the first with: {self._failures[0]}"
        if self._short:
            yield "answers are shorter than asked for: the server does not heed ignore_eos"

    def _left_s(self) -> float:
        spent = asyncio.get_running_loop().time() - self._start_s
        return float("inf") if self._wish.max_s is None else self._wish.max_s - spent

    def _is_narrow(self, case: ServerCase) -> bool:
        return is_narrow(self._means[_key(case)], self._wish.precision)

    def _done(self, case: ServerCase, round: int) -> bool:
        return self._store.done(case.model.served.name, case.point, round, self._wish.requests)

    async def _measure(self, case: ServerCase, round: int) -> None:
        """One load; before the first one of this process a request for each slot, which also fills the cache."""
        if _key(case) not in self._warm:
            await self._load(case, round, min(self._wish.requests, case.point.concurrency or 1), warmup=True)
            self._warm.add(_key(case))
        begun = asyncio.get_running_loop().time()
        latencies = await self._load(case, round, self._wish.requests, warmup=False)
        self._cost_s[_key(case)] = asyncio.get_running_loop().time() - begun
        self._means[_key(case)].append(fmean(latencies))

    async def _load(self, case: ServerCase, round: int, count: int, *, warmup: bool) -> list[float]:
        """Latencies of what went well. Raises the first error if nothing did; nothing is stored of a load cut short."""
        bodies, point = case.bodies(count, self._wish), case.point
        ask, chance = case.client.ask, self._wish.chance
        with undisturbed():
            start = asyncio.get_running_loop().time()
            if point.rate is None or warmup:
                seen = await closed_loop(bodies, point.concurrency or 1, ask)
            else:
                seen = await open_loop(bodies, point.rate, point.concurrency, chance, ask)
        blank = Reading(case.model.served.name, "server", round, 0, warmup, point, {}, 0.0)
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
        self._made += len(made)
        return [_latency_s(reading) for reading in made if reading.error is None]

    def _progress(self, case: ServerCase, round: int) -> ProfileProgress:
        """What is left at most: the rounds of points that are not narrow, each as long as it took last."""
        rounds = {
            _key(each): max(0, self._wish.repeats - len(self._means[_key(each)]))
            for each in self._cases
            if not self._is_narrow(each)
        }
        usual = fmean(self._cost_s.values()) if self._cost_s else 0.0
        seconds = sum(count * self._cost_s.get(key, usual) for key, count in rounds.items())
        point = case.point
        size = "no image" if point.image_px is None else f"{point.image_px} px"
        how = f"{point.rate:g}/s" if point.rate is not None else f"{point.concurrency} at once"
        now = f"round {round + 1}: {case.model.served.name}, {size}, {point.output_tokens} to write, {how}"
        left = self._wish.requests * sum(rounds.values())
        return ProfileProgress(self._made, left, min(seconds, self._left_s()), now)


def _key(case: ServerCase) -> tuple[str, Point]:
    return case.model.served.name, case.point


def _latency_s(reading: Reading) -> float:
    """Without its time at this client."""
    return reading.total_s - reading.parts_s.get("queue", 0.0)
