"""Handling of each request parameter: used, sent on, ignored or rejected."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from gateways import COUNT, DESCRIBE, agreeing, disagreeing, gateway, model

from cuecard.gateway.wire.parameters import HEADER, PARAMETERS, Parameters, Unknown, Use, header, read, settled
from cuecard.models.base import NAMES, PENALTIES, SAMPLING
from cuecard.models.openai import OpenAIModel
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "gateway-api.md"


def asked(text: str = COUNT, **more: Any) -> dict[str, Any]:
    """A request; `more` may hold parameters that OpenAI's client does not know."""
    messages = [{"role": "user", "content": text}]
    return {"model": "cuecard", "messages": messages, "extra_body": more}


async def ignored(client: openai.AsyncOpenAI, **request: Any) -> str | None:
    raw = await client.chat.completions.with_raw_response.create(**request)
    named: str | None = raw.headers.get(HEADER)
    return named


async def sent(
    small: Completion = Completion("2", "Two."),
    large: Completion = Completion("3"),
    *,
    refuses: tuple[str, ...] = (),
    settings: dict[str, Any] | None = None,
    own: dict[str, Any] | None = None,
    **request: Any,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Any]:
    """Request bodies at the servers of the small and the large model, and the raw response. `own`: options of both."""
    servers = {
        role: MockServer([says], models=[role], refuses=refuses) for role, says in (("small", small), ("large", large))
    }
    async with servers["small"] as one, servers["large"] as other:
        how: dict[str, Any] = {"family": "enable_thinking", **(own or {})}
        models = {role: OpenAIModel(url, role, **how) for role, url in (("small", one), ("large", other))}
        async with gateway(models, **(settings or {})) as client:
            raw = await client.chat.completions.with_raw_response.create(**request)
    return servers["small"].bodies, servers["large"].bodies, raw


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_documentation_lists_every_parameter_where_the_table_has_it():
    section = DOCS.read_text(encoding="utf-8").split("<!-- parameters -->")[1].split("<!-- end -->")[0]
    documented: dict[str, set[str]] = {}
    use = ""
    for line in section.splitlines():
        if row := re.fullmatch(r"\|(?P<use>[^|]*)\|(?P<names>[^|]*)\|", line):
            use = row["use"].strip() or use
            documented.setdefault(use, set()).update(re.findall(r"`([a-z_]+)`", row["names"]))
    expected = {use: {name for name, each in PARAMETERS.items() if each.use is use} for use in Use}
    assert {use: documented.get(use) for use in expected} == expected


ORDINARY = """
    user metadata store service_tier seed prompt_cache_key prompt_cache_retention safety_identifier verbosity mirostat
    typical_p guided_json guided_regex guided_choice guided_grammar ignore_eos min_tokens add_generation_prompt
    include_stop_str_in_output skip_special_tokens provider transforms plugins cache_prompt id_slot n best_of stop
    logit_bias top_k min_p repetition_penalty frequency_penalty presence_penalty logprobs top_logprobs
"""


@pytest.mark.parametrize("name", ORDINARY.split())
def test_what_clients_ordinarily_send_has_its_row(name):
    assert name in PARAMETERS


