"""Requests: chat completions JSON, to which the other APIs are translated, parsed to a question and settings."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from cuecard.answers import asks_for_json, guess_kind, listed_in, schemas
from cuecard.domain.call import Call
from cuecard.domain.errors import BadInput, BeyondAPair
from cuecard.domain.question import AnswerKind, Image, Message, Question, kind_named, kinds_hint
from cuecard.gateway.wire import tools
from cuecard.gateway.wire.parameters import (
    STREAM_OPTIONS,
    Json,
    Parameters,
    count,
    flag,
    number,
    object_of,
    read,
    reading,
)
from cuecard.gateway.wire.tools import Tools
from cuecard.strategies.policy_file import Surface, options_at

Fetch = Callable[[str], Image]
"""Returns an image from the URL of a message part. Raises BadInput."""

IMAGE = 'an image is {"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}'
PARTS = f"there are: text, image_url; {IMAGE}"
REASONING = ("effort", "max_tokens", "exclude", "enabled", "summary")
EFFORT = "reasoning_effort"
OPTIONS = options_at(Surface.REQUEST)
OVERRIDES = ("strategy", *OPTIONS, "kind", "options", "max_latency_ms", "max_cost")
GO_ON = "Go on from where your last message ends."
MOST_NAME = 200
"""Maximum characters of a name."""
SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MOST_SEED = 2**63 - 1
"""The largest seed that servers accept."""
MOST_PARTS = 10_000
"""Maximum messages of a request, and parts of a message."""
MOST_OPTION = 2_000
"""Maximum characters of one option."""
CHARS_PER_TOKEN, TOKENS_PER_IMAGE = 4, 256
"""For estimates of prompts whose tokens no server has counted."""


@dataclass(frozen=True, kw_only=True)
class RequestInfo:
    """Fields of every request, including those that are passed on."""

    model: str
    stream: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    trace: Mapping[str, str] = field(default_factory=dict)
    """W3C trace context headers, if there are any."""
    prompt_tokens: int = 0
    """Estimated from the request's length."""


class RequestEnd(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    DECIDED = "decided"
    """Only its route was requested."""
    LEFT = "client_gone"
    """Its client disconnected, or the gateway stopped."""
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True)
class Unanswered:
    """A request that ended without an outcome, and all of its calls."""

    end: RequestEnd
    strategy: str
    calls: tuple[Call, ...]
    total_s: float
    error: Exception | None = None
    """What went wrong."""


@dataclass(frozen=True, kw_only=True)
class ParsedRequest(RequestInfo):
    """One request of any API, with its question."""

    question: Question
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `policy_with`, `strategy`, `effort` and `max_cost`."""
    include_usage: bool = False
    reasoning_field: str | None = "reasoning_content"
    """Where reasoning goes; None: it is not shown."""
    parameters: Parameters = field(default_factory=Parameters)
    """The other parameters."""
    tools: Tools | None = None
    """Tools that may be called; None: none."""
    is_kept: bool = True
    """Whether later requests may refer to the answer, in APIs that allow it."""
    repeated: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the request that the answer repeats."""


def parse(body: object, fetch: Fetch) -> ParsedRequest:
    """Parse a chat completions request. Raises BadInput."""
    if not isinstance(body, dict):
        raise BadInput("the body is not a JSON object", 'send {"model": "cuecard", "messages": […]}')
    model = named(body)
    parameters = read(body)
    own = object_of(body, "cuecard", OVERRIDES)
    options = object_of(body, "stream_options", STREAM_OPTIONS)
    reasoning = object_of(body, "reasoning", REASONING)
    hidden = flag(reasoning, "exclude", of="reasoning") or not flag(body, "include_reasoning", default=True)
    with reading("response_format"):
        wanted = _wanted(body)
    with reading("tools"):
        offered = tools.parse(body, wanted.schema)
    with reading("messages"):
        question = _question(body, own, fetch, wanted, offered)
    return ParsedRequest(
        model=model,
        question=question,
        prompt_tokens=estimated_tokens(question),
        settings=_settings(body, own, reasoning),
        stream=flag(body, "stream"),
        include_usage=flag(options, "include_usage", of="stream_options"),
        parameters=parameters,
        reasoning_field=None if hidden else "reasoning" if reasoning else "reasoning_content",
        tools=offered,
    )


