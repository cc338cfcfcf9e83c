"""Maps errors of aiohttp and of servers to ModelError, in one place, with one line of the server's message."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import aiohttp

from cuecard.domain.errors import (
    BrokenStream,
    ContentFiltered,
    ModelBusy,
    ModelError,
    ModelRefused,
    ModelTimeout,
    ModelUnreachable,
    QuotaExhausted,
    RequestRefused,
)
from cuecard.models.openai.http import Disconnected, StatusError, TooLong
from cuecard.models.openai.response_body import StreamError, joined_surrogates

_LONGEST, _MOST_READ = 300, 2**13
"""Maximum characters of a message, and of the text that it is made from."""
_SHORTEST_PART, _SHORTEST_SECRET = 8, 4
"""Minimum characters of a part of a key that is blanked out, and of a key that is blanked out at all."""
_TOO_MUCH = re.compile(
    r"max_(?:completion_|model_)?(?:tokens|len)\b.{0,400}?(?:too large|greater than|exceed|at most)"
    r"|maximum context length|context size",
    re.IGNORECASE | re.DOTALL,
)
_PROMPT_ALONE = re.compile(r"messages resulted in|longer than|available context size", re.IGNORECASE)
_HELD = re.compile(
    r"(?:maximum context length|max_model_len)(?: is | of |=)(\d{1,9})|(supports at most )(\d{1,9})", re.IGNORECASE
)
"""The maximum tokens of the model's context, or of its output."""
_TAKEN = re.compile(
    r"(at least )?\b(\d{1,9}) (?:tokens )?(?:input tokens|in (?:the|your) (?:messages|prompt)|from the input messages)",
    re.IGNORECASE,
)
"""Tokens of the prompt; vLLM stops counting early, and reports "at least"."""
_LEAST_TOKENS = 16
_NOT_KNOWN = re.compile(
    r"unknown|unrecogni[sz]ed|unsupported|unexpected|not supported|does not support|not permitted|not allowed"
    r"|extra_forbidden|extra fields|extra inputs|input should be '|invalid value: '",
    re.IGNORECASE,
)
_SCHEMA = re.compile(
    r"schema|response_?format|grammar|structured.?output|guided|guidance|outlines|initialize samplers", re.IGNORECASE
)
_QUOTA, _KEY, _FILTER, _TOO_LONG = 402, 401, "content_filter", "context_length_exceeded"
_NAMED: tuple[tuple[str, int | str], ...] = (
    (r"content.?(?:filter|policy|management)|responsible.?ai|moderation|safety|prohibited.?content", _FILTER),
    (r"context.?(?:length|size|window)|string_above_max_length|prompt_too_long", _TOO_LONG),
    (r"insufficient.?(?:quota|balance|credit|funds)|quota.?exceeded|billing|payment", _QUOTA),
    (r"rate.?limit|too.?many.?requests|resource.?exhausted", 429),
    (r"overloaded|unavailable|busy|loading", 503),
    (r"time.?out|deadline", 504),
    (r"api.?key|authentication|unauthori[sz]ed|unauthenticated|permission|forbidden", _KEY),
    (r"not.?found|no.?such.?model", 404),
    (r"bad.?request|invalid|validation|unprocessable|unsupported", 400),
)
"""Patterns of error codes and types, each with the status or code that it means."""
_WORDED: tuple[tuple[str, str], ...] = (
    (r"content (?:filter|policy|management)|\bflagged\b|requires moderation", _FILTER),
    (r"maximum context length|context (?:size|window|length)|prompt is too long", _TOO_LONG),
)
"""The same for messages of servers that send no code."""
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)


