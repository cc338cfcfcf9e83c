"""Anthropic's Messages wire, stateless: requests become those of chat completions, outcomes become content blocks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cuecard.domain.errors import BadInput, CuecardError
from cuecard.domain.outcome import Outcome
from cuecard.gateway.wire import message_blocks as blocks
from cuecard.gateway.wire import translation
from cuecard.gateway.wire import usage as token_usage
from cuecard.gateway.wire.chat import Fetch, ParsedRequest
from cuecard.gateway.wire.parameters.values import object_of
from cuecard.gateway.wire.tools import tools
from cuecard.gateway.wire.tools.tools import ToolCall
from cuecard.gateway.wire.usage import Json

EXAMPLE = '{"model": "cuecard", "max_tokens": 1024, "messages": [{"role": "user", "content": "…"}]}'
IGNORED = ("cache_control", "container", "context_management", "diagnostics", "inference_geo", "speed")
"""Beside what chat completions ignore."""
ELSEWHERE = {"mcp_servers": "have the client call them, and offer what they do as tools"}
OWN = (
    *("messages", "system", "stop_sequences", "thinking", "output_config", "tools", "tool_choice"),
    *("reasoning", "reasoning_effort", "include_reasoning", "stop", "thread", *IGNORED, *ELSEWHERE),
)
THINKING = ("enabled", "adaptive", "between_tools", "disabled")
EFFORTS = {"max": "xhigh"}
"""Names of efforts that chat completions have under another name."""
SIGNATURE = "cuecard"
"""Of every thinking block. Clients require one; it proves nothing, and is not checked when it comes back."""
PING = translation.event("ping", {})
ERROR_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""By HTTP status; others are `invalid_request_error` below 500 and `api_error` from there on."""


class NoThreads(BadInput):
    """The request continues, or begins, a conversation that the server is to keep.

    Anthropic's client sends the whole conversation instead when it reads this code.
    """

    code, hint = "thread_unsupported_request", "send the whole conversation without thread"


def parse(body: object, fetch: Fetch) -> ParsedRequest:
    """A request in the terms of chat completions. Raises BadInput."""
    if isinstance(body, dict) and body.get("max_tokens") is None:
        raise BadInput("max_tokens is missing", "write how many tokens the answer may have, as in " + EXAMPLE)
    return parse_countable(body, fetch)


def parse_countable(body: object, fetch: Fetch) -> ParsedRequest:
    """As `parse`, for counting tokens: the request needs no `max_tokens`. Raises BadInput."""
    given, translated = translation.split(body, OWN, EXAMPLE)
    for key, hint in ELSEWHERE.items():
        if given.get(key):
            raise BadInput(f"{key} is not supported", hint)
    if given.get("thread"):
        raise NoThreads("the gateway keeps no conversations")
    config = object_of(given, "output_config")
    effort = config.get("effort")
    translated["messages"] = blocks.messages(given)
    translated["stop"] = _stop_sequences(given)
    translated["reasoning"] = _reasoning(object_of(given, "thinking"))
    translated["reasoning_effort"] = EFFORTS.get(str(effort), effort)
    translated["response_format"] = _format(object_of(config, "format"))
    translated |= blocks.tools(given)
    parsed = translation.parse(translated, fetch, "msg")
    extras = replace(parsed.parameters.extras, stop_is_named=bool(parsed.parameters.stop))
    return replace(parsed, parameters=replace(parsed.parameters, extras=extras))


def _reasoning(thinking: Json) -> Json:
    """The reasoning's budget, and whether it is shown: where thinking is enabled and not omitted."""
    kind, budget = thinking.get("type", "disabled"), thinking.get("budget_tokens")
    if kind not in THINKING:
        raise BadInput(f"thinking has the type {str(kind)[:100]!r}", f"there are: {', '.join(THINKING)}")
    if kind == "enabled" and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 1):
        raise BadInput("budget_tokens of thinking is not a whole number of at least 1", "or use the type adaptive")
    hidden = kind == "disabled" or thinking.get("display") == "omitted"
    return {"exclude": hidden} | ({"max_tokens": budget} if kind == "enabled" else {})


def _stop_sequences(given: Json) -> list[object] | None:
    texts = given.get("stop_sequences")
    if not isinstance(texts, list | None):
        raise BadInput("stop_sequences is not a list of texts")
    return texts or None


def _format(wanted: Json) -> Json | None:
    if wanted.get("type") != "json_schema":
        return wanted or None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted.get("schema")}}


# --- answers ----------------------------------------------------------------------------------------------------------


