"""Errors of servers as the gateway returns them: status, code and message, streamed or not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai
import pytest
from gateways import COUNT, agreeing, gateway

from cuecard.models.openai import OpenAIModel
from cuecard.models.pool import Breaker, Pool, Replica
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, HttpError, RawResponse, Reply

KEY = "sk-proj-0123456789abcdefghijklmnop"
ASKED: dict[str, Any] = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}]}
TOOLS = [{"type": "custom", "custom": {"name": "look"}}]
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
DONE = b"data: [DONE]\n\n"
STOP = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'


def sse(data: object) -> bytes:
    return b"data: " + (data if isinstance(data, str) else json.dumps(data)).encode() + b"\n\n"


def says(text: str) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {"content": text}}]})


def error(status: int, **fields: Any) -> HttpError:
    return HttpError(status, {"error": fields})


@asynccontextmanager
async def before(small: Reply, large: Reply, **settings: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of a gateway with two mock servers."""
    async with MockServer([small], models=["tiny"]) as one, MockServer([large], models=["huge"]) as other:
        clock = asyncio.get_running_loop().time
        models = {"small": OpenAIModel(one, "tiny", api_key=KEY), "large": OpenAIModel(other, "huge", api_key=KEY)}
        pools = {role: Pool([Replica(model, Breaker(clock))]) for role, model in models.items()}
        async with gateway(pools, **settings) as client:
            yield client


async def failure(client: openai.AsyncOpenAI, stream: bool, **more: Any) -> tuple[int | None, Any, bool]:
    """(HTTP status or None for a stream, error body, whether the response says when to retry)."""

    async def ask() -> None:
        answer = await client.chat.completions.create(**ASKED, stream=stream, **more)
        if stream:
            [chunk async for chunk in answer]

    with pytest.raises(openai.APIError) as failed:
        await ask()
    raised = failed.value
    if isinstance(raised, openai.APIStatusError):
        return raised.status_code, raised.body, "retry-after" in raised.response.headers
    return None, raised.body, False


CASES = [
    (
        error(400, message="only 9 tokens", code="context_length_exceeded"),
        400,
        "context_length_exceeded",
        "only 9 tokens",
    ),
    (
        error(400, message="cannot read this image", code="invalid_image"),
        400,
        "invalid_image",
        "cannot read this image",
    ),
    (error(400, message="filtered away", code="content_filter"), 400, "content_filter", "filtered away"),
    (Completion("3", finish_reason="content_filter"), 400, "content_filter", "filter"),
    (error(401, message=f"wrong key {KEY}", code="invalid_api_key"), 502, "NoAnswer", "wrong key …"),
    (error(403, message=f"no access with {KEY[:14]}"), 502, "NoAnswer", "no access with …"),
    (error(429, message="pay first", code="insufficient_quota"), 429, "insufficient_quota", "pay first"),
    (
        HttpError(200, {"error": {"message": "only 9", "code": "context_length_exceeded"}}),
        400,
        "context_length_exceeded",
        "only 9",
    ),
    (RawResponse((sse({"object": "error", "message": "only 9", "code": 400}),)), 400, "NoAnswer", "only 9"),
    (RawResponse((says("3"), b"event: error\ndata: it died\n\n")), 503, "NoAnswer", "it died"),
    (RawResponse((sse({"detail": "it died"}),)), 503, "NoAnswer", "it died"),
    (error(503, message="loading"), 503, "NoAnswer", "loading"),
    (RawResponse((b"[" * 900 + b"]" * 900,)), 503, "NoAnswer", "deeply"),
    (RawResponse((sse({"error": {"code": "²", "loc": 5}}),)), 503, "NoAnswer", "²"),
]


@STREAMED
@pytest.mark.parametrize(("reply", "status", "code", "words"), CASES)
async def test_when_both_models_fail_the_error_keeps_its_meaning(
    reply: Reply, status: int, code: str, words: str, stream: bool
) -> None:
    async with before(reply, reply) as client:
        seen, body, waits = await failure(client, stream)
    assert seen in (status, None)
    assert (seen is None) is stream
    assert (body["code"], words in body["message"]) == (code, True)
    assert waits is (status == 503 and not stream)
    assert KEY[:8] not in str(body)


@STREAMED
async def test_a_failure_that_passes_is_worth_another_try(stream: bool) -> None:
    async with before(error(400, message="too long"), error(503, message="loading")) as client:
        seen, body, _ = await failure(client, stream)
    assert (seen in (503, None), body["code"]) == (True, "NoAnswer")


@pytest.mark.parametrize("at_fault", ["small", "large"])
@pytest.mark.parametrize("reply", [case[0] for case in (*CASES[:5], *CASES[7:10], *CASES[12:])])
async def test_the_other_model_answers(reply: Reply, at_fault: str) -> None:
    replies = {"small": Completion("3"), "large": Completion("3")} | {at_fault: reply}
    async with before(**replies) as client:
        answer = await client.chat.completions.create(**ASKED)
    assert answer.choices[0].message.content == "3"


ODD = '{"choices": [{"delta": {"content": "3"}, "logprobs": {"content": [{"token": "3", "logprob": NUMBER}]}}]}'


@STREAMED
@pytest.mark.parametrize("number", ["-Infinity", "NaN", "900.0", "1" + "0" * 400])
async def test_numbers_that_are_none_reach_no_client(number: str, stream: bool) -> None:
    counts = sse('{"choices": [], "usage": {"prompt_tokens": N, "completion_tokens": N}}'.replace("N", number))
    reply = RawResponse((sse(ODD.replace("NUMBER", number)), STOP, counts, DONE))
    async with before(reply, reply) as client, httpx2.AsyncClient(base_url=str(client.base_url)) as plain:
        answer = await plain.post("chat/completions", json={**ASKED, "stream": stream})
        assert answer.status_code == 200
        assert not any(word in answer.text for word in ("Infinity", "NaN", "0" * 300))
        assert json.loads((await plain.get("../stats")).text)["recent"]