@dataclass(frozen=True)
class ErrorMapper:
    """Maps the errors of one server to ModelError. `secrets`: removed from messages, as servers may repeat them."""

    url: str
    key_hint: str = ""
    secrets: tuple[str, ...] = ()

    def translated(self, error: Exception, *, begun: bool) -> ModelError:
        """The ModelError for a foreign error. `begun`: the response had already begun."""
        url = self.url
        match error:
            case ModelError():
                return error
            case aiohttp.ServerTimeoutError():
                return ModelTimeout(f"{url} was silent for too long")
            case TimeoutError():
                return ModelTimeout(f"{url} took longer than its limit")
            case StatusError() if error.location:
                moved = f"{url} has moved to {self.line(error.location)}"
                return ModelRefused(moved, hint="is that the address to write?")
            case StatusError():
                meant = self._meant(error.status, error.body, f"{url} says: {error.status}")
                meant.retry_after_s = error.retry_after_s
                return meant
            case StreamError():
                who = f"{url} says in its answer:" if error_text(error.body) else f"{url}: {error}"
                return self._meant(_status_of(error.body), error.body, who)
            case Disconnected():
                return ModelUnreachable(f"cannot reach {url}: {self.line(str(error))}")
            case aiohttp.ClientPayloadError():  # its text is the parser's message, with a status of its own
                return BrokenStream(f"the answer of {url} broke off: the connection was lost")
            case aiohttp.ClientError() | OSError() if not begun:
                return ModelUnreachable(f"cannot reach {url}: {self._root(error)}")
            case aiohttp.ClientError() | OSError():
                return BrokenStream(f"the answer of {url} broke off: {self._root(error)}")
            case TooLong():
                return BrokenStream(f"{url} sent {error}")
            case ValueError():
                return BrokenStream(f"{url} sent what is not JSON: {self.line(str(error))}")
            case _:
                return ModelError(f"the call to {url} failed: {self._root(error)}")

    def line(self, text: str) -> str:
        """The text on one line of limited length, without secrets and lone surrogates."""
        line = " ".join(self.scrubbed(joined_surrogates(text[:_MOST_READ])).split())
        return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"

    def _meant(self, status: int, body: object, who: str) -> ModelError:
        words = error_text(body)
        message = f"{who} {self.line(words)}".rstrip()
        match kind := _kind(status, body, words):
            case "content_filter":
                return ContentFiltered(message)
            case "context_length_exceeded":
                meant: ModelError = RequestRefused(message, hint="send a shorter request, or fewer or smaller images")
                meant.code = _TOO_LONG
            case 402:
                meant = QuotaExhausted(message)
            case 401 | 403:
                meant = ModelRefused(message, hint=self.key_hint or None)
            case 408 | 504:
                meant = ModelTimeout(message)
            case 429 | 503 | 529:
                meant = ModelBusy(message)
            case 400 | 413 | 415 | 422:
                meant = RequestRefused(message)
                meant.code = _code(body)
            case int() if 300 <= kind < 500:
                meant = ModelRefused(message)
            case _:
                meant = ModelError(message)
                meant.retryable = True  # another server, or a retry, may succeed
        return meant

    def scrubbed(self, text: str) -> str:
        """The text without secrets."""
        for secret in self.secrets:
            text = _without(text, secret) if len(secret) >= _SHORTEST_SECRET else text
        return text

    def _root(self, error: BaseException) -> str:
        """The message of the innermost cause; the outer ones add nothing."""
        while error.__cause__ is not None or error.__context__ is not None:
            error = error.__cause__ or error.__context__ or error
        return self.line(str(error)) or type(error).__name__


def _kind(status: int, body: object, words: str) -> int | str:
    """The kind of an error, a status or a code. For client errors, code and type are more exact than the status."""
    if status >= 500 or status == 408:
        return status
    named = _named(body)
    if named in (_FILTER, _TOO_LONG, _QUOTA, _KEY, 404):
        return named
    if status in (400, 403, 413, 422):
        return next((meant for pattern, meant in _WORDED if re.search(pattern, words[:_MOST_READ], re.I)), status)
    return status


def _status_of(body: object) -> int:
    """The HTTP status that corresponds to an error inside a response of status 200."""
    fields = body if isinstance(body, Mapping) else {}
    for name in ("code", "status", "status_code"):
        if re.fullmatch(r"[345][0-9]{2}", str(fields.get(name)), re.ASCII):
            return int(str(fields[name]))
    named = _named(body)
    if isinstance(named, int):
        return named
    return 500 if named is None else 400


