"""Every fault of a server, of one model or both, streamed or not: the right status and route, and nothing left over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import openai
import pytest
from gateways import COUNT, gateway

from cuecard.gateway.pool import Breaker, Pool, Replica
from cuecard.models.base import Limits
from cuecard.models.mock_server import (
    BadJson,
    Cut,
    ErrorEvent,
    Framing,
    HangUp,
    HttpError,
    MockServer,
    Received,
    Reply,
    Says,
    Stall,
)
from cuecard.models.openai import OpenAIModel
from cuecard.strategies.policy import Acceptance, Policy

pytestmark = pytest.mark.timeout(30)

Script = Reply | str | Callable[[Received], Reply]
THOUGHT = "One cat, two cats, three."
FINE = Says("3", THOUGHT)
POLICY = Policy(accept=Acceptance.parse("agree"), limits=replace(Limits(), timeout_s=0.8))
ASKED: dict[str, Any] = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}]}

FATAL: dict[str, Reply | str] = {
    "nobody listens": "http://127.0.0.1:9/v1",
    "no such host": "http://name.invalid/v1",
    "hangs up": HangUp(),
    "never answers": Stall(),
    "stalls in the midst": Says("3", THOUGHT, after=Stall(1), piece=1),
    "is cut": Says("3", THOUGHT, after=Cut(1), piece=1),
    "is cut cleanly": Says("3", THOUGHT, after=Cut(1, clean=True), piece=1),
    "never ends": Says("3 " * 10**5, THOUGHT, delay_s=0.3),
    "bad JSON": Says("3", THOUGHT, after=BadJson(1), piece=1),
    "an error in the stream": Says("3", THOUGHT, after=ErrorEvent(1), piece=1),
    "a page": HttpError(200, "<html><title>Welcome</title></html>"),
    **{str(status): HttpError(status, {"error": {"message": "no"}}) for status in (400, 401, 404, 408, 429, 500, 503)},
}
HARMLESS = {
    "the wrong field": Says("3", framing=Framing.MISFILED),
    "a huge answer": Says("The answer is 3. " + "Indeed. " * 10**4),
}


@asynccontextmanager
async def pair(small: Script, large: Script) -> AsyncIterator[tuple[openai.AsyncOpenAI, dict[str, Any]]]:
    """A gateway before two servers: a script each, or an address where there is none."""
    async with AsyncExitStack() as stack:
        pools: dict[str, Any] = {}
        for role, reply in (("small", small), ("large", large)):
            script = reply if callable(reply) else lambda _, reply=reply: reply
            server = MockServer(script, models=[role])
            url = reply if isinstance(reply, str) else await stack.enter_async_context(server)
            model = OpenAIModel(url, role, family="plain")
            pools[role] = Pool([Replica(model, Breaker(asyncio.get_running_loop().time))])
        yield await stack.enter_async_context(gateway(pools, policy=POLICY)), pools


async def answered(client: openai.AsyncOpenAI, stream: bool) -> tuple[str, str]:
    """(content, route) of an answer, however it comes."""
    if not stream:
        whole = await client.chat.completions.create(**ASKED)
        return whole.choices[0].message.content, whole.model_extra["cuecard"]["route"]
    content, route = "", ""
    async for chunk in await client.chat.completions.create(**ASKED, stream=True):
        if chunk.choices:
            content += chunk.choices[0].delta.content or ""
        route = (chunk.model_extra or {}).get("cuecard", {}).get("route", route)
    return content, route


def tidy(pools: dict[str, Any]) -> bool:
    return all(replica.running == 0 and not replica.waiting for pool in pools.values() for replica in pool.replicas)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("broken", ["small", "large"])
@pytest.mark.parametrize("fault", list(FATAL))
async def test_when_one_model_fails_the_other_one_answers(fault, broken, stream):
    replies = {"small": FINE, "large": FINE} | {broken: FATAL[fault]}
    async with pair(**replies) as (client, pools):
        content, route = await answered(client, stream)
        assert (content, route) == ("3", "degraded")
        assert tidy(pools)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", list(FATAL))
async def test_when_both_fail_it_is_an_error_that_may_be_tried_again(fault, stream):
    async with pair(FATAL[fault], FATAL[fault]) as (client, pools):
        with pytest.raises(openai.APIError) as failed:
            await answered(client, stream)
        assert "no model is left to answer" in str(failed.value)
        if isinstance(failed.value, openai.APIStatusError):
            assert failed.value.status_code == 503
            assert failed.value.response.headers["retry-after"]
        assert tidy(pools)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("odd", ["small", "large"])
@pytest.mark.parametrize("oddity", list(HARMLESS))
async def test_what_is_only_odd_is_put_right(oddity, odd, stream):
    replies = {"small": FINE, "large": FINE} | {odd: HARMLESS[oddity]}
    async with pair(**replies) as (client, pools):
        content, route = await answered(client, stream)
        assert (content, route) == ("3", "agreed")
        assert tidy(pools)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", ["hangs up", "never answers", "is cut", "500", "429"])
async def test_when_the_reader_fails_at_the_hand_off_an_answer_is_still_given(fault, stream):
    """The large model answers short, and fails when it is to read."""

    def large(request: Received) -> Reply:
        reads = THOUGHT in str(request.body["messages"])
        reply = FATAL[fault]
        assert not isinstance(reply, str)
        return reply if reads else Says("5")

    async with pair(FINE, large) as (client, pools):
        content, route = await answered(client, stream)
        assert (content, route) == ("3", "degraded")
        assert tidy(pools)
