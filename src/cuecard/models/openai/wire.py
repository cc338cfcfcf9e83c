"""The chat-completions wire: prompts and limits to request bodies, chunks to values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cuecard.domain.call import Usage
from cuecard.models.base import Limits
from cuecard.models.images import data_url
from cuecard.models.prompt import Prompt, Turn

Body = dict[str, Any]

LOSSES = {
    "chat_template_kwargs": "thinking cannot be switched",
    "reasoning_effort": "thinking cannot be switched",
    "logprobs": "the confidence of answers is not known",
    "continuous_usage_stats": "the cost of a cancelled call is counted from its pieces",
    "stream_options": "token counts are not known",
    "temperature": "answers are drawn as the server likes, not greedily",
    "top_p": "the server's own top_p holds",
    "seed": "answers cannot be repeated",
    "response_format": "answers may not fit their schema",
    "grammar": "brief answers are not decoded under a grammar",
    "structured_outputs": "brief answers are not decoded under a grammar",
    "regex": "brief answers are not decoded under a grammar",
    "ignore_eos": "answers may be shorter than asked for",
    "min_tokens": "answers may be shorter than asked for",
    "max_tokens": "max_completion_tokens is sent in its place",
}
"""What a server may refuse without the call being lost, and what is lost instead."""


def messages(turns: tuple[Turn, ...], opening: str) -> list[Body]:
    """Turns, then the beginning of the assistant's turn if there is one."""
    said = [{"role": turn.role, "content": _content(turn)} for turn in turns]
    return [*said, {"role": "assistant", "content": opening}] if opening else said


def _content(turn: Turn) -> str | list[Body]:
    """Plain text where there is no image: not every server takes parts for every role."""
    if not turn.images:
        return turn.text
    parts: list[Body] = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in turn.images]
    return [*parts, {"type": "text", "text": turn.text}]


def body(model: str, prompt: Prompt, opening: str, limits: Limits, max_tokens: int, without: frozenset[str]) -> Body:
    """One streamed request, less the parameters that this server is known to refuse."""
    request: Body = {
        "model": model,
        "messages": messages(prompt.turns, opening),
        "stream": True,
        # running sums (vLLM, SGLang) tell what a call that is cancelled or cut had cost
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": max_tokens,
        "temperature": limits.temperature,
        "logprobs": True,
    }
    if limits.top_p < 1:
        request["top_p"] = limits.top_p
    if limits.seed is not None:
        request["seed"] = limits.seed
    if prompt.schema is not None:
        fitting = {"name": "answer", "schema": json.loads(prompt.schema)}
        request["response_format"] = {"type": "json_schema", "json_schema": fitting}
    if opening:
        request |= {"continue_final_message": True, "add_generation_prompt": False}
    if "max_tokens" in without:  # OpenAI's newer models know it by another name
        request["max_completion_tokens"] = request["max_tokens"]
    if "continuous_usage_stats" in without:
        request["stream_options"] = {"include_usage": True}
    return {key: value for key, value in request.items() if key not in without}


def merged(request: Body, more: Mapping[str, Any]) -> Body:
    """The request with more fields; objects in both are joined, and `more` has the last word."""
    joined = dict(request)
    for key, value in more.items():
        old = joined.get(key)
        joined[key] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return joined


@dataclass(frozen=True)
class Token:
    """One generated token, its text as the server spells it, and its natural log probability."""

    text: str
    logprob: float


@dataclass(frozen=True)
class Chunk:
    """What one event of the stream says. None: not said."""

    reasoning: str = ""
    content: str = ""
    tokens: tuple[Token, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None


def chunk(event: object) -> Chunk:
    """An event's JSON, read leniently: servers leave out, rename and null almost everything."""
    data = _object(event)
    choices = data.get("choices")
    choice = _object(choices[0]) if isinstance(choices, list) and choices else {}
    delta = _object(choice.get("delta") or choice.get("message"))
    listed = _object(choice.get("logprobs")).get("content")
    tokens = [_token(item) for item in listed] if isinstance(listed, list) else []
    finish = choice.get("finish_reason")
    return Chunk(
        _reasoning(delta),
        _text(delta.get("content")),
        tuple(token for token in tokens if token),
        finish if isinstance(finish, str) and finish else None,
        usage(data.get("usage")),
    )


def usage(data: object) -> Usage | None:
    """Token counts; None is not observed. SGLang puts reasoning tokens at the top level."""
    counts = _object(data)
    if not counts:
        return None
    cached = _count(_object(counts.get("prompt_tokens_details")).get("cached_tokens"))
    reasoning = _count(_object(counts.get("completion_tokens_details")).get("reasoning_tokens"))
    if reasoning is None:
        reasoning = _count(counts.get("reasoning_tokens"))
    return Usage(_count(counts.get("prompt_tokens")), cached, _count(counts.get("completion_tokens")), reasoning)


def _token(data: object) -> Token | None:
    item = _object(data)
    logprob = item.get("logprob")
    return Token(_text(item.get("token")), float(logprob)) if isinstance(logprob, int | float) else None


def _object(data: object) -> Mapping[str, Any]:
    return data if isinstance(data, Mapping) else {}


def _reasoning(delta: Mapping[str, Any]) -> str:
    """The first field that holds any (some servers fill two alike), else the `thinking` parts of the content."""
    fields = (delta.get(name) for name in ("reasoning", "reasoning_content", "reasoning_details"))
    content = delta.get("content")
    parts = content if isinstance(content, list) else []
    thinking = "".join(_text(_object(part).get("thinking")) for part in parts)
    return next((text for text in map(_text, fields) if text), thinking)


def _text(data: object) -> str:
    """Text as it stands; lists of parts with a `text` or a `summary` are joined."""
    if isinstance(data, list):
        return "".join(_text(_object(part).get("text")) or _text(_object(part).get("summary")) for part in data)
    return data if isinstance(data, str) else ""


def _count(data: object) -> int | None:
    return data if isinstance(data, int) and not isinstance(data, bool) and data >= 0 else None
