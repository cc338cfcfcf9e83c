"""The Responses API: requests are translated to chat completions, outcomes to items and events.

Only the latest items of earlier responses are kept; a request may refer to them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cuecard.domain.errors import BadInput, CuecardError
from cuecard.domain.outcome import Outcome
from cuecard.gateway.wire import chat
from cuecard.gateway.wire.chat import calls_of, event, text_of
from cuecard.gateway.wire.chat import usage as token_usage
from cuecard.gateway.wire.parameters import Json, flag, object_of, reading
from cuecard.gateway.wire.request import Fetch, ParsedRequest, nested_format, parse_translated, split
from cuecard.gateway.wire.tools import ToolCall, pieces

STATEFUL = {
    "previous_response_id": "send the whole conversation as input",
    "conversation": "send the whole conversation as input",
    "background": "leave it out; set stream for an answer that takes long",
    "prompt": "send the prompt itself as input and instructions",
}
ITEMS = "there are: message, reasoning, function_call, function_call_output, item_reference"
CHAT_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""Chat completions parameter -> its name here."""
OWN = ("input", "instructions", "max_output_tokens", "reasoning", "text", *STATEFUL)
REPEATED: Json = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""Request fields that a response repeats, with OpenAI's defaults for missing ones."""
EXAMPLE = '{"model": "cuecard", "input": "…"}'
MOST_CHARACTERS = 8_000_000
"""Maximum size of all kept items, as JSON."""
RESEND = "send the item itself (store = false makes clients do so): the latest are kept, until the gateway ends"


class ItemMemory:
    """Items by their ids: the latest ones, up to this many characters of JSON together."""

    def __init__(self, most_characters: int = MOST_CHARACTERS) -> None:
        self._items: dict[str, str] = {}
        self._most, self._characters = most_characters, 0

    def keep(self, item: Json) -> None:
        self._items[item["id"]] = text = json.dumps(item, ensure_ascii=False)
        self._characters += len(text)
        while self._characters > self._most:
            self._characters -= len(self._items.pop(next(iter(self._items))))

    def resolved(self, given: Sequence[Any]) -> Iterator[Any]:
        """Items of a request, with references replaced by the kept items. Raises BadInput."""
        referred: set[object] = set()
        for item in given:
            if not isinstance(item, dict) or item.get("type") != "item_reference":
                yield item
                continue
            identity = item.get("id")
            if not isinstance(identity, str) or identity not in self._items:
                raise BadInput(f"input refers to the item {str(identity)[:100]!r}, which is not kept here", RESEND)
            if identity in referred:  # a short request would become a very long one
                raise BadInput(f"input refers to the item {identity!r} twice", "refer to it once")
            referred.add(identity)
            yield json.loads(self._items[identity])


def parse(body: object, fetch: Fetch, memory: ItemMemory) -> ParsedRequest:
    """Parse a request by translating it to chat completions. Raises BadInput."""
    given, translated = split(body, OWN, EXAMPLE)
    for key, hint in STATEFUL.items():
        if given.get(key):
            raise BadInput(
                f"{key} is not supported: the gateway keeps no conversations, prompts or jobs", hint, param=key
            )
    text, reasoning = object_of(given, "text"), object_of(given, "reasoning")
    with reading("input"):
        translated["messages"] = _messages(given, memory)
    translated["max_completion_tokens"] = given.get("max_output_tokens")
    translated["response_format"] = nested_format(wanted if isinstance(wanted := text.get("format"), dict) else {})
    translated["reasoning_effort"] = reasoning.get("effort")
    parsed, is_kept = parse_translated(translated, fetch, "resp", CHAT_NAMES), flag(translated, "store", default=True)
    return replace(parsed, is_kept=is_kept, repeated=_repeated({**given, **translated}))


def _repeated(body: Json) -> Json:
    repeated = {key: default if body.get(key) is None else body[key] for key, default in REPEATED.items()}
    repeated |= {key: REPEATED[key] | object_of(body, key) for key in ("reasoning", "text")}
    # tools come nested too, as in chat completions
    return repeated | {
        "tools": [
            {"type": "function", "strict": None, **tool.get("function", tool)} for tool in repeated["tools"] or ()
        ]
    }