async def test_what_openais_clients_send_by_default_is_answered_and_nothing_is_named():
    usual: dict[str, Any] = {"n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "stop": []}
    usual |= {"store": False, "metadata": {}, "user": "", "tools": [], "tool_choice": "auto", "logprobs": False}
    usual |= {"top_k": -1, "min_p": 0, "repetition_penalty": 1.0, "service_tier": "auto", "top_logprobs": 0}
    async with gateway() as client:
        assert await ignored(client, **asked(**usual)) is None
        assert await ignored(client, **asked(**dict.fromkeys(PARAMETERS.keys() - {"model", "messages"}))) is None


@pytest.mark.parametrize("stream", [True, False])
async def test_parameters_that_change_nothing_are_named_in_a_header(stream):
    more = {"user": "me", "metadata": {"a": "b"}, "store": False, "mirostat": 2, "a_vendors_own": 1}
    async with gateway() as client:
        named = await ignored(client, stream=stream, **asked(**more))
    assert named == "user, metadata, mirostat, a_vendors_own"


async def test_what_no_model_takes_into_account_is_named():
    more = {"top_k": 5, "frequency_penalty": 1, "logit_bias": {"5": 1}, "chat_template_kwargs": {"enable_thinking": 1}}
    async with gateway() as client:  # scripted models ignore every parameter
        named = await ignored(client, **asked(**more))
    assert named == "chat_template_kwargs.enable_thinking, top_k, frequency_penalty, logit_bias"


def test_odd_and_many_names_make_a_header_of_plain_words():
    names = ["a\r\nset-cookie: x", "ü", "x" * 900, *(f"n{number}" for number in range(100))]
    value = header(names)[HEADER]
    assert re.fullmatch(r"[A-Za-z0-9_.?, -]{1,2500}", value)
    assert value.endswith("... 71 more")


async def test_running_usage_is_taken_and_named():
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with gateway() as client:
        named = await ignored(client, stream=True, **asked(stream_options=options))
    assert named == "stream_options.continuous_usage_stats"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"top_k": 1.5}, "top_k is not a whole number"),
        ({"top_k": -2}, "top_k is not a whole number"),
        ({"top_k": True}, "top_k is not a number"),
        ({"min_p": 1.1}, "min_p 1.1 is not between 0 and 1"),
        ({"frequency_penalty": -3}, "frequency_penalty -3 is not between -2 and 2"),
        ({"presence_penalty": "1"}, "presence_penalty is not a number"),
        ({"repetition_penalty": 0}, "repetition_penalty 0 is not between"),
        ({"logit_bias": {"cat": 1}}, "no token id"),
        ({"logit_bias": {"1": 101}}, "logit_bias of token 1"),
        ({"logit_bias": {"1": "a"}}, "1 is not a number"),
        ({"logit_bias": [1]}, "logit_bias is not an object"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "more than 1024"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs is not an object"),
        ({"chat_template_kwargs": {"messages": []}}, "'messages' in chat_template_kwargs"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "'chat_template' in chat_template_kwargs"),
        ({"chat_template_kwargs": {"a": "x" * 16_001}}, "more than 32 fields or 16000 characters"),
        ({"logprobs": 1}, "logprobs is neither true nor false"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs is not a whole number of at least 0 and at most 20"),
        ({"n": 0}, "n is not supported"),
        ({"x" * 201: 1}, "unknown parameter"),
        ({f"x{number}": 1 for number in range(257)}, "more than 256 unknown"),
    ],
    ids=lambda each: next(iter(each))[:24] if isinstance(each, dict) else each[:24],
)
async def test_a_value_that_cannot_be_is_refused_in_one_sentence(more, words):
    async with gateway() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(**asked(**more))
    assert words in refused.value.body["message"]
    assert len(refused.value.body["message"]) < 600


# --- unknown parameters -----------------------------------------------------------------------------------------------


async def test_unknown_parameters_can_be_refused_with_the_nearest_known():
    async with gateway(unknown_parameters="refuse") as client:
        with pytest.raises(openai.BadRequestError, match="did you mean 'temperature'"):
            await client.chat.completions.create(**asked(temprature=1))
        with pytest.raises(openai.BadRequestError, match="did you mean 'strategy'"):
            await client.chat.completions.create(**asked(cuecard={"stategy": "mutual"}))
        assert await ignored(client, **asked(user="me")) == "user"


async def test_a_mistake_in_the_cuecard_object_is_always_one():
    for setting in Unknown:
        async with gateway(unknown_parameters=setting) as client:
            with pytest.raises(openai.BadRequestError, match="did you mean 'strategy'"):
                await client.chat.completions.create(**asked(cuecard={"stategy": "mutual"}))


async def test_unknown_parameters_can_be_passed_into_every_body():
    small, large, raw = await sent(settings={"unknown_parameters": "pass"}, **asked(a_vendors_own=[1], typical_p=0.5))
    assert len(small) > 1
    assert all((body["a_vendors_own"], body["typical_p"]) == ([1], 0.5) for body in [*small, *large])
    assert HEADER not in raw.headers
    small, large, raw = await sent(**asked(a_vendors_own=[1], typical_p=0.5))
    assert not any({"a_vendors_own", "typical_p"} & set(body) for body in [*small, *large])
    assert raw.headers[HEADER] == "typical_p, a_vendors_own"


