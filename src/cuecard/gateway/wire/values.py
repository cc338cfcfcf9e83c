"""Readers of values in the JSON of a request, and checks of addresses in requests that are passed on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cuecard.domain.errors import BadInput, did_you_mean
from cuecard.gateway.wire.usage import Json

MOST_TOKENS = 2**31 - 1
"""More than any model generates, and the most that servers accept."""


def is_same(one: object, other: object) -> bool:
    """Whether two values are equal in JSON, where true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def suggest(key: str, known: Sequence[str]) -> str:
    """A hint for an unknown name."""
    return did_you_mean(key, known, form="{!r}")


@contextmanager
def reading(param: str) -> Iterator[None]:
    """Encloses the reading of a parameter: sets `param` of a BadInput that has none."""
    try:
        yield
    except BadInput as error:
        error.param = error.param or param
        raise


def object_of(body: Json, key: str, known: Sequence[str] | None = None, *, of: str | None = None) -> Json:
    """The object with this name, without nulls, {} if there is none; `known`: the keys that it may have.

    `of`: the object that holds it, if it is not the request. Raises BadInput.
    """
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadInput(f"{key} is not an object", param=_path(key, of))
    given = {name: each for name, each in value.items() if each is not None}
    if known is not None and (wrong := sorted(set(given) - set(known))):
        unknown = wrong[0][:100]
        raise BadInput(f"unknown key {unknown!r} in {key}", suggest(unknown, known), param=f"{key}.{unknown}")
    return given


def flag(body: Json, key: str, *, default: bool = False, of: str | None = None) -> bool:
    """A boolean. `of`: the parameter whose object the body is, for the error's `param`."""
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadInput(f"{key} is neither true nor false", param=_path(key, of))
    return value


def number(body: Json, key: str, *, of: str | None = None) -> float | None:
    """A number. `of`: as in `flag`."""
    value = body.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise BadInput(f"{key} is not a number", param=_path(key, of))
    return value


def count(body: Json, key: str, least: int = 1, most: int = MOST_TOKENS, *, of: str | None = None) -> int | None:
    """A whole number from `least` to `most`. `of`: as in `flag`."""
    value = number(body, key, of=of)
    if value is not None and (value != int(value) or not least <= value <= most):
        message = f"{key} is not a whole number of at least {least} and at most {most}"
        raise BadInput(message, param=_path(key, of))
    return None if value is None else int(value)


def _path(key: str, of: str | None) -> str:
    return key if of is None else f"{of}.{key}"


