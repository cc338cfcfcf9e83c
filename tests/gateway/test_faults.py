"""Faults of the servers of one or both models, streamed or not: expected status and route, and no leaked calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import openai
import pytest
from gateways import COUNT, gateway

from cuecard.domain.call import FinishReason, Mode
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.base import AnswerDelta, Event, Limits
from cuecard.models.openai import OpenAIModel
from cuecard.models.pool import Breaker, Pool, Replica
from cuecard.models.prompt import PROSE, Prompt, short
from cuecard.strategies.policy import Acceptance, Policy
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import (
    BadJson,
    Completion,
    Cut,
    ErrorInStream,
    Framing,
    HangUp,
    HttpError,
    RawResponse,
    Received,
    Reply,
    Stall,
)

pytestmark = pytest.mark.slow

Script = Reply | str | Sequence[Reply] | Callable[[Received], Reply]
THOUGHT = "One cat, two cats, three."
FINE = Completion("3", THOUGHT)
POLICY = Policy(accept=Acceptance.parse("agree"), limits=replace(Limits(), timeout_s=3))
UNHURRIED = replace(POLICY.limits, timeout_s=20)
"""For tests in which nothing may time out, even on a busy machine."""
MOST_S = 24.0
"""Time limit of a request: at most five sequential calls of 3 s, and a reserve for a busy machine."""
PROMPT = short(Question(COUNT, kind=AnswerKind.NUMBER), PROSE)
ASKED: dict[str, Any] = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}]}

STOP: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
DONE = b"data: [DONE]\n\n"


def sse(data: object) -> bytes:
    return b"data: %b\n\n" % json.dumps(data).encode()


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields}]}


REASONS = sse(delta(reasoning=THOUGHT))
SAYS_3 = sse(delta(content="3"))


def streamed(*parts: bytes) -> RawResponse:
    """A stream with the reasoning, followed by these parts instead of a plain answer."""
    return RawResponse((REASONS, *parts))


def whole(message: dict[str, Any]) -> HttpError:
    """A completion that is not streamed, with this message."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return HttpError(200, {"object": "chat.completion", "choices": [choice]})


def refused(status: int, message: str, code: str) -> HttpError:
    return HttpError(status, {"error": {"message": message, "code": code}})


CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
FATAL: dict[str, Reply | str] = {
    "nothing listens": "http://127.0.0.1:9/v1",
    "no such host": "http://name.invalid/v1",
    "hangs up": HangUp(),
    "never answers": Stall(),
    "stalls in the midst": Completion("3", THOUGHT, after=Stall(1), piece=1),
    "is cut": Completion("3", THOUGHT, after=Cut(1), piece=1),
    "is cut cleanly": Completion("3", THOUGHT, after=Cut(1, clean=True), piece=1),
    "never ends": Completion("3 " * 10**5, THOUGHT, delay_s=0.3),
    "bad JSON": Completion("3", THOUGHT, after=BadJson(1), piece=1),
    "an error in the stream": Completion("3", THOUGHT, after=ErrorInStream(1), piece=1),
    "an error with status 200": HttpError(200, {"error": {"message": "the engine died"}}),
    "an object that is an error": streamed(sse({"object": "error", "message": "the engine died"})),
    "a detail": streamed(sse({"detail": "the engine died"})),
    "an error event": streamed(SAYS_3, b"event: error\ndata: the engine died\n\n"),
    "a prompt that is too long": refused(400, "maximum context length is 9 tokens", "context_length_exceeded"),
    "a filter": refused(400, "it violates the policy", "content_filter"),
    "a filter of the answer": Completion("3", THOUGHT, finish_reason="content_filter"),
    "a wrong key": refused(401, "Incorrect API key", "invalid_api_key"),
    "only tool calls": RawResponse((sse(delta(tool_calls=[CALL])), sse(STOP), DONE)),
    "a page": HttpError(200, "<html><title>Welcome</title></html>"),
    **{str(status): HttpError(status, {"error": {"message": "no"}}) for status in (400, 401, 404, 408, 429, 500, 503)},
}
FINAL = {
    "400": 400,
    "401": 502,
    "404": 502,
    "a prompt that is too long": 400,
    "a filter": 400,
    "a filter of the answer": 400,
    "a wrong key": 502,
    "only tool calls": 502,
}
"""HTTP status for the client after faults that a retry does not help."""
SHOWN = {
    "a huge answer": "The answer is 3.",
    "a refusal": "I cannot help with that.",
    "reasoning behind <ponder>": "<ponder>",
}
"""Start of the returned answer if it is not "3"; such an answer agrees with no other. Unknown tags need a setting."""
NUMBERS = '{"choices": [{"delta": {"content": "3"}, "logprobs": {"content": [{"token": "3", "logprob": NUMBER}]}}]}'
HARMLESS: dict[str, Reply] = {
    "a whole completion": whole({"content": "3", "reasoning": THOUGHT}),
    **{
        f"a log probability of {number}": streamed(
            b"data: %b\n\n" % NUMBERS.replace("NUMBER", number).encode(), sse(STOP), DONE
        )
        for number in ("-Infinity", "NaN", "900.0")
    },
    "half characters": streamed(sse(delta(content="3 \ud83d")), sse(delta(content="\ude00\udcaf")), sse(STOP), DONE),
    "a byte order mark": RawResponse((b"\xef\xbb\xbf" + REASONS, SAYS_3, sse(STOP), DONE)),
    "lone carriage returns": RawResponse(
        tuple(part.replace(b"\n", b"\r") for part in (REASONS, SAYS_3, sse(STOP), DONE))
    ),
    "an invalid byte": streamed(sse(delta(content="3 N")).replace(b"N", b"\xff"), sse(STOP), DONE),
    "data over several lines": streamed(SAYS_3.replace(b", ", b",\ndata: "), sse(STOP), DONE),
    "no finish reason": streamed(SAYS_3, DONE),
    "a mention of tags": Completion("The `<think>` tag holds 3.", THOUGHT),
    "an end of turn": Completion("3<|im_end|>", THOUGHT),
    **{
        f"reasoning behind {opens}": Completion(f"{opens}{THOUGHT}{closes}3")
        for opens, closes in (
            ("<mm:think>", "</mm:think>"),
            ("<seed:think>", "</seed:think>"),
            ("<|channel>thought", "<channel|>"),
            ("[THINK]", "[/THINK]"),
            ("<thinking>", "</thinking>"),
            ("<ponder>", "</ponder>"),
        )
    },
    "unknown tags in the reasoning": Completion("3", f"<ponder>{THOUGHT}</ponder>"),
    "the wrong field": Completion("3", framing=Framing.MISFILED),
    "a huge answer": Completion("The answer is 3. " + "Indeed. " * 10**4),
    "a refusal": streamed(sse(delta(refusal="I cannot help with that.")), sse(STOP), DONE),
}
SCRIPTED = {name: reply for name, reply in FATAL.items() if not isinstance(reply, str)}
EMPTY = Completion("", "")
ONLY_REASONING = Completion("", THOUGHT, thinks=True)


