# /// script
# dependencies = ["pydantic-ai-slim[openai]==2.68.0"]
# ///
"""Pydantic AI's agents with its models for chat completions and the Responses API."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from cases import COUNT, DESCRIBE, DIGITS, FORECAST, KEY, MODEL, URL, WEATHER, case, given, run
from pydantic import BaseModel
from pydantic_ai import Agent, AgentRunResultEvent, BinaryContent, NativeOutput, PromptedOutput, RunContext, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import FunctionToolCallEvent, FunctionToolResultEvent, PartDeltaEvent, PartStartEvent
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

BRIEF = "Be brief."
NUMBERS = "Write the numbers from 1 to 10, separated by commas."
ANIMAL = "Describe a cow."


class Animal(BaseModel):
    name: str
    diet: Literal["plants", "meat", "both"]
    legs: int


class Product(BaseModel):
    reason: str
    value: int


class Forecast(BaseModel):
    city: str
    sky: str
    degrees: int


@dataclass
class Forecasts:
    """The data that an agent's tool reads."""

    text: str
    asked: list[str]


def chat() -> Model:
    return OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=URL, api_key=KEY))


def responses() -> Model:
    return OpenAIResponsesModel(MODEL, provider=OpenAIProvider(base_url=URL, api_key=KEY))


def both(needs: str = "") -> Callable[[Callable[[Model], Awaitable[None]]], None]:
    """Register a coroutine function as two cases, one for each of the models."""

    def register(function: Callable[[Model], Awaitable[None]]) -> None:
        for model in (chat, responses):

            @functools.wraps(function)
            async def with_model(model: Callable[[], Model] = model) -> None:
                await function(model())

            with_model.__name__ = f"{model.__name__}_{function.__name__}"
            case(needs)(with_model)

    return register


@both()
async def text(model: Model) -> None:
    result = await Agent(model, instructions=BRIEF).run(COUNT)
    assert result.output
    assert result.usage.requests == 1
    assert result.usage.input_tokens > 0
    assert result.usage.output_tokens > 0
    assert result.response.finish_reason == "stop"
    assert result.response.model_name == MODEL


@both()
async def stream(model: Model) -> None:
    async with Agent(model).run_stream(DESCRIBE, model_settings={"max_tokens": 60}) as result:
        grown = [text async for text in result.stream_text()]
    assert grown[-1]
    assert all(later.startswith(earlier) for earlier, later in pairwise(grown))
    assert await result.get_output() == grown[-1]
    assert result.usage.output_tokens > 0


@both()
async def stream_events(model: Model) -> None:
    pieces, results = [], []
    async with Agent(model).run_stream_events(DESCRIBE, model_settings={"max_tokens": 60}) as events:
        async for event in events:
            if isinstance(event, PartStartEvent) and event.part.part_kind == "text":
                pieces.append(event.part.content)
            elif isinstance(event, PartDeltaEvent) and event.delta.part_delta_kind == "text":
                pieces.append(event.delta.content_delta)
            elif isinstance(event, AgentRunResultEvent):
                results.append(event.result)
    [result] = results
    assert result.output == "".join(pieces).strip()
    assert result.usage.output_tokens > 0


@both(needs="images")
async def image(model: Model) -> None:
    board = BinaryContent(data=given.picture.read_bytes(), media_type="image/png")
    assert (await Agent(model).run([DIGITS, board])).output.strip().isdecimal()


@both()
async def history(model: Model) -> None:
    agent = Agent(model, system_prompt=BRIEF)
    first = await agent.run(COUNT)
    second = await agent.run("Are you sure? Answer with yes or no.", message_history=first.all_messages())
    assert second.output
    assert len(second.all_messages()) == 4


@case()
async def stop_sequences() -> None:
    cut = await Agent(chat(), model_settings={"stop_sequences": [", 7"]}).run(NUMBERS)
    assert cut.output
    assert ", 7" not in cut.output


