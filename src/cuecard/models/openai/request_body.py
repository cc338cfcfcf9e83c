"""Request bodies of chat completions, from prompts and limits; constrained decoding in each server's dialect.

    llama.cpp   grammar              GBNF
    vLLM        structured_outputs   a regular expression
    SGLang      regex                a regular expression
    OpenAI      response_format      a JSON Schema: {"answer": …}

A constraint bounds the length and the form of a brief answer, but allows every value: every letter of the question's
options, both yes and no, every number with its sign, separators, currency and unit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from cuecard.answers.kinds import KINDS
from cuecard.answers.schemas import ANY_OBJECT
from cuecard.domain.call import Mode
from cuecard.domain.question import Question
from cuecard.models.base import PENALTIES, SAMPLING, TEMPLATE, Extras, Limits
from cuecard.models.images.images import data_url
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
    **dict.fromkeys((*SAMPLING, *PENALTIES), "answers are drawn without it"),
    "logit_bias": "no token is made more or less probable",
    "stop": "an answer is cut here, and written to its end there",
    "top_logprobs": "the alternatives of an answer's tokens are not known",
}
"""Parameters that a call can do without if the server refuses them, and what is lost then."""


def messages(turns: tuple[Turn, ...], opening: str) -> list[Body]:
    """Turns, then the beginning of the assistant's turn if there is one."""
    sent = [{"role": turn.role, "content": _content(turn)} for turn in turns]
    return [*sent, {"role": "assistant", "content": opening}] if opening else sent


def _content(turn: Turn) -> str | list[Body]:
    """Plain text if there is no image: not every server accepts content parts for every role."""
    if not turn.images:
        return turn.text
    parts: list[Body] = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in turn.images]
    return [*parts, {"type": "text", "text": turn.text}]


def client_part(name: str) -> str:
    """The client's part of a parameter, as a name among left-out ones; `response_format` is all the client's."""
    return name if name == "response_format" else f"the client's {name}"


def free_fields(extras: Extras) -> frozenset[str]:
    """Fields with values that a client chooses: a server that refuses one value may accept others."""
    return frozenset([*extras.passed_fields, *([TEMPLATE] if extras.template else [])])


def of_client(prompt: Prompt, extras: Extras, without: frozenset[str]) -> Body:
    """The fields that a client's request adds to a body."""
    added = extras.passed_fields | dict(extras.sampling)
    if prompt.mode is Mode.REASON or not prompt.is_brief:
        added |= dict(extras.penalties)
    if extras.stop and not extras.stop_is_named:
        added["stop"] = list(extras.stop)
    if extras.logit_bias:
        added["logit_bias"] = dict(extras.logit_bias)
    if extras.template:
        added[TEMPLATE] = extras.template_fields
    if extras.top_logprobs and "logprobs" not in without:
        added["top_logprobs"] = extras.top_logprobs
    return {key: value for key, value in added.items() if client_part(key) not in without}


def body(model: str, prompt: Prompt, opening: str, limits: Limits, max_tokens: int, without: frozenset[str]) -> Body:
    """The body of a streamed request; `without`: parameters to leave out, as the server refuses them."""
    request: Body = {
        **of_client(prompt, limits.extras, without),
        "model": model,
        "messages": messages(prompt.turns, opening),
        "stream": True,
        # running usage (vLLM, SGLang) gives the cost of a call that is cancelled or cut
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
        request["response_format"] = _response_format(prompt.schema, prompt.question)
    if opening:
        request |= {"continue_final_message": True, "add_generation_prompt": False}
    if "max_tokens" in without:  # OpenAI's newer models use another name for it
        request["max_completion_tokens"] = request["max_tokens"]
    if "continuous_usage_stats" in without:
        request["stream_options"] = {"include_usage": True}
    return {key: value for key, value in request.items() if key not in without}


def _response_format(schema: str, question: Question | None) -> Body:
    if schema == ANY_OBJECT:
        return {"type": "json_object"}
    fitting: Body = {"name": "answer" if question is None else question.schema_name, "schema": json.loads(schema)}
    if question is not None and question.schema_strict:
        fitting["strict"] = True
    return {"type": "json_schema", "json_schema": fitting}


def merged(request: Body, more: Mapping[str, Any]) -> Body:
    """The request with more fields; objects in both are merged, and `more` overrides."""
    joined = dict(request)
    for key, value in more.items():
        old = joined.get(key)
        joined[key] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return joined


FIELD = "answer"


class Dialect(StrEnum):
    """The body field that requests constrained decoding."""

    GRAMMAR = "grammar"
    STRUCTURED_OUTPUTS = "structured_outputs"
    REGEX = "regex"
    JSON_SCHEMA = "json_schema"


def constraint_fields(question: Question, dialect: Dialect) -> Mapping[str, Any]:
    """The body fields that constrain an answer to the grammar of its kind; empty if the kind has none."""
    rules = KINDS[question.kind]
    if rules.grammar is None:
        return {}
    grammar = rules.grammar(question)
    match dialect:
        case Dialect.GRAMMAR:
            return {"grammar": grammar.gbnf}
        case Dialect.STRUCTURED_OUTPUTS:
            return {"structured_outputs": {"regex": grammar.regex}}
        case Dialect.REGEX:
            return {"regex": grammar.regex}
        case Dialect.JSON_SCHEMA:
            schema = {
                "type": "object",
                "properties": {FIELD: grammar.schema},
                "required": [FIELD],
                "additionalProperties": False,
            }
            return {"response_format": {"type": "json_schema", "json_schema": {"name": FIELD, "schema": schema}}}


def unwrapped(text: str) -> str:
    """The answer in a reply under `json_schema`; the reply unchanged if it is no such object."""
    try:
        found = json.loads(text)[FIELD]
    except (ValueError, TypeError, KeyError):
        return text
    return found if isinstance(found, str) else json.dumps(found)
