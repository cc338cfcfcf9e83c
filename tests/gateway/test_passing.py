"""What a pair cannot do: refused, or passed to one model word for word."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai
import pytest
from gateways import COUNT, agreeing, gateway

from cuecard.gateway.journal import Journal
from cuecard.gateway.pool import Breaker, Pool, Replica
from cuecard.models.mock_server import HttpError, MockServer, Says, Stall
from cuecard.models.openai import OpenAIModel

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
ASKED = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}], "tools": TOOLS, "vendor_option": 7}


def body(**changed):
    """As the official client sends it: what it does not know goes into extra_body."""
    own = {key: value for key, value in (ASKED | changed).items() if key != "vendor_option"}
    return own | {"extra_body": {"vendor_option": ASKED["vendor_option"]}}


@asynccontextmanager
async def passing(server: MockServer, **how: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    """A gateway whose large model is this server, and gets what a pair cannot do."""
    async with server as url:
        pool = Pool([Replica(OpenAIModel(url, "huge"), Breaker(asyncio.get_running_loop().time))])
        async with gateway({"small": agreeing()["small"], "large": pool}, pass_to="large", **how) as client:
            yield client
        assert pool.replicas[0].running == 0


async def test_unless_told_it_is_refused():
    async with gateway() as client:
        with pytest.raises(openai.BadRequestError, match="a pair of models cannot do tools"):
            await client.chat.completions.create(**body())


async def test_the_model_gets_every_word_and_the_client_its_answer():
    async with passing(server := MockServer([Says("Let me look.")], models=["huge"])) as client:
        answer = await client.chat.completions.create(**body())
    assert (answer.choices[0].message.content, answer.model) == ("Let me look.", "cuecard")
    sent = server.received[0].body
    assert (sent["tools"], sent["vendor_option"], sent["model"]) == (TOOLS, 7, "huge")


@pytest.mark.parametrize("wanted", [True, False])
async def test_streamed_it_comes_as_it_is_spoken_and_usage_only_where_it_is_asked_for(wanted):
    async with passing(MockServer([Says("One two three.")], models=["huge"])) as client:
        options = {"stream_options": {"include_usage": True}} if wanted else {}
        chunks = [chunk async for chunk in await client.chat.completions.create(**body(), stream=True, **options)]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "One two three."
    assert {chunk.model for chunk in chunks} == {"cuecard"}
    assert any(chunk.usage is not None for chunk in chunks) is wanted


async def test_its_errors_come_as_they_are_from_a_server():
    async with passing(MockServer([HttpError(400, {"error": {"message": "no such tool"}})], models=["huge"])) as client:
        with pytest.raises(openai.APIStatusError, match="no such tool"):
            await client.chat.completions.create(**body())


async def test_a_client_that_leaves_takes_its_call_along():
    async with passing(
        server := MockServer([Says("One two.", delay_s=0.02, after=Stall(1))], models=["huge"])
    ) as client:
        stream = await client.chat.completions.create(**body(), stream=True)
        await anext(aiter(stream))
        await stream.close()
        async with asyncio.timeout(2):
            await server.received[0].gone.wait()


@pytest.mark.parametrize("kind", ["image_url", "video_url", "audio_url"])
@pytest.mark.parametrize("nested", [True, False])
async def test_no_server_is_made_to_fetch_an_address(kind, nested):
    url = "http://169.254.169.254/latest"
    image = {"type": kind, kind: {"url": url} if nested else url}
    async with passing(server := MockServer([Says("x")], models=["huge"])) as client:
        with pytest.raises(openai.BadRequestError, match=f"no {kind} is fetched from the web"):
            await client.chat.completions.create(**body(messages=[{"role": "user", "content": [image]}]))
    assert not server.received


@pytest.mark.parametrize("stream", [True, False])
async def test_made_up_names_are_not_found_and_leave_nothing_behind_but_a_line_each(stream, tmp_path):
    journal = Journal(tmp_path / "log")
    async with (
        passing(server := MockServer([Says("x")], models=["huge"]), journal=journal) as client,
        httpx2.AsyncClient(base_url=str(client.base_url).removesuffix("v1/")) as plain,
    ):
        before = await told(plain)
        for number in range(5):
            with pytest.raises(openai.NotFoundError, match="is not served here"):
                await client.chat.completions.create(**body(model=f"made-up-{number}" + "x" * 10_000), stream=stream)
        after = await told(plain)
    assert not server.received
    assert [len(text) for text in after] == pytest.approx([len(text) for text in before], abs=500)
    assert "made-up" not in "".join(after)
    lines = (tmp_path / "log").read_text().split("\n")[:-1]
    assert [json.loads(line)["end"] for line in lines] == ["refused"] * 5
    assert "made-up" not in "".join(lines)


async def told(plain: httpx2.AsyncClient) -> list[str]:
    return [(await plain.get(path)).text for path in ("metrics", "stats")]


@pytest.mark.parametrize("model", [None, 7, ""])
async def test_a_request_without_a_model_is_not_passed(model):
    async with passing(MockServer([Says("x")], models=["huge"])) as client:
        with pytest.raises(openai.BadRequestError, match="model is missing"):
            await client.chat.completions.create(**body(model=model))


async def test_a_model_that_is_named_gets_it_itself():
    async with passing(server := MockServer([Says("x")], models=["huge"])) as client:
        answer = await client.chat.completions.create(**body(model="huge"))
        with pytest.raises(openai.BadRequestError, match="tiny runs in this process"):
            await client.chat.completions.create(**body(model="tiny"))
    assert (answer.model, len(server.received)) == ("huge", 1)


async def test_a_model_in_this_process_cannot_take_what_is_passed():
    async with gateway(pass_to="large") as client:
        with pytest.raises(openai.BadRequestError, match="runs in this process"):
            await client.chat.completions.create(**body())