@both()
async def settings(model: Model) -> None:
    settings: Any = {"temperature": 0.0, "top_p": 0.9, "seed": 1, "max_tokens": 60, "timeout": 300, "thinking": "low"}
    assert (await Agent(model, model_settings=settings).run(COUNT)).output


@case()
async def compatible_provider() -> None:
    provider = OpenAICompatibleProvider("cuecard", base_url=URL, api_key=KEY)
    assert (await Agent(OpenAIChatModel(MODEL, provider=provider)).run(COUNT)).output


@both(needs="json")
async def output_type(model: Model) -> None:
    """Default mode: the output object is the argument of a tool call."""
    result = await Agent(model, output_type=Animal).run(ANIMAL)
    assert isinstance(result.output, Animal)


@case(needs="json")
async def tool_output() -> None:
    agent = Agent(chat(), output_type=[ToolOutput(Animal, name="animal"), ToolOutput(Product, name="product")])
    assert isinstance((await agent.run(ANIMAL)).output, Animal | Product)


@both(needs="json")
async def native_output(model: Model) -> None:
    result = await Agent(model, output_type=NativeOutput(Animal)).run(ANIMAL)
    assert isinstance(result.output, Animal)


@both(needs="json")
async def prompted_output(model: Model) -> None:
    result = await Agent(model, output_type=PromptedOutput(Animal)).run(ANIMAL)
    assert isinstance(result.output, Animal)


@both(needs="json")
async def output_streamed(model: Model) -> None:
    async with Agent(model, output_type=Animal).run_stream(ANIMAL) as result:
        animals = [animal async for animal in result.stream_output()]
    assert isinstance(animals[-1], Animal)
    assert result.usage.output_tokens > 0


def forecaster(model: Model) -> Agent[Forecasts, str]:
    agent: Agent[Forecasts, str] = Agent(model, deps_type=Forecasts, instructions="Use the tool, then answer.")

    @agent.tool
    async def get_weather(context: RunContext[Forecasts], city: str) -> str:
        """The current weather in a city.

        Args:
            city: The city's name.
        """
        context.deps.asked.append(city)
        return context.deps.text

    return agent


@both(needs="json")
async def tool_with_deps(model: Model) -> None:
    forecasts = Forecasts(FORECAST, [])
    result = await forecaster(model).run(WEATHER, deps=forecasts)
    assert forecasts.asked
    assert all("Paris" in city for city in forecasts.asked)
    assert "snow" in result.output or "7" in result.output
    assert result.usage.tool_calls == len(forecasts.asked)
    assert result.usage.requests > 1


@both(needs="json")
async def tool_streamed(model: Model) -> None:
    forecasts = Forecasts(FORECAST, [])
    async with forecaster(model).run_stream(WEATHER, deps=forecasts) as result:
        answer = await result.get_output()
    assert "Paris" in forecasts.asked[0]
    assert answer


@case(needs="json")
async def tool_events() -> None:
    async with forecaster(chat()).run_stream_events(WEATHER, deps=Forecasts(FORECAST, [])) as events:
        seen = [event async for event in events]
    kinds = [type(event) for event in seen]
    assert kinds.index(FunctionToolCallEvent) < kinds.index(FunctionToolResultEvent)
    assert isinstance(seen[-1], AgentRunResultEvent)
    assert seen[-1].result.output


@both(needs="json")
async def tool_and_output_type(model: Model) -> None:
    """An agent that calls a tool and then returns an object."""
    agent: Agent[None, Forecast] = Agent(model, output_type=Forecast)
    asked = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The current weather in a city."""
        asked.append(city)
        return FORECAST

    result = await agent.run(WEATHER)
    assert "Paris" in asked[0]
    assert isinstance(result.output, Forecast)


@both()
async def errors(model: Model) -> None:
    problem = None
    try:
        await Agent(model).run(COUNT, model_settings={"temperature": -1.0})
    except ModelHTTPError as error:
        problem = error
    assert problem is not None, "it was not refused"
    assert problem.status_code == 400
    assert "temperature" in str(problem)


run()
