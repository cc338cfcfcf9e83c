"""Number of calls and generators between the route of a chat completion and the model's server."""

from __future__ import annotations

import asyncio
import inspect
import sys
from types import FrameType
from typing import Any

import pytest
from gateways import COUNT, DESCRIBE, gateway

from cuecard.gateway.tables import Prices
from cuecard.models.openai import OpenAIModel
from cuecard.models.openai.http import HttpResponse
from cuecard.models.pool import Breaker, Pool, Replica
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion

MOST_HOPS, MOST_GENERATORS = 8, 4
ASYNC_GENERATOR = inspect.CO_ASYNC_GENERATOR


def frames_of_cuecard(frame: FrameType | None) -> list[FrameType]:
    """Stack frames of the package, innermost first."""
    found = []
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("cuecard."):
            found.append(frame)
        frame = frame.f_back
    return found


@pytest.mark.parametrize("stream", [False, True])
async def test_few_hops_lead_from_the_route_to_the_pool(stream: bool) -> None:
    stacks: list[list[FrameType]] = []

    def says(prompt: Prompt) -> Says:
        stacks.append(frames_of_cuecard(sys._getframe()))
        return Says("3")

    pools = {role: Pool([Replica(ScriptedModel(role, says), Breaker(lambda: 0.0))]) for role in ("small", "large")}
    asked = {"model": "cuecard/short", "messages": [{"role": "user", "content": COUNT}], "stream": stream}
    async with gateway(pools) as client:
        answer = await client.chat.completions.create(**asked)
        assert not stream or [event async for event in answer]
    route = "streaming._write" if stream else "endpoints.Endpoints.answer"
    (stack,) = stacks
    names = [f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}" for frame in stack]
    pool = names.index("cuecard.models.pool.Pool.stream")
    assert names.index(f"cuecard.gateway.{route}") - pool <= MOST_HOPS, names


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
PRICES = {role: Prices(prompt=1, completion=1) for role in ("small", "large")}
ROUTES: dict[str, dict[str, Any]] = {
    "short": {"model": "cuecard/short"},
    "mutual": {"model": "cuecard/mutual"},
    "transfer": {"model": "cuecard/transfer", "messages": [{"role": "user", "content": DESCRIBE}]},
    "reason": {"model": "cuecard/reason"},
    "tools": {"tools": [TOOL]},
    "JSON": {"response_format": {"type": "json_object"}},
    "passed on": {"tools": [{"type": "custom", "custom": {"name": "look"}}]},
    "limited cost": {"extra_body": {"cuecard": {"max_cost": 1.0}}},
}
ANSWERS = {"tools": '{"answer": "3"}', "JSON": '{"cats": 3}'}


@pytest.mark.parametrize("name", ROUTES)
async def test_a_stream_passes_through_few_generators(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts on the stack of `HttpResponse.read`, which holds all async generators of the call."""
    stacks: list[list[str]] = []
    read = HttpResponse.read

    async def counted(response: HttpResponse) -> bytes:
        frames = [frame for frame in frames_of_cuecard(sys._getframe()) if frame.f_code.co_flags & ASYNC_GENERATOR]
        stacks.append([frame.f_code.co_qualname for frame in frames])
        return await read(response)

    monkeypatch.setattr(HttpResponse, "read", counted)
    asked = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}]} | ROUTES[name]
    answer = ANSWERS.get(name, "3")
    async with MockServer([Completion(answer, "Three cats.")], models=["small", "large"]) as url:
        clock = asyncio.get_running_loop().time
        pools = {role: Pool([Replica(OpenAIModel(url, role), Breaker(clock))]) for role in ("small", "large")}
        async with gateway(pools, prices=PRICES, pass_to="large") as client:
            assert [event async for event in await client.chat.completions.create(**asked, stream=True)]
    assert stacks
    deepest = max(stacks, key=len)
    assert len(deepest) <= MOST_GENERATORS, deepest