def replica(url: str, name: str) -> Replica:
    return Replica(OpenAIModel(url, name, family="plain"), Breaker(asyncio.get_running_loop().time))


@asynccontextmanager
async def pair(
    small: Script, large: Script, **changed: Any
) -> AsyncIterator[tuple[openai.AsyncOpenAI, dict[str, Any]]]:
    """A client of a gateway with two servers, and its pools. A script holds a server's replies, or is an unused URL."""
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        pools: dict[str, Any] = {}
        for role, reply in (("small", small), ("large", large)):
            script = [reply] if isinstance(reply, Reply) else reply
            server = None if isinstance(script, str) else MockServer(script, models=[role])
            url = script if server is None else await stack.enter_async_context(server)
            pools[role] = Pool([replica(url, role)])
        yield await stack.enter_async_context(gateway(pools, policy=replace(POLICY, **changed))), pools
    assert not [task for task in asyncio.all_tasks() - before if not task.done()]


async def answered(client: openai.AsyncOpenAI, stream: bool) -> tuple[str, str]:
    """(content, route) of an answer, streamed or not."""
    async with asyncio.timeout(MOST_S):
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
async def test_when_both_models_fail_the_error_shows_whether_to_try_again(fault, stream):
    async with pair(FATAL[fault], FATAL[fault]) as (client, pools):
        with pytest.raises(openai.APIError) as failed:
            await answered(client, stream)
        assert "no model is left to answer" in str(failed.value)
        if isinstance(failed.value, openai.APIStatusError):
            assert failed.value.status_code == FINAL.get(fault, 503)
            assert ("retry-after" in failed.value.response.headers) is (fault not in FINAL)
        assert tidy(pools)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("odd", ["small", "large", "both"])
@pytest.mark.parametrize("oddity", list(HARMLESS))
async def test_what_is_only_odd_is_put_right(oddity, odd, stream):
    odd_ones = ("small", "large") if odd == "both" else (odd,)
    replies = {"small": FINE, "large": FINE} | dict.fromkeys(odd_ones, HARMLESS[oddity])
    async with pair(**replies, limits=UNHURRIED) as (client, pools):
        content, route = await answered(client, stream)
        assert content.startswith("3" if odd == "small" else SHOWN.get(oddity, "3"))
        assert (route == "agreed") is (oddity not in SHOWN)
        assert tidy(pools)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        (EMPTY, FINE, ("3", "transferred")),
        (FINE, EMPTY, ("3", "degraded")),
        (ONLY_REASONING, FINE, ("3", "transferred")),
        # the reasoning is taken for an answer in the wrong field
        (FINE, ONLY_REASONING, (THOUGHT, "transferred")),
        (ONLY_REASONING, ONLY_REASONING, (THOUGHT, "transferred")),
    ],
    ids=["small empty", "large empty", "small only reasoning", "large only reasoning", "both only reasoning"],
)
async def test_an_answer_is_never_empty(small, large, expected, stream):
    async with pair(small, large) as (client, pools):
        assert await answered(client, stream) == expected
        assert tidy(pools)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_two_empty_answers_are_an_error_that_may_be_tried_again(stream):
    async with pair(EMPTY, EMPTY) as (client, pools):
        with pytest.raises(openai.APIError, match="came back empty") as failed:
            await answered(client, stream)
        assert stream or failed.value.status_code == 503
        assert tidy(pools)


