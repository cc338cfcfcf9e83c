"""Requests that a pair cannot answer: rejected, or passed unchanged to one model."""

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

from cuecard.gateway.passthrough import given
from cuecard.gateway.records import Journal
from cuecard.models.openai import OpenAIModel
from cuecard.models.pool import Breaker, Pool, Replica
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, HttpError, Stall

TOOLS = [{"type": "custom", "custom": {"name": "look"}}]
ASKED = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}], "tools": TOOLS, "vendor_option": 7}


def body(**changed):
    """Arguments for the official client: parameters that it does not know go into extra_body."""
    own = {key: value for key, value in (ASKED | changed).items() if key != "vendor_option"}
    return own | {"extra_body": {"vendor_option": ASKED["vendor_option"]}}


@asynccontextmanager
async def passing(server: MockServer, **how: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of a gateway that passes requests a pair cannot answer to this server, its large model."""
    async with server as url:
        pool = Pool([Replica(OpenAIModel(url, "huge"), Breaker(asyncio.get_running_loop().time))])
        async with gateway({"small": agreeing()["small"], "large": pool}, pass_to="large", **how) as client:
            yield client
        assert pool.replicas[0].running == 0


async def test_without_pass_to_it_is_refused():
    async with gateway() as client:
        with pytest.raises(openai.BadRequestError, match="cannot call a tool of type 'custom'"):
            await client.chat.completions.create(**body())


async def test_the_model_gets_every_word_and_the_client_its_answer():
    async with passing(server := MockServer([Completion("Let me look.")], models=["huge"])) as client:
        answer = await client.chat.completions.create(**body())
    assert (answer.choices[0].message.content, answer.model) == ("Let me look.", "cuecard")
    sent = server.received[0].body
    assert (sent["tools"], sent["vendor_option"], sent["model"]) == (TOOLS, 7, "huge")


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_passed_stream_comes_as_it_is_decoded_with_usage_only_on_request(wanted):
    async with passing(MockServer([Completion("One two three.")], models=["huge"])) as client:
        options = {"stream_options": {"include_usage": True}} if wanted else {}
        chunks = [chunk async for chunk in await client.chat.completions.create(**body(), stream=True, **options)]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "One two three."
    assert {chunk.model for chunk in chunks} == {"cuecard"}
    assert any(chunk.usage is not None for chunk in chunks) is wanted


async def test_its_errors_come_as_they_are_from_a_server():
    async with passing(MockServer([HttpError(400, {"error": {"message": "no such tool"}})], models=["huge"])) as client:
        with pytest.raises(openai.APIStatusError, match="no such tool"):
            await client.chat.completions.create(**body())


async def test_one_request_that_its_server_fails_at_keeps_no_other_from_it():
    async with passing(MockServer([HttpError(500)] * 6 + [Completion("3")], models=["huge"])) as client:
        for _ in range(6):
            with pytest.raises(openai.APIStatusError, match="500"):
                await client.chat.completions.create(**body())
        assert (await client.chat.completions.create(**body())).choices[0].message.content == "3"


async def test_a_client_that_leaves_takes_its_call_along():
    async with passing(
        server := MockServer([Completion("One two.", delay_s=0.02, after=Stall(1))], models=["huge"])
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
    async with passing(server := MockServer([Completion("x")], models=["huge"])) as client:
        with pytest.raises(openai.BadRequestError, match=f"no {kind} is fetched from the web"):
            await client.chat.completions.create(**body(messages=[{"role": "user", "content": [image]}]))
    assert not server.received


@pytest.mark.parametrize("stream", [True, False])
async def test_made_up_names_are_not_found_and_leave_nothing_behind_but_a_line_each(stream, tmp_path):
    journal = Journal(tmp_path / "log")
    async with (
        passing(server := MockServer([Completion("x")], models=["huge"]), journal=journal) as client,
        httpx2.AsyncClient(base_url=str(client.base_url).removesuffix("v1/")) as plain,
    ):
        before = await result(plain)
        for number in range(5):
            with pytest.raises(openai.NotFoundError, match="is not served here"):
                await client.chat.completions.create(**body(model=f"made-up-{number}" + "x" * 10_000), stream=stream)
        after = await result(plain)
    assert not server.received
    assert [len(text) for text in after] == pytest.approx([len(text) for text in before], abs=500)
    assert "made-up" not in "".join(after)
    lines = (tmp_path / "log").read_text().split("\n")[:-1]
    assert [json.loads(line)["end"] for line in lines] == ["refused"] * 5
    assert "made-up" not in "".join(lines)


AWAY = "http://169.254.169.254/latest"
PIXEL = "data:image/png;base64,aaaa"


@pytest.mark.parametrize("passes", [True, False])
@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "url": AWAY},
        {"type": "image", "image": AWAY},
        {"type": "image", "image": PIXEL},
        {"image": AWAY},
        {"video": AWAY},
        {"url": AWAY},
        {"type": "Image_URL", "image_url": {"url": AWAY}},
        {"type": "IMAGE_URL", "image_url": {"url": PIXEL}},
        {"type": ["image_url"], "image_url": {"url": PIXEL}},
        {"type": "video", "video": [AWAY]},
        {"type": "input_file", "file_url": AWAY},
        {"type": None, "image_url": {"url": AWAY}},
        AWAY,
        7,
        None,
    ],
    ids=str,
)
async def test_parts_of_unknown_types_are_refused_and_never_passed(part, passes):
    messages = [{"role": "user", "content": [{"type": "text", "text": COUNT}, part]}]
    asked = body(messages=messages) if passes else {"model": "cuecard", "messages": messages}
    async with passing(server := MockServer([Completion("x")], models=["huge"])) as client:
        with pytest.raises(openai.BadRequestError, match=r"has a part of type .* image_url"):
            await client.chat.completions.create(**asked)
    assert not server.received


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "What is it?", "image": AWAY},
        {"type": "text", "text": "What is it?", "image_url": {"url": AWAY}},
        {"type": "text", "text": {"url": AWAY}},
        {"type": "image_url", "image_url": {"url": PIXEL, "fallback": AWAY}},
        {"type": "image_url", "image_url": {"url": PIXEL}, "video_url": {"url": AWAY}},
        {"type": "image_url", "image_url": {"url": PIXEL}, "detail": AWAY},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "/etc/passwd"}},
        {"type": "image_url", "image_url": {"url": " " + AWAY}},
        {"type": "image_url", "image_url": [{"url": AWAY}]},
        {"type": "input_audio", "input_audio": {"data": AWAY, "format": "wav"}},
        {"type": "file", "file": {"file_data": AWAY}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "thinking", "thinking": [{"type": "image_url", "image_url": AWAY}]},
    ],
    ids=str,
)
async def test_parts_of_known_types_hold_their_own_fields_and_nothing_else(part):
    async with passing(server := MockServer([Completion("x")], models=["huge"])) as client:
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(**body(messages=[{"role": "user", "content": [part]}]))
    assert not server.received


@pytest.mark.parametrize(
    "more",
    [
        {"messages": [{"role": "user", "content": COUNT, "images": [AWAY]}]},
        {"messages": [{"role": "user", "content": {"type": "image", "url": AWAY}}]},
        {"messages": "hello"},
        {"messages": ["hello"]},
        {"tools": [{"type": "mcp", "server_url": AWAY}]},
        {"tools": 7},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": AWAY}}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": [{"$ref": AWAY}]}}}},
        {"extra_body": {"images": [AWAY]}},
        {"extra_body": {"vendor": {"deep": [{"er": AWAY}]}}},
        {"extra_body": {"kv_transfer_params": {"remote_host": "10.0.0.1", "remote_port": 1}}},
    ],
    ids=str,
)
async def test_no_server_is_made_to_connect_elsewhere_by_anything_else(more):
    async with passing(server := MockServer([Completion("x")], models=["huge"])) as client:
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(**(body() | more))
    assert not server.received


def test_what_servers_read_and_what_only_looks_like_an_address_is_passed():
    content = [
        {"type": "text", "text": f"{AWAY} is what?", "image_url": None},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
        {"type": "video_url", "video_url": {"url": "DATA:video/mp4;base64,aaaa"}},
        {"type": "input_audio", "input_audio": {"data": "//uQ", "format": "mp3"}},
    ]
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": AWAY}}
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": None, "tool_calls": [call], "audio": None, "annotations": []},
        {"role": "tool", "tool_call_id": "1", "content": AWAY},
        {"role": "assistant", "content": [{"type": "reasoning", "text": AWAY}, {"type": "text", "text": "Hm."}]},
        {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "c2VjcmV0"}]},
    ]
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": "#/$defs/a"}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema, "description": AWAY}}]
    assert given({"model": "cuecard", "messages": messages, "tools": tools, "user": AWAY}).model == "cuecard"


async def result(plain: httpx2.AsyncClient) -> list[str]:
    return [(await plain.get(path)).text for path in ("metrics", "stats")]


@pytest.mark.parametrize("model", [None, 7, ""])
async def test_a_request_without_a_model_is_not_passed(model):
    async with passing(MockServer([Completion("x")], models=["huge"])) as client:
        with pytest.raises(openai.BadRequestError, match="model is missing"):
            await client.chat.completions.create(**body(model=model))


async def test_a_model_that_is_named_gets_it_itself():
    async with passing(server := MockServer([Completion("x")], models=["huge"])) as client:
        answer = await client.chat.completions.create(**body(model="huge"))
        with pytest.raises(openai.BadRequestError, match="tiny runs in this process"):
            await client.chat.completions.create(**body(model="tiny"))
    assert (answer.model, len(server.received)) == ("huge", 1)


async def test_a_model_in_this_process_cannot_take_what_is_passed():
    async with gateway(pass_to="large") as client:
        with pytest.raises(openai.BadRequestError, match="runs in this process"):
            await client.chat.completions.create(**body())
