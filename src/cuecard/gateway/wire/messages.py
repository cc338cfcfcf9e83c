"""Anthropic's Messages API, stateless: requests are translated to chat completions, outcomes to content blocks."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cuecard.domain.errors import BadInput, CuecardError
from cuecard.domain.outcome import Outcome
from cuecard.gateway.wire.chat import calls_of, event, text_of
from cuecard.gateway.wire.chat import usage as token_usage
from cuecard.gateway.wire.parameters import Json, object_of
from cuecard.gateway.wire.request import MOST_PARTS, Fetch, ParsedRequest, nested_format, parse_translated, split
from cuecard.gateway.wire.tools import ToolCall, as_json, pieces

EXAMPLE = '{"model": "cuecard", "max_tokens": 1024, "messages": [{"role": "user", "content": "…"}]}'
IGNORED = ("cache_control", "container", "context_management", "diagnostics", "inference_geo", "speed")
"""In addition to the parameters that chat completions ignore."""
ELSEWHERE = {"mcp_servers": "have the client call them, and offer what they do as tools"}
OWN = (
    *("messages", "system", "stop_sequences", "thinking", "output_config", "tools", "tool_choice"),
    *("reasoning", "reasoning_effort", "include_reasoning", "stop", "thread", *IGNORED, *ELSEWHERE),
)
THINKING = ("enabled", "adaptive", "between_tools", "disabled")
EFFORTS = {"max": "xhigh"}
"""Effort -> its name in chat completions, if it has another one there."""
SIGNATURE = "cuecard"
"""The signature of every thinking block. Clients require one; it proves nothing, and is not checked in requests."""
PING = event("ping", {})
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
"""By HTTP status; others are `invalid_request_error` below 500, else `api_error`."""


class NoThreads(BadInput):
    """The request continues or begins a conversation that the server would have to store.

    On this code, Anthropic's client sends the whole conversation instead.
    """

    code, hint = "thread_unsupported_request", "send the whole conversation without thread"


def parse(body: object, fetch: Fetch) -> ParsedRequest:
    """Parse a request by translating it to chat completions. Raises BadInput."""
    if isinstance(body, dict) and body.get("max_tokens") is None:
        raise BadInput("max_tokens is missing", "write how many tokens the answer may have, as in " + EXAMPLE)
    return parse_countable(body, fetch)


def parse_countable(body: object, fetch: Fetch) -> ParsedRequest:
    """As `parse`, for counting tokens: the request needs no `max_tokens`. Raises BadInput."""
    given, translated = split(body, OWN, EXAMPLE)
    for key, hint in ELSEWHERE.items():
        if given.get(key):
            raise BadInput(f"{key} is not supported", hint)
    if given.get("thread"):
        raise NoThreads("the gateway keeps no conversations")
    if not isinstance(stops := given.get("stop_sequences"), list | None):
        raise BadInput("stop_sequences is not a list of texts")
    config = object_of(given, "output_config")
    effort = config.get("effort")
    translated["messages"] = chat_messages(given)
    translated["stop"] = stops or None
    translated["reasoning"] = _reasoning(object_of(given, "thinking"))
    translated["reasoning_effort"] = EFFORTS.get(str(effort), effort)
    translated["response_format"] = nested_format(object_of(config, "format"))
    translated |= chat_tools(given)
    parsed = parse_translated(translated, fetch, "msg")
    extras = replace(parsed.parameters.extras, stop_is_named=bool(parsed.parameters.stop))
    return replace(parsed, parameters=replace(parsed.parameters, extras=extras))


def _reasoning(thinking: Json) -> Json:
    """The reasoning's budget, and whether it is shown: if thinking is enabled and not omitted."""
    kind, budget = thinking.get("type", "disabled"), thinking.get("budget_tokens")
    if kind not in THINKING:
        raise BadInput(f"thinking has the type {str(kind)[:100]!r}", f"there are: {', '.join(THINKING)}")
    if kind == "enabled" and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 1):
        raise BadInput("budget_tokens of thinking is not a whole number of at least 1", "or use the type adaptive")
    hidden = kind == "disabled" or thinking.get("display") == "omitted"
    return {"exclude": hidden} | ({"max_tokens": budget} if kind == "enabled" else {})


# --- answers ----------------------------------------------------------------------------------------------------------


def usage(outcome: Outcome) -> Json:
    """Tokens over all calls. Unlike OpenAI, Anthropic does not count cached tokens as input."""
    total = token_usage(outcome)
    cached = total["prompt_tokens_details"]["cached_tokens"]
    tokens = _tokens(max(0, total["prompt_tokens"] - cached), cached, total["completion_tokens"])
    return tokens | {
        "output_tokens_details": {"thinking_tokens": total["completion_tokens_details"]["reasoning_tokens"]}
    }


