"""Clients that are slow, send too much, or stay connected at shutdown."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import suppress
from urllib.parse import urlsplit

import httpx2
import openai
import pytest
from gateways import COUNT, agreeing, gateway, model

from cuecard.gateway.admission import connections
from cuecard.gateway.admission.connections import LimitedProtocol
from cuecard.gateway.pairs import Pairs, Service
from cuecard.gateway.tables import Key, digest
from cuecard.gateway.wire import body

pytestmark = pytest.mark.slow

ASKED = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}]}


class Impatient(LimitedProtocol):
    """With a short timeout for the request head."""

    head_s = 0.2


class Narrow(LimitedProtocol):
    """With a small send buffer; counts open connections."""

    open = 0

    def connection_made(self, transport):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        Narrow.open += 1
        super().connection_made(transport)

    def connection_lost(self, exc):
        Narrow.open -= 1
        super().connection_lost(exc)


async def response_to(client: openai.AsyncOpenAI, *pieces: bytes, every_s: float = 0.0) -> bytes:
    """Send raw bytes, a piece every `every_s` seconds; returns the response up to the end of the connection."""
    url = urlsplit(str(client.base_url))
    reader, writer = await asyncio.open_connection(url.hostname, url.port)

    async def speak() -> None:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(every_s)

    speaking = asyncio.create_task(speak())
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)
        await hang_up(writer)


async def deaf(client: openai.AsyncOpenAI) -> asyncio.StreamWriter:
    """A connection that receives almost nothing."""
    _, writer = await asyncio.open_connection(sock=await narrow_socket(client), limit=1)
    return writer


async def narrow_socket(client: openai.AsyncOpenAI) -> socket.socket:
    """A connected socket with a small receive buffer, which nothing reads."""
    url = urlsplit(str(client.base_url))
    ours = socket.socket()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    ours.setblocking(False)
    await asyncio.get_running_loop().sock_connect(ours, (url.hostname, url.port))
    return ours


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_headers_that_come_a_byte_at_a_time_are_not_waited_for():
    async with gateway(http=Impatient) as client:
        answer = await response_to(
            client, *[b"%c" % byte for byte in b"GET /health HTTP/1.1\r\nx: " + b"y" * 200], every_s=0.02
        )
        assert answer.startswith(b"HTTP/1.1 408")
        assert (await client.chat.completions.create(**ASKED)).choices[0].message.content == "3"


async def test_an_idle_connection_is_closed():
    async with gateway(http=Impatient) as client:
        assert (await response_to(client)).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("head", [b"GET /" + b"a" * 80_000, b"GET /health HTTP/1.1\r\nx: " + b"a" * 80_000])
async def test_an_address_or_headers_without_an_end_are_refused(head):
    async with gateway() as client:
        assert (await response_to(client, head)).startswith(b"HTTP/1.1 431")


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(body, "BODY_S", 0.2)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{"
    async with gateway() as client:
        answer = await response_to(client, head)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"the body took longer" in answer


def long_answer(**more: object) -> bytes:
    """A request for an answer larger than the buffers of the connection."""
    asked = ASKED | {"model": "huge", "max_tokens": 200_000, "cuecard": {"kind": "free_text"}} | more
    body = json.dumps(asked)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


async def test_a_client_that_takes_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(connections, "SEND_S", 0.2)
    speaker = model("huge", "word " * 200_000)
    async with gateway(agreeing() | {"large": speaker}, http=Narrow) as client:
        writer = await deaf(client)
        writer.write(long_answer(stream=True))
        async with asyncio.timeout(10):
            for begun in (True, False):
                while bool(speaker.running) is not begun:  # noqa: ASYNC110 - a scripted model has no event for it
                    await asyncio.sleep(0.02)
        await hang_up(writer)


@pytest.mark.parametrize(
    "asked",
    [long_answer(stream=True), long_answer(), long_answer() * 2, long_answer() + long_answer(stream=True)],
    ids=["streamed", "whole", "the next request too", "the next stream too"],
)
async def test_the_connection_of_a_client_that_takes_nothing_is_cut(monkeypatch, asked):
    monkeypatch.setattr(connections, "SEND_S", 0.2)
    pairs = Pairs([Service(agreeing() | {"large": model("huge", "word " * 20_000)})])
    async with gateway(pairs=pairs, http=Narrow) as client:
        writer = await deaf(client)
        writer.write(asked)
        await cut(pairs)
        await hang_up(writer)


async def cut(pairs: Pairs) -> None:
    """Wait until a connection has opened and closed again, and no request is in progress."""
    async with asyncio.timeout(10):
        for open_ones in (1, 0):
            while Narrow.open != open_ones:  # noqa: ASYNC110 - a transport has no event for it
                await asyncio.sleep(0.02)
        while pairs.first.under_way:  # noqa: ASYNC110 - a service has no event for it
            await asyncio.sleep(0.02)


async def test_a_client_that_takes_a_while_what_is_ready_and_then_nothing_is_cut_off(monkeypatch):
    monkeypatch.setattr(connections, "SEND_S", 0.5)
    speaker = model("huge", "word " * 5_000)
    pairs = Pairs([Service(agreeing() | {"large": speaker})])
    async with gateway(pairs=pairs, http=Narrow) as client:
        ours = await narrow_socket(client)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(ours, long_answer(stream=True))
        await asyncio.sleep(0.3)
        taken = 0
        while taken < 150_000:
            taken += len(await loop.sock_recv(ours, 4096))
        await cut(pairs)
        ours.close()


async def test_a_server_that_stops_lets_requests_end():
    async with gateway({role: model(role, "3", first_token_s=0.5) for role in agreeing()}) as client:
        asked = asyncio.create_task(client.chat.completions.create(**ASKED))
        await asyncio.sleep(0.2)
    assert (await asked).choices[0].message.content == "3"


async def test_but_not_for_ever_and_cancels_their_calls():
    models = {role: model(role, "3", first_token_s=60.0) for role in agreeing()}
    async with gateway(models, drain_s=1) as client:
        asked = asyncio.create_task(client.chat.completions.create(**ASKED))
        await asyncio.sleep(0.2)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert not any(each.running for each in models.values())
    with pytest.raises(openai.APIError):
        await asked


# --- requests rejected before their body is read ----------------------------------------------------------------------


def begun(path: str = "/v1/chat/completions", *headers: str) -> bytes:
    """The head of a request with a body of ten gigabytes."""
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-length: 10000000000", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
PIECE = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
KEYS = [Key(name="app", sha256=digest("x"))]


@pytest.mark.parametrize(
    ("keys", "pieces", "status"),
    [
        (KEYS, [begun()], b"401"),
        (KEYS, [begun("/v1/decision"), b"{" * 1000], b"401"),
        (KEYS, [CHUNKED, PIECE], b"401"),
        ([], [begun()], b"413"),
        ([], [CHUNKED, *[PIECE] * 40], b"413"),
        ([], [begun("/nowhere")], b"404"),
        ([], [begun("/health")], b"405"),
        ([], [begun("/v1/chat/completions", "origin: https://elsewhere.example")], b"403"),
        ([], [begun().replace(b"POST /v1/chat/completions", b"GET /health")], b"200"),
    ],
)
async def test_the_connection_ends_with_an_answer_that_does_not_wait_for_the_body(keys, pieces, status):
    async with gateway(keys=keys) as client:
        answer = await response_to(client, *pieces)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"connection: close" in answer.partition(b"\r\n\r\n")[0].lower()


async def test_a_refused_client_that_keeps_sending_is_cut_off(monkeypatch):
    monkeypatch.setattr(connections, "LINGER_S", 0.1)
    async with gateway(keys=KEYS) as client:
        url = urlsplit(str(client.base_url))
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(begun())
        assert (await reader.read()).startswith(b"HTTP/1.1 401")
        async with asyncio.timeout(5):
            with suppress(ConnectionError):
                while True:
                    writer.write(b" " * 0x10000)
                    await writer.drain()
                    await asyncio.sleep(0.01)
        await hang_up(writer)


async def test_a_client_that_sends_its_whole_body_first_learns_why_it_was_refused():
    body = b" " * 30_000_000
    async with gateway() as client, httpx2.AsyncClient(base_url=str(client.base_url)) as plain:
        answer = await plain.post("chat/completions", content=body)
    assert answer.status_code == 413


async def test_a_connection_whose_requests_were_read_stays_open():
    body = json.dumps(ASKED).encode()
    ask = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    bad = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n[]"
    async with gateway() as client:
        answer = await response_to(
            client, ask, bad, b"GET /health HTTP/1.1\r\nhost: x\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400", b"403"]
