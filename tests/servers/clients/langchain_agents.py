# /// script
# dependencies = ["langchain==1.5.2", "langchain-openai==1.7.4"]
# ///
"""LangChain: messages, streams, images, all methods of structured output, tools and agents."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from cases import COUNT, DESCRIBE, DIGITS, FORECAST, KEY, MODEL, URL, WEATHER, case, picture, picture_url, run
from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain.tools import tool
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

SERVER: dict[str, Any] = {"base_url": URL, "api_key": KEY, "max_retries": 0, "timeout": 300}
CHAT = ChatOpenAI(model=MODEL, **SERVER)
SHORT = ChatOpenAI(model=MODEL, max_tokens=60, **SERVER)
RESPONSES = ChatOpenAI(model=MODEL, use_responses_api=True, **SERVER)
COW = "Describe a cow."
METHODS = ("function_calling", "json_mode", "json_schema")


class Diet(StrEnum):
    PLANTS = "plants"
    MEAT = "meat"
    BOTH = "both"


class Animal(BaseModel):
    """An animal."""

    name: str = Field(description="What it is called")
    diet: Diet
    legs: int | None = None
    sounds: list[str] = Field(default_factory=list, max_length=3)


class Product(BaseModel):
    """A product of two numbers."""

    factors: list[int]
    value: int


called: list[str] = []
"""Cities in calls of `get_weather`."""


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    called.append(city)
    return FORECAST


@tool
def get_time(city: str) -> str:
    """The local time in a city."""
    return f"12:30 in {city}"


@case()
def invoke() -> None:
    answer = CHAT.invoke(COUNT)
    assert isinstance(answer, AIMessage)
    assert answer.text
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"] == MODEL
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.usage_metadata["total_tokens"] > answer.usage_metadata["output_tokens"]


@case()
def conversation() -> None:
    messages: list[Any] = [SystemMessage("Be brief."), HumanMessage(COUNT)]
    messages += [CHAT.invoke(messages), HumanMessage("Are you sure? Answer with yes or no.")]
    assert CHAT.invoke(messages).text


@case()
def chain() -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "What is {a} times {b}?")])
    answer = (prompt | CHAT | StrOutputParser()).invoke({"a": 7, "b": 8})
    assert isinstance(answer, str)
    assert answer


@case()
def any_chat_model() -> None:
    model = init_chat_model(MODEL, model_provider="openai", **SERVER)
    assert model.invoke(COUNT).text


@case()
def stream() -> None:
    chunks = list(SHORT.stream(DESCRIBE))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.text == "".join(chunk.text for chunk in chunks)
    assert whole.text
    assert whole.response_metadata["finish_reason"] in ("stop", "length")


@case()
def stream_with_usage() -> None:
    usages = [chunk.usage_metadata for chunk in SHORT.stream(DESCRIBE, stream_usage=True) if chunk.usage_metadata]
    assert len(usages) == 1
    assert usages[0]["output_tokens"] > 0


@case()
async def asynchronous() -> None:
    answer = await CHAT.ainvoke(COUNT)
    assert answer.text
    assert "".join([chunk.text async for chunk in SHORT.astream(DESCRIBE)])
    kinds = {event["event"] async for event in SHORT.astream_events(DESCRIBE)}
    assert {"on_chat_model_start", "on_chat_model_stream", "on_chat_model_end"} <= kinds


@case()
def batch() -> None:
    answers = CHAT.batch([COUNT, "What is 2 plus 2? Answer with a number."])
    assert len(answers) == 2
    assert all(answer.text and answer.usage_metadata for answer in answers)


@case()
def stop() -> None:
    """The letter that first occurs last, as a stop sequence, ends the answer before it."""
    whole = SHORT.invoke(DESCRIBE).text
    letter = max(whole, key=whole.index)
    cut = SHORT.invoke(DESCRIBE, stop=[letter]).text
    streamed = "".join(chunk.text for chunk in SHORT.stream(DESCRIBE, stop=[letter]))
    assert letter not in cut + streamed
    assert bool(cut) == bool(streamed) == (len(set(whole)) > 1)


@case()
def parameters() -> None:
    model = ChatOpenAI(
        model=MODEL,
        temperature=0.0,
        top_p=0.9,
        seed=1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        n=1,
        reasoning_effort="low",
        metadata={"run": "r"},
        **SERVER,
    )
    assert model.invoke(COUNT).text


@case()
def completions() -> None:
    model = OpenAI(model=MODEL, **SERVER)
    assert model.invoke(COUNT).strip()
    assert "".join(model.stream(COUNT)).strip()


@case(needs="images")
def image() -> None:
    """An image block in LangChain's format, and one in OpenAI's."""
    standard = {"type": "image", "base64": picture(), "mime_type": "image/png"}
    openai_form = {"type": "image_url", "image_url": {"url": picture_url(), "detail": "auto"}}
    for block in (standard, openai_form):
        message = HumanMessage([{"type": "text", "text": DIGITS}, block])
        whole = CHAT.invoke([message]).text
        assert whole.strip().isdecimal()
        assert "".join(chunk.text for chunk in CHAT.stream([message])) == whole


@case()
def responses() -> None:
    answer = RESPONSES.invoke(COUNT)
    assert answer.text
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0
    assert RESPONSES.invoke([HumanMessage(COUNT), answer, HumanMessage("Are you sure?")]).text
    chunks = list(RESPONSES.stream(COUNT))
    assert "".join(chunk.text for chunk in chunks)
    assert [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]


@case(needs="json")
def structured_by_default() -> None:
    animal = CHAT.with_structured_output(Animal).invoke(COW)
    assert isinstance(animal, Animal)
    assert animal.name


def structured(method: str) -> None:
    asked = f"{COW} Answer in JSON with the keys name, diet (plants, meat or both), legs and sounds (a list)."
    animal = CHAT.with_structured_output(Animal, method=method).invoke(asked)
    assert isinstance(animal, Animal)
    assert "cow" in animal.name.lower()


@case(needs="json")
def structured_by_function_calling() -> None:
    structured("function_calling")


@case(needs="json")
def structured_by_json_mode() -> None:
    structured("json_mode")


@case(needs="json")
def structured_by_json_schema() -> None:
    structured("json_schema")


@case(needs="json")
def structured_with_raw() -> None:
    for method in ("function_calling", "json_schema"):
        both = CHAT.with_structured_output(Product, method=method, include_raw=True).invoke(COUNT)
        assert both["parsing_error"] is None
        assert isinstance(both["parsed"], Product)
        assert both["raw"].usage_metadata["output_tokens"] > 0


@case(needs="json")
def structured_streamed() -> None:
    for method in ("function_calling", "json_schema"):
        *_, last = CHAT.with_structured_output(Animal, method=method).stream(COW)
        assert isinstance(last, Animal)


@case(needs="json")
async def structured_asynchronously() -> None:
    assert isinstance(await CHAT.with_structured_output(Product).ainvoke(COUNT), Product)


@case(needs="json")
def structured_by_a_plain_schema() -> None:
    """A JSON schema instead of a class."""
    found = CHAT.with_structured_output(Animal.model_json_schema()).invoke(COW)
    assert Animal.model_validate(found)


@case(needs="json")
def structured_by_responses() -> None:
    assert isinstance(RESPONSES.with_structured_output(Product).invoke(COUNT), Product)


@case(needs="json")
def tool_loop() -> None:
    model = CHAT.bind_tools([get_weather])
    messages: list[Any] = [HumanMessage(WEATHER)]
    message = model.invoke(messages)
    [call] = message.tool_calls
    assert call["name"] == "get_weather"
    assert "Paris" in call["args"]["city"]
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    answer = model.invoke([*messages, message, result])
    assert not answer.tool_calls
    assert "snow" in answer.text or "7" in answer.text


@case(needs="json")
def tool_loop_streamed() -> None:
    model = CHAT.bind_tools([get_weather], strict=True, parallel_tool_calls=False)
    chunks = list(model.stream(WEATHER))
    message = chunks[0]
    for chunk in chunks[1:]:
        message += chunk
    [call] = message.tool_calls
    assert "Paris" in call["args"]["city"]
    history = [HumanMessage(WEATHER), message, get_weather.invoke(call)]
    assert "".join(chunk.text for chunk in model.stream(history))


@case(needs="json")
def tool_choice() -> None:
    for choice in ("any", "required", "get_weather", {"type": "function", "function": {"name": "get_weather"}}):
        model = CHAT.bind_tools([get_weather], tool_choice=choice)
        assert {call["name"] for call in model.invoke("Hello from Bern.").tool_calls} == {"get_weather"}
    assert CHAT.bind_tools([get_weather], tool_choice="none").invoke(COUNT).text


@case(needs="json")
def tool_loop_by_responses() -> None:
    model = RESPONSES.bind_tools([get_weather])
    message = model.invoke(WEATHER)
    [call] = message.tool_calls
    assert "Paris" in call["args"]["city"]
    assert model.invoke([HumanMessage(WEATHER), message, get_weather.invoke(call)]).text


FEW_STEPS: Any = {"recursion_limit": 10}
ASKED: Any = {"messages": [{"role": "user", "content": WEATHER}]}


def answered(messages: list[Any]) -> None:
    """Check that the tool was called for Paris and that the last message answers in text."""
    assert "Paris" in called[-1]
    assert [type(message) for message in messages[:3]] == [HumanMessage, AIMessage, ToolMessage]
    assert not messages[-1].tool_calls
    assert "snow" in messages[-1].text or "7" in messages[-1].text


@case(needs="json")
def agent() -> None:
    made = create_agent(CHAT, tools=[get_weather, get_time], system_prompt="You are a helpful assistant.")
    answered(made.invoke(ASKED, FEW_STEPS)["messages"])


@case(needs="json")
def agent_streamed() -> None:
    made = create_agent(CHAT, tools=[get_weather])
    steps = [step for update in made.stream(ASKED, FEW_STEPS, stream_mode="updates") for step in update]
    assert steps[:2] == ["model", "tools"]
    assert steps[-1] == "model"
    *_, last = made.stream(ASKED, FEW_STEPS, stream_mode="values")
    answered(last["messages"])


@case(needs="json")
async def agent_streamed_by_token() -> None:
    made = create_agent(CHAT, tools=[get_weather])
    written = ""
    async for token, about in made.astream(ASKED, FEW_STEPS, stream_mode="messages"):
        if about["langgraph_node"] == "model":
            written += token.text
    assert "Paris" in called[-1]
    assert "snow" in written or "7" in written


@case(needs="json")
def agent_with_structured_answer() -> None:
    class Weather(BaseModel):
        """The weather in a city."""

        sky: str
        degrees: int

    made = create_agent(CHAT, tools=[get_weather], response_format=Weather)
    answer = made.invoke(ASKED, FEW_STEPS)["structured_response"]
    assert isinstance(answer, Weather)
    assert "snow" in answer.sky.lower()


run()
