"""Scripted replies of a mock server: completions with their framing and pace, and faults."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import Any

from PIL import Image as PilImage

END_OF_TURN = "<|im_end|>"


class Framing(StrEnum):
    """The part of a reply that holds the reasoning."""

    REASONING = "reasoning"
    REASONING_CONTENT = "reasoning_content"
    TAGS = "tags"
    IMPLIED = "implied"
    """In the content, with a closing tag only: the opening tag is in the prompt."""
    MISFILED = "misfiled"
    """Everything, including the answer, is in the reasoning field."""


class Count(StrEnum):
    """How a server reports tokens."""

    DETAILED = "detailed"
    SGLANG = "sglang"
    BARE = "bare"
    MISSING = "missing"


@dataclass(frozen=True)
class Pace:
    """When tokens are sent, in seconds since the request's arrival: a schedule, so that delays do not add up."""

    first_s: float = 0.0
    prompt_token_s: float = 0.0
    """Per prompt token that is not cached, before the first token."""
    token_s: float = 0.0
    stalls_s: Mapping[int, float] = field(default_factory=dict)
    """Extra seconds before a token, by the token's number from 0."""
    bundle: int = 1
    """Tokens per event, sent when the last of them is due; the first token is sent alone."""

    def due_s(self, computed: int, token: int) -> float:
        """Seconds until a token is due, after this many computed prompt tokens."""
        stalled = sum(seconds for number, seconds in self.stalls_s.items() if number <= token)
        return self.first_s + computed * self.prompt_token_s + token * self.token_s + stalled


@dataclass(frozen=True)
class Completion:
    """A reply. It stops after `max_tokens` pieces; a piece is one token: a word, or `piece` characters."""

    answer: str = ""
    reasoning: str = ""
    framing: Framing = Framing.REASONING
    thinks: bool | None = None
    """Whether it sends its reasoning; None: as the request switches thinking."""
    count: Count = Count.DETAILED
    finish_reason: str = "stop"
    logprob: float | None = -0.1
    """Log probability of each token; None: the server sends none."""
    delay_s: float = 0.0
    """Seconds before each token."""
    pace: Pace | None = None
    """Used in place of `delay_s`."""
    piece: int | None = None
    after: Stall | Cut | BadJson | ErrorInStream | None = None
    """A fault in the middle of the reply."""


@dataclass(frozen=True)
class Stall:
    """The reply stalls after this many tokens; before the first byte if None."""

    tokens: int | None = None


@dataclass(frozen=True)
class Cut:
    """The connection is closed after this many tokens; `clean`: as after a complete reply."""

    tokens: int = 1
    clean: bool = False


@dataclass(frozen=True)
class BadJson:
    """An event that is not JSON."""

    tokens: int = 1
    text: str = '{"choices": [{"del'


@dataclass(frozen=True)
class ErrorInStream:
    """An error inside the stream."""

    tokens: int = 1
    error: Mapping[str, Any] | str = field(default_factory=lambda: {"message": "engine died", "code": 500})


@dataclass(frozen=True)
class HttpError:
    """An error status and its body: an object, or text that is sent as HTML."""

    status: int
    body: Mapping[str, Any] | str = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RawResponse:
    """A response, byte for byte."""

    parts: Sequence[bytes]
    """Each is sent separately."""
    status: int = 200
    kind: str = "text/event-stream"
    endless: bool = False
    """The last part is sent repeatedly, without end."""
    cut: bool = False
    """The connection breaks where the response would end."""


@dataclass(frozen=True)
class HangUp:
    """The connection is closed without a response."""


Reply = Completion | HttpError | HangUp | Stall | RawResponse


class BrokenConnection(Exception):
    """Raised to close the connection."""


@dataclass
class Received:
    """A received request, the events sent for it, and whether its client disconnected."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at_s: float = 0.0
    """When its head arrived, by the event loop's clock, like all times below."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set if the client disconnects before the reply is complete."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    sent: list[tuple[float, str, int]] = field(default_factory=list)
    """Events sent: time, field (or role, finish, usage, done, junk, error), and number of tokens."""

    def as_object(self) -> dict[str, Any]:
        """The JSON object under /received: the ground truth for measurements of this server."""
        counts = {"prompt_tokens": self.prompt_tokens, "cached_tokens": self.cached_tokens}
        return {"model": self.body.get("model"), "at_s": self.at_s, "sent": self.sent, **counts}


