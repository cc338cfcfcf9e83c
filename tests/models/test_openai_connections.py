"""Connections to a server: stale keep-alive connections, closing of models, rejected parameters, and events."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hearing import hear
from serving import REASON, SHORT, THOUGHT, served

from cuecard.domain.errors import BrokenStream, ModelClosed, ModelUnreachable
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.base import Limits, ReasoningDelta
from cuecard.models.openai import OpenAIModel
from cuecard.models.openai.http import Disconnected, HttpClient
from cuecard.models.prompt import CardFormat, read, short
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import BadJson, Completion, Framing, HttpError, Received, Reply, Stall

ENDLESS = Limits(timeout_s=None)
EVENT = b'data: {"choices":[{"delta":{"content":"A"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(EVENT), EVENT)


# Keep-alive connections

Ending = Callable[[asyncio.StreamWriter], None]


def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()


def half_closed(writer: asyncio.StreamWriter) -> None:
    writer.write_eof()


def reset(writer: asyncio.StreamWriter) -> None:
    at_once = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.transport.abort()


def begun(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-le")
    writer.close()


class Hanging:
    """A server that answers the first `answers` requests of a connection, and disconnects at the next."""

    def __init__(
        self, answers: int, ending: Ending = closed, *, at_once: bool = False, fails_from: int = 10**9
    ) -> None:
        """`at_once`: disconnects right after the last answer. `fails_from`: answers no request from this number on."""
        self._answers, self._ending, self._at_once, self._fails_from = answers, ending, at_once, fails_from
        self.requests = self.connections = 0
        self._serving: set[asyncio.Task[None] | None] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        server.close()
        await asyncio.gather(*filter(None, self._serving))  # each task ends when its client disconnects

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._serving.add(asyncio.current_task())
        left = self._answers
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while left or not self._at_once:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                if b"content-length: " in head:
                    await reader.readexactly(int(head.split(b"content-length: ")[1].split()[0]))
                self.requests += 1
                if not left or self.requests >= self._fails_from:
                    break
                left -= 1
                writer.write(ANSWER)
            self._ending(writer)
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def a_post(server: HttpClient) -> None:
    answer = await server.post("/chat/completions", {"stream": True})
    assert await answer.whole() == EVENT


async def a_page(server: HttpClient) -> None:
    assert await server.page("/models", 5) == EVENT


Request = Callable[[HttpClient], Awaitable[None]]
both = pytest.mark.parametrize("request_one", [a_post, a_page])


async def test_a_server_that_hangs_up_behind_each_answer_without_saying_so_fails_no_call_of_200():
    async with (hanging := Hanging(1, at_once=True)).open() as url:
        model = OpenAIModel(url, "mock")
        for _ in range(200):
            assert (await hear(model, SHORT)).answer == "A"
        await model.aclose()
    assert hanging.requests == 200


async def test_calls_at_once_all_find_their_kept_connections_closed_and_all_answer():
    async with Hanging(1).open() as url:
        model = OpenAIModel(url, "mock")
        for _ in range(10):
            heard = await asyncio.gather(*(hear(model, SHORT) for _ in range(8)))
            assert [each.answer for each in heard] == ["A"] * 8
        await model.aclose()


@both
@pytest.mark.parametrize("ending", [closed, half_closed, reset])
async def test_a_request_that_is_hung_up_on_on_a_kept_connection_is_sent_again_on_a_new_one(
    ending: Ending, request_one: Request
):
    async with (hanging := Hanging(1, ending)).open() as url:
        server = HttpClient(url, None, None)
        for _ in range(3):
            await request_one(server)
        await server.aclose()
    assert hanging.requests in (4, 5)  # the new connection of the second request is not kept, so the third opens one


@both
async def test_a_request_that_is_hung_up_on_on_a_new_connection_is_not_sent_again(request_one: Request):
    async with (hanging := Hanging(0)).open() as url:
        server = HttpClient(url, None, None)
        with pytest.raises(Disconnected):
            await request_one(server)
        await server.aclose()
    assert hanging.requests == 1


@both
async def test_a_request_is_sent_again_only_once(request_one: Request):
    async with (hanging := Hanging(1, fails_from=2)).open() as url:
        server = HttpClient(url, None, None)
        await request_one(server)
        with pytest.raises(Disconnected):
            await request_one(server)
        await server.aclose()
    assert (hanging.requests, hanging.connections) == (3, 2)


@both
async def test_a_request_whose_answer_has_begun_is_not_sent_again(request_one: Request):
    async with (hanging := Hanging(1, begun)).open() as url:
        server = HttpClient(url, None, None)
        await request_one(server)
        with pytest.raises(Disconnected, match="inside the head"):
            await request_one(server)
        await server.aclose()
    assert hanging.requests == 2


async def test_a_server_that_hangs_up_on_a_new_connection_is_unreachable():
    async with Hanging(0).open() as url:
        model = OpenAIModel(url, "mock")
        with pytest.raises(ModelUnreachable, match="Server disconnected"):
            await hear(model, SHORT)
        await model.aclose()


async def test_a_kept_connection_that_is_closed_before_a_byte_is_written_fails_no_call():
    async with (hanging := Hanging(9)).open() as url:
        model = OpenAIModel(url, "mock")
        for _ in range(2):
            assert (await hear(model, SHORT)).answer == "A"
            (kept,) = model._server._server._sessions[0].connector._conns.values()
            # at that time, the next call has taken the connection, but has written nothing yet
            asyncio.get_running_loop().call_soon(kept[0][0].transport.close)
            assert (await hear(model, SHORT)).answer == "A"
        await model.aclose()
    assert hanging.requests == 4


# Closing


async def until_stalled(model: OpenAIModel, reply: Reply, waiting: asyncio.Event) -> None:
    """Read a call's events; sets `waiting` when the server has sent everything and stalls."""
    pieces = 0
    if not isinstance(reply, Completion):
        waiting.set()
    async for event in model.stream(REASON, ENDLESS):
        pieces += isinstance(event, ReasoningDelta)
        if pieces == 3:
            waiting.set()


