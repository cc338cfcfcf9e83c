"""A client disconnects at any moment: requests to the servers close within 100 ms, and nothing keeps running."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from gateways import COUNT, gateway

from cuecard.models.openai import OpenAIModel
from cuecard.models.pool import Breaker, Pool, Replica
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, Received, Reply

ASKED: dict[str, Any] = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}]}
THOUGHT = "One cat, two cats, three."
CLOSED_S = 0.1


def says(short: str, reasoned: str) -> Any:
    """A script for a server: `short` to short prompts, THOUGHT and `reasoned` to prompts to reason or to read."""

    def script(request: Received) -> Reply:
        messages = str(request.body["messages"])
        later = "step by step" in messages or THOUGHT in messages
        return Completion(reasoned, THOUGHT, delay_s=0.03) if later else Completion(short, delay_s=0.03)

    return script


class Servers:
    """Both servers and their pools."""

    def __init__(self) -> None:
        self.scripts = {"small": says("2", "4"), "large": says("5", "3")}
        self.mocks = {role: MockServer(script, models=[role]) for role, script in self.scripts.items()}
        self.pools: dict[str, Any] = {}

    @property
    def running(self) -> int:
        return sum(replica.running for pool in self.pools.values() for replica in pool.replicas)

    async def idle(self) -> float:
        """Wait until no call runs; returns the seconds waited."""
        clock = asyncio.get_running_loop().time
        began = clock()
        while self.running:  # noqa: ASYNC110 - a pool has no event for it
            await asyncio.sleep(0.002)
        return clock() - began


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Servers, httpx2.AsyncClient]]:
    servers, clock = Servers(), asyncio.get_running_loop().time
    async with servers.mocks["small"] as small, servers.mocks["large"] as large:
        for role, url in (("small", small), ("large", large)):
            servers.pools[role] = Pool([Replica(OpenAIModel(url, role, family="plain"), Breaker(clock))])
        async with gateway(servers.pools) as client, httpx2.AsyncClient(base_url=str(client.base_url)) as plain:
            yield servers, plain


async def events_until(plain: httpx2.AsyncClient, most: int) -> int:
    """Disconnect after at most `most` events of a stream; returns the number of received events."""
    heard = 0
    async with plain.stream("POST", "chat/completions", json=ASKED | {"stream": True}) as answer:
        async for line in answer.aiter_lines():
            heard += line.startswith("data:")
            if heard >= most:
                break
    return heard


async def test_a_client_may_leave_after_any_event_of_a_stream():
    async with served() as (servers, plain):
        whole = await events_until(plain, 10**6)
        assert whole > 6  # role, some pieces of reasoning, answer, finish reason, the end
        took_s = []
        for most in range(1, whole):
            assert await events_until(plain, most) == most
            async with asyncio.timeout(5):
                took_s.append(await servers.idle())
        assert statistics.median(took_s) < CLOSED_S
        assert (await plain.post("chat/completions", json=ASKED)).json()["choices"][0]["message"]["content"] == "3"


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_when_the_client_leaves_both_servers_are_hung_up_on_at_once(stream):
    async with served() as (servers, plain):
        took_s = []
        for after_s in (0.02, 0.02, 0.02, 0.1, 0.2, 0.3):
            calls_before = [len(mock.received) for mock in servers.mocks.values()]
            asking = asyncio.create_task(plain.post("chat/completions", json=ASKED | {"stream": stream}))
            while [len(mock.received) for mock in servers.mocks.values()] == calls_before:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            await asyncio.sleep(after_s)
            assert not asking.done()
            asking.cancel()
            await asyncio.wait([asking])
            async with asyncio.timeout(5):
                took_s.append(await servers.idle())
        assert statistics.median(took_s) < CLOSED_S
        # the servers have noticed the disconnect, too
        cut = [request for mock in servers.mocks.values() for request in mock.received if request.gone.is_set()]
        assert len(cut) >= len(took_s)
