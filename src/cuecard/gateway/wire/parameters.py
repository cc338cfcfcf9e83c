"""The table of request parameters, and the readers of JSON values, with errors that name them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from cuecard.domain.errors import BadInput, BeyondAPair, did_you_mean
from cuecard.models.base import PENALTIES, SAMPLING, TEMPLATE, Extras

Json = dict[str, Any]
MOST_TOKENS = 2**31 - 1
"""More than any model generates, and the most that servers accept."""


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


# --- the table --------------------------------------------------------------------------------------------------------


class Use(StrEnum):
    """What happens with a parameter."""

    READ = "read"
    HANDED_ON = "handed on"
    """To the models' servers, as docs/reference/gateway-api.md says."""
    IGNORED = "ignored"
    """It has no effect here; listed in the response header, unless its value is neutral."""
    SERVER = "server"
    """An option of some servers: ignored, or handed on if the configuration passes unknown parameters."""
    REFUSED = "refused"
    """Unless its value is neutral."""


@dataclass(frozen=True)
class Parameter:
    """One row of the table."""

    use: Use
    neutral: tuple[Any, ...] = ()
    """Values without effect, besides null and empty ones."""
    hint: str | None = None
    """What to do instead of using a refused parameter."""


def _rows(use: Use, text: str) -> dict[str, Parameter]:
    return dict.fromkeys(text.split(), Parameter(use))


def _neutral(use: Use, **values: Any) -> dict[str, Parameter]:
    return {
        name: Parameter(use, tuple(value) if isinstance(value, list) else (value,)) for name, value in values.items()
    }


