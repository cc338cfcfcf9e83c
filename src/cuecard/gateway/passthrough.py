"""Requests that a pair cannot answer, passed to one model unchanged, and charged."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cuecard.domain.call import Call, FinishReason, Mode, Usage
from cuecard.domain.errors import BadInput, BrokenStream, CuecardError
from cuecard.domain.outcome import Outcome, Route
from cuecard.gateway.admission.connections import ClientGone
from cuecard.gateway.admission.limits import Lease
from cuecard.gateway.metrics import GatewayMetrics
from cuecard.gateway.pairs import Service
from cuecard.gateway.records import Accounting
from cuecard.gateway.wire.chat import problem, sse
from cuecard.gateway.wire.parameters import (
    CONNECTING,
    DATA,
    HINT,
    Json,
    everything,
    leads_away,
    reading,
    refers_away,
)
from cuecard.gateway.wire.request import CHARS_PER_TOKEN, RequestEnd, RequestInfo, Unanswered, named
from cuecard.models.openai.response_body import chunk, usage

PASSED = "passed"
"""The strategy of such a request, in metrics and the journal."""


def given(body: Json) -> RequestInfo:
    """The fields that are read of a request that is passed on. Raises BadInput."""
    permit(body)
    texts = [each for each in everything(body["messages"]) if isinstance(each, str)]
    characters = sum(len(text) for text in texts if text[: len(DATA)].lower() != DATA)
    stream = body.get("stream") is True
    return RequestInfo(model=named(body), stream=stream, prompt_tokens=characters // CHARS_PER_TOKEN)


class PassedExchange:
    """One such request: its answer under the model name that it requested, and its usage."""

    def __init__(self, info: RequestInfo, body: Json, role: str, model: str) -> None:
        self.info, self._role, self._model = info, role, model
        self._began, self._usage, self._finish = time.perf_counter(), Usage(), FinishReason.STOP
        self._first_s: float | None = None
        self._pieces = 0
        self.over = False
        self.error: Exception | None = None
        options = body.get("stream_options")
        self._options = options if isinstance(options, dict) else {}
        self.body = body | {"stream_options": self._options | {"include_usage": True}} if info.stream else body
        """The body that is sent: a stream always includes its usage, which is charged."""

    @property
    def outcome(self) -> Outcome:
        """The outcome, once the answer is whole."""
        call = self._call(self._finish)
        return Outcome("", Route.DIRECT, PASSED, (call,), call.end_s, f"beyond a pair: passed to {self._model}")

    @contextmanager
    def accounted(self, accounting: Accounting, pair: Service, lease: Lease) -> Iterator[None]:
        """Account for the request at its end, however it ends."""
        try:
            yield
        except ClientGone:
            raise
        except Exception as error:
            self.error = error
            raise
        finally:
            ended: Outcome | Unanswered = self.outcome
            if not self.over:
                call = self._call(FinishReason.ERROR if self.error else FinishReason.CANCELLED)
                end = RequestEnd.FAILED if self.error else RequestEnd.LEFT
                ended = Unanswered(end, PASSED, (call,), call.end_s, self.error)
            accounting.ended(pair, self.info, lease, ended, self._first_s)

    def _call(self, finish: FinishReason) -> Call:
        took_s = time.perf_counter() - self._began
        used = self._usage if self._usage.completion_tokens is not None else Usage(completion_tokens=self._pieces)
        return Call(self._role, self._model, Mode.SHORT, 0.0, self._first_s, took_s, used, finish)

    async def whole(self, events: AsyncGenerator[Json]) -> Json:
        """An answer that is not streamed. Raises ModelError."""
        answer: Json | None = None
        async for event in events:
            if answer is not None:
                raise BrokenStream(f"{self._model} streamed an answer that was to come whole")
            answer = self._observed(event)
        if answer is None:
            raise BrokenStream(f"{self._model} sent no answer")
        self.over = True
        return answer

    async def events(self, events: AsyncGenerator[Json], metrics: GatewayMetrics) -> AsyncGenerator[bytes]:
        """A streamed answer as it arrives; an error is its last event before [DONE]."""
        try:
            async for event in events:
                shown = _streamed(self._observed(event))
                if self._options.get("include_usage") is True or shown.get("choices") or "usage" not in shown:
                    yield sse(shown)
            self.over = True
        except CuecardError as error:
            metrics.failed(error)
            self.error = error
            yield sse(problem(error))
        yield sse("[DONE]")

    def _observed(self, event: Json) -> Json:
        if self._first_s is None:
            self._first_s = time.perf_counter() - self._began
        self._usage = usage(event.get("usage")) or self._usage
        self._pieces += bool(event.get("choices"))  # at least one token each, until the server counts them
        if chunk(event).finish_reason == "length":
            self._finish = FinishReason.LENGTH
        return event | {"model": self.info.model} if "choices" in event else event


def _streamed(event: Json) -> Json:
    """An event of a stream; a whole answer, from a server that does not stream, becomes one."""
    choices = event.get("choices")
    whole = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    if not any("message" in choice for choice in whole):
        return event
    deltas = [{"delta" if key == "message" else key: value for key, value in choice.items()} for choice in whole]
    return event | {"object": "chat.completion.chunk", "choices": deltas}


# --- what may be passed on --------------------------------------------------------------------------------------------

MESSAGE = (
    *("role", "content", "name", "refusal", "tool_calls", "tool_call_id", "function_call", "annotations"),
    *("reasoning_content", "reasoning", "reasoning_details", "prefix"),
)
"""The keys that a message may have."""
WORDS = (
    *("messages", "tools", "functions", "response_format", "stop", "model", "prediction"),
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity"),
    *("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
)
"""Parameters whose text may begin like an address: it is for the model, or a grammar, or is checked separately."""


def permit(body: Json) -> None:
    """Raises BadInput for a request that must not be passed on."""
    for key, value in body.items():
        if key in CONNECTING and value is not None:
            raise BadInput(f"{key} is not passed on: it has the server connect to others", "leave it out", param=key)
        if (key not in WORDS and leads_away(value)) or refers_away(value):
            raise BadInput(f"no address is passed on, and {key[:100]!r} has one", HINT, param=key[:100])
    tools = body.get("tools") or []
    for tool in tools if isinstance(tools, list) else [tools]:
        if not isinstance(tool, dict) or tool.get("type") not in ("function", "custom"):
            hint = "have the client call the others"
            raise BadInput("only tools of type 'function' are passed on", hint, param="tools")
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise BadInput("messages is not a list", param="messages")
    for index, message in enumerate(messages):
        with reading(f"messages[{index}]"):
            _permit_message(message, f"message {index + 1}")


def _permit_message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise BadInput(f"{where} is not an object")
    for key, value in message.items():
        if key not in MESSAGE and value is not None:
            raise BadInput(f"{where} has an unknown key {key[:100]!r}", f"there are: {', '.join(MESSAGE)}")
    content = message.get("content")
    if not isinstance(content, str | list | None):
        raise BadInput(f"{where} has no content", "a text, or a list of parts")
    for part in content if isinstance(content, list) else ():
        _permit_part(part, where)


def _permit_part(part: Any, where: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in PARTS:
        raise BadInput(f"{where} has a part of type {str(kind)[:100]!r}", f"there are: {', '.join(PARTS)}")
    holds, is_fine = PARTS[kind]
    part = {key: value for key, value in part.items() if value is not None}
    if strange := sorted(set(part) - {holds, *BESIDE}):
        raise BadInput(f"{where} has a {kind} with an unknown key {strange[0][:100]!r}", f"write it as {holds}")
    if not is_fine(part.get(holds)):
        problem = f"no {holds} is fetched from the web here" if is_fine is _data_url else f"{where} has a bad {kind}"
        raise BadInput(problem, HINT)
    if leads_away([part[key] for key in BESIDE if key in part]):
        raise BadInput(f"{where} has a {kind} with an address", HINT)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _secret(value: object) -> bool:
    return isinstance(value, str) and not leads_away(value)


def _data_url(value: object) -> bool:
    url = value.get("url") if isinstance(value, dict) and set(value) <= {"url", "detail", "format"} else value
    return isinstance(url, str) and url[: len(DATA)].lower() == DATA


def _sound(value: object) -> bool:
    return isinstance(value, dict) and set(value) <= {"data", "format"} and not leads_away(value)


def _file(value: object) -> bool:
    return isinstance(value, dict) and set(value) <= {"file_data", "filename"} and _data_url(value.get("file_data"))


def _thought(value: object) -> bool:
    if not isinstance(value, list):
        return _text(value)
    return all(isinstance(each, dict) and set(each) <= {"type", "text"} and _text(each.get("text")) for each in value)


PARTS: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "text": ("text", _text),
    "input_text": ("text", _text),
    "output_text": ("text", _text),
    "refusal": ("refusal", _text),
    "thinking": ("thinking", _thought),
    "redacted_thinking": ("data", _secret),
    "reasoning": ("text", _text),
    "reasoning_text": ("text", _text),
    "image_url": ("image_url", _data_url),
    "input_image": ("image_url", _data_url),
    "video_url": ("video_url", _data_url),
    "audio_url": ("audio_url", _data_url),
    "input_audio": ("input_audio", _sound),
    "file": ("file", _file),
}
"""Type of a part -> the key of its content, and the check of that content."""
BESIDE = ("type", "detail", "annotations", "cache_control", "signature")
