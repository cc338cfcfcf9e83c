"""JSON values of requests, read with errors that name them; usage, price and headers of answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cuecard.domain.call import Call, Usage
from cuecard.domain.errors import BadInput, did_you_mean
from cuecard.domain.outcome import Outcome, outcome_as_object
from cuecard.domain.question import Message, Question
from cuecard.gateway.pair_tables import Prices
from cuecard.models.base import Limits

Json = dict[str, Any]
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


def permit_fields(fields: Json) -> None:
    """Raises BadInput for unknown parameters that must not be handed on."""
    for key, value in fields.items():
        if key in CONNECTING or CONFIGURING.search(key):
            message = f"{key[:100]!r} is not handed on: it may choose a server or its credentials"
            raise BadInput(message, "leave it out", param=key[:100])
        if leads_away(value) or refers_away(value):
            raise BadInput(f"no address is handed on, and {key[:100]!r} has one", HINT, param=key[:100])


def leads_away(value: object) -> bool:
    """Whether any text in the value is an address."""
    return any(isinstance(each, str) and ADDRESS.match(each) for each in everything(value))


def refers_away(value: object) -> bool:
    """Whether any schema in the value refers to an address."""
    schemas = (each for each in everything(value) if isinstance(each, dict))
    return any(leads_away([each.get(key) for key in REFERENCES]) for each in schemas)


def everything(value: object) -> Iterator[object]:
    """The value, and every value within it."""
    waiting = [value]
    while waiting:
        yield (each := waiting.pop())
        if isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


# --- answers ----------------------------------------------------------------------------------------------------------

MILLION = 1e6
CHARS_PER_TOKEN, TOKENS_PER_IMAGE = 4, 256
"""For estimates of prompts whose tokens no server has counted."""


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


def usage(outcome: Outcome | Unanswered) -> Json:
    """Tokens over all calls, cancelled ones included; unobserved counts are 0 here and null in the breakdown."""
    total = Usage()
    for call in outcome.calls:
        total = total + call.usage
    prompt, completion = total.prompt_tokens or 0, total.completion_tokens or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": total.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": total.reasoning_tokens or 0},
    }


def cost(used: Usage, prices: Prices) -> float:
    """The price of these tokens; tokens that are not counted cost nothing."""
    cached = used.cached_tokens or 0
    fresh = max(0, (used.prompt_tokens or 0) - cached)
    a_cached = prices.prompt if prices.cached is None else prices.cached
    return (fresh * prices.prompt + cached * a_cached + (used.completion_tokens or 0) * prices.completion) / MILLION


def costs(calls: Sequence[Call], prices: Mapping[str, Prices]) -> dict[str, float]:
    """The price of a request's calls by role, of the roles that have prices."""
    total = dict.fromkeys(prices, 0.0)
    for call in calls:
        if call.role in prices:
            total[call.role] += cost(call.usage, prices[call.role])
    return total


def charge(calls: Sequence[Call], prompt_tokens: int) -> int:
    """Tokens that are charged for calls: those counted by servers, and an estimate for prompts that are not.

    Some servers report a prompt's tokens only at the end: a call that is cancelled before is charged `prompt_tokens`.
    """
    total = 0
    for call in calls:
        prompt = call.usage.prompt_tokens
        total += prompt_tokens if prompt is None and call.cancelled else prompt or 0
        total += call.usage.completion_tokens or 0
    return total


def estimated_tokens(question: Question) -> int:
    """Tokens of a question, estimated from its length."""
    turns = [*question.history, Message("user", question.text, question.images)]
    texts = [question.system or "", *question.options, *(turn.text for turn in turns)]
    return sum(map(len, texts)) // CHARS_PER_TOKEN + TOKENS_PER_IMAGE * sum(len(turn.images) for turn in turns)


def account(outcome: Outcome, limits: Limits, prices: Mapping[str, Prices]) -> Json:
    """The `cuecard` object: how the answer came about and what it cost, by model and by call; no texts."""
    account = outcome_as_object(outcome)
    del account["answer"]
    for call in account["calls"]:
        del call["reasoning"], call["answer"]
    account["latency"]["overhead_s"] = outcome.overhead_s
    account["limits"] = {"answer_tokens": limits.of_answer(outcome.kind), "reasoning_tokens": limits.reasoning_tokens}
    by_role = costs(outcome.calls, prices)
    account["cost"] = {"total": sum(by_role.values()), **by_role} if prices else None
    return account


def request_id(request: str) -> dict[str, str]:
    """The request's id in the headers that OpenAI's and Anthropic's clients read."""
    return {"x-request-id": request, "request-id": request}


def headers(request: str, outcome: Outcome) -> dict[str, str]:
    """The most important part of the `cuecard` object as response headers."""
    return {
        **request_id(request),
        "x-cuecard-route": outcome.route,
        "x-cuecard-latency-ms": f"{outcome.total_s * 1000:.1f}",
        "x-cuecard-overhead-ms": f"{outcome.overhead_s * 1000:.2f}",
    }