def _named(body: object) -> int | str | None:
    if not isinstance(body, Mapping):
        return None
    names = [body.get("code"), body.get("type"), body.get("status")]
    text = " ".join(name[:100] for name in names if isinstance(name, str))
    return next((meant for pattern, meant in _NAMED if re.search(pattern, text, re.IGNORECASE)), None)


def _code(body: object) -> str | None:
    """The server's own code, if it is a name."""
    code = body.get("code") if isinstance(body, Mapping) else None
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None


def _without(text: str, secret: str) -> str:
    """The text with each part of a secret of at least _SHORTEST_PART characters blanked out; a shorter one wholly."""
    size = min(_SHORTEST_PART, len(secret))
    parts = {re.escape(secret[at : at + size]) for at in range(len(secret) - size + 1)}
    kept: list[str] = []
    end = 0
    for found in re.finditer(f"(?={'|'.join(sorted(parts))})", text):
        if found.start() > end or not kept:
            kept += [text[end : found.start()], "…"]
        end = found.start() + size
    return "".join([*kept, text[end:]])


def error_text(body: object) -> str:
    """The server's message, from nested or flat objects, FastAPI details, bare strings or HTML pages."""
    match body:
        case str():
            return _unmarked(body)
        case list():
            return "; ".join(filter(None, map(error_text, body)))
        case Mapping():
            where = body.get("loc")
            parts = where if isinstance(where, list) else []
            place = ".".join(str(part) for part in parts if part != "body")
            for key in ("message", "error", "detail", "msg"):
                if text := error_text(body.get(key)):
                    return f"{place}: {text}" if place else text
            return json.dumps(body, ensure_ascii=False) if body else ""
        case _:
            return ""


def refused_parameter(error: StatusError, optional: Iterable[str]) -> str | None:
    """The optional parameter that the server refuses; None if the error has another reason."""
    if error.status not in (400, 403, 422) or not _NOT_KNOWN.search(error.words):
        return None
    named = [key for key in optional if re.search(rf"\b{re.escape(key)}\b", error.words)]
    param = error.body.get("param") if isinstance(error.body, Mapping) else None
    return next((key for key in named if key == param), named[0] if named else None)


def limit_that_fits(error: StatusError, asked: int) -> int | None:
    """A token limit that fits into the context with the prompt, if the error is about the requested limit.

    From the numbers in the messages of vLLM, SGLang and OpenAI, else a quarter of `asked`, or of the known room if that
    is smaller. None: no limit can help.
    """
    words = error.words
    if error.status != 400 or not _TOO_MUCH.search(words) or _PROMPT_ALONE.search(words):
        return None
    held, taken = _HELD.search(words), _TAKEN.search(words)
    room = asked if held is None else int(held[1] or held[3]) - (int(taken[2]) if taken else 0)
    is_exact = held is not None and (held[2] or (taken and not taken[1])) and room < asked
    limit = room if is_exact else min(room, asked) // 4
    return limit if limit >= _LEAST_TOKENS else None


def refuses_schema(error: StatusError) -> bool:
    """Whether the server refuses the JSON Schema of this request; it may support only a subset."""
    return error.status in (400, 422, 500, 501) and _SCHEMA.search(error.words) is not None


def fails_on_schema(error: StatusError) -> bool:
    """Whether llama.cpp fails as it matches a JSON Schema against a given beginning of the answer that is no JSON."""
    return error.status == 400 and "initialize samplers" in error.words


def _unmarked(text: str) -> str:
    """The title of an HTML page, or else its text; other text unchanged."""
    text = text[:_MOST_READ]
    if not re.search(r"<(?:!doctype|html|head|body)\b", text, re.IGNORECASE):
        return text
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    if title and title[1].strip():
        return title[1]
    return re.sub(r"<(?:style|script).*?</(?:style|script)>|<[^>]*>", " ", text, flags=re.IGNORECASE | re.DOTALL)