async def test_nothing_that_a_client_passes_overrides_what_cuecard_sets():
    more = dict.fromkeys(("continue_final_message", "add_generation_prompt", "prompt", "api_key", "route"), "theirs")
    more |= {"extra_body": {"model": "theirs"}, "mine": "theirs", "max_new": "theirs"}
    own = {"extra_body": {"mine": "ours", "chat_template_kwargs": {"a": "ours"}}}
    request = asked(**more, chat_template_kwargs={"a": "theirs", "b": 1})
    small, large, _ = await sent(settings={"unknown_parameters": "pass"}, own=own, **request)
    for body in [*small, *large]:
        assert (body["mine"], body["max_new"]) == ("ours", "theirs")
        assert body["chat_template_kwargs"]["a"] == "ours"
        assert body["model"] in ("small", "large")
        assert not {"api_key", "extra_body", "prompt", "route"} & set(body)
        assert "theirs" not in (body.get("continue_final_message"), body.get("add_generation_prompt"))


CHOOSING = """
    openai_api_key azure_ad_token vertex_credentials aws_secret_access_key server_url my_base authorization
    proxy_headers webhook
"""


@pytest.mark.parametrize("name", CHOOSING.split())
async def test_no_parameter_that_may_choose_a_server_or_credentials_is_passed(name):
    async with gateway(unknown_parameters="pass") as client:
        with pytest.raises(openai.BadRequestError, match="not handed on"):
            await client.chat.completions.create(**asked(**{name: "x"}))


async def test_no_address_is_passed_to_a_server():
    async with gateway(unknown_parameters="pass") as client:
        with pytest.raises(openai.BadRequestError, match="no address is handed on"):
            await client.chat.completions.create(**asked(mine=[{"deep": "http://10.0.0.1/"}]))


# --- forwarded parameters ---------------------------------------------------------------------------------------------


async def test_sampling_parameters_reach_all_calls_and_penalties_those_that_write_freely():
    more = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "frequency_penalty": 0.5, "presence_penalty": -0.5}
    small, large, raw = await sent(**asked(temperature=1, **more))
    assert all((body["top_k"], body["min_p"]) == (5, 0.1) for body in [*small, *large])
    reasoned = [body for body in small if set(PENALTIES) <= set(body)]
    assert len(reasoned) == 1  # the reasoning
    assert not any(set(PENALTIES) & set(body) for body in large)
    assert HEADER not in raw.headers
    _, large, _ = await sent(large=Completion("A cat."), **asked(DESCRIBE, **more))
    assert large[-1].items() >= more.items()


async def test_logit_bias_reaches_only_the_large_models_calls():
    small, large, raw = await sent(**asked(logit_bias={"17": -100}))
    assert [body["logit_bias"] for body in large] == [{"17": -100}] * len(large)
    assert not any("logit_bias" in body for body in small)
    assert HEADER not in raw.headers
    _, _, raw = await sent(**(asked(logit_bias={"17": -100}) | {"model": "small"}))
    assert raw.headers[HEADER] == "logit_bias"


async def test_the_thinking_switch_has_the_last_word_in_the_template():
    small, large, raw = await sent(**asked(chat_template_kwargs={"enable_thinking": True, "style": "brief"}))
    assert all(body["chat_template_kwargs"] == {"style": "brief", "enable_thinking": False} for body in large)
    assert {body["chat_template_kwargs"]["enable_thinking"] for body in small} == {True, False}
    assert raw.headers[HEADER] == "chat_template_kwargs.enable_thinking"


@pytest.mark.parametrize("name", [*SAMPLING, *PENALTIES, "logit_bias"])
async def test_a_server_that_refuses_a_parameter_loses_only_it(name):
    value = {"5": 1} if name == "logit_bias" else 1 if name == "top_k" else 0.5
    _, large, raw = await sent(
        Completion("x"), Completion("A cat."), refuses=(name,), **asked(DESCRIBE, **{name: value})
    )
    assert [name in body for body in large] == [True, False]
    assert json.loads(raw.text)["choices"][0]["message"]["content"] == "A cat."


async def test_a_refused_template_of_one_client_costs_no_other_client_the_thinking_switch():
    server = MockServer([Completion("A cat.")], models=["huge"], refuses=("chat_template_kwargs",))
    async with server as url:
        models = {"small": model("tiny", "x"), "large": OpenAIModel(url, "huge", family="plain")}
        async with gateway(models) as client:
            for _ in range(2):
                await client.chat.completions.create(
                    **(asked(DESCRIBE, chat_template_kwargs={"odd": 1}) | {"model": "huge"})
                )
    assert ["chat_template_kwargs" in body for body in server.bodies] == [True, False, True, False]
    assert not [note for note in models["large"].abilities.notes if "refuses chat_template_kwargs" in note]


