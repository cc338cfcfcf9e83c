"""A real HTTP server that speaks chat completions from a script, faults included: for tests, demonstrations and CI.

server = MockServer([Says("B", reasoning="The bar of May is the tallest."), HttpError(429)])
async with server as url:
    ...  # OpenAIModel(url, "mock")
server.received[0].body, server.received[0].gone
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, groupby, repeat
from types import MappingProxyType, TracebackType
from typing import Any

from PIL import Image as PilImage

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
class Pace:
    """When tokens go out, in seconds from the request's arrival on: a schedule, so that lateness does not add up."""

    first_s: float = 0.0
    prompt_token_s: float = 0.0
    """Of each prompt token that is not cached, until the first token."""
    token_s: float = 0.0
    stalls_s: Mapping[int, float] = field(default_factory=dict)
    """So much longer before the token of that number, from 0 on."""
    bundle: int = 1
    """Tokens in an event, sent when the last of them is there; the first one goes out by itself."""

    def due_s(self, computed: int, token: int) -> float:
        """When a token is there, behind so many prompt tokens that are computed."""
        stalled = sum(seconds for number, seconds in self.stalls_s.items() if number <= token)
        return self.first_s + computed * self.prompt_token_s + token * self.token_s + stalled


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
    pace: Pace | None = None
    """In place of `delay_s`."""
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
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """An answer byte for byte."""

    parts: Sequence[bytes]
    """Each sent by itself."""
    status: int = 200
    kind: str = "text/event-stream"
    endless: bool = False
    """The last part comes again and again."""
    cut: bool = False
    """The connection breaks where the answer would end."""


@dataclass(frozen=True)
class HangUp:
    """The connection is closed without a word."""


Reply = Says | HttpError | HangUp | Stall | Raw


@dataclass
class Received:
    """A request as it came, and what became of its client."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at_s: float = 0.0
    """When its first byte was here, by the event loop's clock, as all times below."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """The client hung up before the answer was whole."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    sent: list[tuple[float, str, int]] = field(default_factory=list)
    """What went out: when, the field that was filled (or role, finish, usage, done), and how many tokens."""

    def told(self) -> dict[str, Any]:
        """What happened, as JSON under /told: the truth for whoever measures this server."""
        counts = {"prompt_tokens": self.prompt_tokens, "cached_tokens": self.cached_tokens}
        return {"model": self.body.get("model"), "at_s": self.at_s, "sent": self.sent, **counts}


