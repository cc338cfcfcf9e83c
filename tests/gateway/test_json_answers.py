"""JSON answers of the gateway match the schema, or an error gives the reason; never prose with status 200."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from gateways import gateway
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from cuecard.models.openai import OpenAIModel
from cuecard.strategies.run import STRATEGIES
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, Framing, HttpError, Received, Reply

COUNT = {
    "type": "object",
    "properties": {"count": {"type": "integer"}},
    "required": ["count"],
    "additionalProperties": False,
}
FITS, PROSE = '{"count": 3}', "There are three cats, I think."
MESSAGES = [{"role": "user", "content": "How many cats are there?"}]
Script = Callable[[Received], Reply]


def is_repair(request: Received) -> bool:
    return "That answer cannot be used" in str(request.body["messages"][-1]["content"])


def repairs(request: Received) -> Reply:
    return Completion(FITS if is_repair(request) else '{"count": "three"}', "One, two, three.")


def prose(request: Received) -> Reply:
    return Completion(PROSE, "One, two, three.")


def fences(request: Received) -> Reply:
    return Completion(f"Here it is:\n```json\n{FITS}\n```\nDone.", "One, two, three.")


def constrained(request: Received) -> Reply:
    return Completion(FITS if "response_format" in request.body else PROSE, "One, two, three.")


def tagged(request: Received) -> Reply:
    answer = FITS if "response_format" in request.body else PROSE
    return Completion(answer, "One, {two}, three.", framing=Framing.TAGS)


@asynccontextmanager
async def serving(
    small: Script,
    large: Script | None = None,
    name: str = "qwen3-8b",
    mock: Mapping[str, Any] | None = None,
    **how: Any,
) -> AsyncIterator[tuple[openai.AsyncOpenAI, dict[str, MockServer]]]:
    servers = {
        role: MockServer(script, models=[name], **(mock or {}))
        for role, script in {"small": small, "large": large or small}.items()
    }
    async with servers["small"] as small_url, servers["large"] as large_url:
        models = {
            "small": OpenAIModel(small_url, name, name="tiny", **how),
            "large": OpenAIModel(large_url, name, name="huge", **how),
        }
        async with gateway(models) as client:
            yield client, servers


def asking(schema: Any = COUNT, strategy: str | None = None, **more: Any) -> dict[str, Any]:
    wanted = {"type": "json_schema", "json_schema": {"name": "count", "schema": schema}}
    own = {"cuecard": {"strategy": strategy}} if strategy else {}
    return {"model": "cuecard", "messages": MESSAGES, "response_format": wanted, "extra_body": own} | more


async def answered(client: openai.AsyncOpenAI, *, stream: bool, **request: Any) -> tuple[str, Any]:
    """The visible answer or "error: …", and the completion or last chunk (None after an error)."""
    text = ""
    try:
        if not stream:
            done = await client.chat.completions.create(**request)
            return done.choices[0].message.content, done
        last = None
        async for last in await client.chat.completions.create(**request, stream=True):
            text += (last.choices[0].delta.content or "") if last.choices else ""
        return text, last
    except openai.APIError as error:
        if error.code != "invalid_answer" or text or getattr(error, "status_code", 502) != 502:
            raise
        return f"error: {error.message}", None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("script", [repairs, fences, constrained, tagged])
async def test_every_strategy_serves_the_json_alone(script: Script, strategy: str, stream: bool) -> None:
    async with serving(script) as (client, _):
        text, _ = await answered(client, stream=stream, **asking(strategy=strategy))
    assert text == FITS


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_prose_is_an_error_by_every_strategy(strategy: str, stream: bool) -> None:
    async with serving(prose) as (client, _):
        text, _ = await answered(client, stream=stream, **asking(strategy=strategy))
    assert text.startswith("error: ")
    assert PROSE not in text


async def test_the_large_model_repairs_once_under_the_schema_and_the_call_is_in_the_trace() -> None:
    async with serving(prose, repairs) as (client, servers):
        _, done = await answered(client, stream=False, **asking(strategy="transfer"))
    result = servers["large"].received[-1].body
    assert is_repair(servers["large"].received[-1])
    assert sum(map(is_repair, [*servers["small"].received, *servers["large"].received])) == 1
    assert result["response_format"]["json_schema"] == {"name": "count", "schema": COUNT}
    assert "'three' is not of type 'integer'" in result["messages"][-1]["content"]
    assert [call["mode"] for call in done.cuecard["calls"]][-1] == "repair"


async def test_where_the_large_model_has_failed_the_small_one_repairs() -> None:
    async with serving(repairs, lambda _: HttpError(500)) as (client, servers):
        text, done = await answered(client, stream=False, **asking(strategy="transfer"))
    assert text == FITS
    assert done.cuecard["route"] == "degraded"
    assert is_repair(servers["small"].received[-1])


async def test_an_answer_of_another_call_that_fits_is_preferred_to_an_error() -> None:
    async with serving(lambda _: Completion(FITS, "Three."), prose) as (client, _):
        text, done = await answered(client, stream=False, **asking(strategy="mutual"))
    assert text == FITS
    assert done.cuecard["route"] == "degraded"


async def test_an_answer_that_stays_cut_is_an_error_that_names_the_limit() -> None:
    def long(request: Received) -> Reply:
        return Completion(json.dumps({"count": 3, "why": "because " * 50}), "Three.")

    async with serving(long) as (client, _):
        text, _ = await answered(client, stream=False, **asking({"type": "object"}, "short", max_tokens=10))
    assert "cut at its limit" in text
    assert "max_tokens" in text


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
async def test_the_responses_wire_gives_json_or_an_error_too(kind: str) -> None:
    form = {"type": kind} | ({"name": "count", "strict": True, "schema": COUNT} if kind == "json_schema" else {})
    async with serving(fences) as (client, servers):
        done = await client.responses.create(model="cuecard", input="How many cats?", text={"format": form})
        sent = [body.get("response_format") for body in servers["large"].bodies]
    assert done.output_text == FITS
    assert sent[0] == (
        {"type": "json_object"}
        if kind == "json_object"
        else {"type": "json_schema", "json_schema": {"name": "count", "schema": COUNT, "strict": True}}
    )
    async with serving(prose) as (client, _):
        with pytest.raises(openai.InternalServerError, match="the answer is not"):
            await client.responses.create(model="cuecard", input="How many cats?", text={"format": form})
        streamed = client.responses.with_streaming_response.create(
            model="cuecard", input="How many cats?", text={"format": form}, stream=True
        )
        async with streamed as response:
            kinds = [line.removeprefix("event: ") async for line in response.iter_lines() if line.startswith("event: ")]
    assert kinds[-2:] == ["response.failed", "error"]
    assert "response.output_text.delta" not in kinds


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "objekt"}, "not valid"),
        ({"$ref": "https://example.com/schema"}, "only references inside it"),
        ({"enum": ["x" * 60_000]}, "more than 50000"),
        ({"$ref": "#"}, "without an end"),
    ],
)
async def test_a_schema_that_cannot_be_used_is_refused_before_any_model_is_called(schema: Any, why: str) -> None:
    async with serving(constrained) as (client, servers):
        with pytest.raises(openai.BadRequestError, match=why):
            await client.chat.completions.create(**asking(schema))
    assert not servers["small"].received
    assert not servers["large"].received


@pytest.mark.parametrize("wrong", [{"name": "two words"}, {"name": 3}, {"strict": "yes"}, {"schema": True}])
async def test_a_response_format_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "count", "schema": COUNT} | wrong}
    async with serving(constrained) as (client, _):
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(**asking(response_format=wanted))


async def test_another_kind_of_answer_beside_a_schema_is_refused() -> None:
    async with serving(constrained) as (client, _):
        with pytest.raises(openai.BadRequestError, match="response_format asks for JSON"):
            await client.chat.completions.create(**asking(extra_body={"cuecard": {"kind": "number"}}))


async def test_a_schema_that_a_server_refuses_is_left_out_of_that_request_alone() -> None:
    odd = COUNT | {"minProperties": 1}
    mock = {"refuses_keywords": ["minProperties"]}
    async with serving(fences, mock=mock) as (client, servers):
        text, _ = await answered(client, stream=False, **asking(odd, "short"))
        assert text == FITS
        await answered(client, stream=False, **asking(COUNT, "short"))
    assert ["response_format" in body for body in servers["large"].bodies] == [True, False, True]


async def test_a_server_that_knows_no_response_format_is_repaired_all_the_same() -> None:
    async with serving(repairs, mock={"refuses": ["response_format"]}) as (client, _):
        text, _ = await answered(client, stream=False, **asking(strategy="short"))
    assert text == FITS


@pytest.mark.parametrize("how", [{}, {"prefill": True}, {"prefill": True, "cards": ["thinking"]}])
async def test_reasoning_is_free_and_the_answer_is_decoded_again_under_the_schema(
    how: dict[str, Any],
) -> None:
    async with serving(constrained, **how) as (client, servers):
        text, done = await answered(client, stream=False, **asking(strategy="reason"))
    thinking, answering = servers["large"].bodies
    assert "response_format" not in thinking
    assert "response_format" in answering
    assert answering["messages"][-1]["role"] == "user"
    assert (text, done.choices[0].message.reasoning_content) == (FITS, "One, two, three.")


async def test_the_embedded_pair_refuses_requests_for_json() -> None:
    from cuecard.models import spec

    models = {role: spec.load(f"demo-{role}", role) for role in ("small", "large")}
    async with gateway(models) as client:
        with pytest.raises(openai.BadRequestError, match="do not write JSON") as error:
            await client.chat.completions.create(**asking())
    assert error.value.code == "Unsupported"


async def test_the_embedded_pair_refuses_tools() -> None:
    from cuecard.models import spec

    models = {role: spec.load(f"demo-{role}", role) for role in ("small", "large")}
    tool = {"type": "function", "function": {"name": "look"}}
    body: dict[str, Any] = {"model": "cuecard", "messages": [{"role": "user", "content": "Look."}], "tools": [tool]}
    async with gateway(models) as client:
        with pytest.raises(openai.BadRequestError, match="do not call tools") as error:
            await client.chat.completions.create(**body)
    assert error.value.code == "Unsupported"


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from(["a", "b"])),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)),
    max_leaves=4,
)
LEAVES = st.sampled_from([{"type": "integer"}, {"enum": ["a", None]}, {"type": "string", "pattern": "^a"}, {}])
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(lambda one: {"type": "array", "items": one}),
        st.lists(inner, min_size=1, max_size=2).map(lambda some: {"anyOf": some}),
        st.dictionaries(st.sampled_from("ab"), inner, max_size=2).map(
            lambda named: {"type": "object", "properties": named, "required": [*named]}
        ),
    ),
    max_leaves=3,
)
ANSWERS = st.one_of(
    VALUES.map(json.dumps),
    VALUES.map(lambda value: f"```json\n{json.dumps(value)}\n```"),
    VALUES.map(lambda value: f"I say {json.dumps(value)} here"),
    st.text(max_size=20),
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    schema=SCHEMAS,
    answers=st.lists(ANSWERS, min_size=1, max_size=4),
    strategy=st.sampled_from(["mutual", "transfer", "short", "reason", "vote"]),
    stream=st.booleans(),
)
async def test_every_served_answer_fits_its_schema(
    schema: Any, answers: list[str], strategy: str, stream: bool
) -> None:
    turns = iter(answers * 40)
    async with serving(lambda _: Completion(next(turns), "Hm.")) as (client, _):
        text, _ = await answered(client, stream=stream, **asking(schema, strategy))
    if not text.startswith("error: "):
        assert Draft202012Validator(schema).is_valid(json.loads(text))
