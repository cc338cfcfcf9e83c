"""A real HTTP server that speaks chat completions from a script, faults included: for tests, demonstrations and CI.

server = MockServer([Says("B", reasoning="The bar of May is the tallest."), HttpError(429)])
async with server as url:
    ...  # OpenAIModel(url, "mock")
server.received[0].body, server.received[0].gone
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any

END_OF_TURN = "<|im_end|>"


class Framing(StrEnum):
    """Where a server puts reasoning."""

    REASONING = "reasoning"
    REASONING_CONTENT = "reasoning_content"
    TAGS = "tags"
    IMPLIED = "implied"
    """In the content, and only its end is marked: the opening tag stood in the prompt."""
    MISFILED = "misfiled"
    """Everything, the answer too, goes into the reasoning field."""


class Count(StrEnum):
    """How a server reports tokens."""

    DETAILED = "detailed"
    SGLANG = "sglang"
    BARE = "bare"
    MISSING = "missing"


@dataclass(frozen=True)
class Says:
    """A reply. It stops after `max_tokens` pieces, a piece being a word or `piece` characters, and one token."""

    answer: str = ""
    reasoning: str = ""
    framing: Framing = Framing.REASONING
    thinks: bool | None = None
    """Whether it gives its reasoning; None: as the request switches it."""
    count: Count = Count.DETAILED
    finish_reason: str = "stop"
    logprob: float | None = -0.1
    """Of each token; None: the server gives none."""
    delay_s: float = 0.0
    """Before each token."""
    piece: int | None = None
    after: Stall | Cut | BadJson | ErrorEvent | None = None
    """What happens in the midst of it."""


@dataclass(frozen=True)
class Stall:
    """Nothing more comes after so many tokens; before the first byte if None."""

    tokens: int | None = None


@dataclass(frozen=True)
class Cut:
    """The connection is closed after so many tokens; `clean`: as if the answer were whole."""

    tokens: int = 1
    clean: bool = False


@dataclass(frozen=True)
class BadJson:
    """An event that is not JSON."""

    tokens: int = 1
    text: str = '{"choices": [{"del'


@dataclass(frozen=True)
class ErrorEvent:
    """An error inside the stream."""

    tokens: int = 1
    error: Mapping[str, Any] | str = field(default_factory=lambda: {"message": "engine died", "code": 500})


@dataclass(frozen=True)
class HttpError:
    """A status and what comes with it: an object, or text that is sent as HTML."""

    status: int
    body: Mapping[str, Any] | str = field(default_factory=dict)


@dataclass(frozen=True)
class HangUp:
    """The connection is closed without a word."""


Reply = Says | HttpError | HangUp | Stall


@dataclass
class Received:
    """A request as it came, and what became of its client."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """The client hung up before the answer was whole."""


class MockServer:
    """Replies come from the script in turn, the last one again and again, or from a function of the request."""

    def __init__(
        self,
        script: Sequence[Reply] | Callable[[Received], Reply] = (Says("A"),),
        *,
        models: Sequence[str] = ("mock",),
        refuses: Sequence[str] = (),
        api_key: str | None = None,
        prefix_cache: bool = False,
        running_usage: bool = False,
        loading: bool = False,
        aborts: bool = True,
    ) -> None:
        self._aborts = aborts
        """Whether /metrics, in vLLM's words, tells of an abort when a client has gone."""
        self._script, self._models, self._refuses, self._api_key = script, models, refuses, api_key
        self._prefix_cache, self._running_usage, self.loading = prefix_cache, running_usage, loading
        self.received: list[Received] = []
        """Requests for completions, refused ones included."""
        self.arrived = asyncio.Event()
        """A first request has come."""
        self._prompts: list[list[str]] = []
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> str:
        """The base URL, `http://127.0.0.1:PORT/v1`."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [request.body for request in self.received]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            request = await _read(reader)
            answer = asyncio.ensure_future(self._answer(request, writer))
            gone = asyncio.ensure_future(reader.read())  # a client that is content sends nothing more
            try:
                await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
                # whoever has gone is seen by reading, or by writing, whichever comes first
                if not answer.done() or isinstance(answer.exception(), ConnectionError):
                    request.gone.set()
            finally:
                answer.cancel()
                gone.cancel()
                await asyncio.gather(answer, gone, return_exceptions=True)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # a client that leaves, or the end of the test
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, request: Received, writer: asyncio.StreamWriter) -> None:
        path = request.path.removeprefix("/v1")
        if path == "/health":
            await _send(writer, 503 if self.loading else 200, {})
        elif path == "/models":
            await _send(writer, 200, {"object": "list", "data": [{"id": m, "object": "model"} for m in self._models]})
        elif path == "/chat/completions":
            self.received.append(request)
            self.arrived.set()
            await self._complete(request, writer)
        elif path == "/metrics":
            gone = sum(each.gone.is_set() for each in self.received) if self._aborts else 0
            await _send(writer, 200, f'vllm:request_success_total{{finished_reason="abort"}} {gone}.0\n')
        else:
            await _send(writer, 404, {"detail": "Not Found"})

    async def _complete(self, request: Received, writer: asyncio.StreamWriter) -> None:
        body, reply = request.body, self._refusal(request) or self._next(request)
        match reply:
            case HttpError(status, error):
                await _send(writer, status, error)
            case HangUp():
                return
            case Stall() | Says(after=Stall(None)):
                await asyncio.Event().wait()
            case Says():
                saying = _Saying(reply, body, self._cached(body), self._running_usage)
                if body.get("stream"):
                    await saying.stream(writer)
                else:
                    await _send(writer, 200, saying.whole())

    def _refusal(self, request: Received) -> HttpError | None:
        body = request.body
        if self._api_key is not None and request.headers.get("authorization") != f"Bearer {self._api_key}":
            return HttpError(401, {"error": {"message": "Invalid API key", "type": "invalid_request_error"}})
        if body.get("model") not in self._models:
            return HttpError(404, {"error": {"message": f"The model `{body.get('model')}` does not exist."}})
        sent = {*body, *(body.get("stream_options") or ())}
        unknown = next((key for key in self._refuses if key in sent), None)
        message = f"Unrecognized request argument supplied: {unknown}"
        return HttpError(400, {"error": {"message": message, "param": None}}) if unknown else None

    def _next(self, request: Received) -> Reply:
        if callable(self._script):
            return self._script(request)
        reply = self._script[min(self._turn, len(self._script) - 1)]
        self._turn += 1
        return reply

    def _cached(self, body: Mapping[str, Any]) -> int:
        """How many tokens of this prompt an earlier one began with."""
        prompt = _prompt(body)
        self._prompts.append(prompt)
        if not self._prefix_cache:
            return 0
        return max((_common(prompt, other) for other in self._prompts[:-1]), default=0)


class _Saying:
    """One reply on its way out."""

    def __init__(self, says: Says, body: Mapping[str, Any], cached: int, running_usage: bool) -> None:
        self.says, self.body, self.cached = says, body, cached
        options = body.get("stream_options") or {}
        self.running_usage = running_usage and bool(options.get("continuous_usage_stats"))
        self.include_usage = bool(options.get("include_usage")) and says.count is not Count.MISSING
        pieces = list(_framed(says, says.thinks if says.thinks is not None else _wants_thinking(body)))
        most = body.get("max_tokens") or body.get("max_completion_tokens") or len(pieces) + 1
        self.pieces = pieces[:most]
        self.finish = "length" if len(pieces) >= most else says.finish_reason

    async def stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_head(200, "text/event-stream", "Transfer-Encoding: chunked"))
        async for text in self._events():
            if text is None:
                return
            data = text.encode()
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _events(self) -> AsyncIterator[str | None]:
        """Server-sent events; None: the connection breaks."""
        yield self._event({"role": "assistant", "content": ""})
        for sent, (name, text) in enumerate(self.pieces):
            match self.says.after:
                case Stall(tokens) if tokens == sent:
                    await asyncio.Event().wait()
                case Cut(tokens, clean) if tokens == sent:
                    if not clean:
                        yield None
                    return
                case BadJson(tokens, junk) if tokens == sent:
                    yield f"data: {junk}\n\n"
                case ErrorEvent(tokens, error) if tokens == sent:
                    yield f"data: {json.dumps({'error': error})}\n\n"
            await asyncio.sleep(self.says.delay_s)
            yield self._event({name: text}, tokens=[text], sent=sent + 1)
        yield self._event({}, tokens=[END_OF_TURN] if self.finish == "stop" else [], finish=self.finish)
        if self.include_usage:
            yield f"data: {json.dumps({'choices': [], 'usage': self._usage(len(self.pieces))})}\n\n"
        yield "data: [DONE]\n\n"

    def whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "", "reasoning": ""}
        for name, text in self.pieces:
            message[name] = message.get(name, "") + text
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        usage = self._usage(len(self.pieces))
        answer: dict[str, Any] = {"object": "chat.completion", "choices": [choice], "usage": usage}
        if self.body.get("prompt_logprobs") is not None:
            prompt = _prompt(self.body)
            rows = [{str(at): {"logprob": self.says.logprob, "decoded_token": word}} for at, word in enumerate(prompt)]
            answer["prompt_logprobs"] = [None, *rows[1:]]
        return answer

    def _event(
        self, delta: dict[str, Any], *, tokens: Sequence[str] = (), sent: int = 0, finish: str | None = None
    ) -> str:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        if self.body.get("logprobs") and self.says.logprob is not None and tokens:
            choice["logprobs"] = {"content": [{"token": text, "logprob": self.says.logprob} for text in tokens]}
        event: dict[str, Any] = {"object": "chat.completion.chunk", "choices": [choice]}
        if self.running_usage:
            event["usage"] = self._usage(sent)
        return f"data: {json.dumps(event)}\n\n"

    def _usage(self, completion: int) -> dict[str, Any]:
        thought = sum(name.startswith("reasoning") for name, _ in self.pieces[:completion])
        usage: dict[str, Any] = {"prompt_tokens": len(_prompt(self.body)), "completion_tokens": completion}
        if self.says.count is Count.DETAILED:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached}
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        elif self.says.count is Count.SGLANG:
            usage["reasoning_tokens"] = thought
        return usage


def _framed(says: Says, thinks: bool) -> list[tuple[str, str]]:
    """(field, text) of every token."""
    reasoning = says.reasoning if thinks else ""
    match says.framing:
        case Framing.MISFILED:
            parts = [("reasoning", reasoning + says.answer)]
        case Framing.TAGS:
            parts = [("content", f"<think>\n{reasoning}\n</think>\n\n{says.answer}" if reasoning else says.answer)]
        case Framing.IMPLIED:
            parts = [("content", f"{reasoning}\n</think>\n\n{says.answer}" if reasoning else says.answer)]
        case name:
            parts = [(str(name), reasoning), ("content", says.answer)]
    cut = re.compile(r"\s*\S+|\s+" if says.piece is None else rf"[\s\S]{{1,{says.piece}}}")
    return [(name, piece) for name, text in parts for piece in cut.findall(text)]


def _wants_thinking(body: Mapping[str, Any]) -> bool:
    """As a template would take it: the switches, and a think block that the prompt has already closed."""
    last = body["messages"][-1]
    closed = last["role"] == "assistant" and "</think>" in last["content"]
    off = False in (body.get("chat_template_kwargs") or {}).values() or body.get("reasoning_effort") == "none"
    return not closed and not off


def _prompt(body: Mapping[str, Any]) -> list[str]:
    """The tokens of the messages: words, and one for an image."""
    tokens: list[str] = []
    for message in body["messages"]:
        content = message["content"]
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            tokens += re.findall(r"\s*\S+|\s+", part["text"]) if part["type"] == "text" else [part["image_url"]["url"]]
    return tokens


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    data = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, path, headers, json.loads(data) if data else {})


async def _send(writer: asyncio.StreamWriter, status: int, body: Mapping[str, Any] | str) -> None:
    kind = "text/html" if isinstance(body, str) else "application/json"
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    writer.write(_head(status, kind, f"Content-Length: {len(data)}") + data)
    await writer.drain()


def _head(status: int, kind: str, *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Mock", f"Content-Type: {kind}", "Connection: close", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
