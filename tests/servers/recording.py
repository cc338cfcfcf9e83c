"""A proxy for one server: forwards every request, and records chat completions as the server sends them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


@dataclass
class Exchange:
    """One chat completion: the request's body, the answer's status, and the deltas of its stream joined."""

    body: dict[str, Any]
    status: int = 0
    content: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    """None if the client disconnected before the end."""
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The text of all messages."""
        parts = (message["content"] for message in self.body["messages"])
        return "\n".join(part if isinstance(part, str) else json.dumps(part) for part in parts)

    def take(self, line: bytes) -> None:
        """Add one line of the stream."""
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or data == b"[DONE]":
            return
        event = json.loads(data)
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices", ()):
            delta = choice.get("delta", {})
            self.content += delta.get("content") or ""
            self.reasoning += delta.get("reasoning_content") or delta.get("reasoning") or ""
            self.finish_reason = choice.get("finish_reason") or self.finish_reason


class Proxy:
    """`exchanges` holds one entry per chat completion; `url` is the base URL for clients."""

    def __init__(self, upstream: str) -> None:
        self.exchanges: list[Exchange] = []
        self.url = ""
        self._root, _, self._path = upstream.rstrip("/").rpartition("/")

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        """Serve until `stop`. When a client disconnects, its upstream request is closed, too."""
        self._upstream = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{tail:.*}", self._pass)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/{self._path}"
        ready.set()
        await stop.wait()
        await runner.cleanup()
        await self._upstream.close()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        data, exchange = await request.read(), None
        if request.path.endswith("/chat/completions"):
            self.exchanges.append(exchange := Exchange(json.loads(data)))
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        async with self._upstream.request(
            request.method, self._root + request.path_qs, data=data, headers=headers
        ) as answer:
            if exchange is not None:
                exchange.status = answer.status
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for line in answer.content:
                if exchange is not None and exchange.body.get("stream"):
                    exchange.take(line)
                await response.write(line)
            await response.write_eof()
        return response


@contextmanager
def recorded(upstream: str) -> Iterator[Proxy]:
    """A proxy for `upstream` (a base URL that ends in /v1) with its own event loop."""
    proxy, ready, loop, stop = Proxy(upstream), threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(proxy.serve(ready, stop),), daemon=True)
    thread.start()
    try:
        assert ready.wait(10)
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