@STREAMED
async def test_halves_of_characters_reach_clients_whole(stream: bool) -> None:
    reply = RawResponse((says("3 \ud83d"), says("\ude00\udcaf"), STOP, DONE))
    story = {**ASKED, "messages": [{"role": "user", "content": "Describe the picture."}]}
    async with before(reply, reply) as client, httpx2.AsyncClient(base_url=str(client.base_url)) as plain:
        answer = await plain.post("chat/completions", json={**story, "stream": stream})
        assert answer.status_code == 200
        assert "😀" in answer.text
        assert "\ufffd" in answer.text


# Forwarded errors


@asynccontextmanager
async def passing(reply: Reply) -> AsyncIterator[tuple[openai.AsyncOpenAI, dict[str, Any]]]:
    async with MockServer([reply], models=["huge"]) as url:
        pool = Pool([Replica(OpenAIModel(url, "huge", api_key=KEY), Breaker(asyncio.get_running_loop().time))])
        async with gateway({"small": agreeing()["small"], "large": pool}, pass_to="large") as client:
            yield client, {"tools": TOOLS}


@STREAMED
@pytest.mark.parametrize(
    ("reply", "status", "code", "words"), [case for case in CASES if not isinstance(case[0], Completion)]
)
async def test_a_passed_request_fails_with_the_message_of_its_server(
    reply: Reply, status: int, code: str, words: str, stream: bool
) -> None:
    async with passing(reply) as (client, more):
        seen, body, waits = await failure(client, stream, **more)
    assert words in body["message"]
    assert KEY[:8] not in str(body)
    late = isinstance(reply, RawResponse) and reply.parts[0] == says("3")
    assert (seen is None) is (late and stream)
    assert seen in (status, None) or status == 503
    assert not waits or seen in (429, 503)


async def test_a_whole_answer_to_a_stream_that_is_passed_on_becomes_one() -> None:
    message = {"role": "assistant", "content": "Let me look."}
    body = {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    async with passing(HttpError(200, body)) as (client, more):
        chunks = [chunk async for chunk in await client.chat.completions.create(**ASKED, stream=True, **more)]
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["Let me look."]


@pytest.mark.parametrize("end", [(STOP, DONE), (STOP,), (DONE,)])
async def test_what_is_passed_on_is_framed_anew(end: tuple[bytes, ...]) -> None:
    odd = b'\xef\xbb\xbfdata: {"choices": [{"index": 0,\rdata: "delta": {"content": "a\\ud83d"}, "x": NaN}]}\r\r'
    async with passing(RawResponse((odd, says("\ude00"), *end))) as (client, more), httpx2.AsyncClient() as plain:
        url = f"{client.base_url}chat/completions"
        answer = await plain.post(url, json={**ASKED, "stream": True, **more})
    events = answer.text.split("\n\n")
    texts = [json.loads(each[6:])["choices"][0]["delta"].get("content") for each in events if "choices" in each]
    assert texts[:2] == ["a", "😀"]
    assert events[-2:] == ["data: [DONE]", ""]
    assert "NaN" not in answer.text


# Base URLs with a wrong path


async def test_answers_and_ready_report_a_wrong_path_of_a_server() -> None:
    async with MockServer([Completion("3")], models=["tiny", "huge"]) as url:
        right, wrong = OpenAIModel(url, "tiny"), OpenAIModel(url.replace("/v1", "/v2"), "huge")
        clock = asyncio.get_running_loop().time
        pools = {role: Pool([Replica(model, Breaker(clock))]) for role, model in (("small", right), ("large", wrong))}
        async with gateway(pools) as client, httpx2.AsyncClient(base_url=str(client.base_url)) as plain:
            assert (await plain.get("../ready")).json() == {"status": "ok", "down": []}
            answer = await client.chat.completions.create(**ASKED)
            ready = await plain.get("../ready")
    problem = (
        f"{url.replace('/v1', '/v2')} has neither /chat/completions nor /models: the path of this address is wrong"
    )
    assert (answer.model_extra or {})["cuecard"]["route"] == "degraded"
    assert problem in (answer.model_extra or {})["cuecard"]["reason"]
    assert ready.json() == {"status": "degraded", "down": ["large"], "wrong_paths": {"large": [problem]}}


# Retry-After


async def test_a_call_to_a_busy_server_is_retried_after_its_retry_after() -> None:
    soon = {"Retry-After-Ms": "300"}
    async with MockServer([HttpError(429, {}, soon), Completion("3")], models=["huge"]) as url:
        model = OpenAIModel(url, "huge")
        pool = Pool([Replica(model, Breaker(asyncio.get_running_loop().time))])
        began = time.monotonic()
        async with gateway({"small": pool, "large": pool}) as client:
            answer = await client.chat.completions.create(**ASKED)
    assert answer.choices[0].message.content == "3"
    assert time.monotonic() - began >= 0.3


async def test_a_server_that_is_busy_beyond_the_deadline_is_not_waited_for_longer() -> None:
    later = HttpError(429, {"error": {"message": "slow down"}}, {"Retry-After": "9999"})
    async with before(later, later) as client:
        seen, _, waits = await failure(client, False, extra_body={"cuecard": {"max_latency_ms": 500}})
        assert (seen in (503, 504), waits) == (True, seen == 503)
        with pytest.raises(openai.APIStatusError) as failed:
            await client.chat.completions.create(**ASKED)
    assert failed.value.status_code == 503
    assert failed.value.response.headers["retry-after"] == "9999"