def _tokens(fresh: int, cached: int, written: int) -> Json:
    uncached = {"input_tokens": fresh, "cache_creation_input_tokens": 0}
    return uncached | {"cache_read_input_tokens": cached, "output_tokens": written}


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
    """An error body in Anthropic's format; `status`: if it is not the error's own."""
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

    def whole(self, outcome: Outcome, reasoning: str, account: Json) -> Json:
        content: list[Json] = []
        if reasoning and self._parsed.reasoning_field:
            content.append({"type": "thinking", "thinking": reasoning, "signature": SIGNATURE})
        calls = calls_of(self._parsed, outcome)
        if calls is None and (text := text_of(self._parsed, outcome)):
            content.append({"type": "text", "text": text})
        content += [_block(call, json.loads(call.arguments)) for call in calls or ()]
        return self._message(content, stop(outcome, calls=calls), usage(outcome)) | {"cuecard": account}

    def begin(self) -> list[bytes]:
        """The message without its blocks; until its calls have been counted, its usage is an estimate."""
        estimate = _tokens(self._parsed.prompt_tokens, 0, 0)
        message = self._message([], {"stop_reason": None, "stop_sequence": None}, estimate)
        return [event("message_start", {"message": message})]

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
            events += [
                self._delta({"type": "input_json_delta", "partial_json": piece}) for piece in pieces(call.arguments)
            ]
        return events

    def end(self, outcome: Outcome, account: Json) -> list[bytes]:
        stopped = stop(outcome, calls=calls_of(self._parsed, outcome))
        ending = {"delta": stopped, "usage": usage(outcome), "cuecard": account}
        return [*self._close(), event("message_delta", ending), event("message_stop", {})]

    def fail(self, error: CuecardError) -> list[bytes]:
        return [event("error", problem(error, request=self._parsed.id))]

    def _message(self, content: list[Json], stopped: Json, used: Json) -> Json:
        base = {"id": self._parsed.id, "type": "message", "role": "assistant", "model": self._parsed.model}
        return base | {"content": content, **stopped, "usage": used}

    def _begin(self, block: Json) -> list[bytes]:
        """The start of a block, and the end of the one before, unless a block of this type is open."""
        if self._open == block["type"]:
            return []
        events = [*self._close(), event("content_block_start", {"index": self._begun, "content_block": block})]
        if self._begun == 0:
            events.append(PING)
        self._open = block["type"]
        self._begun += 1
        return events

    def _close(self) -> list[bytes]:
        if self._open is None:
            return []
        events = [event("content_block_stop", {"index": self._begun - 1})]
        if self._open == "thinking":
            events.insert(0, self._delta({"type": "signature_delta", "signature": SIGNATURE}))
        self._open = None
        return events

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return event("content_block_delta", {"index": self._begun - 1, "delta": delta})


# --- content blocks ---------------------------------------------------------------------------------------------------


BLOCKS = "there are: text, image, document (of text), thinking, tool_use, tool_result"
MEDIA_TYPE = re.compile(r"image/[a-z0-9.+-]{1,60}", re.IGNORECASE)
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
"""Types of `tool_choice` without a tool's name -> the value in chat completions."""
ONLY_OWN_TOOLS = 'a tool that the client runs is {"name": "…", "description": "…", "input_schema": {…}}'


def chat_messages(body: Json) -> list[Json]:
    """`system` and `messages` as messages of chat completions. Raises BadInput."""
    hint = "the last message is the user's"
    given = _entries(body.get("messages") or None, "messages", "messages is not a list, or empty", hint)
    translated = []
    if body.get("system"):
        translated.append({"role": "system", "content": _texts(body["system"], "system")})
    for index, message in enumerate(given):
        where = f"messages.{index}"
        role = message.get("role") if isinstance(message, dict) else None
        match role:
            case "user":
                blocks = _blocks(message.get("content"), where)
                results = [_result(block, where) for block in blocks if block["type"] == "tool_result"]
                parts = [_part(block, where) for block in blocks if block["type"] != "tool_result"]
                translated += results  # before all else, as separate messages
                if parts or not results:
                    translated.append({"role": "user", "content": parts})
            case "assistant":
                translated.append(_of_assistant(_blocks(message.get("content"), where), where))
            case "system":
                translated.append({"role": "system", "content": _texts(message.get("content"), where)})
            case _:
                raise BadInput(f"{where} has the role {str(role)[:100]!r}", "there are: user, assistant, system")
    return translated


