"""Tool calls through the pair, with OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from gateways import gateway, model

from cuecard.domain.call import Mode
from cuecard.gateway.records import Journal
from cuecard.gateway.replay import entries
from cuecard.models.openai import OpenAIModel
from cuecard.models.prompt import PROSE
from cuecard.models.replay import Says as Scripted
from cuecard.models.replay import ScriptedModel
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, HttpError

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}},
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
ASKED = "What is the weather in Paris?"


def wrote(*calls: tuple[str, dict[str, Any]]) -> str:
    return json.dumps({"tool_calls": [{"name": name, "arguments": arguments} for name, arguments in calls]})


PARIS, BOTH = wrote(("get_weather", {"city": "Paris"})), wrote(("get_weather", {"city": "Paris"}), ("get_time", {}))
SUNNY = '{"answer": "It is sunny in Paris."}'


def pair(small: str, large: str, reasoned: str | None = None):
    """A pair with these short answers; `reasoned` is the large model's answer to the small one's reasoning."""
    return {"small": model("tiny", small, small), "large": model("huge", large, reasoned or large)}


def asking(*more: dict[str, Any], **changed: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": ASKED}, *more]
    return {"model": "cuecard", "messages": messages, "tools": [WEATHER, CLOCK]} | changed


async def asked(models, *more: dict[str, Any], **changed: Any):
    async with gateway(models) as client:
        return await client.chat.completions.create(**asking(*more, **changed))


def called(answer) -> list[tuple[str, Any]]:
    calls = answer.choices[0].message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


def route(answer) -> str:
    return answer.model_extra["cuecard"]["route"]


# --- calls ------------------------------------------------------------------------------------------------------------


async def test_short_attempts_that_call_the_same_are_the_answer():
    other = '{"tool_calls": [{"arguments": {"days": 1.0, "city": "Paris"}, "name": "get_weather"}]}'
    answer = await asked(pair(other, PARIS))
    choice = answer.choices[0]
    assert (route(answer), choice.finish_reason, choice.message.content) == ("agreed", "tool_calls", None)
    assert called(answer) == [("get_weather", {"city": "Paris"})]
    assert choice.message.tool_calls[0].id.startswith("call_")
    assert choice.message.tool_calls[0].type == "function"


async def test_where_they_differ_the_large_model_calls_after_reading_the_small_ones_reasoning():
    models = pair(SUNNY, wrote(("get_time", {})), PARIS)
    answer = await asked(models)
    assert (route(answer), called(answer)) == ("transferred", [("get_weather", {"city": "Paris"})])
    assert [prompt.mode for prompt in models["large"].prompts] == [Mode.SHORT, Mode.READ]


async def test_prompts_describe_the_tools_and_the_form_of_a_reply():
    models = {
        "small": ScriptedModel("tiny", lambda _: Scripted(SUNNY, "No."), style=PROSE),
        "large": model("huge", PARIS),
    }
    await asked(models)
    for prompt in (*models["small"].prompts, *models["large"].prompts):
        assert prompt.turns[0].role == "system"
        assert "- get_weather: The weather in a city, now.\n  Arguments: {" in prompt.turns[0].text
        assert '{"tool_calls": [' in prompt.turns[-1].text
    reasoning = next(prompt for prompt in models["small"].prompts if prompt.mode is Mode.REASON)
    assert (
        "in plain words, not in JSON: is the answer known already; if not, which tool is needed"
        in reasoning.turns[-1].text
    )
    assert reasoning.schema is None
    assert json.loads(models["large"].prompts[0].schema)["anyOf"]


async def test_several_calls_come_in_one_message():
    answer = await asked(pair(BOTH, BOTH))
    assert called(answer) == [("get_weather", {"city": "Paris"}), ("get_time", {})]
    assert len({call.id for call in answer.choices[0].message.tool_calls}) == 2


async def test_one_call_at_a_time_where_more_are_not_wanted():
    models = pair(BOTH, BOTH)
    answer = await asked(models, parallel_tool_calls=False)
    assert len(called(answer)) == 1
    assert json.loads(models["large"].prompts[0].schema)["anyOf"][0]["properties"]["tool_calls"]["maxItems"] == 1


async def test_an_answer_in_words_needs_no_call():
    answer = await asked(pair(SUNNY, SUNNY))
    message = answer.choices[0].message
    assert (message.content, message.tool_calls) == ("It is sunny in Paris.", None)
    assert answer.choices[0].finish_reason == "stop"


async def test_prose_is_an_answer_where_one_may_be_given():
    answer = await asked(pair("Sunny.", "It is sunny."), extra_body={"cuecard": {"strategy": "transfer"}})
    assert answer.choices[0].message.content == "It is sunny."


async def test_an_answer_that_is_cut_is_given_as_far_as_it_goes():
    long = json.dumps({"answer": "word " * 400})
    answer = await asked(pair(long, long), max_completion_tokens=10, model="cuecard/transfer")
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content.split() == ["word"] * len(answer.choices[0].message.content.split())
    assert answer.choices[0].message.content


async def test_a_call_that_is_cut_is_none():
    long = wrote(("get_weather", {"city": "word " * 400}))
    answer = await asked(pair(long, long), max_completion_tokens=10, tool_choice="required")
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.tool_calls, choice.message.content) == ("length", None, "")


# --- tool_choice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "function": {"name": "get_time"}},
        {"type": "function", "name": "get_time"},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
            {"type": "function", "function": {"name": "get_time"}}]}},
    ],
)  # fmt: skip
async def test_a_tool_that_is_named_is_the_only_one_to_call(choice):
    models = pair(wrote(("get_time", {})), wrote(("get_time", {})))
    answer = await asked(models, tool_choice=choice)
    assert called(answer) == [("get_time", {})]
    schema = json.loads(models["large"].prompts[0].schema)
    assert schema["properties"]["tool_calls"]["items"]["properties"]["name"] == {"const": "get_time"}
    assert "get_weather" not in models["large"].prompts[0].turns[0].text


@pytest.mark.parametrize("choice", ["required", "any"])
async def test_where_a_call_is_required_there_is_no_other_reply(choice):
    models = pair(PARIS, PARIS)
    assert called(await asked(models, extra_body={"tool_choice": choice})) == [("get_weather", {"city": "Paris"})]
    assert "anyOf" not in json.loads(models["large"].prompts[0].schema)


async def test_where_a_call_is_required_words_are_an_error():
    with pytest.raises(openai.APIStatusError) as failure:
        await asked(pair("It is sunny.", "It is sunny."), tool_choice="required")
    assert failure.value.status_code == 502


async def test_with_none_the_question_is_an_ordinary_one():
    models = pair("yes", "yes")
    answer = await asked(models, tool_choice="none", messages=[{"role": "user", "content": "Is it so? Yes or no."}])
    assert answer.choices[0].message.content == "yes"
    assert models["large"].prompts[0].schema is None


@pytest.mark.parametrize("tools", [{}, {"tools": None}, {"tools": []}])
async def test_a_call_that_is_required_of_no_tools_is_an_ordinary_question(tools):
    """LlamaIndex sends such requests, and servers answer them."""
    request = {key: value for key, value in asking().items() if key != "tools"}
    async with gateway(pair("sunny", "sunny")) as client:
        raw = await client.chat.completions.with_raw_response.create(
            **request, extra_body={"tool_choice": "required", **tools}
        )
    assert raw.parse().choices[0].message.content == "sunny"
    assert raw.headers["x-cuecard-ignored"] == "tool_choice"


async def test_a_response_format_holds_for_an_answer_in_words():
    schema = {"type": "object", "properties": {"it": {"$ref": "#/$defs/I"}}, "$defs": {"I": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    models = pair('{"answer": {"it": "rains"}}', '{"answer": {"it": "rains"}}')
    answer = await asked(models, response_format=form)
    assert json.loads(answer.choices[0].message.content) == {"it": "rains"}
    assert "$defs" in json.loads(models["large"].prompts[0].schema)


async def test_the_form_that_came_before_tools_works_too():
    functions = [WEATHER["function"]]
    how = {"functions": functions, "function_call": {"name": "get_weather"}, "tools": openai.NOT_GIVEN}
    answer = await asked(pair(PARIS, PARIS), **how)
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.content, choice.message.tool_calls) == ("function_call", None, None)
    assert json.loads(choice.message.function_call.arguments) == {"city": "Paris"}
    models = pair("Yes.", "Sunny.")
    result = {"role": "function", "name": "get_weather", "content": "sunny"}
    more = [{"role": "assistant", "content": None, "function_call": choice.message.function_call.model_dump()}, result]
    answer = await asked(models, *more, functions=functions, tools=openai.NOT_GIVEN, model="cuecard/transfer")
    assert answer.choices[0].message.content == "Sunny."
    assert 'Result of get_weather({"city": "Paris"}):\nsunny' in models["large"].prompts[-1].turns[-1].text


# --- conversations ----------------------------------------------------------------------------------------------------


async def test_results_come_back_as_a_turn_of_the_user():
    async with gateway(models := pair(BOTH, BOTH)) as client:
        first = await client.chat.completions.create(**asking())
    message = first.choices[0].message
    results = [
        {"role": "tool", "tool_call_id": message.tool_calls[1].id, "content": "noon"},
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": [{"type": "text", "text": "sunny"}]},
    ]
    answer = await asked(models := pair(SUNNY, SUNNY), message.model_dump(exclude_none=True), *results)
    assert answer.choices[0].message.content == "It is sunny in Paris."
    system, user, assistant, last = models["large"].prompts[0].turns
    assert [turn.role for turn in (system, user, assistant, last)] == ["system", "user", "assistant", "user"]
    assert user.text == ASKED
    assert json.loads(assistant.text) == json.loads(BOTH)
    assert 'Result of get_time({}):\nnoon\n\nResult of get_weather({"city": "Paris"}):\nsunny' in last.text
    assert ASKED in last.text


def call(identity: str = "c1", name: str = "get_weather", arguments: str = '{"city": "Paris"}') -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": identity, "type": "function", "function": function}]}


def result(content: Any = "sunny", identity: str = "c1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": content}


async def test_the_users_message_behind_a_result_is_the_question():
    models = pair(SUNNY, SUNNY)
    await asked(models, call(), result(), {"role": "user", "content": "And in Oslo?"})
    turns = models["large"].prompts[0].turns
    assert turns[-1].text.startswith('Result of get_weather({"city": "Paris"}):\nsunny\n\nAnd in Oslo?')


async def test_with_none_a_result_is_answered_in_words():
    models = pair("Yes.", "It is sunny.")
    answer = await asked(models, call(), result(), tool_choice="none")
    assert answer.choices[0].message.content == "It is sunny."
    assert "Result of get_weather" in models["large"].prompts[-1].turns[-1].text


async def test_arguments_that_are_no_json_and_empty_results_are_taken_as_they_are():
    models = pair(SUNNY, SUNNY)
    await asked(models, call(arguments="{not json"), result(""))
    assert '"arguments": "{not json"' in models["large"].prompts[0].turns[2].text
    assert "(nothing)" in models["large"].prompts[0].turns[3].text


async def test_no_control_token_of_a_tool_or_a_result_reaches_a_prompt():
    models, token = pair(SUNNY, SUNNY), "<|im_end|>"
    tool = {"type": "function", "function": {"name": "f", "description": token, "parameters": {"title": token}}}
    earlier = (call(name="f", arguments=json.dumps({"city": token})), result(token))
    await asked(models, *earlier, tools=[tool])
    assert not [turn for prompt in models["large"].prompts for turn in prompt.turns if token in turn.text]


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_streamed_calls_name_themselves_first_and_bring_their_arguments_in_pieces():
    city = "a very long name of a city " * 5
    sent = wrote(("get_weather", {"city": city}), ("get_time", {}))
    async with gateway(pair(sent, sent)) as client:
        stream = await client.chat.completions.create(**asking(), stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
    deltas = [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or []]
    named = [(call.index, call.id is not None, call.function.name) for call in deltas if call.function.name]
    assert named == [(0, True, "get_weather"), (1, True, "get_time")]
    arguments = ["".join(call.function.arguments for call in deltas if call.index == index) for index in (0, 1)]
    assert [json.loads(each) for each in arguments] == [{"city": city}, {}]
    assert len(deltas) > 4
    finishes = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert finishes[-1] == "tool_calls"
    assert set(finishes[:-1]) == {None}
    assert chunks[-1].usage.total_tokens


async def test_the_clients_own_stream_helper_understands_it():
    tools = [{"type": "function", "function": WEATHER["function"] | {"strict": True}}]
    async with (
        gateway(pair(SUNNY, BOTH, PARIS)) as client,
        client.chat.completions.stream(**asking(tools=tools)) as stream,
    ):
        async for _ in stream:
            pass
        message = (await stream.get_final_completion()).choices[0].message
    assert message.tool_calls[0].function.parsed_arguments == {"city": "Paris"}
    assert message.content is None


async def test_a_streamed_answer_in_words_comes_as_content():
    async with gateway(pair(SUNNY, SUNNY)) as client:
        chunks = [chunk async for chunk in await client.chat.completions.create(**asking(), stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "It is sunny in Paris."
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_a_streamed_function_call_has_the_old_form():
    how = {"functions": [WEATHER["function"]], "tools": openai.NOT_GIVEN, "stream": True}
    async with gateway(pair(PARIS, PARIS)) as client:
        chunks = [chunk async for chunk in await client.chat.completions.create(**asking(**how))]
    deltas = [chunk.choices[0].delta.function_call for chunk in chunks if chunk.choices[0].delta.function_call]
    assert deltas[0].name == "get_weather"
    assert json.loads("".join(delta.arguments for delta in deltas)) == {"city": "Paris"}
    assert chunks[-1].choices[0].finish_reason == "function_call"


async def test_words_where_a_call_is_required_are_an_error_of_the_stream():
    async with gateway(pair("Sunny.", "Sunny.")) as client:
        stream = await client.chat.completions.create(**asking(tool_choice="required"), stream=True)
        with pytest.raises(openai.APIError, match="not JSON that fits the schema"):
            _ = [chunk async for chunk in stream]


# --- real HTTP servers ------------------------------------------------------------------------------------------------


async def test_a_server_gets_the_schema_and_no_tools_of_its_own():
    server = MockServer([Completion(PARIS, logprob=-0.001)], models=["tiny", "huge"])
    async with server as url:
        models = {"small": OpenAIModel(url, "tiny"), "large": OpenAIModel(url, "huge")}
        async with gateway(models) as client:
            answer = await client.chat.completions.create(**asking())
    assert (route(answer), called(answer)) == ("agreed", [("get_weather", {"city": "Paris"})])
    for body in server.bodies:
        assert body["response_format"]["json_schema"]["schema"]["anyOf"]
        assert "tools" not in body


async def test_a_server_without_schemas_still_calls_tools():
    server = MockServer(
        lambda request: (
            HttpError(400, {"error": {"message": "response_format is not supported"}})
            if "response_format" in request.body
            else Completion(f"<tool_call>\n{json.dumps(json.loads(PARIS)['tool_calls'][0])}\n</tool_call>")
        ),
        models=["tiny", "huge"],
    )
    async with server as url:
        models = {"small": OpenAIModel(url, "tiny"), "large": OpenAIModel(url, "huge")}
        async with gateway(models) as client:
            answer = await client.chat.completions.create(**asking())
    assert called(answer) == [("get_weather", {"city": "Paris"})]
    assert "tools" not in server.bodies[-1]


# --- rejected requests, and what is stored ----------------------------------------------------------------------------


def tool(**changed: Any) -> dict[str, Any]:
    return {"type": "function", "function": WEATHER["function"] | changed}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"tools": [tool(name=f"f{at}") for at in range(129)]}, "more than 128 tools"),
        ({"tools": [tool(), tool()]}, "same name"),
        ({"tools": [tool(name="no spaces")]}, "no usable name"),
        ({"tools": [tool(name="x" * 129)]}, "no usable name"),
        ({"tools": [tool(name=None)]}, "no usable name"),
        ({"tools": [tool(description=7)]}, "description of tool 1"),
        ({"tools": [tool(parameters={"type": "string"})]}, "no JSON Schema of an object"),
        ({"tools": [tool(parameters={"$ref": "#/$defs/No"})]}, "which is not there"),
        ({"tools": [{"function": {}}]}, "has no type"),
        ({"tools": ["f"]}, "has no type"),
        ({"tools": {"type": "function"}}, "tools is not a list"),
        ({"tools": [{"type": "web_search"}]}, "a tool of type 'web_search'"),
        ({"tool_choice": "sometimes"}, "unknown tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "rm"}}}, "'rm', which is no tool"),
        ({"tool_choice": {"type": "function", "function": {"name": ["rm"]}}}, "which is no tool"),
        ({"tool_choice": {"type": "function"}}, "unknown tool_choice"),
        ({"tool_choice": {"type": "mcp"}}, "a tool of type 'mcp'"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "allows no tool"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [7]}}, "what is no function"),
        ({"cuecard": {"kind": "number"}}, "not for requests with tools"),
        ({"parallel_tool_calls": "yes"}, "neither true nor false"),
        ({"messages": [{"role": "user", "content": " "}]}, "no text"),
    ],
)
async def test_an_error_names_what_is_wrong_with_tools(changed, words):
    with pytest.raises(openai.BadRequestError, match=words):
        await asked(pair(PARIS, PARIS), extra_body=changed)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([result()], "no earlier message has"),
        ([call(), result(identity="c2")], "no earlier message has"),
        ([call(), result(identity=None)], "no earlier message has"),
        ([call(), result([{"type": "image_url", "image_url": {"url": "data:,"}}])], "an image in a tool's result"),
        ([call(), result([{"type": "file"}])], "a part of type 'file'"),
        ([call(), result({"sunny": True})], "neither a text nor a list"),
        ([{"role": "assistant", "tool_calls": "look"}], "not a list"),
        ([{"role": "assistant", "tool_calls": [{"type": "function"}]}], "without an id"),
        ([{"role": "assistant", "tool_calls": [{"id": "1", "function": {}}]}], "without a name"),
        ([call(arguments=7)], "no JSON text"),
        ([{"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {}}]}], "of type 'custom'"),
        ([{"role": "function", "name": "f", "content": "x"}], "no earlier message calls"),
    ],
)
async def test_an_error_names_what_is_wrong_with_calls_and_results(more, words):
    with pytest.raises(openai.BadRequestError, match=words):
        await asked(pair(PARIS, PARIS), *more)


async def test_much_text_of_tools_counts_as_text():
    with pytest.raises(openai.BadRequestError, match="characters of text are more than"):
        await asked(pair(PARIS, PARIS), tools=[tool(description="x" * 500_000)])


async def test_a_journal_keeps_what_a_replay_needs_to_compare_calls(tmp_path):
    async with gateway(pair(PARIS, PARIS), journal=Journal(tmp_path / "log", content=True)) as client:
        await client.chat.completions.create(**asking())
    (entry,) = entries(tmp_path / "log")
    assert entry.question.calling == "auto"
    assert json.loads(entry.answer) == json.loads(PARIS)


# --- the Responses API ------------------------------------------------------------------------------------------------

FLAT = {"type": "function", "strict": None, **WEATHER["function"]}


async def test_a_response_has_an_item_for_each_call_and_takes_it_back_with_its_output():
    flat = [FLAT, {"type": "function", **CLOCK["function"]}]
    async with gateway(pair(BOTH, BOTH)) as client:
        first = await client.responses.create(model="cuecard", input=ASKED, tools=flat, tool_choice="required")
    assert [(item.type, item.status) for item in first.output] == [("function_call", "completed")] * 2
    assert [(item.name, json.loads(item.arguments)) for item in first.output] == [
        ("get_weather", {"city": "Paris"}),
        ("get_time", {}),
    ]
    assert (first.status, first.tool_choice, [each.name for each in first.tools]) == (
        "completed",
        "required",
        ["get_weather", "get_time"],
    )
    outputs = [
        {"type": "function_call_output", "call_id": first.output[0].call_id, "output": "sunny"},
        {"type": "function_call_output", "call_id": first.output[1].call_id,
         "output": [{"type": "input_text", "text": "noon"}]},
    ]  # fmt: skip
    sent = [{"role": "user", "content": ASKED}, *(item.model_dump() for item in first.output), *outputs]
    async with gateway(models := pair(SUNNY, SUNNY)) as client:
        second = await client.responses.create(model="cuecard", input=sent, tools=flat)
    assert second.output_text == "It is sunny in Paris."
    turns = models["large"].prompts[0].turns
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]
    assert json.loads(turns[2].text) == json.loads(BOTH)


async def test_a_streamed_response_has_events_of_each_call():
    async with gateway(pair(SUNNY, BOTH, PARIS)) as client:
        stream = await client.responses.create(model="cuecard", input=ASKED, tools=[FLAT], stream=True)
        events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds[-5:] == [
        "response.content_part.done",
        "response.output_item.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.completed",
    ]
    arguments = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    done = next(event for event in events if event.type == "response.function_call_arguments.done")
    assert json.loads("".join(arguments)) == json.loads(done.arguments) == {"city": "Paris"}
    assert [item.type for item in events[-1].response.output] == ["reasoning", "function_call"]
    assert done.output_index == 1


async def test_the_clients_own_helper_parses_a_streamed_response():
    strict = FLAT | {"strict": True}
    async with (
        gateway(pair(PARIS, PARIS)) as client,
        client.responses.stream(model="cuecard", input=ASKED, tools=[strict]) as stream,
    ):
        async for _ in stream:
            pass
        response = await stream.get_final_response()
    assert response.output[0].parsed_arguments == {"city": "Paris"}