def _messages(body: Json, memory: ItemMemory) -> list[Json]:
    given, instructions = body.get("input"), body.get("instructions")
    if not isinstance(given, str | list) or not given:
        raise BadInput("input is empty", "a text, or a list of messages")
    messages: list[Json] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for item in memory.resolved(given):
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if kind == "message":
            messages.append({"role": item.get("role"), "content": item.get("content")})
        elif kind == "function_call":
            call = {"id": item.get("call_id"), "function": {key: item.get(key) for key in ("name", "arguments")}}
            if messages and messages[-1].get("role") == "assistant":  # several calls make one turn
                messages[-1].setdefault("tool_calls", []).append(call)
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind == "function_call_output":
            result = {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
            messages.append(result)
        elif kind != "reasoning":  # of an earlier answer: models do not need it
            raise BadInput(f"input has an item of type {str(kind)[:100]!r}", ITEMS)
    return messages


def usage(outcome: Outcome) -> Json:
    names = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
    names |= {f"{name}_details": f"{own}_details" for name, own in names.items()}
    return {names.get(name, name): count for name, count in token_usage(outcome).items()}


@dataclass(frozen=True)
class ItemForm:
    """Where an item holds its text, and the names of its events."""

    item: str
    place: str
    """The item's list of parts that holds it."""
    part: str
    text: str
    event: str


MESSAGE = ItemForm("message", "content", "output_text", "output_text", "content_part")
REASONING = ItemForm("reasoning", "content", "reasoning_text", "reasoning_text", "content_part")
SUMMARY = ItemForm("reasoning", "summary", "summary_text", "reasoning_summary_text", "reasoning_summary_part")
"""The form if the request asks for a summary: clients look for it there, and it contains the reasoning itself."""


class ResponseWriter:
    """One response, whole or event by event: a reasoning item if there is any reasoning, then the message."""

    ping = chat.PING

    def __init__(self, parsed: ParsedRequest, memory: ItemMemory) -> None:
        self._parsed, self._memory, self._number = parsed, memory, 0
        self._done: list[Json] = []
        self._open: Json | None = None
        self._form = MESSAGE
        """The form of the open item."""

    # --- whole --------------------------------------------------------------------------------------------------------

    def whole(self, outcome: Outcome, reasoning: str, account: Json) -> Json:
        if reasoning:
            self.reasoning(reasoning)
        calls = calls_of(self._parsed, outcome)
        if calls is None:
            self.content(text_of(self._parsed, outcome))
        else:
            self.calls(calls)
        self._close()
        self._keep()
        return self._response(outcome, account)

    def _response(
        self, outcome: Outcome | None = None, account: Json | None = None, error: CuecardError | None = None
    ) -> Json:
        cut = outcome is not None and outcome.truncated
        status = "failed" if error else "in_progress" if outcome is None else "incomplete" if cut else "completed"
        return {
            "id": self._parsed.id,
            "object": "response",
            "created_at": self._parsed.created,
            "status": status,
            "error": {"code": error.code or "server_error", "message": str(error)} if error else None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "model": self._parsed.model,
            "output": self._done,
            **self._parsed.repeated,
            "store": False,
            "usage": usage(outcome) if outcome else None,
            **({"cuecard": account} if account else {}),
        }

    # --- event by event -----------------------------------------------------------------------------------------------

    def begin(self) -> list[bytes]:
        return [self._event(f"response.{what}", response=self._response()) for what in ("created", "in_progress")]

    def reasoning(self, text: str) -> list[bytes]:
        if self._parsed.reasoning_field is None:
            return []
        return self._say(SUMMARY if self._parsed.repeated["reasoning"]["summary"] else REASONING, text)

    def content(self, text: str) -> list[bytes]:
        return self._say(MESSAGE, text)

    def calls(self, calls: Sequence[ToolCall]) -> list[bytes]:
        """An item for each call, its arguments piece by piece."""
        return [event for call in calls for event in [*self._close(), *self._call(call)]]

    def _call(self, call: ToolCall) -> list[bytes]:
        identity, index = f"fc_{uuid.uuid4().hex}", len(self._done)
        named = {"type": "function_call", "id": identity, "call_id": call.id, "name": call.name}
        whole = named | {"arguments": call.arguments, "status": "completed"}
        begun, where = whole | {"arguments": "", "status": "in_progress"}, {"item_id": identity, "output_index": index}
        self._done.append(whole)
        arguments = "response.function_call_arguments"
        return [
            self._event("response.output_item.added", output_index=index, item=begun),
            *(self._event(f"{arguments}.delta", **where, delta=piece) for piece in pieces(call.arguments)),
            self._event(f"{arguments}.done", **where, name=call.name, arguments=call.arguments),
            self._event("response.output_item.done", output_index=index, item=whole),
        ]

    def end(self, outcome: Outcome, account: Json) -> list[bytes]:
        what = "incomplete" if outcome.truncated else "completed"
        last = self._close()
        self._keep()
        return [*last, self._event(f"response.{what}", response=self._response(outcome, account))]

    def fail(self, error: CuecardError) -> list[bytes]:
        """The failed response, and the error by itself, for clients that read only one of them."""
        problem = chat.problem(error)["error"]
        failed = self._event("response.failed", response=self._response(error=error))
        flat = {key: problem[key] for key in ("code", "message", "param")}
        return [failed, self._event("error", **flat, error=problem)]

    def _say(self, form: ItemForm, text: str) -> list[bytes]:
        events = []
        if self._open is None or self._form is not form:
            events += [*self._close(), *self._begin(form)]
        assert self._open is not None
        self._open[form.place][0]["text"] += text
        return [*events, self._event(f"response.{form.text}.delta", **self._where(), delta=text)]

    def _begin(self, form: ItemForm) -> list[bytes]:
        identity = f"{form.item[:3]}_{uuid.uuid4().hex}"
        begun: Json = {"type": form.item, "id": identity, "status": "in_progress", "content": []}
        more: Json = {"role": "assistant"} if form is MESSAGE else {"summary": []}
        begun |= more
        added = self._event("response.output_item.added", output_index=len(self._done), item=begun)
        self._open, self._form = begun, form
        piece: Json = {"type": form.part, "text": ""}
        if form is MESSAGE:
            piece["annotations"] = []
        begun[form.place].append(piece)
        return [added, self._event(f"response.{form.event}.added", **self._where(), part=piece)]

    def _close(self) -> list[bytes]:
        if (item := self._open) is None:
            return []
        part = item[self._form.place][0]
        item["status"] = "completed"
        events = [
            self._event(f"response.{self._form.text}.done", **self._where(), text=part["text"]),
            self._event(f"response.{self._form.event}.done", **self._where(), part=part),
            self._event("response.output_item.done", output_index=len(self._done), item=item),
        ]
        self._done.append(item)
        self._open = None
        return events

    def _keep(self) -> None:
        if self._parsed.is_kept:
            for item in self._done:
                self._memory.keep(item)

    def _where(self) -> Json:
        assert self._open is not None
        where: Json = {"item_id": self._open["id"], "output_index": len(self._done), f"{self._form.place}_index": 0}
        return where | ({"logprobs": []} if self._form is MESSAGE else {})

    def _event(self, kind: str, **data: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return event(kind, {"sequence_number": number, **data})