def estimated_tokens(question: Question) -> int:
    """Tokens of a question, estimated from its length."""
    turns = [*question.history, Message("user", question.text, question.images)]
    texts = [question.system or "", *question.options, *(turn.text for turn in turns)]
    return sum(map(len, texts)) // CHARS_PER_TOKEN + TOKENS_PER_IMAGE * sum(len(turn.images) for turn in turns)


def named(body: Json) -> str:
    """The model that a request names. Raises BadInput."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadInput("model is missing, or not a text", 'write "model": "cuecard"', param="model")
    return model


def _settings(body: Json, own: Json, reasoning: Json) -> Json:
    """Settings of the request: from OpenAI's parameters, overridden by the `cuecard` object."""
    effort = reasoning.get("effort") if body.get("reasoning_effort") is None else body["reasoning_effort"]
    if effort is None and reasoning.get("enabled") is not None and not flag(reasoning, "enabled", of="reasoning"):
        effort = "none"
    if effort is not None and not (isinstance(effort, str) and len(effort) <= MOST_NAME):
        raise BadInput("reasoning_effort is no name of an effort", "none, low, medium, high, …", param=EFFORT)
    latency_ms = _positive(own, "max_latency_ms", "leave it out for no limit of its own")
    found: Json = {
        "answer_tokens": count(body, "max_completion_tokens") or count(body, "max_tokens"),
        "temperature": number(body, "temperature"),
        "top_p": number(body, "top_p"),
        "seed": count(body, "seed", -MOST_SEED, MOST_SEED),
        "budget": count(reasoning, "max_tokens", of="reasoning"),
        "effort": None if effort == "none" else effort,
        "max_cost": max_cost(own),
        "strategy": short_text(own, "strategy") or ("short:large" if effort == "none" else None),
        "deadline_s": None if latency_ms is None else latency_ms / 1000,
        **{name: READERS[option.kind](own, name, of="cuecard") for name, option in OPTIONS.items() if name in own},
    }
    return {key: value for key, value in found.items() if value is not None}


def short_text(own: Json, key: str, *, of: str = "cuecard") -> str | None:
    """A short text of the `cuecard` object. Raises BadInput. `of`: as in `flag`."""
    value = own.get(key)
    if value is not None and not (isinstance(value, str) and len(value) <= MOST_NAME):
        message = f"{key} in cuecard is not a text of at most {MOST_NAME} characters"
        raise BadInput(message, param=f"{of}.{key}")
    return value


READERS: Mapping[type, Callable[..., Any]] = {str: short_text, int: count, float: number, bool: flag}
"""Kind of a policy option -> the reader of its value."""


def max_cost(own: Json) -> float | None:
    """The most that a request may cost, from its `cuecard` object. Raises BadInput."""
    return _positive(own, "max_cost", "it is in the currency of the prices in cuecard.toml")


def _positive(own: Json, key: str, hint: str) -> float | None:
    value = number(own, key, of="cuecard")
    if value is not None and not value > 0:
        raise BadInput(f"{key} in cuecard is not above 0", hint, param=f"cuecard.{key}")
    return value


# --- messages ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResponseFormat:
    """The JSON that `response_format` asks for. `schema`: None for any text."""

    schema: Json | None = None
    name: str = "answer"
    strict: bool = False


