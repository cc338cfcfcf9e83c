"""OpenAIModel with cancelled calls, hanging servers and faults: one error each, and nothing keeps running."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hearing import LIMITS, hear
from serving import REASON, SHORT, THOUGHT, served

from cuecard.domain.errors import (
    BadInput,
    BrokenStream,
    ContentFiltered,
    ModelBusy,
    ModelError,
    ModelRefused,
    ModelTimeout,
    ModelUnreachable,
    RequestRefused,
)
from cuecard.models.base import Limits, ReasoningDelta
from cuecard.models.openai import OpenAIModel
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import (
    BadJson,
    Completion,
    Cut,
    ErrorInStream,
    HangUp,
    HttpError,
    RawResponse,
    Reply,
    Stall,
)

# Disconnects and timeouts


async def until_cancelled(model: OpenAIModel, server: MockServer) -> None:
    task = asyncio.create_task(hear(model, REASON))
    await server.arrived.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def until_closed(model: OpenAIModel, server: MockServer) -> None:
    events = model.stream(REASON, LIMITS)
    async for event in events:
        if isinstance(event, ReasoningDelta):
            break
    await events.aclose()


@pytest.mark.parametrize("leave", [until_cancelled, until_closed])
@pytest.mark.parametrize(
    "says", [Completion("A", THOUGHT * 50, delay_s=0.01), Completion("A", THOUGHT, after=Stall(3))]
)
async def test_leaving_a_call_hangs_up_at_once(
    says: Completion, leave: Callable[[OpenAIModel, MockServer], Any]
) -> None:
    async with served(says) as (model, server):
        await leave(model, server)
        await server.received[0].gone.wait()


async def test_cancelling_before_the_first_byte_hangs_up_too() -> None:
    async with served(Stall()) as (model, server):
        await until_cancelled(model, server)
        await server.received[0].gone.wait()


def test_an_unclosed_model_gives_no_warning_at_exit():
    code = """
import asyncio
from cuecard import Pair
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion
from threading import Thread

loop = asyncio.new_event_loop()
Thread(target=loop.run_forever, daemon=True).start()
server = MockServer([Completion("3")])
url = asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result()
print(Pair(f"{url}#mock", f"{url}#mock").ask("How many?").answer)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert (done.stdout, done.stderr) == ("3\n", "")


STALLS: list[Reply] = [Stall(), Completion("A", THOUGHT, after=Stall(0)), Completion("A", THOUGHT, after=Stall(3))]


@pytest.mark.parametrize("stall", STALLS, ids=["before the first byte", "before the first token", "mid-stream"])
@pytest.mark.parametrize("bound", ["whole call", "silence"])
async def test_a_server_that_stalls_is_a_time_out(stall: Reply, bound: str) -> None:
    settings: dict[str, Any] = {"timeout_s": 0.2} if bound == "silence" else {}
    limits = Limits(timeout_s=0.2 if bound == "whole call" else None)
    async with served(stall, **settings) as (model, server):
        with pytest.raises(ModelTimeout):
            await hear(model, REASON, limits)
        await server.received[0].gone.wait()


async def test_the_time_limit_holds_for_both_stages_together() -> None:
    async with served(Completion("B", THOUGHT), Stall()) as (model, _):
        with pytest.raises(ModelTimeout):
            await hear(model, REASON, Limits(reasoning_tokens=4, timeout_s=0.2))


# Faults