class RenderedCompletion:
    """One completion as server-sent events, or as a whole."""

    def __init__(self, completion: Completion, request: Received, running_usage: bool) -> None:
        self.completion, self.request, self.body = completion, request, (body := request.body)
        options = body.get("stream_options") or {}
        self.running_usage = running_usage and bool(options.get("continuous_usage_stats"))
        self.include_usage = bool(options.get("include_usage")) and completion.count is not Count.MISSING
        thinks = completion.thinks if completion.thinks is not None else _wants_thinking(body)
        pieces = list(_framed(completion, thinks))
        most = body.get("max_tokens") or body.get("max_completion_tokens") or len(pieces) + 1
        if body.get("ignore_eos"):  # the last piece is repeated up to the limit
            pieces += pieces[-1:] * (most - len(pieces))
        pieces, stopped = _until_stop(pieces, body.get("stop") or ())
        self.pieces = pieces[:most]
        self.finish = "length" if len(pieces) >= most and not stopped else completion.finish_reason

    async def events(self) -> AsyncIterator[tuple[str, str, int]]:
        """Server-sent events when they are due, each with its field and number of tokens. Raises BrokenConnection."""
        role = self._event({"role": "assistant", "content": ""})
        if self.completion.pace is None:
            yield role, "role", 0
        for place, name, texts in self._bundles():
            match self.completion.after:
                case Stall(tokens) if tokens == place:
                    await asyncio.Event().wait()
                case Cut(tokens, clean) if tokens == place:
                    if not clean:
                        raise BrokenConnection
                    return
                case BadJson(tokens, junk) if tokens == place:
                    yield f"data: {junk}\n\n", "junk", 0
                case ErrorInStream(tokens, error) if tokens == place:
                    yield f"data: {json.dumps({'error': error})}\n\n", "error", 0
            sent = place + len(texts)
            await self._until_due(sent - 1)
            if self.completion.pace is not None and not place:  # as vLLM does
                yield role, "role", 0
            yield self._event({name: "".join(texts)}, tokens=texts, sent=sent), name, len(texts)
        end = [END_OF_TURN] if self.finish == "stop" else []
        yield self._event({}, tokens=end, sent=len(self.pieces), finish=self.finish), "finish", 0
        if self.include_usage:
            yield f"data: {json.dumps({'choices': [], 'usage': self._usage(len(self.pieces))})}\n\n", "usage", 0
        yield "data: [DONE]\n\n", "done", 0

    def _bundles(self) -> Iterator[tuple[int, str, list[str]]]:
        """Number of the first token, field and texts of each event, which holds up to `bundle` tokens of one field."""
        most = 1 if self.completion.pace is None else self.completion.pace.bundle
        place = 0
        while place < len(self.pieces):
            taken = self.pieces[place : place + (most if place else 1)]
            name, group = next(groupby(taken, key=lambda piece: piece[0]))
            texts = [text for _, text in group]
            yield place, name, texts
            place += len(texts)

    async def _until_due(self, token: int) -> None:
        if self.completion.pace is None:
            await asyncio.sleep(self.completion.delay_s)
            return
        computed = self.request.prompt_tokens - self.request.cached_tokens
        due = self.request.at_s + self.completion.pace.due_s(computed, token)
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))

    def whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "", "reasoning": ""}
        for name, text in self.pieces:
            message[name] = message.get(name, "") + text
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        usage = self._usage(len(self.pieces))
        answer: dict[str, Any] = {"object": "chat.completion", "choices": [choice], "usage": usage}
        if self.body.get("prompt_logprobs") is not None:
            prompt = prompt_tokens(self.body, None)
            rows = [
                {str(at): {"logprob": self.completion.logprob, "decoded_token": word}} for at, word in enumerate(prompt)
            ]
            answer["prompt_logprobs"] = [None, *rows[1:]]
        return answer

    def _event(
        self, delta: dict[str, Any], *, tokens: Sequence[str] = (), sent: int = 0, finish: str | None = None
    ) -> str:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        if self.body.get("logprobs") and self.completion.logprob is not None and tokens:
            sent_tokens = [{"token": text, "logprob": self.completion.logprob} for text in tokens]
            wanted = self.body.get("top_logprobs") or 0
            others = [{"token": f"other{place}", "logprob": -5.0} for place in range(wanted)]
            choice["logprobs"] = {"content": [token | {"top_logprobs": [token, *others][:-1]} for token in sent_tokens]}
        event: dict[str, Any] = {"object": "chat.completion.chunk", "choices": [choice]}
        if self.running_usage:
            event["usage"] = self._usage(sent)
        return f"data: {json.dumps(event)}\n\n"

    def _usage(self, completion: int) -> dict[str, Any]:
        thought = sum(name.startswith("reasoning") for name, _ in self.pieces[:completion])
        usage: dict[str, Any] = {"prompt_tokens": self.request.prompt_tokens, "completion_tokens": completion}
        if self.completion.count is Count.DETAILED:
            usage["prompt_tokens_details"] = {"cached_tokens": self.request.cached_tokens}
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        elif self.completion.count is Count.SGLANG:
            usage["reasoning_tokens"] = thought
        return usage


def _until_stop(pieces: list[tuple[str, str]], stops: str | Sequence[str]) -> tuple[list[tuple[str, str]], bool]:
    """The tokens before the first stop text, in the reasoning or the answer, and whether there is one."""
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


def _framed(completion: Completion, thinks: bool) -> list[tuple[str, str]]:
    """(field, text) of every token."""
    reasoning = completion.reasoning if thinks else ""
    match completion.framing:
        case Framing.MISFILED:
            parts = [("reasoning", reasoning + completion.answer)]
        case Framing.TAGS | Framing.IMPLIED:
            opening = "<think>\n" if completion.framing is Framing.TAGS else ""
            block = f"{opening}{reasoning}\n</think>\n\n" if reasoning else ""
            parts = [("content", block + completion.answer)]
        case name:
            parts = [(str(name), reasoning), ("content", completion.answer)]
    cut = re.compile(r"\s*\S+|\s+" if completion.piece is None else rf"[\s\S]{{1,{completion.piece}}}")
    return [(name, piece) for name, text in parts for piece in cut.findall(text)]


def _wants_thinking(body: Mapping[str, Any]) -> bool:
    """Whether a template would open reasoning: by the switches, unless the prompt has already closed a think block."""
    last = body["messages"][-1]
    closed = last["role"] == "assistant" and "</think>" in last["content"]
    off = False in (body.get("chat_template_kwargs") or {}).values() or body.get("reasoning_effort") == "none"
    return not closed and not off


def prompt_tokens(body: Mapping[str, Any], visual_px: int | None) -> list[str]:
    """The tokens of the messages: words; one per image, or one per square of `visual_px` pixels a side."""
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