def _question(body: Json, own: Json, fetch: Fetch, wanted: ResponseFormat, offered: Tools | None) -> Question:
    messages = body.get("messages")
    if not isinstance(messages, list | None):
        raise BadInput("messages is not a list", 'write "messages": [{"role": "user", "content": "…"}]')
    if not messages:
        raise BadInput("messages is empty", "the last message is the user's question")
    if len(messages) > MOST_PARTS:
        raise BadInput(f"there are more than {MOST_PARTS} messages", "send fewer")
    system, turns, calls = [], [], tools.CallHistory()
    for index, message in enumerate(messages):
        with reading(f"messages[{index}]"):
            role, text, images = _message(message, f"message {index + 1}", fetch, calls)
        if role != "system":
            turns.append(Message(role, text, images))
        elif text:
            system.append(text)
    ending = _ending_with_the_user(turns)
    *history, last = tools.joined(ending)
    if offered is not None:
        if own.get("kind") is not None or own.get("options"):
            message = "kind and options in cuecard are not for requests with tools"
            raise BadInput(message, "leave them out", param="cuecard")
        return tools.question(offered, system, history, last)
    goes_on = ending[-1].role == tools.RESULT  # a tool result asks no question, and lists in it are not options
    asked_text = last.text if goes_on else next(turn.text for turn in reversed(turns) if turn.role == "user")
    text, options = asked_text, tuple(_options(own))
    labels: tuple[str, ...] = ()
    in_words = goes_on or asks_for_json("\n\n".join(system)) or asks_for_json(text)
    if not options and not in_words:
        found = listed_in(text)
        text, options, labels = found.text, found.options, found.labels
    kind = short_text(own, "kind")
    if wanted.schema is not None and kind not in (None, AnswerKind.JSON):
        message = f"kind in cuecard is {kind}, and response_format asks for JSON"
        raise BadInput(message, "leave one of them out", param="cuecard.kind")
    if kind is not None:
        with reading("cuecard.kind"):
            answer_kind = kind_named(kind)
    elif wanted.schema is not None:
        answer_kind = AnswerKind.JSON
    else:
        answer_kind = AnswerKind.FREE_TEXT if in_words and not options else guess_kind(text, options)
    shown = (text if last.text == asked_text else last.text) or " ".join(options)
    if not shown.strip():
        raise BadInput("a question needs a text", "say what the answer is to be about", param="messages")
    try:
        return Question(
            shown,
            last.images,
            options,
            answer_kind,
            "\n\n".join(system) or None,
            tuple(history),
            None if wanted.schema is None else json.dumps(wanted.schema),
            labels=labels,
            schema_name=wanted.name,
            schema_strict=wanted.strict,
        )
    except ValueError as error:
        raise BadInput(str(error), kinds_hint(), param="cuecard.options" if kind is None else "cuecard.kind") from error


def _ending_with_the_user(turns: Sequence[Message]) -> list[Message]:
    """The conversation, with a request to continue if its last message is the assistant's. Raises BadInput."""
    if not any(turn.role == "user" for turn in turns):
        raise BadInput("the last message is not the user's, nor any other", "a pair answers a question")
    ending = list(turns)
    while ending[-1].role == "assistant" and not ending[-1].text.strip():
        ending.pop()
    return ending if ending[-1].role in ("user", tools.RESULT) else [*ending, Message("user", GO_ON)]


def _options(own: Json) -> list[str]:
    options = own.get("options") or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise BadInput("options in cuecard is not a list of texts", param="cuecard.options")
    if any(len(option) > MOST_OPTION for option in options):
        message, hint = f"an option has more than {MOST_OPTION} characters", "put what it is about into the question"
        raise BadInput(message, hint, param="cuecard.options")
    return options


def _wanted(body: Json) -> ResponseFormat:
    """What `response_format` asks for. Raises BadInput."""
    form = object_of(body, "response_format")
    match form.get("type"):
        case None | "text":
            return ResponseFormat()
        case "json_object":
            return ResponseFormat(json.loads(schemas.ANY_OBJECT))
        case "json_schema":
            given = object_of(form, "json_schema", of="response_format")
            schema, name = given.get("schema"), given.get("name")
            if not isinstance(schema, dict):
                raise BadInput("response_format has no json_schema.schema", "it is an object: a JSON Schema")
            if name is not None and not (isinstance(name, str) and SCHEMA_NAME.fullmatch(name)):
                raise BadInput("response_format's json_schema.name is no name", "up to 64 letters, digits, _ and -")
            if (why := schemas.outline(schema)) is not None:
                raise BadInput(f"the JSON schema {why}", "correct or simplify it")
            return ResponseFormat(schema, name or "answer", flag(given, "strict", of="response_format.json_schema"))
        case other:
            raise BadInput(f"unknown response_format {str(other)[:100]!r}", "there are: text, json_object, json_schema")


