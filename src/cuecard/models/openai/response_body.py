"""Validation of server responses, in one place: text to JSON within bounds, JSON to values or to a server error.

Servers leave out, rename and null almost everything, so chunks are parsed leniently. A number that its field cannot
have (a positive log probability, a negative count) is None: not observed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cuecard.domain.call import Usage

DONE = "[DONE]"
"""Ends a stream, in place of JSON."""
_MOST_TOKENS = 2**31 - 1
_DEEPEST, _MOST_HELD = 128, 64
_HALF = re.compile("[\ud800-\udfff]")
_LEAST_LOGPROB, _MOST_LOGPROB = -1e6, 1e-3
"""The range of a log probability, including rounding."""
_MOST_TOP, _MOST_BYTES = 20, 256
"""Maximum alternatives of a token, and bytes of one."""


class StreamError(Exception):
    """An error in a response of status 200, streamed or not; `body` is its JSON."""

    def __init__(self, body: object) -> None:
        super().__init__("an error occurred in the stream")
        self.body = body


@dataclass(frozen=True)
class Token:
    """One generated token, its text as the server spells it, and its natural log probability."""

    text: str
    logprob: float | None
    utf8: tuple[int, ...] | None = None
    """Its bytes; None: not given."""
    top: tuple[Token, ...] = ()
    """The most probable tokens at its position."""


@dataclass(frozen=True)
class Chunk:
    """One event of the stream. None: not given."""

    reasoning: str = ""
    content: str = ""
    tokens: tuple[Token, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    calls_tools: bool = False

    @property
    def has_text(self) -> bool:
        return bool(self.reasoning or self.content)


# --- text ----------------------------------------------------------------------------------------------------------


def joined_surrogates(text: str) -> str:
    """The text with surrogate pairs joined; a lone surrogate becomes U+FFFD."""
    if _HALF.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class SurrogateJoiner:
    """Joins surrogate pairs that are split between two pieces of a text."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """The complete characters so far; a surrogate at the end is held back."""
        text, self._held = self._held + text, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        return joined_surrogates(text)

    def end(self) -> str:
        """U+FFFD for a surrogate that is still held back, else empty."""
        held, self._held = self._held, ""
        return joined_surrogates(held)


# --- JSON ----------------------------------------------------------------------------------------------------------


def decoded(text: str) -> object:
    """JSON of bounded depth; NaN, infinities and overlong integers are null. Raises ValueError."""
    try:
        data = _loaded(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    if text.count("[") + text.count("{") > _DEEPEST and not is_shallow(data, _DEEPEST):
        raise ValueError("JSON that is nested too deeply")
    return data


_DECODER = json.JSONDecoder(parse_constant=lambda name: None)
_LENIENT = json.JSONDecoder(
    parse_constant=lambda name: None, parse_int=lambda digits: int(digits) if len(digits) < 20 else None
)


def _loaded(text: str) -> object:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # more digits than Python converts
        return _LENIENT.decode(text)


def is_shallow(data: object, most: int) -> bool:
    """Whether JSON is nested less than `most` deep, so that recursive readers can read it."""
    level = [data]
    for _ in range(most):
        nested = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        if not nested:
            return True
        level = [each for items in nested for each in items]
    return False


class JsonSanitiser:
    """Makes the JSON of one response's events serialisable: finite numbers, and texts of complete characters.

    A surrogate pair that is split between two deltas of one field is joined in the second.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[object, ...], str] = {}

    def of(self, event: Mapping[str, Any]) -> dict[str, Any]:
        return {joined_surrogates(key): self._value(value, (key,)) for key, value in event.items()}

    def _value(self, data: object, path: tuple[object, ...]) -> object:
        match data:
            case str():
                return self._text(data, path) if "delta" in path else joined_surrogates(data)
            case float():
                return data if math.isfinite(data) else None
            case dict():
                return {joined_surrogates(key): self._value(value, (*path, key)) for key, value in data.items()}
            case list():
                return [self._value(item, (*path, _index(item, at))) for at, item in enumerate(data)]
            case _:
                return data

    def _text(self, text: str, path: tuple[object, ...]) -> str:
        text = self._held.pop(path, "") + text
        if "\ud800" <= text[-1:] <= "\udbff" and len(self._held) < _MOST_HELD:
            text, self._held[path] = text[:-1], text[-1]
        return joined_surrogates(text)


def _index(item: object, at: int) -> int:
    """The `index` of a choice or tool call; else its position in the list."""
    index = _object(item).get("index")
    return index if isinstance(index, int) else at