_MEDIA = "text and images are what a pair reads and writes"
_GRAMMAR = "use response_format with a JSON schema, or options in the cuecard object"
_SEVERAL = "send the request several times; cuecard/vote takes several samples itself and gives one answer"
PARAMETERS: Mapping[str, Parameter] = {
    **_rows(Use.READ, "model messages stream stream_options max_tokens max_completion_tokens temperature top_p seed"),
    **_rows(Use.READ, "reasoning_effort reasoning include_reasoning response_format cuecard stop"),
    **_rows(Use.HANDED_ON, "logit_bias chat_template_kwargs"),
    **_neutral(Use.HANDED_ON, top_k=[0, -1], min_p=0, repetition_penalty=1, frequency_penalty=0, presence_penalty=0),
    **_rows(Use.READ, "tools tool_choice functions function_call parallel_tool_calls logprobs top_logprobs"),
    "max_tool_calls": Parameter(Use.IGNORED),
    "n": Parameter(Use.REFUSED, (1,), _SEVERAL),
    "best_of": Parameter(Use.REFUSED, (1,), _SEVERAL),
    "modalities": Parameter(Use.REFUSED, (["text"],), _MEDIA),
    "audio": Parameter(Use.REFUSED, (), _MEDIA),
    "image_config": Parameter(Use.REFUSED, (), _MEDIA),
    "web_search_options": Parameter(Use.REFUSED, (), "put what is found on the web into the messages"),
    "documents": Parameter(Use.REFUSED, (), "put them into the messages"),
    "chat_template": Parameter(Use.REFUSED, (), "set it where the model is served"),
    "suffix": Parameter(Use.REFUSED, (), "put all of the text into the messages"),
    **dict.fromkeys(
        _rows(Use.REFUSED, "guided_json guided_regex guided_choice guided_grammar structured_outputs structural_tag")
        | _rows(Use.REFUSED, "grammar json_schema regex ebnf"),
        Parameter(Use.REFUSED, (False, True), _GRAMMAR),
    ),
    # OpenAI's
    **_rows(Use.IGNORED, "user metadata safety_identifier prompt_cache_key prompt_cache_retention prediction"),
    **_rows(Use.IGNORED, "include moderation"),
    **_neutral(Use.IGNORED, store=False, service_tier=["auto", "default"], verbosity="medium", truncation="disabled"),
    # vLLM's and SGLang's
    **_rows(Use.IGNORED, "stop_token_ids prompt_logprobs truncate_prompt_tokens allowed_token_ids bad_words"),
    **_rows(Use.IGNORED, "logits_processors mm_processor_kwargs media_io_kwargs kv_transfer_params vllm_xargs"),
    **_rows(Use.IGNORED, "guided_decoding_backend guided_whitespace_pattern thinking_token_budget cache_salt"),
    **_rows(Use.IGNORED, "stop_regex session_params rid custom_logit_processor bootstrap_host bootstrap_port"),
    **_rows(Use.IGNORED, "bootstrap_room data_parallel_rank custom_params extra_key request_id lora_path"),
    **_neutral(Use.IGNORED, use_beam_search=False, ignore_eos=False, min_tokens=0, min_new_tokens=0, priority=0),
    **_neutral(Use.IGNORED, add_generation_prompt=True, continue_final_message=False, add_special_tokens=False),
    **_neutral(Use.IGNORED, echo=False, include_stop_str_in_output=False, skip_special_tokens=True, no_stop_trim=False),
    **_neutral(Use.IGNORED, spaces_between_special_tokens=True, detokenize=True, return_tokens_as_token_ids=False),
    **_neutral(Use.IGNORED, return_token_ids=False, return_hidden_states=False, separate_reasoning=True),
    **_neutral(Use.IGNORED, stream_reasoning=True),
    # llama.cpp's
    **_rows(Use.IGNORED, "n_predict n_keep n_discard n_indent n_probs lora response_fields image_data prompt"),
    **_rows(Use.IGNORED, "reasoning_format t_max_predict_ms grammar_triggers preserved_tokens"),
    **_neutral(Use.IGNORED, cache_prompt=[True, False], id_slot=-1, slot_id=-1, return_tokens=False),
    **_neutral(Use.IGNORED, return_progress=False, timings_per_token=False, post_sampling_probs=False),
    **_neutral(Use.IGNORED, parse_tool_calls=[True, False], grammar_lazy=False, thinking_forced_open=False),
    # sampling options of other servers
    **_rows(Use.SERVER, "mirostat_tau mirostat_eta dynatemp_exponent xtc_threshold dry_base dry_allowed_length"),
    **_rows(Use.SERVER, "dry_penalty_last_n dry_sequence_breakers repeat_last_n min_keep samplers"),
    **_neutral(Use.SERVER, mirostat=0, typical_p=1, tfs_z=1, top_n_sigma=-1, top_a=0, dynatemp_range=0),
    **_neutral(Use.SERVER, xtc_probability=0, dry_multiplier=0, repeat_penalty=1, penalize_nl=False, length_penalty=1),
    # LiteLLM's and OpenRouter's
    **_rows(Use.IGNORED, "provider transforms plugins models route preset session_id trace thinking tags guardrails"),
    **_rows(Use.IGNORED, "litellm_metadata litellm_call_id litellm_session_id litellm_trace_id litellm_logging_obj"),
    **_rows(Use.IGNORED, "timeout request_timeout num_retries max_retries fallbacks context_window_fallback_dict"),
    **_rows(Use.IGNORED, "caching cache cache_control mock_response allowed_openai_params drop_params mcp_servers"),
    **_rows(Use.IGNORED, "api_key api_base base_url api_version organization extra_headers extra_query extra_body"),
    **_rows(Use.IGNORED, "headers custom_llm_provider model_list deployment_id user_config callbacks"),
    **_neutral(Use.IGNORED, usage=[{"include": True}, {"include": False}]),
}
"""Every usual parameter of OpenAI's chat completions, vLLM, SGLang, llama.cpp, LiteLLM and OpenRouter."""

STREAM_OPTIONS = ("include_usage", "include_obfuscation", "continuous_usage_stats")
SWITCHES = ("enable_thinking", "thinking", "thinking_budget", "reasoning_effort")
"""Fields of a chat template that switch or limit thinking, which the strategy decides."""
RESERVED = (
    *("messages", "conversation", "model", "prompt", "chat_template", "tokenize", "add_generation_prompt"),
    *("continue_final_message", "return_tensors", "return_dict", "tools", "documents", "tokenizer", "padding"),
    *("truncation", "max_length", "add_special_tokens", "bos_token", "eos_token"),
)
"""Fields of a chat template that are the prompt itself, or an argument of the renderer."""
MOST_STOPS, MOST_STOP = 4, 500
"""Maximum number of stop texts, and of characters of one."""
MOST_BIASED, MOST_BIAS, MOST_TOP = 1024, 100, 20
MOST_FIELDS, MOST_JSON = 32, 16_000
"""Maximum number of fields that are handed on unread, and of characters of their JSON."""
RANGES = {
    "top_k": (-1, 2**31 - 1),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 2),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
}
"""Minimum and maximum of each number that is handed on."""
HEADER, MOST_NAMED = "x-cuecard-ignored", 32
MOST_UNKNOWN, MOST_NAME = 256, 200
"""Maximum number of unknown parameters of a request, and of characters of a name."""
_KNOWN = tuple(name for name, row in PARAMETERS.items() if row.use in (Use.READ, Use.HANDED_ON))
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)


