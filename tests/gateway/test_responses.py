"""The Responses API, called with OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable
from typing import Any

import openai
import pytest
from gateways import COUNT, DESCRIBE, THOUGHT, disagreeing, gateway, model

from cuecard.domain.errors import BadInput, ModelUnreachable
from cuecard.domain.question import Image
from cuecard.gateway.wire.responses import ItemMemory
from cuecard.models.replay import Says, ScriptedModel

USER = {"role": "user", "content": COUNT}


def reference(identity: str) -> dict[str, str]:
    return {"type": "item_reference", "id": identity}


async def test_a_text_is_answered_with_reasoning_and_message():
    async with gateway(disagreeing()) as client:
        answer = await client.responses.create(model="cuecard", input=COUNT, instructions="Be brief.")
    assert (answer.output_text, answer.status, answer.model) == ("3", "completed", "cuecard")
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].content[0].text == THOUGHT
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.usage.output_tokens_details.reasoning_tokens == len(THOUGHT.split())
    assert answer.model_extra["cuecard"]["route"] == "transferred"


LOOK = {
    "type": "function",
    "name": "look",
    "description": "Look.",
    "parameters": {"type": "object", "properties": {}},
    "strict": None,
}
WANTED = {
    "instructions": "Be brief.",
    "max_output_tokens": 100,
    "metadata": {"run": "7"},
    "parallel_tool_calls": False,
    "reasoning": {"effort": "low", "summary": None},
    "temperature": 0.5,
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "tool_choice": "none",
    "tools": [LOOK],
    "top_p": 0.9,
    "truncation": "auto",
    "user": "somebody",
}
DEFAULTS = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("given", "repeated"), [(WANTED, WANTED), ({}, DEFAULTS)], ids=["given", "defaults"])
async def test_a_response_repeats_its_request(given, repeated):
    async with gateway(disagreeing()) as client:
        answer = await client.responses.create(model="cuecard", input=COUNT, **given)
        events = [e async for e in await client.responses.create(model="cuecard", input=COUNT, stream=True, **given)]
    for response in (answer, events[0].response, events[-1].response):
        result = response.model_dump(warnings="error", exclude_unset=True)
        assert {key: result[key] for key in repeated} == repeated


@pytest.mark.filterwarnings("error")
async def test_a_schema_is_repeated_as_it_came():
    schema = {"type": "object", "properties": {"cats": {"type": "integer"}}, "required": ["cats"]}
    form = {"type": "json_schema", "name": "cats", "schema": schema, "strict": True}
    models = {name: model(name, '{"cats": 3}') for name in ("small", "large")}
    async with gateway(models) as client:
        answer = await client.responses.create(model="cuecard", input=COUNT, text={"format": form})
    assert answer.model_dump(warnings="error", by_alias=True)["text"]["format"] == form | {"description": None}


async def test_a_stream_has_events_of_every_item_part_and_end():
    async with gateway(disagreeing()) as client:
        events = [event async for event in await client.responses.create(model="cuecard", input=COUNT, stream=True)]
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "3"
    assert events[-1].response.output_text == "3"


async def test_where_a_summary_is_asked_for_the_reasoning_is_in_it():
    asked = {"model": "cuecard", "input": COUNT, "reasoning": {"summary": "auto"}}
    async with gateway(disagreeing()) as client:
        whole = await client.responses.create(**asked)
        events = [event async for event in await client.responses.create(**asked, stream=True)]
    thought, _ = whole.output
    assert [(part.type, part.text) for part in thought.summary] == [("summary_text", THOUGHT)]
    assert not thought.content
    kinds = [kind for kind in dict.fromkeys(event.type for event in events) if "reasoning" in kind]
    assert kinds == [
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
    ]
    sent = [event for event in events if event.type == "response.reasoning_summary_text.delta"]
    assert "".join(event.delta for event in sent) == THOUGHT
    assert {event.summary_index for event in sent} == {0}


async def test_the_clients_own_stream_helper_understands_it():
    async with gateway(disagreeing()) as client, client.responses.stream(model="cuecard", input=COUNT) as stream:
        async for _ in stream:
            pass
        assert (await stream.get_final_response()).output_text == "3"


async def test_an_answer_is_sent_back_with_the_next_question(board):
    models = disagreeing()
    picture = {"type": "input_image", "image_url": Image(board.read_bytes()).data_url, "detail": "auto"}
    first = {"role": "user", "content": [picture, {"type": "input_text", "text": COUNT}]}
    async with gateway(models) as client:
        answer = await client.responses.create(model="cuecard", input=[first])
        sent = [item.model_dump() for item in answer.output]
        await client.responses.create(model="cuecard", input=[first, *sent, {"role": "user", "content": "And dogs?"}])
    turns = models["large"].prompts[-1].turns
    assert [turn.role for turn in turns[:3]] == ["user", "assistant", "user"]
    assert (len(turns[0].images), turns[1].text) == (1, "3")


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_is_referred_to_by_the_ids_of_its_items(streamed: bool):
    models = disagreeing()
    async with gateway(models) as client:
        if streamed:
            events = await client.responses.create(model="cuecard", input=COUNT, stream=True)
            ids = [event.item.id async for event in events if event.type == "response.output_item.done"]
        else:
            ids = [item.id for item in (await client.responses.create(model="cuecard", input=COUNT)).output]
        await client.responses.create(model="cuecard", input=[USER, *map(reference, ids), USER])
    turns = models["large"].prompts[-1].turns
    assert (len(ids), [turn.role for turn in turns[:3]], turns[1].text) == (2, ["user", "assistant", "user"], "3")


async def test_an_answer_that_is_not_to_be_stored_is_not_kept():
    async with gateway() as client:
        answer = await client.responses.create(model="cuecard", input=COUNT, store=False)
        with pytest.raises(openai.BadRequestError, match="not kept here"):
            await client.responses.create(model="cuecard", input=[USER, reference(answer.output[-1].id), USER])


async def test_a_short_request_does_not_become_a_long_one_by_references():
    async with gateway() as client:
        answer = await client.responses.create(model="cuecard", input=COUNT)
        references = [reference(answer.output[-1].id)] * 2
        with pytest.raises(openai.BadRequestError, match="twice"):
            await client.responses.create(model="cuecard", input=[USER, *references, USER])


def test_the_latest_items_are_kept():
    memory = ItemMemory(most_characters=100)
    for number in range(10):
        memory.keep({"id": str(number), "text": "x" * 10})
    assert list(memory.resolved([reference("9")])) == [{"id": "9", "text": "x" * 10}]
    with pytest.raises(BadInput, match="'0', which is not kept"):
        list(memory.resolved([reference("0")]))


async def test_a_cut_answer_is_incomplete():
    models = {"small": model("tiny", "x"), "large": model("huge", "y", "word " * 300)}
    async with gateway(models) as client:
        answer = await client.responses.create(model="cuecard", input=DESCRIBE, max_output_tokens=5)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")


async def test_a_failure_in_the_midst_is_a_failed_response_and_an_error():
    broken = {name: ScriptedModel(name, [Says(error=ModelUnreachable("gone"))] * 9) for name in ("small", "large")}
    async with gateway(broken) as client:
        streamed = client.responses.with_streaming_response.create(model="cuecard", input=COUNT, stream=True)
        async with streamed as response:
            data = [json.loads(line[6:]) async for line in response.iter_lines() if line.startswith("data: ")]
        events = await client.responses.create(model="cuecard", input=COUNT, stream=True)
        with pytest.raises(openai.APIError, match="gone"):
            await collected(events)
    failed, error = data[-2:]
    assert (failed["type"], failed["response"]["error"]["code"]) == ("response.failed", "server_error")
    assert (error["type"], error["error"]["message"]) == ("error", error["message"])


async def collected(events: AsyncIterable[Any]) -> list[Any]:
    return [event async for event in events]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"input": []}, "input is empty"),
        ({"input": COUNT, "previous_response_id": "resp_1"}, "keeps no conversations"),
        ({"input": COUNT, "background": True}, "keeps no conversations"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "2"}]}, "no earlier message has"),
        ({"input": [{"type": "item_reference", "id": "rs_1"}]}, "'rs_1', which is not kept here .send the item itself"),
        ({"input": [{"type": "item_reference"}]}, "not kept here"),
        ({"input": [{"type": "computer_call", "id": "1"}]}, "an item of type 'computer_call'"),
        ({"input": COUNT, "tools": [{"type": "web_search"}]}, "cannot call a tool of type .web_search"),
        ({"input": COUNT, "extra_body": {"temprature": 1}}, "did you mean 'temperature'"),
    ],
)
async def test_what_a_pair_cannot_do_is_refused(asked, words):
    async with gateway(unknown_parameters="refuse") as client:
        with pytest.raises(openai.BadRequestError, match=words):
            await client.responses.create(model="cuecard", **asked)


@pytest.mark.parametrize("tools", [False, 0, "", None, []])
async def test_no_tools_are_read_as_absent(tools):
    async with gateway(disagreeing()) as client:
        answer = await client.responses.create(model="cuecard", input=COUNT, extra_body={"tools": tools})
    assert answer.tools == []
