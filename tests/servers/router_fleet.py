"""Routers of other projects, as in deploy/routers, before mock replicas; and what they do with a pair's calls."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as PilImage
from programs import HOME, free_port, running

from cuecard import AnswerKind, Image, Limits, Pair, Policy, Question
from cuecard.domain.errors import ModelError
from cuecard.models.openai.client import OpenAIModel
from cuecard.models.prompt import short
from cuecard.strategies.policy import Acceptance
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, Received, prompt_tokens

RECIPES = Path(__file__).parents[2] / "deploy" / "routers"
ROUTERS: Mapping[str, Sequence[str | Path]] = {
    "vllm-router": [RECIPES / "vllm-router.sh"],
    "sglang-router": [RECIPES / "sglang-router.sh"],
    "envoy": [RECIPES / "envoy.sh"],
    "caddy": ["caddy", "run", "--config", RECIPES / "Caddyfile"],
}
"""The command of each recipe."""
MODELS = ("small", "large")
AT_ONCE = 64
_ASKED = re.compile(r"Answer for line (\d+)\.")
_START_S = 120


@contextmanager
def router(name: str, replicas: Sequence[str], folder: Path, **env: str) -> Iterator[str]:
    """The base URL of a router before replicas (HOST:PORT), all of which it has found."""
    port, metrics, binaries = free_port(), free_port(), HOME / "routers" / "bin"
    settings = {"PORT": str(port), "REPLICAS": " ".join(replicas), "METRICS_PORT": str(metrics), **env}
    path, base = f"{binaries}:{os.environ['PATH']}", f"http://127.0.0.1:{port}"
    log = folder / f"{name}-{port}"
    with running(ROUTERS[name], f"{base}/v1/models", log, _START_S, PATH=path, HOME=str(folder), **settings):
        until = time.monotonic() + _START_S
        while _found(name, base, metrics) not in (None, len(replicas)):
            assert time.monotonic() < until, log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)
        yield f"{base}/v1"


def _found(name: str, base: str, metrics: int) -> int | None:
    """The number of replicas that a router sends calls to; None if it sends calls to all from the start."""
    if name == "sglang-router":
        return sum(bool(worker["is_healthy"]) for worker in json.loads(_page(f"{base}/workers"))["workers"])
    if name == "envoy":
        ring = _page(f"http://127.0.0.1:{metrics}/stats?filter=replicas.ring_hash_lb&format=json")
        sizes = {each["name"].rpartition(".")[2]: each["value"] for each in json.loads(ring)["stats"]}
        return round(sizes["size"] / sizes["max_hashes_per_host"]) if sizes.get("max_hashes_per_host") else 0
    return None


def _page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def _reply(request: Received) -> Completion:
    """The two models never agree, so each question goes through all calls of `mutual`."""
    return Completion("7" if request.body["model"] == MODELS[0] else "8", reasoning="Count the dots of each row. " * 8)


@dataclass(frozen=True)
class Fleet:
    """Mock replicas, each of which serves both models and has a prefix cache, behind a router at `url`."""

    replicas: Sequence[MockServer]
    url: str

    def model(self, name: str) -> OpenAIModel:
        """A model behind the router."""
        given = {"family": "enable_thinking", "prefix_cache": True, "prefill": True, "images": True}
        return OpenAIModel(self.url, name, timeout_s=120, **given)

    def forget(self) -> None:
        """Clear the lists of received requests."""
        for replica in self.replicas:
            replica.received.clear()

    def calls(self) -> dict[tuple[str, str], list[tuple[int, Received]]]:
        """The calls about each question to each model, with the replica of each, in order of arrival."""
        found: dict[tuple[str, str], list[tuple[int, Received]]] = defaultdict(list)
        for at, replica in enumerate(self.replicas):
            for request in replica.received:
                found[_line(request), request.body["model"]].append((at, request))
        return {key: sorted(calls, key=lambda call: call[1].at_s) for key, calls in found.items()}

    def homes(self) -> dict[str, int]:
        """The replica that answered the last call about each question."""
        return {line: calls[-1][0] for (line, _), calls in self.calls().items()}


@asynccontextmanager
async def fleet(name: str, folder: Path, count: int = 4, network: str = "127.0.44", **env: str) -> AsyncIterator[Fleet]:
    """Mock replicas behind a router. Their addresses are fixed, as they decide about shares of hash rings."""
    replicas = [
        MockServer(_reply, models=MODELS, prefix_cache=True, host=f"{network}.{number}", port=8000)
        for number in range(1, count + 1)
    ]
    async with AsyncExitStack() as stack:
        for replica in replicas:
            await stack.enter_async_context(replica)
        opened = router(name, [f"{replica.host}:{replica.port}" for replica in replicas], folder, **env)
        url = await asyncio.to_thread(opened.__enter__)
        stack.push_async_callback(asyncio.to_thread, opened.__exit__, None, None, None)
        yield Fleet(replicas, url)


def question(number: int) -> Question:
    """Two questions have one image, and all begin with the same line."""
    data, red = io.BytesIO(), number // 2
    PilImage.new("RGB", (2, 2), (red % 256, red // 256, 7)).save(data, "PNG")
    text = f"How many dots are there?\nAnswer for line {number}."
    return Question(text, (Image(data.getvalue()),), kind=AnswerKind.NUMBER)


async def ask_pair(fleet: Fleet, count: int) -> None:
    """Each question goes through `mutual`."""
    policy = Policy(accept=Acceptance.parse("agree"), limits=Limits(reasoning_tokens=64))
    models = [fleet.model(name) for name in MODELS]
    async with Pair(*models, strategy="mutual", policy=policy, probe=False) as pair:
        await _all(lambda number: pair.aask(question(number)), count)


async def ask_model(fleet: Fleet, count: int, name: str = "large") -> int:
    """One short call about each question; returns how many failed."""
    model, failed = fleet.model(name), 0

    async def ask(number: int) -> None:
        nonlocal failed
        try:
            async for _ in model.stream(short(question(number), model.abilities.style), Limits()):
                pass
        except ModelError:
            failed += 1

    await _all(ask, count)
    await model.aclose()
    return failed


async def _all(ask: Any, count: int) -> None:
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with room:
            await ask(number)

    await asyncio.gather(*map(one, range(count)))


def on_one_replica(fleet: Fleet) -> float:
    """The share of the calls that went to the most frequent replica of their question and model."""
    groups = fleet.calls().values()
    together = sum(Counter(at for at, _ in calls).most_common(1)[0][1] for calls in groups)
    return together / sum(map(len, groups))


@dataclass(frozen=True)
class Spread:
    """Where questions go before and after the replica with most of them stops; `moved`: the share that moves."""

    hottest: float
    """The most questions on one replica, in shares of one replica."""
    hottest_after_stop: float
    moved: float
    failed: int
    """Calls, before and after."""


async def spread(fleet: Fleet, count: int) -> Spread:
    """Ask questions twice, and stop the replica with most of them in between."""
    fleet.forget()
    failed = await ask_model(fleet, count)
    before = fleet.homes()
    fleet.forget()
    await fleet.replicas[Counter(before.values()).most_common(1)[0][0]].__aexit__(None, None, None)
    failed += await ask_model(fleet, count)
    after, replicas = fleet.homes(), len(fleet.replicas)
    moved = sum(after.get(line) != home for line, home in before.items()) / len(before)
    return Spread(hottest(before, replicas), hottest(after, replicas - 1), moved, failed)


def hottest(homes: Mapping[str, int], count: int) -> float:
    """The most questions on one replica, in shares of 1 / count."""
    return Counter(homes.values()).most_common(1)[0][1] * count / len(homes)


def computed_twice(fleet: Fleet) -> int:
    """Prompt tokens that were computed although another call about the question to this model had computed them."""
    return sum(
        max(0, sum(request.prompt_tokens - request.cached_tokens for _, request in calls) - _least(calls))
        for calls in fleet.calls().values()
    )


def _least(calls: Sequence[tuple[int, Received]]) -> int:
    """The prompt tokens that one replica computes for these calls; of each, at least the last."""
    total, seen = 0, set[tuple[str, ...]]()
    for _, request in calls:
        prompt = tuple(prompt_tokens(request.body, None))
        known = next((size for size in range(len(prompt), 0, -1) if prompt[:size] in seen), 0)
        seen |= {prompt[:size] for size in range(1, len(prompt) + 1)}
        total += len(prompt) - min(known, len(prompt) - 1)
    return total


def _line(request: Received) -> str:
    found = _ASKED.search(json.dumps(request.body["messages"]))
    assert found is not None
    return found[1]
