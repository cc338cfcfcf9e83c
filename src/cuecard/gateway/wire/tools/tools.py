"""Tools of a request: which may be called, and the calls, or the text, of an answer.

Every server can answer such a request: the tools are described in the system's text, and a reply is JSON of one form
(`tool_schema`), which becomes calls or a text again here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cuecard.answers import extract
from cuecard.answers.readers import tool_calls as form
from cuecard.domain.errors import BadInput, BeyondAPair, BrokenStream
from cuecard.domain.outcome import Outcome
from cuecard.domain.question import AnswerKind, Calling, Message, Question
from cuecard.gateway.wire.tools.tool_schema import union
from cuecard.gateway.wire.usage import Json

if TYPE_CHECKING:  # which imports this module
    from cuecard.gateway.wire.chat import ParsedRequest

MOST_TOOLS = 128
NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
"""OpenAI takes 64 characters and no dots, Anthropic 128, and MCP's tools have dots."""
ONLY_FUNCTIONS = (
    "offer it as a tool of type function that the client runs, or ask by chat completions and set pass_to under [pair]"
)
CHOICES = 'there are: none, auto, required, {"type": "function", "function": {"name": "…"}}'
PARAMETERS = ("tools", "tool_choice", "functions", "function_call", "parallel_tool_calls")
PIECE = 64
"""Characters of arguments, or of a text, that are streamed at once."""


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool that the client is to make."""

    id: str
    name: str
    arguments: str
    """JSON, an object."""

    @property
    def pieces(self) -> list[str]:
        """The arguments as they are streamed."""
        return pieces(self.arguments)


@dataclass(frozen=True)
class Tool:
    """A function that the client offers."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The JSON Schema of its arguments."""


@dataclass(frozen=True)
class Tools:
    """The tools of a request that may be called; where a choice names some, only these."""

    offered: tuple[Tool, ...]
    calling: Calling
    parallel: bool = True
    legacy: bool = False
    """They came as `functions`, and calls go out as `function_call`."""
    answer: Mapping[str, Any] | None = None
    """The schema that an answer has to fit which calls none; None: any text."""

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
        lines += [_described(tool) for tool in self.offered]
        if self.calling is Calling.REQUIRED:
            lines.append(f"You have to call {self.offered[0].name if len(self.offered) == 1 else 'a tool'} now.")
        else:
            lines.append("Call tools where they help; else answer the user yourself.")
        if not self.parallel:
            lines.append("Call one tool at a time.")
        if self.answer is not None and self.calling is Calling.AUTO:
            lines.append(f"An answer to the user has to fit this JSON Schema: {_json(self.answer)}")
        return "\n".join(lines)


def parse(body: Json, answer: Mapping[str, Any] | None = None) -> Tools | None:
    """The tools that a request offers, in either form that OpenAI knows; None where none may be called.

    `answer`: the schema of the request's `response_format`. Raises BadInput, BeyondAPair.
    """
    legacy = body.get("tools") is None and body.get("functions") is not None
    given = body.get("functions" if legacy else "tools") or []
    choice = body.get("function_call" if legacy else "tool_choice")
    if not isinstance(given, list):
        raise BadInput("tools is not a list")
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
    """A conversation as a question whose answer calls tools, or may. Raises BadInput."""
    described = "\n\n".join([*system, offered.words])
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
    if not isinstance(function, dict) or not isinstance(name, str) or not NAME.fullmatch(name):
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
    """none, auto or required, and the names that a choice is limited to. Raises BadInput, BeyondAPair."""
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
    raise BadInput(f"unknown tool_choice {_json(choice)[:100]}", CHOICES, param="tool_choice")


def _named(tool: object) -> object:
    match tool:
        case {"type": "function", "function": {"name": name}} | {"type": "function", "name": name}:
            return name
    raise BadInput("tool_choice allows what is no function", CHOICES, param="tool_choice")


def _described(tool: Tool) -> str:
    description = f": {tool.description.strip()}" if tool.description.strip() else ""
    return f"- {tool.name}{description}\n  Arguments: {_json(tool.parameters)}"


# --- answers ----------------------------------------------------------------------------------------------------------


def calls_of(parsed: ParsedRequest, outcome: Outcome) -> tuple[ToolCall, ...] | None:
    """The calls that an answer makes, the same ones each time; None where it is a text, cut ones included.

    Raises BrokenStream for a reply that had to call a tool, was not cut, and does not.
    """
    if parsed.tools is None:
        return None
    reply = _reply(parsed, outcome)
    if form.CALLS in reply:
        called = reply[form.CALLS] if parsed.tools.parallel else reply[form.CALLS][:1]
        return tuple(_call(parsed.id, at, call) for at, call in enumerate(called))
    if parsed.tools.calling is Calling.REQUIRED and not outcome.truncated:
        raise BrokenStream("the models were to call a tool, and have not", "try again, or offer fewer tools")
    return None


def text_of(parsed: ParsedRequest, outcome: Outcome) -> str:
    """The text of an answer that calls no tool; of one that was cut, as far as it goes."""
    if parsed.tools is None:
        return outcome.answer
    reply = _reply(parsed, outcome)
    if form.ANSWER not in reply:
        return form.cut_answer(outcome.answer) if parsed.tools.calling is Calling.AUTO else ""
    answer = reply[form.ANSWER]
    return answer if isinstance(answer, str) and parsed.tools.answer is None else _json(answer)


def cut(outcome: Outcome, shown: str, stop: str | None) -> Outcome:
    """The outcome with what is shown of an answer in words: up to the stop text, if it has one."""
    if stop is None:
        return outcome
    return replace(outcome, answer=_json({form.ANSWER: shown}), truncated=False, stopped_by=stop)


def pieces(text: str) -> list[str]:
    """A text as it is streamed."""
    return [text[at : at + PIECE] for at in range(0, len(text), PIECE)]


def _reply(parsed: ParsedRequest, outcome: Outcome) -> Json:
    """The JSON of a reply; empty where it is none."""
    found = extract(outcome.answer, parsed.question)
    read: Json = json.loads(found.text) if found.parsed else {}
    return read


def _call(request: str, at: int, call: Json) -> ToolCall:
    digest = hashlib.blake2b(f"{request} {at}".encode(), digest_size=12).hexdigest()
    return ToolCall(f"call_{digest}", call[form.NAME], _json(call[form.ARGUMENTS]))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
