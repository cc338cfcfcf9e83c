"""Foreign errors made ours, in one place: whose fault it is, and one clear line of what the server said."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

import aiohttp

from cuecard.domain.errors import BrokenStream, ModelBusy, ModelError, ModelRefused, ModelTimeout, ModelUnreachable
from cuecard.models.openai.http import Disconnected, ErrorEvent, StatusError, TooLong

_LONGEST = 300
_TOO_MUCH = re.compile(
    r"max_(?:completion_|model_)?(?:tokens|len)\b.*(?:too large|greater than|exceed|at most)"
    r"|maximum context length|context size",
    re.IGNORECASE | re.DOTALL,
)
_NOT_KNOWN = re.compile(
    r"unknown|unrecogni[sz]ed|unsupported|unexpected|not supported|does not support|not permitted|not allowed"
    r"|extra_forbidden|extra fields|extra inputs|input should be '|invalid value: '",
    re.IGNORECASE,
)


def translated(error: Exception, url: str, *, begun: bool, key_hint: str = "") -> ModelError:
    """The error of ours that a foreign one means. `begun`: the server had already begun to answer."""
    match error:
        case ModelError():
            return error
        case aiohttp.ServerTimeoutError():
            return ModelTimeout(f"{url} was silent for too long")
        case TimeoutError():
            return ModelTimeout(f"{url} took longer than its limit")
        case StatusError() if error.location:
            return ModelRefused(f"{url} has moved to {_line(error.location)}", hint="is that the address to write?")
        case StatusError():
            words = f"{url} says: {error.status} {said(error.body)}".rstrip()
            meant = _by_status(error.status, words, key_hint)
            meant.retry_after_s = _seconds(error.retry_after)
            return meant
        case ErrorEvent():
            code = error.body.get("code") if isinstance(error.body, Mapping) else None
            status = int(code) if code and str(code).isdigit() else 500
            return _by_status(status, f"{url} says in its answer: {said(error.body) or error}", key_hint)
        case Disconnected():
            return ModelUnreachable(f"cannot reach {url}: {_line(str(error))}")
        case aiohttp.ClientError() | OSError() if not begun:
            return ModelUnreachable(f"cannot reach {url}: {_root(error)}")
        case aiohttp.ClientError() | OSError():
            return BrokenStream(f"the answer of {url} broke off: {_root(error)}")
        case TooLong():
            return BrokenStream(f"{url} sent {error}")
        case json.JSONDecodeError() | UnicodeDecodeError():
            return BrokenStream(f"{url} sent what is not JSON: {_line(str(error))}")
        case _:
            return ModelError(f"the call to {url} failed: {_root(error)}")


def _by_status(status: int, message: str, key_hint: str) -> ModelError:
    match status:
        case 401 | 403:
            return ModelRefused(message, hint=key_hint or None)
        case 408 | 504:
            return ModelTimeout(message)
        case 429 | 503:
            return ModelBusy(message)
        case _ if 400 <= status < 500:
            return ModelRefused(message)
        case _:
            failed = ModelError(message)
            failed.retryable = True  # a server's own failure need not be that of the next one, nor of the next try
            return failed


def _seconds(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,6}(?:\.\d+)?", text) else None


def said(body: object) -> str:
    """The server's own words on one line: nested or flat objects, FastAPI details, bare strings, HTML pages."""
    match body:
        case str():
            return _line(_unmarked(body))
        case list():
            return _line("; ".join(filter(None, map(said, body))))
        case Mapping():
            place = ".".join(str(part) for part in body.get("loc", ()) if part != "body")
            for key in ("message", "error", "detail", "msg"):
                if text := said(body.get(key)):
                    return _line(f"{place}: {text}" if place else text)
            return _line(json.dumps(body, default=str)) if body else ""
        case _:
            return ""


def refused_parameter(error: StatusError, optional: Iterable[str]) -> str | None:
    """Which of the optional parameters the server does not know or take; None if it refuses for another reason."""
    if error.status not in (400, 403, 422):
        return None
    if not _NOT_KNOWN.search(error.words):
        return None
    named = [key for key in optional if re.search(rf"\b{key}\b", error.words)]
    param = error.body.get("param") if isinstance(error.body, Mapping) else None
    return next((key for key in named if key == param), named[0] if named else None)


def asks_for_too_much(error: StatusError) -> bool:
    """The prompt and as many tokens as are asked for do not fit into what the model can hold."""
    return error.status == 400 and _TOO_MUCH.search(error.words) is not None


def fails_on_schema(error: StatusError) -> bool:
    """llama.cpp matches a JSON Schema against the given beginning of an answer too, and fails where that is no JSON."""
    return error.status == 400 and "initialize samplers" in error.words


def _unmarked(text: str) -> str:
    """What an HTML page says: its title, or else its text."""
    if not re.search(r"<(?:!doctype|html|head|body)\b", text, re.IGNORECASE):
        return text
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    if title and title[1].strip():
        return title[1]
    return re.sub(r"<(?:style|script).*?</(?:style|script)>|<[^>]*>", " ", text, flags=re.IGNORECASE | re.DOTALL)


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _root(error: BaseException) -> str:
    """The words of the innermost cause: the outer ones say only that there was one."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return _line(str(error)) or type(error).__name__