def _message(message: object, where: str, fetch: Fetch, calls: tools.CallHistory) -> tuple[str, str, tuple[Image, ...]]:
    if not isinstance(message, dict):
        raise BadInput(f"{where} is not an object")
    role = message.get("role")
    if role in ("tool", "function"):
        return tools.RESULT, calls.result(message, where), ()
    if role not in ("system", "developer", "user", "assistant"):
        hint = "there are: system, developer, user, assistant, tool"
        raise BadInput(f"{where} has the role {str(role)[:100]!r}", hint)
    content = message.get("content")
    if content is None and role != "user":
        content = message.get("refusal") or ""  # nothing, or nothing but a refusal
    texts, images = _content(content, where, fetch, is_assistant=role == "assistant")
    if images and role != "user":
        raise BadInput(f"{where} has an image, and is not the user's")
    if role == "assistant" and (called := calls.written(message, where)):
        texts = [text for text in texts if text] + [called]
    return "system" if role == "developer" else role, "\n".join(texts), tuple(images)


def _content(content: object, where: str, fetch: Fetch, *, is_assistant: bool) -> tuple[list[str], list[Image]]:
    if isinstance(content, str):
        return [content], []
    if not isinstance(content, list):
        raise BadInput(f"{where} has no content", "a text, or a list of parts")
    if len(content) > MOST_PARTS:
        raise BadInput(f"{where} has more than {MOST_PARTS} parts", "send fewer")
    texts, images = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        match kind:
            case "text" | "input_text" | "output_text" if isinstance(part.get("text"), str | None):
                texts.append(part.get("text") or "")
            case "image_url" | "input_image":
                given = part.get("image_url")
                url = given.get("url") if isinstance(given, dict) else given
                if not isinstance(url, str) or not url:
                    raise BadInput(f"an image in {where} has no URL", IMAGE)
                images.append(fetch(url))
            case "refusal":
                texts.append(str(part.get("refusal") or ""))
            case "thinking" | "redacted_thinking" | "reasoning" | "reasoning_text" if is_assistant:
                pass  # of an earlier answer: models do not need it
            case _:
                raise BeyondAPair(f"{where} has a part of type {str(kind)[:100]!r}", PARTS)
    return texts, images


def split(body: object, own: Collection[str], example: str) -> tuple[Json, Json]:
    """A request's `own` parameters, and the others, which are parsed as those of chat completions. Raises BadInput."""
    if not isinstance(body, dict):
        raise BadInput("the body is not a JSON object", f"send {example}")
    given = {key: value for key, value in body.items() if value is not None}
    return {key: given[key] for key in own if key in given}, {key: given[key] for key in given if key not in own}


def parse_translated(
    translated: Json, fetch: Fetch, prefix: str, names: Mapping[str, str] | None = None
) -> ParsedRequest:
    """Parse parameters that are translated to chat completions; the request's id begins with `prefix`.

    Raises BadInput. `names`: chat completions parameter -> its name in the original API, for errors.
    """
    try:
        parsed = parse({key: value for key, value in translated.items() if value is not None}, fetch)
    except BadInput as error:
        if error.param is not None and names is not None:
            error.param = names.get(re.split(r"[.\[]", error.param)[0], error.param)
        raise
    return replace(parsed, id=f"{prefix}_{uuid.uuid4().hex}")


def nested_format(wanted: Json) -> Json | None:
    """A response format nested as in chat completions, from one with the schema's keys next to its type."""
    if wanted.get("type") != "json_schema":
        return wanted or None
    return {"type": "json_schema", "json_schema": {key: value for key, value in wanted.items() if key != "type"}}
