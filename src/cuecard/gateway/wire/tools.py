"""Tools of a request: which ones may be called, the schema of a reply, and earlier calls as plain turns.

Every server can answer such a request: the tools are described in the system prompt, and a reply is JSON of one schema
(`union`), which `chat` converts back into calls or a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from cuecard.answers import json_replies as form
from cuecard.answers.json_replies import ARGUMENTS, CALLS, NAME
from cuecard.domain.errors import BadInput, BeyondAPair
from cuecard.domain.question import AnswerKind, Calling, Message, Question
from cuecard.gateway.wire.parameters import Json, reading

MOST_TOOLS = 128
TOOL_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
"""OpenAI takes 64 characters and no dots, Anthropic 128, and MCP's tools have dots."""
ONLY_FUNCTIONS = (
    "offer it as a tool of type function that the client runs, or ask by chat completions and set pass_to under [pair]"
)
CHOICES = 'there are: none, auto, required, {"type": "function", "function": {"name": "…"}}'
PARAMETERS = ("tools", "tool_choice", "functions", "function_call", "parallel_tool_calls")
PIECE = 64
"""Characters of arguments, or of a text, in one streamed piece."""


@dataclass(frozen=True)
class ToolCall:
    """A tool call for the client to run."""

    id: str
    name: str
    arguments: str
    """A JSON object, as text."""


@dataclass(frozen=True)
class Tool:
    """A function that the client offers."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The JSON Schema of its arguments."""


@dataclass(frozen=True)
class Tools:
    """The tools of a request that may be called; if `tool_choice` names some, only these."""

    offered: tuple[Tool, ...]
    calling: Calling
    parallel: bool = True
    legacy: bool = False
    """They came as `functions`, and calls go out as `function_call`."""
    answer: Mapping[str, Any] | None = None
    """The schema of an answer that calls no tool; None: any text."""

    @property
    def schema(self) -> str:
        """The schema of a reply, as JSON. Raises BadInput."""
        answer = (self.answer or form.TEXT) if self.calling is Calling.AUTO else None
        offered = ((tool.name, tool.parameters) for tool in self.offered)
        return json.dumps(union(offered, answer, parallel=self.parallel), ensure_ascii=False)

    @property
    def words(self) -> str:
        """The tools as they are described to a model."""
        lines = ["These tools can be called. Each has the JSON Schema of its arguments:"]
        for tool in self.offered:
            description = f": {tool.description.strip()}" if tool.description.strip() else ""
            lines.append(f"- {tool.name}{description}\n  Arguments: {as_json(tool.parameters)}")
        if self.calling is Calling.REQUIRED:
            lines.append(f"You have to call {self.offered[0].name if len(self.offered) == 1 else 'a tool'} now.")
        else:
            lines.append("Call tools where they help; else answer the user yourself.")
        if not self.parallel:
            lines.append("Call one tool at a time.")
        if self.answer is not None and self.calling is Calling.AUTO:
            lines.append(f"An answer to the user has to fit this JSON Schema: {as_json(self.answer)}")
        return "\n".join(lines)


def parse(body: Json, answer: Mapping[str, Any] | None = None) -> Tools | None:
    """The tools that a request offers, in either of OpenAI's forms; None if none may be called.

    `answer`: the schema of the request's `response_format`. Raises BadInput, BeyondAPair.
    """
    legacy = body.get("tools") is None and body.get("functions") is not None
    key = "functions" if legacy else "tools"
    given = body.get(key) or []
    choice = body.get("function_call" if legacy else "tool_choice")
    if not isinstance(given, list):
        raise BadInput(f"{key} is not a list", param=key)
    if len(given) > MOST_TOOLS:
        raise BadInput(f"there are more than {MOST_TOOLS} tools", "send fewer")
    offered = [_function(tool, f"function {at}") if legacy else _tool(tool, at) for at, tool in enumerate(given, 1)]
    named = {tool.name: tool for tool in offered}
    if len(named) < len(offered):
        raise BadInput("two tools have the same name", "give each a name of its own")
    mode, wanted = _chosen("auto" if choice is None else choice, legacy=legacy)
    if wanted is not None and not wanted:
        hint = "name some, or send none as tool_choice"
        raise BadInput("tool_choice allows no tool", hint, param="tool_choice")
    if unknown := [name for name in wanted or () if not isinstance(name, str) or name not in named]:
        message = f"tool_choice names {str(unknown[0])[:100]!r}, which is no tool of the request"
        raise BadInput(message, param="tool_choice")
    parallel = body.get("parallel_tool_calls")
    if not isinstance(parallel, bool | None):
        raise BadInput("parallel_tool_calls is neither true nor false", param="parallel_tool_calls")
    if mode == "none" or not offered:
        return None
    return Tools(
        tuple(offered if wanted is None else [tool for tool in offered if tool.name in wanted]),
        Calling(mode),
        parallel=parallel is not False and not legacy,
        legacy=legacy,
        answer=answer,
    )