def test_a_parameter_that_a_server_refuses_is_reported():
    given = read({"top_k": 3, "min_p": 0.5})
    assert settled(given, Unknown.IGNORE, NAMES)[1] == ()
    assert settled(given, Unknown.IGNORE, NAMES - {"top_k"})[1] == ("top_k",)
    assert read({}) == Parameters()


# --- log probabilities ------------------------------------------------------------------------------------------------


async def test_the_answers_tokens_come_with_their_log_probabilities():
    request = asked(DESCRIBE, logprobs=True, top_logprobs=2)
    _, large, raw = await sent(large=Completion("A cat sat."), **request)
    found = json.loads(raw.text)["choices"][0]["logprobs"]["content"]
    assert "".join(each["token"] for each in found) == "A cat sat."
    assert found[1] == {
        "token": " cat",
        "logprob": -0.1,
        "bytes": list(b" cat"),
        "top_logprobs": [
            {"token": " cat", "logprob": -0.1, "bytes": list(b" cat")},
            {"token": "other0", "logprob": -5.0, "bytes": list(b"other0")},
        ],
    }
    assert large[-1]["top_logprobs"] == 2
    assert HEADER not in raw.headers


async def test_in_a_stream_they_come_before_the_finish_reason():
    _, _, raw = await sent(large=Completion("A cat sat."), **asked(DESCRIBE, logprobs=True, stream=True))
    events = [json.loads(line[6:]) for line in raw.text.splitlines() if line.startswith("data: {")]
    choices = [event["choices"][0] for event in events]
    assert [choice["finish_reason"] for choice in choices][-1] == "stop"
    found = [each for choice in choices for each in (choice["logprobs"] or {"content": []})["content"]]
    assert "".join(each["token"] for each in found) == "".join(choice["delta"].get("content", "") for choice in choices)
    assert [each["top_logprobs"] for each in found] == [[]] * 3


@pytest.mark.parametrize("refuses", [(), ("stop",)], ids=["server", "gateway"])
async def test_tokens_of_a_cut_answer_are_sent_where_the_server_has_cut_it(refuses):
    request = asked(DESCRIBE, logprobs=True, stop=" sat") | {"model": "cuecard/short"}
    _, _, raw = await sent(large=Completion("A cat sat."), refuses=refuses, **request)
    choice = json.loads(raw.text)["choices"][0]
    result = [each["token"] for each in choice["logprobs"]["content"]] if choice["logprobs"] else None
    assert (choice["message"]["content"], result) == ("A cat", None if refuses else ["A", " cat"])
    assert raw.headers.get(HEADER) == ("logprobs" if refuses else None)


async def test_tokens_of_a_brief_answer_that_is_cut_are_those_that_are_shown():
    request = asked("Name a big cat. Answer with a short phrase.", logprobs=True, stop=" lion")
    _, _, raw = await sent(large=Completion("mountain lion"), **(request | {"model": "cuecard/short"}))
    choice = json.loads(raw.text)["choices"][0]
    assert choice["message"]["content"] == "mountain"
    assert [each["token"] for each in choice["logprobs"]["content"]] == ["mountain"]


@pytest.mark.parametrize("logprob", [None, float("-inf"), float("nan")], ids=["none", "infinite", "no number"])
async def test_log_probabilities_that_are_not_observed_are_null_and_named(logprob):
    large = Completion("A cat.", logprob=logprob)
    _, _, raw = await sent(large=large, **asked(DESCRIBE, logprobs=True))
    assert json.loads(raw.text)["choices"][0]["logprobs"] is None
    assert raw.headers[HEADER] == "logprobs"


async def test_tokens_of_another_text_than_the_visible_answer_are_not_sent():
    _, _, raw = await sent(large=Completion("The answer is 3."), small=Completion("3"), **asked(logprobs=True))
    choice = json.loads(raw.text)["choices"][0]
    assert (choice["message"]["content"], choice["logprobs"]) == ("3", None)
    assert raw.headers[HEADER] == "logprobs"


async def test_alternatives_are_requested_of_servers_only_on_request():
    _, large, raw = await sent(large=Completion("A cat."), **asked(DESCRIBE, top_logprobs=3))
    assert not any("top_logprobs" in body for body in large)
    assert raw.headers[HEADER] == "top_logprobs"


# --- nulls ------------------------------------------------------------------------------------------------------------


