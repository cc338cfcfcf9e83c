"""How long the way of a chat completion is, from its route to a model's server."""

from __future__ import annotations

import inspect
import sys
from types import FrameType

import pytest
from gateways import COUNT, gateway

from cuecard.gateway.upstream.pool import Breaker, Pool, Replica
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel

MOST_HOPS, MOST_GENERATORS = 8, 4


def frames_of_cuecard(frame: FrameType | None) -> list[FrameType]:
    """Frames of the package, the innermost first."""
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
    route = "streaming.StreamedAnswer._write" if stream else "endpoints.Endpoints.answer"
    (stack,) = stacks
    names = [f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}" for frame in stack]
    pool = names.index("cuecard.gateway.upstream.pool.Pool.stream")
    assert names.index(f"cuecard.gateway.{route}") - pool <= MOST_HOPS, names
    assert sum(bool(frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR) for frame in stack) <= MOST_GENERATORS, names