@pytest.mark.parametrize("reply", [Stall(), Completion("A", THOUGHT, after=Stall(3))])
async def test_closing_a_model_ends_its_streams_with_an_error_that_says_so(reply: Reply) -> None:
    async with served(reply, timeout_s=None) as (model, server):
        waiting = asyncio.Event()
        call = asyncio.create_task(until_stalled(model, reply, waiting))
        await asyncio.gather(server.arrived.wait(), waiting.wait())
        await model.aclose()
        with pytest.raises(ModelClosed, match="was closed"):
            await call
        await server.received[0].gone.wait()
        with pytest.raises(ModelClosed, match="was closed"):
            await hear(model, SHORT)
        await model.aclose()


async def passed_on(model: OpenAIModel) -> None:
    async with model.passed({"messages": [{"role": "user", "content": "a"}]}) as lines:
        [line async for line in lines]


@pytest.mark.parametrize("call", [passed_on, lambda model: model.score(SHORT, "A"), lambda model: model.warm(SHORT)])
async def test_closing_a_model_ends_calls_that_are_no_streams_too(call: Callable[[OpenAIModel], Any]) -> None:
    async with served(Stall(), timeout_s=None, scoring=True, prefill=True, prefix_cache=True) as (model, server):
        running = [asyncio.ensure_future(call(model)) for _ in range(3)]
        await server.arrived.wait()
        await asyncio.gather(model.aclose(), model.aclose())
        for each in running:
            with pytest.raises(ModelClosed):
                await each


async def test_a_stream_whose_listener_is_busy_while_the_model_is_closed_ends_when_it_goes_on() -> None:
    async with served(Completion("A", THOUGHT), timeout_s=None) as (model, _):
        events = model.stream(REASON, ENDLESS)
        await anext(events)
        await model.aclose()
        with pytest.raises(ModelClosed):
            [event async for event in events]


# Rejected parameters


@pytest.mark.parametrize("refuses", [["logprobs"], ["stream_options", "logprobs", "temperature", "max_tokens"]])
async def test_calls_at_once_to_a_server_that_refuses_parameters_all_answer(refuses: list[str]) -> None:
    async with served(server=MockServer([Completion("A")], models=["qwen3-vl-8b"], refuses=refuses)) as (model, server):
        heard = await asyncio.gather(*(hear(model, SHORT) for _ in range(4)))
        assert [each.answer for each in heard] == ["A"] * 4
        asked = len(server.received)
        assert (await hear(model, SHORT)).answer == "A"
        assert len(server.received) == asked + 1


async def test_scores_at_once_from_a_server_that_refuses_parameters_all_come() -> None:
    mock = MockServer([Completion("A")], models=["qwen3-vl-8b"], refuses=["chat_template_kwargs", "max_tokens"])
    async with served(server=mock, scoring=True) as (model, _):
        assert len(set(await asyncio.gather(*(model.score(SHORT, "A") for _ in range(4))))) == 1


async def test_a_schema_that_cannot_be_enforced_behind_a_given_reasoning_is_left_out_of_that_request_alone() -> None:
    """llama.cpp rejects such requests: the schema's grammar does not match the reasoning at the start of the answer."""

    def reply(request: Received) -> Reply:
        begun = request.body["messages"][-1]["role"] == "assistant"
        if begun and "response_format" in request.body:
            return HttpError(400, {"error": {"message": "Failed to initialize samplers: std::exception"}})
        return Completion('{"floor": 20}', framing=Framing.TAGS)

    asked = Question("How large is it?", kind=AnswerKind.JSON, schema='{"type": "object"}')
    server = MockServer(reply, models=["llama-3"])
    async with served(server=server, model="llama-3", prefill=True) as (model, _):
        style = model.abilities.style
        behind = await hear(model, read(asked, "4 times 5 is 20.", CardFormat.THINKING, style))
        alone = await hear(model, short(asked, style))
    assert (behind.answer, alone.answer) == ('{"floor": 20}', '{"floor": 20}')
    assert ["response_format" in body for body in server.bodies] == [True, False, True]


# Events


async def test_an_event_without_an_end_breaks_the_stream_and_says_so() -> None:
    async with served(Completion("A b c", after=BadJson(1, "x" * (9 << 20)))) as (model, _):
        with pytest.raises(BrokenStream, match="an event of more than 8 MiB"):
            await hear(model, SHORT)