DATA = "data:"
ADDRESS = re.compile(r"\s*([a-z][a-z0-9+.-]*://|file:)", re.IGNORECASE)
"""How the text of an address begins."""
HINT = "send the data itself, as a data URL"
MESSAGE = (
    *("role", "content", "name", "refusal", "tool_calls", "tool_call_id", "function_call", "annotations"),
    *("reasoning_content", "reasoning", "reasoning_details", "prefix"),
)
"""The keys that a message may have."""
WORDS = (
    *("messages", "tools", "functions", "response_format", "stop", "model", "prediction"),
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity"),
    *("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
)
"""Parameters whose text may begin like an address: it is for the model, or a grammar, or is checked separately."""
CONNECTING = (
    *("kv_transfer_params", "plugins", "web_search_options", "mcp_servers", "bootstrap_host", "fallbacks"),
    *("api_key", "api_base", "base_url", "extra_headers", "extra_body", "custom_llm_provider", "user_config"),
)
"""Parameters that make a server connect to others."""
CONFIGURING = re.compile(
    r"(?:api|access|secret|private|account).?key|credential|password|secret|auth|bearer|_token$|header|callback|webhook"
    r"|(?:^|_)(?:url|uri|endpoint|host|port|base|proxy|region|project|organization)(?:$|_)"
    r"|^(?:aws|azure|vertex|litellm|watsonx|hf)_",
    re.IGNORECASE,
)
"""Names of parameters by which proxies let a request choose servers and credentials."""
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


def permit(body: Json) -> None:
    """Raises BadInput for a request that must not be passed on."""
    for key, value in body.items():
        if key in CONNECTING and value is not None:
            raise BadInput(f"{key} is not passed on: it has the server connect to others", "leave it out", param=key)
        if (key not in WORDS and _leads_away(value)) or _refers_away(value):
            raise BadInput(f"no address is passed on, and {key[:100]!r} has one", HINT, param=key[:100])
    tools = body.get("tools") or []
    for tool in tools if isinstance(tools, list) else [tools]:
        if not isinstance(tool, dict) or tool.get("type") not in ("function", "custom"):
            hint = "have the client call the others"
            raise BadInput("only tools of type 'function' are passed on", hint, param="tools")
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise BadInput("messages is not a list", param="messages")
    for index, message in enumerate(messages):
        with reading(f"messages[{index}]"):
            _permit_message(message, f"message {index + 1}")


def permit_fields(fields: Json) -> None:
    """Raises BadInput for unknown parameters that must not be handed on."""
    for key, value in fields.items():
        if key in CONNECTING or CONFIGURING.search(key):
            message = f"{key[:100]!r} is not handed on: it may choose a server or its credentials"
            raise BadInput(message, "leave it out", param=key[:100])
        if _leads_away(value) or _refers_away(value):
            raise BadInput(f"no address is handed on, and {key[:100]!r} has one", HINT, param=key[:100])


def _permit_message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise BadInput(f"{where} is not an object")
    for key, value in message.items():
        if key not in MESSAGE and value is not None:
            raise BadInput(f"{where} has an unknown key {key[:100]!r}", f"there are: {', '.join(MESSAGE)}")
    content = message.get("content")
    if not isinstance(content, str | list | None):
        raise BadInput(f"{where} has no content", "a text, or a list of parts")
    for part in content if isinstance(content, list) else ():
        _permit_part(part, where)


def _permit_part(part: Any, where: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in PARTS:
        raise BadInput(f"{where} has a part of type {str(kind)[:100]!r}", f"there are: {', '.join(PARTS)}")
    holds, is_fine = PARTS[kind]
    part = {key: value for key, value in part.items() if value is not None}
    if strange := sorted(set(part) - {holds, *BESIDE}):
        raise BadInput(f"{where} has a {kind} with an unknown key {strange[0][:100]!r}", f"write it as {holds}")
    if not is_fine(part.get(holds)):
        problem = f"no {holds} is fetched from the web here" if is_fine is _data_url else f"{where} has a bad {kind}"
        raise BadInput(problem, HINT)
    if _leads_away([part[key] for key in BESIDE if key in part]):
        raise BadInput(f"{where} has a {kind} with an address", HINT)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _secret(value: object) -> bool:
    return isinstance(value, str) and not _leads_away(value)


def _data_url(value: object) -> bool:
    url = value.get("url") if isinstance(value, dict) and set(value) <= {"url", "detail", "format"} else value
    return isinstance(url, str) and url[: len(DATA)].lower() == DATA


def _sound(value: object) -> bool:
    return isinstance(value, dict) and set(value) <= {"data", "format"} and not _leads_away(value)


def _file(value: object) -> bool:
    return isinstance(value, dict) and set(value) <= {"file_data", "filename"} and _data_url(value.get("file_data"))


def _thought(value: object) -> bool:
    if not isinstance(value, list):
        return _text(value)
    return all(isinstance(each, dict) and set(each) <= {"type", "text"} and _text(each.get("text")) for each in value)


PARTS: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "text": ("text", _text),
    "input_text": ("text", _text),
    "output_text": ("text", _text),
    "refusal": ("refusal", _text),
    "thinking": ("thinking", _thought),
    "redacted_thinking": ("data", _secret),
    "reasoning": ("text", _text),
    "reasoning_text": ("text", _text),
    "image_url": ("image_url", _data_url),
    "input_image": ("image_url", _data_url),
    "video_url": ("video_url", _data_url),
    "audio_url": ("audio_url", _data_url),
    "input_audio": ("input_audio", _sound),
    "file": ("file", _file),
}
"""Type of a part -> the key of its content, and the check of that content."""
BESIDE = ("type", "detail", "annotations", "cache_control", "signature")


def _leads_away(value: object) -> bool:
    """Whether any text in the value is an address."""
    return any(isinstance(each, str) and ADDRESS.match(each) for each in everything(value))


def _refers_away(value: object) -> bool:
    """Whether any schema in the value refers to an address."""
    schemas = (each for each in everything(value) if isinstance(each, dict))
    return any(_leads_away([each.get(key) for key in REFERENCES]) for each in schemas)


def everything(value: object) -> Iterator[object]:
    """The value, and every value within it."""
    waiting = [value]
    while waiting:
        yield (each := waiting.pop())
        if isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