def question(offered: Tools, system: Sequence[str], history: Sequence[Message], last: Message) -> Question:
    """A conversation as a question with an answer that must or may call tools. Raises BadInput."""
    described = "\n\n".join([*system, offered.words])
    with reading("tools"):
        kind, schema, calling = AnswerKind.JSON, offered.schema, offered.calling
    if not last.text.strip():
        raise BadInput("the last message has no text", "a pair answers a question")
    return Question(last.text, last.images, (), kind, described, tuple(history), schema, calling=calling)


def _tool(tool: object, at: int) -> Tool:
    """One of `tools`: nested, as chat completions have it, or flat, as the Responses API has it."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    if not isinstance(tool, dict) or not isinstance(kind, str):
        raise BadInput(f"tool {at} has no type", 'write {"type": "function", "function": {"name": …}}')
    if kind != "function":
        raise BeyondAPair(f"a pair of models cannot call a tool of type {kind[:100]!r}", ONLY_FUNCTIONS)
    return _function(tool.get("function", tool), f"tool {at}")


def _function(function: object, where: str) -> Tool:
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        hint = "a name has 1 to 128 letters, digits, dots, dashes and underscores"
        raise BadInput(f"{where} has no usable name", hint)
    description, parameters = function.get("description"), function.get("parameters")
    if not isinstance(description, str | None):
        raise BadInput(f"the description of {where} ({name}) is not a text")
    if not isinstance(parameters, dict | None) or (parameters or {}).get("type", "object") != "object":
        raise BadInput(f"the parameters of {where} ({name}) are no JSON Schema of an object")
    plain = {"type": "object", "properties": {}}
    return Tool(name, description or "", {"type": "object", **parameters} if parameters else plain)


def _chosen(choice: object, *, legacy: bool) -> tuple[str, list[object] | None]:
    """The mode (none, auto, required), and the tool names that it is limited to. Raises BadInput, BeyondAPair."""
    match choice:
        case "none" | "auto" | "required":
            return str(choice), None
        case "any":  # as Mistral's clients call it
            return "required", None
        case {"name": name} if legacy:
            return "required", [name]
        case {"type": "function", "function": {"name": name}} | {"type": "function", "name": name}:
            return "required", [name]
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list(tools)}}:
            return mode, [_named(tool) for tool in tools]
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": list(tools)}:
            return mode, [_named(tool) for tool in tools]
        case {"type": str(kind)} if kind not in ("function", "allowed_tools"):
            raise BeyondAPair(f"a pair of models cannot call a tool of type {kind[:100]!r}", ONLY_FUNCTIONS)
    raise BadInput(f"unknown tool_choice {as_json(choice)[:100]}", CHOICES, param="tool_choice")


def _named(tool: object) -> object:
    match tool:
        case {"type": "function", "function": {"name": name}} | {"type": "function", "name": name}:
            return name
    raise BadInput("tool_choice allows what is no function", CHOICES, param="tool_choice")


def pieces(text: str) -> list[str]:
    """The pieces of a text as it is streamed."""
    return [text[at : at + PIECE] for at in range(0, len(text), PIECE)]


def as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


# --- the schema of a reply --------------------------------------------------------------------------------------------

Schema = dict[str, Any]
MOST_CHARACTERS = 400_000
"""Maximum size of all schemas of a request; a definition counts each time that it is copied."""
MOST_CALLS = 32
"""Maximum calls in one reply: a small model may repeat itself endlessly."""
_LEFT_OUT = (
    *("title", "description", "examples", "example", "$comment"),
    *("$schema", "$id", "$defs", "definitions", "pattern"),
)
_OF_SCHEMAS = ("properties", "patternProperties", "dependentSchemas")
"""Keywords whose values are schemas by name."""
_OF_VALUES = ("enum", "const", "default", "required", "dependentRequired")
"""Keywords whose values are no schemas."""


def union(
    tools: Iterable[tuple[str, Mapping[str, Any]]], answer: Mapping[str, Any] | None, *, parallel: bool
) -> Schema:
    """The schema of a reply: calls of these tools (name, schema of arguments), or an answer of this schema.

    `answer`: None if a tool has to be called. Raises BadInput for schemas with references to outside.
    """
    lifting = _Lifting()
    calls = [
        _object({form.NAME: {"const": name}, form.ARGUMENTS: lifting.lifted(f"the parameters of {name!r}", schema)})
        for name, schema in tools
    ]
    items = calls[0] if len(calls) == 1 else {"anyOf": calls}
    listed = {"type": "array", "items": items, "minItems": 1, "maxItems": MOST_CALLS if parallel else 1}
    whole = _object({form.CALLS: listed})
    if answer is not None:
        whole = {"anyOf": [whole, _object({form.ANSWER: lifting.lifted("response_format", answer)})]}
    return whole | ({"$defs": lifting.definitions} if lifting.definitions else {})


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


class _Lifting:
    """Copies schemas without the keywords of `_LEFT_OUT`, and collects the definitions that they refer to."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._characters = self._schemas = 0

    def lifted(self, where: str, schema: Mapping[str, Any]) -> Schema:
        """A copy of one whole schema. Raises BadInput."""
        self._schemas += 1
        names: dict[str, str] = {}
        waiting: list[str] = []

        def refer(pointer: object) -> str:
            if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
                raise BadInput(f"{where} refer to {str(pointer)[:100]!r}", "put what is referred to into the schema")
            if pointer not in names:
                names[pointer] = f"schema{self._schemas}-{len(names) + 1}"
                waiting.append(pointer)
            return f"#/$defs/{names[pointer]}"

        copy: Schema = self._copy(schema, refer)
        while waiting:
            pointer = waiting.pop()
            self.definitions[names[pointer]] = self._copy(_at(schema, pointer, where), refer)
        return copy

    def _copy(self, value: Any, refer: Callable[[object], str]) -> Any:
        if isinstance(value, list):
            return [self._copy(item, refer) for item in value]
        if not isinstance(value, dict):
            return self._counted(value)
        return {key: self._part(key, inner, refer) for key, inner in value.items() if key not in _LEFT_OUT}

    def _part(self, key: str, value: Any, refer: Callable[[object], str]) -> Any:
        self._counted(key)
        if key == "$ref":
            return refer(value)
        if key in _OF_VALUES:
            return self._counted(value)
        if key in _OF_SCHEMAS and isinstance(value, dict):
            return {self._counted(name): self._copy(inner, refer) for name, inner in value.items()}
        return self._copy(value, refer)

    def _counted(self, value: Any) -> Any:
        self._characters += len(json.dumps(value, ensure_ascii=False))
        if self._characters > MOST_CHARACTERS:
            raise BadInput(f"the schemas of tools have more than {MOST_CHARACTERS} characters", "send fewer tools")
        return value


def _at(schema: Any, pointer: str, where: str) -> Any:
    """The schema at a JSON pointer in a URI fragment. Raises BadInput."""
    place = schema
    for part in unquote(pointer).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(place, list) and key.isdecimal() and len(key) < 6 and int(key) < len(place):
            place = place[int(key)]
        else:
            place = place.get(key) if isinstance(place, dict) else None
    if not isinstance(place, dict | bool):
        raise BadInput(f"{where} refer to {pointer[:100]!r}, which is not there", "correct the reference")
    return place


# --- earlier calls ----------------------------------------------------------------------------------------------------

RESULT = "result"
"""The role of a turn that gives results of tools, until `joined` makes it the user's."""
MOST_REPEATED = 600
"""Maximum characters of a request that is repeated after the results."""
MOST_EARLIER_CALLS = 10_000
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
        if self._count > MOST_EARLIER_CALLS:
            raise BadInput(f"there are more than {MOST_EARLIER_CALLS} tool calls", "send fewer")
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