def later(reply: Reply, at_first: str) -> Script:
    """A script: a short answer, then `reply` to the prompt to reason or to read."""
    return [Completion(at_first), reply]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("broken", "expected"), [("small", "5"), ("large", "3"), ("both", "5")], ids=["small", "large", "both"]
)
@pytest.mark.parametrize("fault", list(SCRIPTED))
async def test_at_the_hand_off_what_is_at_hand_is_given(fault, broken, expected, stream):
    """If the small model's reasoning fails, the large one's short answer is returned; if reading fails, the small's."""
    small = later(SCRIPTED[fault] if broken != "large" else FINE, "2")
    large = later(SCRIPTED[fault] if broken != "small" else FINE, "5")
    async with pair(small, large) as (client, pools):
        assert await answered(client, stream) == (expected, "degraded")
        assert tidy(pools)


class Vanishing:
    """A model that sends short prompts to `here`, and all others to `gone`."""

    def __init__(self, here: OpenAIModel, gone: OpenAIModel) -> None:
        self.here, self.gone = here, gone

    def __getattr__(self, name: str) -> Any:
        return getattr(self.here, name)

    def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        return (self.here if prompt.mode is Mode.SHORT else self.gone).stream(prompt, limits)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("broken", "expected"), [("small", "5"), ("large", "3"), ("both", "5")], ids=["small", "large", "both"]
)
@pytest.mark.parametrize("address", [fault for fault in FATAL.values() if isinstance(fault, str)])
async def test_a_server_that_has_vanished_by_the_hand_off_is_made_do_without(address, broken, expected, stream):
    async with pair(later(FINE, "2"), later(FINE, "5")) as (client, pools):
        for role, pool in pools.items():
            if broken in (role, "both"):
                replica = pool.replicas[0]
                replica.model = Vanishing(replica.model, OpenAIModel(address, role, family="plain"))
        assert await answered(client, stream) == (expected, "degraded")
        assert tidy(pools)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("odd", ["small", "large", "both"])
@pytest.mark.parametrize("oddity", list(HARMLESS))
async def test_at_the_hand_off_what_is_odd_is_put_right(oddity, odd, stream):
    small, large = (HARMLESS[oddity] if odd in (role, "both") else FINE for role in ("small", "large"))
    async with pair(later(small, "2"), later(large, "5"), limits=UNHURRIED) as (client, pools):
        content, route = await answered(client, stream)
        assert content.startswith("3" if odd == "small" else SHOWN.get(oddity, "3"))
        assert route == "transferred"
        assert tidy(pools)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_empty_answer_of_the_reader_is_replaced(stream):
    async with pair(later(FINE, "2"), later(EMPTY, "5")) as (client, pools):
        assert await answered(client, stream) == ("3", "degraded")
        assert tidy(pools)


async def test_the_large_model_reasons_where_the_rescue_is_to_reason():
    asked = []

    def large(request: Received) -> Reply:
        asked.append("step by step" in str(request.body["messages"]))
        return FINE

    async with pair(HangUp(), large, rescue=Mode.REASON) as (client, _):
        assert await answered(client, stream=False) == ("3", "degraded")
    assert asked[:2] == [False, True]  # first short, then to reason after the small model failed


async def test_a_server_that_does_not_stop_at_a_stop_text_is_disconnected():
    def deaf(request: Received) -> Reply:
        del request.body["max_tokens"]
        return Completion("3 " * 10**5)

    async with MockServer(deaf, models=["large"]) as url:
        model = OpenAIModel(url, "large", family="plain")
        heard = [event async for event in model.stream(PROMPT, Limits(answer_tokens=10))]
        await model.aclose()
    assert heard[-1].finish_reason is FinishReason.LENGTH
    assert heard[-1].usage.completion_tokens < 100


async def test_what_failed_by_itself_is_tried_elsewhere():
    async with MockServer([HttpError(500)]) as one, MockServer([Completion("3")]) as other:
        pool = Pool([replica(one, "mock"), replica(other, "mock")])
        for _ in range(4):
            events = [event async for event in pool.stream(PROMPT, Limits())]
            assert any(isinstance(event, AnswerDelta) for event in events)
        await pool.aclose()


async def test_a_key_that_a_server_repeats_reaches_no_client():
    words = HttpError(401, {"error": {"message": "Incorrect API key provided: s3cret-of-ours"}})
    async with MockServer([words], models=["large"]) as url:
        address = url.replace("//", "//user:passw0rd@")
        model = OpenAIModel(address, "large", api_key="s3cret-of-ours")
        async with gateway({"small": model, "large": model}) as client:
            with pytest.raises(openai.APIStatusError) as failed:
                await client.chat.completions.create(**ASKED)
    assert "Incorrect API key provided: …" in str(failed.value)
    assert "s3cret" not in str(failed.value)
    assert "passw0rd" not in str(failed.value)