NESTED = {"error": {"message": "no such thing", "type": "BadRequestError", "code": 400}}
FLAT = {"object": "error", "message": "no such thing", "type": "BadRequest", "code": 400}
FASTAPI = {"detail": [{"loc": ["body", "messages"], "msg": "no such thing", "type": "value_error"}]}
HTML = "<!DOCTYPE html><html><head><title>no such thing</title></head><body><h1>Sorry</h1></body></html>"


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (HttpError(400, NESTED), RequestRefused, "no such thing"),
        (HttpError(400, FLAT), RequestRefused, "no such thing"),
        (HttpError(400, {"error": "no such thing"}), RequestRefused, "no such thing"),
        (HttpError(422, FASTAPI), RequestRefused, "messages: no such thing"),
        (HttpError(400, HTML), RequestRefused, "no such thing"),
        (HttpError(401, NESTED), ModelRefused, "401"),
        (HttpError(403, NESTED), ModelRefused, "403"),
        (HttpError(404, {"detail": "Not Found"}), ModelRefused, "404"),
        (HttpError(408), ModelTimeout, "408"),
        (HttpError(413, HTML), RequestRefused, "413"),
        (HttpError(429, NESTED), ModelBusy, "429"),
        (HttpError(500, HTML), ModelError, "no such thing"),
        (HttpError(502, "<html><style>b\n{}</style><body><b>Bad</b> Gateway</body></html>"), ModelError, "Bad Gateway"),
        (HttpError(503, {}), ModelBusy, "503"),
        (HttpError(504, ""), ModelTimeout, "504"),
        (HangUp(), ModelUnreachable, "cannot reach"),
        (HttpError(200, HTML), BrokenStream, "text/html"),
        (Completion("A b c", after=Cut(1)), BrokenStream, "broke off"),
        (Completion("A b c", after=Cut(1, clean=True)), BrokenStream, "without a finish reason"),
        (Completion("A b c", after=BadJson()), BrokenStream, "not JSON"),
        (Completion("A b c", after=BadJson(text="[1]")), None, ""),
        (Completion("A b c", after=ErrorInStream()), ModelError, "engine died"),
        (
            Completion("A b c", after=ErrorInStream(error={"message": "queue full", "code": 429})),
            ModelBusy,
            "queue full",
        ),
        (Completion("A b c", after=ErrorInStream(error="out of memory")), ModelError, "out of memory"),
        (Completion("A", finish_reason="content_filter"), ContentFiltered, "filter"),
        (Completion("A", finish_reason="abort"), BrokenStream, "abort"),
    ],
    ids=repr,
)
async def test_every_fault_has_its_error(reply: Reply, kind: type[ModelError] | None, words: str) -> None:
    async with served(reply) as (model, _):
        if kind is None:
            assert (await hear(model, SHORT)).answer == "A b c"
            return
        with pytest.raises(ModelError, match=words) as caught:
            await hear(model, SHORT)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


async def test_a_closed_port_is_unreachable_and_names_the_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    model = OpenAIModel(url, "m")
    with pytest.raises(ModelUnreachable, match=url) as caught:
        await hear(model, SHORT)
    assert caught.value.__cause__ is not None
    await model.aclose()


async def test_a_model_that_is_not_served_is_answered_with_those_that_are() -> None:
    async with MockServer(models=["qwen3-2b", "qwen3-32b"]) as url:
        model = OpenAIModel(url, "qwen3-8b")
        with pytest.raises(ModelRefused, match="does not serve 'qwen3-8b'") as caught:
            await hear(model, SHORT)
        await model.aclose()
    assert caught.value.hint == "it serves: qwen3-2b, qwen3-32b"


async def test_an_address_with_a_wrong_path_is_named_until_it_answers() -> None:
    async with MockServer(models=["m"]) as url:
        model = OpenAIModel(url.replace("/v1", "/v2"), "m")
        with pytest.raises(ModelRefused, match="the path of this address is wrong") as caught:
            await hear(model, SHORT)
        assert model.wrong_path in caught.value.message
        await model.aclose()
        right = OpenAIModel(url, "m")
        await hear(right, SHORT)
        assert right.wrong_path is None
        await right.aclose()


async def test_a_server_without_a_list_that_does_not_know_the_model_has_the_right_path() -> None:
    pages = {"/models": RawResponse((b"{}",), status=404)}
    async with MockServer(models=["m"], pages=pages) as url:
        model = OpenAIModel(url, "other")
        with pytest.raises(ModelRefused, match="`other` does not exist"):
            await hear(model, SHORT)
        assert model.wrong_path is None
        await model.aclose()


async def test_a_wrong_key_is_refused_with_the_place_it_comes_from() -> None:
    server = MockServer(models=["m"], api_key="right")
    async with served(server=server, model="m", api_key="wrong") as (model, _):
        with pytest.raises(ModelRefused, match="Invalid API key") as caught:
            await hear(model, SHORT)
        assert "environment variable" in caught.value.hint
    async with served(server=server, model="m", api_key="right") as (model, _):
        assert (await hear(model, SHORT)).answer == "A"


@pytest.mark.parametrize("url", ["localhost:8000", "http://", "http://h:x/v1", "http://[", "ftp://host/v1", ""])
def test_what_is_no_address_is_bad_input(url: str) -> None:
    with pytest.raises(BadInput, match="not the URL"):
        OpenAIModel(url, "m")


async def test_a_fault_is_not_tried_again_here() -> None:
    async with served(HttpError(500), Completion("A")) as (model, server):
        with pytest.raises(ModelError):
            await hear(model, SHORT)
        assert len(server.received) == 1
        assert (await hear(model, SHORT)).answer == "A"