def _blocks(content: object, where: str) -> list[Json]:
    """Content as blocks, each with its type; a text is one block."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    content = _entries(content, where, f"{where} has no content", "a text, or a list of blocks")
    for block in content:
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise BadInput(f"{where} has a block without a type", BLOCKS)
    return content


def _entries(given: object, where: str, otherwise: str, hint: str | None = None) -> list[Any]:
    """A list of the request. Raises BadInput."""
    if not isinstance(given, list):
        raise BadInput(otherwise, hint)
    if len(given) > MOST_PARTS:
        raise BadInput(f"{where} has more than {MOST_PARTS} entries", "send fewer")
    return given


def _texts(content: object, where: str) -> list[Json]:
    """Text-only content, as parts."""
    return [_text(block, where) for block in _blocks(content, where)]


def _text(block: Json, where: str) -> Json:
    if block["type"] != "text":
        raise BadInput(f"{where} has a block of type {block['type'][:100]!r}", BLOCKS)
    if not isinstance(block.get("text"), str):
        raise BadInput(f"{where} has a text block without a text")
    return {"type": "text", "text": block["text"]}


def _part(block: Json, where: str) -> Json:
    match block["type"]:
        case "image":
            return {"type": "image_url", "image_url": {"url": _image_url(object_of(block, "source"), where)}}
        case "document":
            source = object_of(block, "source")
            if source.get("type") != "text" or not isinstance(source.get("data"), str):
                raise BadInput(f"{where} has a document that is not a text", "send its text, or images of its pages")
            title = f"{block['title']}\n" if isinstance(block.get("title"), str) else ""
            return {"type": "text", "text": title + source["data"]}
        case _:
            return _text(block, where)


def _image_url(source: Json, where: str) -> str:
    data, url, media_type = source.get("data"), source.get("url"), source.get("media_type")
    match source.get("type"):
        case "base64" if isinstance(data, str) and isinstance(media_type, str) and MEDIA_TYPE.fullmatch(media_type):
            return f"data:{media_type};base64,{data}"
        case "url" if isinstance(url, str) and url:
            return url
        case "base64" | "url":
            raise BadInput(f"{where} has an image without its data", "give data and media_type (image/…), or a url")
        case other:
            raise BadInput(f"{where} has an image from a {str(other)[:100]!r}", "there are: base64, url")


def _result(block: Json, where: str) -> Json:
    """The message of role `tool` with a tool's result."""
    identity = block.get("tool_use_id")
    if not isinstance(identity, str) or not identity:
        raise BadInput(f"{where} has a tool_result without a tool_use_id")
    text = "\n".join(part["text"] for part in _texts(block.get("content") or "", f"a tool_result of {where}"))
    return {"role": "tool", "tool_call_id": identity, "content": f"Error: {text}" if block.get("is_error") else text}


def _of_assistant(blocks: Sequence[Json], where: str) -> Json:
    """An earlier answer, without its thinking."""
    other = ("thinking", "redacted_thinking", "tool_use")
    texts = [_text(block, where) for block in blocks if block["type"] not in other]
    calls = [_call(block, where) for block in blocks if block["type"] == "tool_use"]
    return {"role": "assistant", "content": texts or None} | ({"tool_calls": calls} if calls else {})


def _call(block: Json, where: str) -> Json:
    identity, name, given = block.get("id"), block.get("name"), block.get("input")
    if not (isinstance(identity, str) and identity and isinstance(name, str) and name and isinstance(given, dict)):
        raise BadInput(f"{where} has a tool_use without an id, a name or an input")
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": as_json(given)}}


# --- tools ------------------------------------------------------------------------------------------------------------


def chat_tools(body: Json) -> Json:
    """`tools` and `tool_choice` as parameters of chat completions. Raises BadInput."""
    given = _entries(body.get("tools") or [], "tools", "tools is not a list")
    choice = object_of(body, "tool_choice")
    if not given:
        return {}
    translated: Json = {"tools": [_tool(tool, f"tools.{index}") for index, tool in enumerate(given)]}
    match choice.get("type"):
        case None:
            pass
        case "tool":
            translated["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
        case str(kind) if kind in CHOICES:
            translated["tool_choice"] = CHOICES[kind]
        case other:
            raise BadInput(f"tool_choice has the type {str(other)[:100]!r}", "there are: auto, any, tool, none")
    if choice.get("disable_parallel_tool_use") is True:
        translated["parallel_tool_calls"] = False
    return translated


def _tool(tool: object, where: str) -> Json:
    if not isinstance(tool, dict):
        raise BadInput(f"{where} is not an object")
    if tool.get("type") not in (None, "custom"):
        raise BadInput(f"{where} is of type {str(tool['type'])[:100]!r}", ONLY_OWN_TOOLS)
    names = {"name": "name", "description": "description", "parameters": "input_schema", "strict": "strict"}
    return {"type": "function", "function": {new: tool[old] for new, old in names.items() if tool.get(old) is not None}}