def usage(outcome: Outcome) -> Json:
    """Tokens over all calls. Unlike OpenAI, Anthropic does not count cached tokens as input."""
    total = token_usage.usage(outcome)
    cached = total["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": max(0, total["prompt_tokens"] - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": total["completion_tokens"],
        "output_tokens_details": {"thinking_tokens": total["completion_tokens_details"]["reasoning_tokens"]},
    }


def stop(outcome: Outcome, *, calls: Sequence[ToolCall] | None = None) -> Json:
    """Why the visible answer ends, and the stop sequence at which it does."""
    if calls is not None:
        reason = "tool_use"
    elif outcome.stopped_by is not None:
        reason = "stop_sequence"
    else:
        reason = "max_tokens" if outcome.truncated else "end_turn"
    return {"stop_reason": reason, "stop_sequence": outcome.stopped_by}


def _block(call: ToolCall, given: Json) -> Json:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": given}


def problem(error: CuecardError, status: int | None = None, request: str | None = None) -> Json:
    """An error's body as Anthropic's clients read it; `status`: where it is not the error's own."""
    status = status or error.http_status
    kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    body: Json = {"type": kind, "message": str(error)}
    if error.code is not None:
        body["details"] = {"error_code": error.code}
    return {"type": "error", "error": body, "request_id": request or f"req_{uuid.uuid4().hex}"}


class MessageWriter:
    """A message, whole or event by event: a thinking block if reasoning is to be shown, then the answer."""

    ping = PING

    def __init__(self, parsed: ParsedRequest) -> None:
        self._parsed = parsed
        self._begun = 0
        self._open: str | None = None
        """The type of the block that is being written."""

    def whole(self, outcome: Outcome, reasoning: str, account_: Json) -> Json:
        content: list[Json] = []
        if reasoning and self._parsed.reasoning_field:
            content.append({"type": "thinking", "thinking": reasoning, "signature": SIGNATURE})
        calls = tools.calls_of(self._parsed, outcome)
        if calls is None and (text := tools.text_of(self._parsed, outcome)):
            content.append({"type": "text", "text": text})
        content += [_block(call, json.loads(call.arguments)) for call in calls or ()]
        return self._message(content, stop(outcome, calls=calls), usage(outcome)) | {"cuecard": account_}

    def begin(self) -> list[bytes]:
        """The message without its blocks; until its calls have been counted, its usage is an estimate."""
        estimate = {
            "input_tokens": self._parsed.prompt_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        }
        message = self._message([], {"stop_reason": None, "stop_sequence": None}, estimate)
        return [translation.event("message_start", {"message": message})]

    def reasoning(self, text: str) -> list[bytes]:
        if not self._parsed.reasoning_field:
            return []
        opening = self._begin({"type": "thinking", "thinking": "", "signature": ""})
        return [*opening, self._delta({"type": "thinking_delta", "thinking": text})]

    def content(self, text: str) -> list[bytes]:
        opening = self._begin({"type": "text", "text": ""})
        return [*opening, self._delta({"type": "text_delta", "text": text})]

    def calls(self, calls: Sequence[ToolCall]) -> list[bytes]:
        """A block for each call, its input piece by piece."""
        events = []
        for call in calls:
            events += [*self._close(), *self._begin(_block(call, {}))]
            events += [self._delta({"type": "input_json_delta", "partial_json": piece}) for piece in call.pieces]
        return events

    def end(self, outcome: Outcome, account_: Json) -> list[bytes]:
        stopped = stop(outcome, calls=tools.calls_of(self._parsed, outcome))
        ending = {"delta": stopped, "usage": usage(outcome), "cuecard": account_}
        return [*self._close(), translation.event("message_delta", ending), translation.event("message_stop", {})]

    def fail(self, error: CuecardError) -> list[bytes]:
        return [translation.event("error", problem(error, request=self._parsed.id))]

    def _message(self, content: list[Json], stopped: Json, used: Json) -> Json:
        base = {"id": self._parsed.id, "type": "message", "role": "assistant", "model": self._parsed.model}
        return base | {"content": content, **stopped, "usage": used}

    def _begin(self, block: Json) -> list[bytes]:
        """The start of a block, and the end of the one before, unless a block of this type is open."""
        if self._open == block["type"]:
            return []
        events = [
            *self._close(),
            translation.event("content_block_start", {"index": self._begun, "content_block": block}),
        ]
        if self._begun == 0:
            events.append(PING)
        self._open = block["type"]
        self._begun += 1
        return events

    def _close(self) -> list[bytes]:
        if self._open is None:
            return []
        events = [translation.event("content_block_stop", {"index": self._begun - 1})]
        if self._open == "thinking":
            events.insert(0, self._delta({"type": "signature_delta", "signature": SIGNATURE}))
        self._open = None
        return events

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return translation.event("content_block_delta", {"index": self._begun - 1, "delta": delta})