class MockServer:
    """Replies come from the script in turn, the last one again and again, or from a function of the request."""

    def __init__(
        self,
        script: Sequence[Reply] | Callable[[Received], Reply] = (Says("A"),),
        *,
        models: Sequence[str] = ("mock",),
        refuses: Sequence[str] = (),
        refuses_keywords: Sequence[str] = (),
        api_key: str | None = None,
        prefix_cache: bool = False,
        visual_px: int | None = None,
        running_usage: bool = False,
        loading: bool = False,
        aborts: bool = True,
        owner: str = "mock",
        pages: Mapping[str, Raw] = MappingProxyType({}),
    ) -> None:
        self._pages = pages
        """What it sends in place of its own /models, /metrics and the like."""
        self._owner = owner
        """What its list of models calls their owner, which tells servers apart."""
        self._aborts = aborts
        """Whether /metrics, in vLLM's words, tells of an abort when a client has gone."""
        self._script, self._models, self._refuses, self._api_key = script, models, refuses, api_key
        self._keywords = refuses_keywords
        """Schemas with one of these keywords are refused, as by servers that decode under a subset of JSON Schema."""
        self._prefix_cache, self._running_usage, self.loading = prefix_cache, running_usage, loading
        self._visual_px = visual_px
        """The side of the square of an image that is one token; None: an image is one token."""
        self.received: list[Received] = []
        """Requests for completions, refused ones included."""
        self.arrived = asyncio.Event()
        """A first request has come."""
        self._prompts: dict[tuple[str, ...], None] = {}
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
        """One request after the other, until the client has gone or an answer is broken off."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ahead = b""
        try:
            while True:
                ahead = ahead or await reader.readexactly(1)
                request = await _read(reader, ahead, asyncio.get_running_loop().time())
                answer = asyncio.ensure_future(self._answer(request, writer))
                further = asyncio.ensure_future(_byte(reader))  # a client that is content sends nothing till the end
                try:
                    await asyncio.wait([answer, further], return_when=asyncio.FIRST_COMPLETED)
                    if further.done() and further.result():
                        await asyncio.wait([answer])
                    # whoever has gone is seen by reading, or by writing, whichever comes first
                    if not answer.done() or isinstance(answer.exception(), ConnectionError):
                        request.gone.set()
                    if not answer.done() or answer.exception() or not answer.result():
                        return
                    ahead = further.result() if further.done() else b""
                finally:
                    answer.cancel()
                    further.cancel()
                    await asyncio.gather(answer, further, return_exceptions=True)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # a client that leaves, or the end of the test
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(self, request: Received, writer: asyncio.StreamWriter) -> bool:
        """Whether the answer is whole."""
        path = request.path.removeprefix("/v1")
        if path in self._pages:
            return await _send_raw(writer, self._pages[path])
        if path == "/health":
            await _send(writer, 503 if self.loading else 200, {})
        elif path == "/models":
            listed = [{"id": name, "object": "model", "owned_by": self._owner} for name in self._models]
            await _send(writer, 200, {"object": "list", "data": listed})
        elif path == "/chat/completions":
            self.received.append(request)
            self.arrived.set()
            return await self._complete(request, writer)
        elif path == "/told":
            await _send(writer, 200, {"requests": [each.told() for each in self.received]})
        elif path == "/metrics":
            gone = sum(each.gone.is_set() for each in self.received) if self._aborts else 0
            await _send(writer, 200, f'vllm:request_success_total{{finished_reason="abort"}} {gone}.0\n')
        else:
            await _send(writer, 404, {"detail": "Not Found"})
        return True

    async def _complete(self, request: Received, writer: asyncio.StreamWriter) -> bool:
        body, reply = request.body, self._refusal(request) or self._next(request)
        match reply:
            case HttpError(status, error, headers):
                await _send(writer, status, error, headers)
            case Raw():
                return await _send_raw(writer, reply)
            case HangUp():
                return False
            case Stall() | Says(after=Stall(None)):
                await asyncio.Event().wait()
            case Says():
                self._count(request)
                saying = _Saying(reply, request, self._running_usage)
                if body.get("stream"):
                    return await saying.stream(writer)
                await _send(writer, 200, saying.whole())
        return True

    def _refusal(self, request: Received) -> HttpError | None:
        body = request.body
        if self._api_key is not None and request.headers.get("authorization") != f"Bearer {self._api_key}":
            return HttpError(401, {"error": {"message": "Invalid API key", "type": "invalid_request_error"}})
        if body.get("model") not in self._models:
            return HttpError(404, {"error": {"message": f"The model `{body.get('model')}` does not exist."}})
        sent = body | (body.get("stream_options") or {})
        unknown = next((key for key in self._refuses if key in sent), None)
        message = f"Unrecognized request argument supplied: {unknown}" if unknown else ""
        schema = json.dumps(sent.get("response_format"))
        if keyword := next((each for each in self._keywords if f'"{each}":' in schema), None):
            message = f"Invalid schema for response_format 'answer': '{keyword}' is not permitted"
        return HttpError(400, {"error": {"message": message, "param": None}}) if message else None

    def _next(self, request: Received) -> Reply:
        if callable(self._script):
            return self._script(request)
        reply = self._script[min(self._turn, len(self._script) - 1)]
        self._turn += 1
        return reply

    def _count(self, request: Received) -> None:
        """The prompt's tokens, and with how many of them an earlier one began."""
        prompt = tuple(_prompt(request.body, self._visual_px))
        request.prompt_tokens = len(prompt)
        if self._prefix_cache:
            # the last token is always computed: its successor is what is asked for
            known = max((_common(prompt, other) for other in self._prompts), default=0)
            request.cached_tokens = min(known, len(prompt) - 1)
            self._prompts[prompt] = None