def objects(text: str, kind: str = "message") -> list[Mapping[str, Any]]:
    """The JSON objects of one server-sent event: one, or one per line. Raises StreamError, ValueError."""
    try:
        found = [decoded(text)]
    except ValueError:
        if kind == "error":
            raise StreamError(text) from None
        if "\n" not in text:
            raise
        lines = [line.strip() for line in text.split("\n")]  # of events without a blank line between them
        found = [decoded(line) for line in lines if line and not line.startswith(DONE)]
    for data in found:
        if (problem := _error_in(data, kind)) is not None:
            raise StreamError(problem)
    return [data for data in found if isinstance(data, Mapping)]


def error_in(text: str) -> object:
    """The error in the body of a response with a status other than 200: its JSON, or its text."""
    try:
        data = decoded(text)
    except ValueError:
        return text
    error = _object(data).get("error")
    return error if isinstance(error, Mapping) and error else data


def _error_in(data: object, kind: str) -> object:
    """The error in an event or a response, in place of choices; None if there is none."""
    body = _object(data)
    if body.get("error"):
        return body["error"] if isinstance(body["error"], Mapping) else body
    if kind == "error" or "error" in (body.get("object"), body.get("type")):
        return data or kind
    if body.get("choices"):
        return _object(_first(body["choices"])).get("error") or None
    details = (body.get("detail"), body.get("message"), body.get("msg"))
    return data if details[0] or any(isinstance(each, str) and each for each in details) else None


# --- values --------------------------------------------------------------------------------------------------------


def chunk(event: object) -> Chunk:
    """The Chunk of an event's JSON, or of a whole completion."""
    data = _object(event)
    choice = _object(_first(data.get("choices")))
    delta = _object(choice.get("message") if choice.get("delta") is None else choice["delta"])
    listed = _object(choice.get("logprobs")).get("content")
    finish = choice.get("finish_reason")
    return Chunk(
        _reasoning(delta),
        _text(delta.get("content")) or _text(delta.get("refusal")) or _text(choice.get("text")),
        tuple(map(_token, listed)) if isinstance(listed, list) else (),
        finish if isinstance(finish, str) and finish else None,
        usage(data.get("usage")),
        bool(delta.get("tool_calls") or delta.get("function_call")),
    )


def finishes(event: Mapping[str, Any]) -> bool:
    """Whether a choice ends with this event."""
    choices = event.get("choices")
    return isinstance(choices, list) and any(_object(choice).get("finish_reason") for choice in choices)


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


def logprob(data: object) -> float | None:
    """A natural log probability; None if it is not one."""
    if isinstance(data, bool) or not isinstance(data, int | float) or not _LEAST_LOGPROB <= data <= _MOST_LOGPROB:
        return None
    return min(0.0, float(data))


def _token(data: object) -> Token:
    item = _object(data)
    listed = item.get("top_logprobs")
    top = tuple(map(_alone, listed[:_MOST_TOP])) if isinstance(listed, list) else ()
    token = _alone(item)
    return replace(token, top=tuple(each for each in top if each.logprob is not None)) if top else token


def _alone(data: object) -> Token:
    item = _object(data)
    return Token(joined_surrogates(_text(item.get("token"))), logprob(item.get("logprob")), _utf8(item.get("bytes")))


def _utf8(data: object) -> tuple[int, ...] | None:
    if not isinstance(data, list) or not 0 < len(data) <= _MOST_BYTES:
        return None
    whole = all(isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 256 for each in data)
    return tuple(data) if whole else None


def _object(data: object) -> Mapping[str, Any]:
    return data if isinstance(data, dict) else {}


def _first(data: object) -> object:
    return data[0] if isinstance(data, list) and data else None


def _reasoning(delta: Mapping[str, Any]) -> str:
    """The first non-empty reasoning field (some servers fill two alike), else the `thinking` parts of the content."""
    fields = (delta.get(name) for name in ("reasoning", "reasoning_content", "reasoning_details"))
    content = delta.get("content")
    parts = content if isinstance(content, list) else []
    thinking = "".join(_text(_object(part).get("thinking")) for part in parts)
    return next((text for text in map(_text, fields) if text), thinking)


def _text(data: object) -> str:
    """Text unchanged; lists of parts with a `text`, a `summary` or a `refusal` joined."""
    if isinstance(data, list):
        return "".join(map(_part, data))
    return data if isinstance(data, str) else ""


def _part(data: object) -> str:
    part = _object(data)
    return next((text for text in map(_text, map(part.get, ("text", "summary", "refusal"))) if text), "")


def _count(data: object) -> int | None:
    return data if isinstance(data, int) and not isinstance(data, bool) and 0 <= data <= _MOST_TOKENS else None
