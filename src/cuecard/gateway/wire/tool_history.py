"""Tool calls and their results in a conversation, as plain turns that every model understands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cuecard.answers.readers.json_replies import ARGUMENTS, CALLS, NAME
from cuecard.domain.errors import BadInput, BeyondAPair
from cuecard.domain.question import Message
from cuecard.gateway.wire.tools import ONLY_FUNCTIONS
from cuecard.gateway.wire.usage import Json

RESULT = "result"
"""The role of a turn that gives results of tools, until `joined` makes it the user's."""
MOST_REPEATED = 600
"""Maximum characters of a request that is repeated after the results."""
MOST_CALLS = 10_000
"""Maximum number of calls in a conversation."""
SAME = "the same call"
"""Replaces a call after its first result: otherwise a short request could become a very long prompt."""


class CallHistory:
    """The tool calls of a conversation so far."""

    def __init__(self) -> None:
        self._by_id: dict[str, str] = {}
        self._last: dict[str, str] = {}
        self._count = 0

    def written(self, message: Json, where: str) -> str:
        """The calls of an assistant's message as the model would have written them; empty if there are none.

        Raises BadInput, BeyondAPair.
        """
        given, legacy = message.get("tool_calls") or [], message.get("function_call")
        if not isinstance(given, list):
            raise BadInput(f"{where} has tool_calls that are not a list")
        self._count += len(given)
        if self._count > MOST_CALLS:
            raise BadInput(f"there are more than {MOST_CALLS} tool calls", "send fewer")
        calls = [self._noted(call, where) for call in given]
        calls += [self._function(legacy, where)] if legacy is not None else []
        return json.dumps({CALLS: calls}, ensure_ascii=False) if calls else ""

    def result(self, message: Json, where: str) -> str:
        """The result of a tool, under the call that it answers. Raises BadInput."""
        text = _text(message.get("content"), where)
        if message.get("role") == "function":
            name = message.get("name")
            if not isinstance(name, str) or name not in self._last:
                raise BadInput(f"{where} is of a function that no earlier message calls", "send the whole conversation")
            return _result(self._last, name, text)
        identity = message.get("tool_call_id")
        if not isinstance(identity, str) or identity not in self._by_id:
            problem = f"{where} has the tool_call_id {str(identity)[:100]!r}, which no earlier message has"
            raise BadInput(problem, "send the assistant's message with its tool_calls before the results")
        return _result(self._by_id, identity, text)

    def _noted(self, call: object, where: str) -> Json:
        identity = call.get("id") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(identity, str) or not identity:
            raise BadInput(f"{where} has a tool call without an id")
        if call.get("type", "function") != "function":
            raise BeyondAPair(f"{where} calls a tool of type {str(call['type'])[:100]!r}", ONLY_FUNCTIONS)
        read = self._function(call.get("function"), where)
        self._by_id[identity] = self._last[read[NAME]]
        return read

    def _function(self, function: object, where: str) -> Json:
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not name:
            raise BadInput(f"{where} has a tool call without a name")
        arguments = _arguments(function.get("arguments"), where)
        self._last[name] = f"{name}({json.dumps(arguments, ensure_ascii=False)})"
        return {NAME: name, ARGUMENTS: arguments}


def _result(calls: dict[str, str], key: str, text: str) -> str:
    """A result under the call that it answers, which is written out for its first result."""
    call, calls[key] = calls[key], SAME
    return f"Result of {call}:\n{text}"


def _arguments(given: object, where: str) -> Any:
    """The arguments of a call; as a text if they are not JSON. Raises BadInput."""
    if isinstance(given, dict):
        return given
    if not isinstance(given, str | None):
        raise BadInput(f"{where} has a tool call whose arguments are no JSON text")
    try:
        arguments = json.loads(given or "{}")
        json.dumps(arguments, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return given
    return arguments


def _text(content: object, where: str) -> str:
    if isinstance(content, str | None):
        return content or "(nothing)"
    if not isinstance(content, list):
        raise BadInput(f"{where} has a result that is neither a text nor a list of parts")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("image_url", "input_image", "image"):
            raise BadInput(f"{where} has an image in a tool's result", "send it in a message of the user")
        text = part.get("text") if isinstance(part, dict) and kind in ("text", "input_text", "output_text") else None
        if not isinstance(text, str):
            raise BadInput(f"{where} has a part of type {str(kind)[:100]!r} in a tool's result", "send text parts")
        texts.append(text)
    return "\n".join(texts) or "(nothing)"


def joined(turns: Sequence[Message]) -> list[Message]:
    """The turns with tool results as user messages, joined with the next user message.

    If no user message follows, the user's request is repeated after the results, so that the model answers it.
    """
    plain: list[Message] = []
    results: list[str] = []
    request = ""
    for turn in turns:
        if turn.role == RESULT:
            results.append(turn.text)
            continue
        if turn.role == "user":
            request = turn.text
            plain.append(Message("user", "\n\n".join([*results, turn.text]), turn.images))
        else:
            plain += [Message("user", "\n\n".join(results))] if results else []
            plain.append(turn)
        results = []
    if results:
        is_short = 0 < len(request.strip()) <= MOST_REPEATED
        reminder = f"The user's request was: {request.strip()}" if is_short else "The user's request stands above."
        plain.append(Message("user", "\n\n".join([*results, reminder])))
    return plain
