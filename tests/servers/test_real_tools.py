"""Tool calls with OpenAI's client, a pair and a pretrained model in llama.cpp. Takes minutes on two cores."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from programs import Served, gateway, llamacpp
from real_models import QWEN

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1200)]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The current weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The name of the city alone"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIMETABLE = {
    "type": "function",
    "function": {
        "name": "find_trains",
        "description": "Trains between two places, on a day of the week.",
        "parameters": {
            "type": "object",
            "properties": {
                "start": {"$ref": "#/$defs/Place"},
                "end": {"$ref": "#/$defs/Place"},
                "day": {"enum": ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]},
            },
            "required": ["start", "end"],
            "additionalProperties": False,
            "$defs": {
                "Place": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}},
                    "required": ["city"],
                    "additionalProperties": False,
                }
            },
        },
    },
}
TOOLS = [WEATHER, TIMETABLE]
STRATEGIES = ("mutual", "transfer", "short:large")
FORCED = {"type": "function", "function": {"name": "find_trains"}}
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for both roles."""
    with llamacpp(QWEN, tmp_path_factory.mktemp("qwen"), context=16384) as served:
        yield served


@pytest.fixture(scope="module")
def client(qwen: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    table = f'model = "{qwen.spec}"'
    with gateway({"small": table, "large": table}, tmp_path_factory.mktemp("gateway")) as client:
        yield client


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def ask(request: pytest.FixtureRequest, client: openai.OpenAI, strategy: str) -> Ask:
    """A function that returns the reply message, joined if streamed, and its finish reason."""

    def asked(messages: list[Mapping[str, Any]], **how: Any) -> Any:
        settings = {"model": "cuecard", "extra_body": {"cuecard": {"strategy": strategy, "budget": 256}}}
        settings |= {"messages": messages, "tools": TOOLS, "max_completion_tokens": 200} | how
        if not request.param:
            return client.chat.completions.create(**settings).choices[0]
        state = ChatCompletionStreamState()
        for chunk in client.chat.completions.create(**settings, stream=True):
            state.handle_chunk(chunk)
        return state.get_final_completion().choices[0]

    return asked


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def called(choice: Any) -> list[tuple[str, dict[str, Any]]]:
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    found = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls]
    for name, arguments in found:
        assert_fits(name, arguments)
    assert len({call.id for call in choice.message.tool_calls}) == len(found)
    return found


def assert_fits(name: str, arguments: dict[str, Any]) -> None:
    """Check that the arguments match the tool's schema."""
    if name == "get_weather":
        assert set(arguments) <= {"city", "unit"}
        assert isinstance(arguments["city"], str)
        assert arguments.get("unit", "celsius") in ("celsius", "fahrenheit")
    else:
        assert name == "find_trains"
        assert {"start", "end"} <= set(arguments) <= {"start", "end", "day"}
        assert all(isinstance(arguments[place].get("city"), str) for place in ("start", "end"))
        assert arguments.get("day", "Mon") in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def test_a_loop_calls_the_tool_and_answers_with_its_result(ask: Ask):
    messages: list[Any] = [user("What is the current weather in Paris?")]
    choice = ask(messages)
    assert {name for name, _ in called(choice)} == {"get_weather"}
    assert "Paris" in called(choice)[0][1]["city"]
    messages.append(choice.message.model_dump(include={"role", "content", "tool_calls"}, exclude_none=True))
    weather = json.dumps({"condition": "snow", "temperature": -7})
    messages += [{"role": "tool", "tool_call_id": call.id, "content": weather} for call in choice.message.tool_calls]
    choice = ask(messages)
    assert choice.finish_reason == "stop"
    assert "snow" in choice.message.content or "7" in choice.message.content


def test_a_tool_that_is_named_is_called(ask: Ask):
    calls = called(ask([user("I want to go from Bern to Zurich.")], tool_choice=FORCED))
    assert {name for name, _ in calls} == {"find_trains"}


def test_where_a_call_is_required_a_tool_is_called(ask: Ask):
    assert called(ask([user("Hello, how are you?")], tool_choice="required"))


def test_several_calls_fit_their_schemas_too(ask: Ask):
    calls = called(ask([user("What is the weather in Oslo, and what is the weather in Rome?")]))
    assert {name for name, _ in calls} == {"get_weather"}


def test_one_call_where_more_are_not_wanted(ask: Ask):
    question = user("What is the weather in Oslo, and what is the weather in Rome?")
    assert len(called(ask([question], parallel_tool_calls=False, tool_choice="required"))) == 1


def test_the_responses_api_calls_and_answers_too(client: openai.OpenAI, strategy: str):
    flat = [{"type": "function", **tool["function"]} for tool in TOOLS]
    own = {"cuecard": {"strategy": strategy, "budget": 256}}
    items: list[Any] = [user("What is the current weather in Paris?")]
    first = client.responses.create(model="cuecard", input=items, tools=flat, extra_body=own)
    calls = [item for item in first.output if item.type == "function_call"]
    assert {call.name for call in calls} == {"get_weather"}
    for call in calls:
        assert_fits(call.name, json.loads(call.arguments))
    items += [item.model_dump() for item in first.output]
    items += [{"type": "function_call_output", "call_id": call.call_id, "output": "snow, -7 °C"} for call in calls]
    second = client.responses.create(model="cuecard", input=items, tools=flat, extra_body=own)
    assert "snow" in second.output_text or "7" in second.output_text