class Unknown(StrEnum):
    """What happens with parameters that are not in the table."""

    IGNORE = "ignore"
    REFUSE = "refuse"
    PASS = "pass"


@dataclass(frozen=True)
class Parameters:
    """The parameters of a request that are not a strategy's settings."""

    extras: Extras = field(default_factory=Extras)
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    ignored: tuple[str, ...] = ()
    """Names of parameters that have no effect here."""
    server: Mapping[str, Any] = field(default_factory=dict)
    """Options of some servers."""
    unknown: Mapping[str, Any] = field(default_factory=dict)


def read(body: Json) -> Parameters:
    """The parameters of a request. Raises BadInput, and BeyondAPair for those that only a single model supports."""
    given = {name: value for name, value in body.items() if value is not None}
    unknown = {name: value for name, value in given.items() if name not in PARAMETERS}
    if len(unknown) > MOST_UNKNOWN:
        raise BadInput(f"there are more than {MOST_UNKNOWN} unknown parameters", "leave them out")
    if long := next((name for name in unknown if len(name) > MOST_NAME), None):
        raise BadInput(f"unknown parameter {long[:100]!r}", suggest(long, _KNOWN), param=long[:100])
    wanted = {name: value for name, value in given.items() if name in PARAMETERS and not _asks_for_nothing(name, value)}
    for name in wanted:
        if PARAMETERS[name].use is Use.REFUSED:
            hint = PARAMETERS[name].hint or "leave it out"
            raise BeyondAPair(f"{name} is not supported by a pair of models", hint, param=name)
    by_use = {use: [name for name in wanted if PARAMETERS[name].use is use] for use in Use}
    with reading(TEMPLATE):
        template, ignored = _template(given)
    with reading("stop"):
        stop = _stops(given.get("stop"))
    with reading("logit_bias"):
        logit_bias = _logit_bias(given)
    logprobs = flag(given, "logprobs")
    top = count(given, "top_logprobs", 0, MOST_TOP)
    if top and not logprobs:
        ignored.append("top_logprobs")
    if given.get("tool_choice") in ("required", "any") and not (given.get("tools") or given.get("functions")):
        ignored.append("tool_choice")
    if flag(object_of(given, "stream_options"), "continuous_usage_stats", of="stream_options"):
        ignored.append("stream_options.continuous_usage_stats")
    return Parameters(
        extras=Extras(
            sampling=_numbers(given, SAMPLING),
            penalties=_numbers(given, PENALTIES),
            stop=stop,
            logit_bias=logit_bias,
            template=template,
            top_logprobs=(top or 0) if logprobs else None,
        ),
        stop=stop,
        logprobs=logprobs,
        ignored=(*by_use[Use.IGNORED], *ignored),
        server={name: wanted[name] for name in by_use[Use.SERVER]},
        unknown=unknown,
    )