class _Saying:
    """One reply on its way out."""

    def __init__(self, says: Says, request: Received, running_usage: bool) -> None:
        self.says, self.request, self.body = says, request, (body := request.body)
        options = body.get("stream_options") or {}
        self.running_usage = running_usage and bool(options.get("continuous_usage_stats"))
        self.include_usage = bool(options.get("include_usage")) and says.count is not Count.MISSING
        pieces = list(_framed(says, says.thinks if says.thinks is not None else _wants_thinking(body)))
        most = body.get("max_tokens") or body.get("max_completion_tokens") or len(pieces) + 1
        if body.get("ignore_eos"):  # the end is written over, again and again
            pieces += pieces[-1:] * (most - len(pieces))
        pieces, stopped = _until_stop(pieces, body.get("stop") or ())
        self.pieces = pieces[:most]
        self.finish = "length" if len(pieces) >= most and not stopped else says.finish_reason

    async def stream(self, writer: asyncio.StreamWriter) -> bool:
        """Whether it came to its end."""
        clock = asyncio.get_running_loop().time
        writer.write(_head(200, "text/event-stream", "Transfer-Encoding: chunked"))
        async for text, name, tokens in self._events():
            if text is None:
                return False
            data = text.encode()
            self.request.sent.append((clock(), name, tokens))
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _events(self) -> AsyncIterator[tuple[str | None, str, int]]:
        """Server-sent events, what each fills, its tokens; without a text: the connection breaks."""
        role = self._event({"role": "assistant", "content": ""})
        if self.says.pace is None:
            yield role, "role", 0
        for place, name, texts in self._bundles():
            match self.says.after:
                case Stall(tokens) if tokens == place:
                    await asyncio.Event().wait()
                case Cut(tokens, clean) if tokens == place:
                    if not clean:
                        yield None, "", 0
                    return
                case BadJson(tokens, junk) if tokens == place:
                    yield f"data: {junk}\n\n", "junk", 0
                case ErrorEvent(tokens, error) if tokens == place:
                    yield f"data: {json.dumps({'error': error})}\n\n", "error", 0
            sent = place + len(texts)
            await self._until_due(sent - 1)
            if self.says.pace is not None and not place:  # as vLLM does
                yield role, "role", 0
            yield self._event({name: "".join(texts)}, tokens=texts, sent=sent), name, len(texts)
        end = [END_OF_TURN] if self.finish == "stop" else []
        yield self._event({}, tokens=end, sent=len(self.pieces), finish=self.finish), "finish", 0
        if self.include_usage:
            yield f"data: {json.dumps({'choices': [], 'usage': self._usage(len(self.pieces))})}\n\n", "usage", 0
        yield "data: [DONE]\n\n", "done", 0

    def _bundles(self) -> Iterator[tuple[int, str, list[str]]]:
        """Number of the first token, field and texts of each event: as many tokens of one field as go out together."""
        most = 1 if self.says.pace is None else self.says.pace.bundle
        place = 0
        while place < len(self.pieces):
            taken = self.pieces[place : place + (most if place else 1)]
            name, group = next(groupby(taken, key=lambda piece: piece[0]))
            texts = [text for _, text in group]
            yield place, name, texts
            place += len(texts)

    async def _until_due(self, token: int) -> None:
        if self.says.pace is None:
            await asyncio.sleep(self.says.delay_s)
            return
        computed = self.request.prompt_tokens - self.request.cached_tokens
        due = self.request.at_s + self.says.pace.due_s(computed, token)
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))

    def whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "", "reasoning": ""}
        for name, text in self.pieces:
            message[name] = message.get(name, "") + text
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        usage = self._usage(len(self.pieces))
        answer: dict[str, Any] = {"object": "chat.completion", "choices": [choice], "usage": usage}
        if self.body.get("prompt_logprobs") is not None:
            prompt = _prompt(self.body, None)
            rows = [{str(at): {"logprob": self.says.logprob, "decoded_token": word}} for at, word in enumerate(prompt)]
            answer["prompt_logprobs"] = [None, *rows[1:]]
        return answer

    def _event(
        self, delta: dict[str, Any], *, tokens: Sequence[str] = (), sent: int = 0, finish: str | None = None
    ) -> str:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        if self.body.get("logprobs") and self.says.logprob is not None and tokens:
            told = [{"token": text, "logprob": self.says.logprob} for text in tokens]
            wanted = self.body.get("top_logprobs") or 0
            others = [{"token": f"other{place}", "logprob": -5.0} for place in range(wanted)]
            choice["logprobs"] = {"content": [token | {"top_logprobs": [token, *others][:-1]} for token in told]}
        event: dict[str, Any] = {"object": "chat.completion.chunk", "choices": [choice]}
        if self.running_usage:
            event["usage"] = self._usage(sent)
        return f"data: {json.dumps(event)}\n\n"

    def _usage(self, completion: int) -> dict[str, Any]:
        thought = sum(name.startswith("reasoning") for name, _ in self.pieces[:completion])
        usage: dict[str, Any] = {"prompt_tokens": self.request.prompt_tokens, "completion_tokens": completion}
        if self.says.count is Count.DETAILED:
            usage["prompt_tokens_details"] = {"cached_tokens": self.request.cached_tokens}
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        elif self.says.count is Count.SGLANG:
            usage["reasoning_tokens"] = thought
        return usage