async def test_null_is_as_if_it_were_not_there_however_deep():
    part = {"type": "text", "text": COUNT, "image_url": None, "cache_control": None}
    empty = {"type": "text", "text": None}
    earlier = {"role": "assistant", "content": [{"type": "refusal", "refusal": None}], "tool_calls": None, "name": None}
    more = {
        "reasoning": {"effort": None, "max_tokens": None, "exclude": None, "unheard_of": None},
        "stream_options": {"include_usage": None, "unheard_of": None},
        "response_format": {"type": None},
        "chat_template_kwargs": {"messages": None},
        "cuecard": {"strategy": None, "unheard_of": None},
        "logit_bias": {"5": None},
    }
    models = disagreeing()
    async with gateway(models) as client:
        user = {"role": "user", "content": "Look."}
        request = asked(**more) | {"messages": [user, earlier, {"role": "user", "content": [part, empty]}]}
        raw = await client.chat.completions.with_raw_response.create(**request)
    message = json.loads(raw.text)["choices"][0]["message"]
    assert (message["content"], "reasoning_content" in message) == ("3", True)
    assert HEADER not in raw.headers
    assert "None" not in str([turn.text for turn in models["large"].prompts[0].turns])


async def test_reasoning_that_is_switched_off_as_openrouter_has_it_is_none():
    async with gateway(agreeing()) as client:
        answer = await client.chat.completions.create(**asked(reasoning={"enabled": False}))
    assert answer.model_extra["cuecard"]["strategy"] == "short:large"


REFERRING = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"$ref": "http://x"}}}},
}


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": 5}}, "response_format.json_schema"),
        ({"functions": 5}, "functions"),
        ({"tools": [REFERRING]}, "tools"),
        ({"cuecard": {"kind": "choice"}}, "cuecard.kind"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"cuecard": {"options": [str(at) for at in range(30)]}}, "cuecard.options"),
        ({"temperature": "warm"}, "temperature"),
        ({"temperature": 9}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_k": 0.5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"stop": [""]}, "stop"),
        ({"logit_bias": {"1": "much"}}, "logit_bias.1"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"n": 2}, "n"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream_options": {"usage": True}}, "stream_options.usage"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning": {"max_tokens": -1}}, "reasoning.max_tokens"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"tools": "look"}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "look"}}], "tool_choice": "some"}, "tool_choice"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"cuecard": {"budget": 0.5}}, "cuecard.budget"),
        ({"cuecard": {"accept": "calibrated(0.9)"}}, "cuecard.accept"),
        ({"cuecard": {"bugdet": 100}}, "cuecard.bugdet"),
        ({"cuecard": {"strategy": "mutal"}}, "cuecard.strategy"),
        ({"cuecard": {"schedule": "slow", "budget": 100}}, "cuecard.schedule"),
        ({"cuecard": {"max_latency_ms": -1}}, "cuecard.max_latency_ms"),
        ({"cuecard": {"max_cost": 1}}, "cuecard.max_cost"),
        ({"cuecard": {"kind": "poem"}}, "cuecard.kind"),
        ({"cuecard": []}, "cuecard"),
        ({"model": "cuecard/mutul"}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": COUNT}, {"role": "user", "content": 1}]}, "messages[1]"),
    ],
)
async def test_an_error_names_the_parameter_that_is_wrong(wrong: dict[str, Any], param: str) -> None:
    async with gateway() as client, httpx2.AsyncClient(base_url=str(client.base_url)) as plain:
        body = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}], **wrong}
        response = await plain.post("chat/completions", json=body)
    assert (response.status_code // 100, response.json()["error"]["param"]) == (4, param)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("responses", {"input": COUNT, "max_output_tokens": -1}, "max_output_tokens"),
        ("responses", {"input": [{"type": "video"}]}, "input"),
        ("responses", {"input": [{"role": "user", "content": 1}]}, "input"),
        ("responses", {"input": COUNT, "text": {"format": {"type": "xml"}}}, "text.format"),
        ("responses", {"input": COUNT, "previous_response_id": "resp_1"}, "previous_response_id"),
        ("completions", {"prompt": ""}, "prompt"),
        ("completions", {"prompt": COUNT, "echo": True}, "echo"),
        ("chat/completions", [], None),
    ],
)
async def test_each_wire_names_parameters_as_it_knows_them(path: str, body: Any, param: str | None) -> None:
    async with gateway() as client, httpx2.AsyncClient(base_url=str(client.base_url)) as plain:
        sent_ = body | {"model": "cuecard"} if isinstance(body, dict) else body
        response = await plain.post(path, json=sent_)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