def settled(given: Parameters, unknown: Unknown, honoured: Collection[str]) -> tuple[Extras, tuple[str, ...]]:
    """The extras of a request's calls, and the names of parameters that have no effect.

    `honoured`: names of `base.NAMES` that at least one model supports. Raises BadInput.
    """
    if unknown is Unknown.REFUSE and given.unknown:
        name = next(iter(given.unknown))
        raise BadInput(f"unknown parameter {name[:100]!r}", suggest(name, _KNOWN), param=name[:100])
    extras, others = given.extras, {**given.server, **given.unknown}
    passed = {name: others[name] for name in others if _FIELD.fullmatch(name)} if unknown is Unknown.PASS else {}
    if passed:
        permit_fields(passed)
        passed = passed if "passed" in honoured else {}
    lost = [name for name in others if name not in passed]
    asked = [name for name, _ in (*extras.sampling, *extras.penalties)]
    asked += [name for name, value in (("logit_bias", extras.logit_bias), (TEMPLATE, extras.template)) if value]
    lost += [name for name in asked if name not in honoured]
    if given.logprobs and "logprobs" not in honoured:
        lost.append("logprobs")
    if extras.top_logprobs and "top_logprobs" not in honoured:
        lost.append("top_logprobs")
    text = _json(passed, "the unknown parameters") if passed else None
    return replace(extras, passed=text) if passed else extras, tuple(dict.fromkeys((*given.ignored, *lost)))


def header(ignored: Collection[str]) -> dict[str, str]:
    """The response header that lists ignored parameters; special characters in names become question marks."""
    if not ignored:
        return {}
    names = [re.sub(r"[^A-Za-z0-9_.-]", "?", name[:64]) for name in list(ignored)[:MOST_NAMED]]
    more = [f"... {len(ignored) - MOST_NAMED} more"] if len(ignored) > MOST_NAMED else []
    return {HEADER: ", ".join([*names, *more])}


def _asks_for_nothing(name: str, value: object) -> bool:
    empty = isinstance(value, str | list | dict) and not value
    neutral = PARAMETERS[name].neutral
    return empty or any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral)


def _stops(given: object) -> tuple[str, ...]:
    texts = [] if given is None else given if isinstance(given, list) else [given]
    if not all(isinstance(text, str) and 0 < len(text) <= MOST_STOP for text in texts):
        raise BadInput(f"stop is not one or several texts of 1 to {MOST_STOP} characters", 'write "stop": ["\\n\\n"]')
    if len(texts) > MOST_STOPS:
        raise BadInput(f"there are {len(texts)} stop texts", f"send at most {MOST_STOPS}")
    return tuple(texts)


def _numbers(given: Json, names: Collection[str]) -> tuple[tuple[str, float], ...]:
    found = []
    for name in names:
        least, most = RANGES[name]
        value = count(given, name, int(least), int(most)) if name == "top_k" else number(given, name)
        if value is None or _asks_for_nothing(name, value):
            continue
        if not least <= value <= most:
            raise BadInput(f"{name} {value:g} is not between {least:g} and {most:g}", param=name)
        found.append((name, value))
    return tuple(found)


def _logit_bias(given: Json) -> tuple[tuple[str, float], ...]:
    biases = object_of(given, "logit_bias")
    if len(biases) > MOST_BIASED:
        raise BadInput(f"logit_bias has more than {MOST_BIASED} tokens", "send fewer")
    for token in biases:
        if not re.fullmatch(r"[0-9]{1,9}", token, re.ASCII):
            raise BadInput(f"logit_bias has {token[:40]!r}, which is no token id", 'write it like {"1734": -100}')
        bias = number(biases, token, of="logit_bias")
        if bias is None or not -MOST_BIAS <= bias <= MOST_BIAS:
            raise BadInput(f"logit_bias of token {token} is not between -{MOST_BIAS} and {MOST_BIAS}")
    return tuple(biases.items())


def _template(given: Json) -> tuple[str | None, list[str]]:
    """The fields for the chat template as JSON, and the names of those that are not handed on."""
    fields = object_of(given, TEMPLATE)
    if wrong := next((name for name in fields if name in RESERVED or not _FIELD.fullmatch(name)), None):
        raise BadInput(f"{wrong[:100]!r} in {TEMPLATE} cannot be set by a request", "leave it out")
    kept = {name: value for name, value in fields.items() if name not in SWITCHES}
    switched = [f"{TEMPLATE}.{name}" for name in fields if name in SWITCHES]
    return (_json(kept, TEMPLATE) if kept else None), switched


def _json(fields: Mapping[str, Any], what: str) -> str:
    text = json.dumps(fields)
    if len(fields) > MOST_FIELDS or len(text) > MOST_JSON:
        raise BadInput(f"{what} have more than {MOST_FIELDS} fields or {MOST_JSON} characters", "send less")
    return text