def _until_stop(pieces: list[tuple[str, str]], stops: str | Sequence[str]) -> tuple[list[tuple[str, str]], bool]:
    """The tokens before the first stop text, be it in the reasoning or in the answer, and whether there is one."""
    text = "".join(piece for _, piece in pieces)
    found = [at for stop in ([stops] if isinstance(stops, str) else stops) if (at := text.find(stop)) >= 0]
    if not found:
        return pieces, False
    room, kept = min(found), []
    for name, piece in pieces:
        if room > 0:
            kept.append((name, piece[:room]))
        room -= len(piece)
    return kept, True


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


def _prompt(body: Mapping[str, Any], visual_px: int | None) -> list[str]:
    """The tokens of the messages: words, and of an image one, or as many as it has squares of that side."""
    tokens: list[str] = []
    for message in body["messages"]:
        content = message["content"]
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "text":
                tokens += re.findall(r"\s*\S+|\s+", part["text"])
            else:
                url = part["image_url"]["url"]
                tokens += [url] * (1 if visual_px is None else _squares(url, visual_px))
    return tokens


def _squares(url: str, side: int) -> int:
    with PilImage.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        return max(1, picture.width // side) * max(1, picture.height // side)


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


async def _byte(reader: asyncio.StreamReader) -> bytes:
    """The next one; none when the client has gone."""
    try:
        return await reader.read(1)
    except ConnectionError:
        return b""


async def _read(reader: asyncio.StreamReader, ahead: bytes, at_s: float) -> Received:
    """The request whose first byte is here."""
    head = (ahead + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    data = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, path, headers, json.loads(data) if data else {}, at_s)


async def _send(
    writer: asyncio.StreamWriter,
    status: int,
    body: Mapping[str, Any] | str,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> None:
    kind = "text/html" if isinstance(body, str) else "application/json"
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    more = (f"{name}: {value}" for name, value in headers.items())
    writer.write(_head(status, kind, f"Content-Length: {len(data)}", *more) + data)
    await writer.drain()


async def _send_raw(writer: asyncio.StreamWriter, raw: Raw) -> bool:
    """Whether the answer came to its end."""
    writer.write(_head(raw.status, raw.kind, "Transfer-Encoding: chunked"))
    for part in chain(raw.parts, repeat(raw.parts[-1]) if raw.endless else ()):
        writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        await writer.drain()
        await asyncio.sleep(0)
    if not raw.cut:
        writer.write(b"0\r\n\r\n")
        await writer.drain()
    return not raw.cut


def _head(status: int, kind: str, *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Mock", f"Content-Type: {kind}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
