# /// script
# dependencies = ["llama-index-llms-openai-like==0.8.1", "llama-index-core==0.14.25"]
# ///
"""LlamaIndex: chat, completions, images, structured output, tools and agents."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from cases import COUNT, DESCRIBE, DIGITS, FORECAST, KEY, MODEL, URL, WEATHER, WITHOUT, case, picture, picture_url, run
from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCallResult
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

SERVER: dict[str, Any] = {"model": MODEL, "api_base": URL, "api_key": KEY, "max_retries": 0, "timeout": 300}
LLM = OpenAILike(is_chat_model=True, is_function_calling_model=True, **SERVER)
SHORT = OpenAILike(is_chat_model=True, is_function_calling_model=True, max_tokens=60, **SERVER)
SCHEMAS = OpenAILike(is_chat_model=True, should_use_structured_outputs=True, **SERVER)
PLAIN = OpenAILike(is_chat_model=True, **SERVER)
COW = PromptTemplate("Describe a {animal}.")


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

    value: int


called: list[str] = []
"""Cities in calls of `get_weather`."""


def get_weather(city: str) -> str:
    """The weather in a city."""
    called.append(city)
    return FORECAST


def get_time(city: str) -> str:
    """The local time in a city."""
    return f"12:30 in {city}"


TOOLS = [FunctionTool.from_defaults(get_weather), FunctionTool.from_defaults(get_time)]


def asking(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


@case()
def chat() -> None:
    messages = [ChatMessage(role="system", content="Be brief."), *asking(COUNT)]
    response = LLM.chat(messages)
    assert response.message.content
    assert response.raw.usage.completion_tokens > 0
    assert response.additional_kwargs["total_tokens"] > 0
    messages += [response.message, *asking("Are you sure? Answer with yes or no.")]
    assert LLM.chat(messages).message.content


@case()
def stream_chat() -> None:
    responses = list(SHORT.stream_chat(asking(DESCRIBE)))
    written = "".join(response.delta or "" for response in responses)
    assert written
    assert responses[-1].message.content == written


@case()
def complete() -> None:
    response = LLM.complete(COUNT)
    assert response.text
    assert response.additional_kwargs["completion_tokens"] > 0


@case()
def stream_complete() -> None:
    responses = list(SHORT.stream_complete(DESCRIBE))
    written = "".join(response.delta or "" for response in responses)
    assert written
    assert responses[-1].text == written


@case()
def completions() -> None:
    """A model that is not declared as a chat model (the default) uses /v1/completions."""
    model = OpenAILike(max_tokens=60, **SERVER)
    assert model.complete(COUNT).text
    assert [response.text for response in model.stream_complete(COUNT)][-1]
    assert model.chat(asking(COUNT)).message.content


@case()
async def asynchronous() -> None:
    assert (await LLM.achat(asking(COUNT))).message.content
    assert (await LLM.acomplete(COUNT)).text
    assert "".join([response.delta or "" async for response in await SHORT.astream_chat(asking(DESCRIBE))])
    assert "".join([response.delta or "" async for response in await SHORT.astream_complete(DESCRIBE)])


@case()
def parameters() -> None:
    model = OpenAILike(
        is_chat_model=True,
        temperature=0.0,
        additional_kwargs={"seed": 1, "top_p": 0.9, "user": "u", "stop": ["\n\n\n"]},
        context_window=32768,
        **SERVER,
    )
    assert model.chat(asking(COUNT)).message.content


@case()
def logprobs() -> None:
    model = OpenAILike(is_chat_model=True, logprobs=True, top_logprobs=2, **SERVER)
    response = model.chat(asking(COUNT))
    assert response.message.content
    assert bool(response.logprobs) == ("logprobs" not in WITHOUT)


@case(needs="images")
def image() -> None:
    """An image in base64, and one as a URL."""
    for block in (ImageBlock(image=picture().encode(), image_mimetype="image/png"), ImageBlock(url=picture_url())):
        message = ChatMessage(role="user", blocks=[block, TextBlock(text=DIGITS)])
        whole = LLM.chat([message]).message.content
        assert whole.strip().isdecimal()
        *_, last = LLM.stream_chat([message])
        assert last.message.content == whole


def predicts(model: OpenAILike) -> None:
    animal = model.structured_predict(Animal, COW, animal="cow")
    assert isinstance(animal, Animal)
    assert animal.name


def predicts_streamed(model: OpenAILike, prompt: PromptTemplate = COW) -> None:
    *_, last = model.stream_structured_predict(Animal, prompt, animal="cow")
    assert isinstance(Animal.model_validate(last.model_dump()), Animal)


@case(needs="json")
def structured_predict() -> None:
    predicts(LLM)


@case(needs="json")
def structured_predict_streamed() -> None:
    """The client does not require the tool call, so the prompt has to request it from small models."""
    predicts_streamed(LLM, PromptTemplate("Describe a {animal}: call the tool Animal."))


@case(needs="json")
async def structured_predict_asynchronously() -> None:
    assert isinstance(await LLM.astructured_predict(Animal, COW, animal="cow"), Animal)


@case(needs="json")
def structured_predict_by_schema() -> None:
    predicts(SCHEMAS)


@case(needs="json")
def structured_predict_by_schema_streamed() -> None:
    predicts_streamed(SCHEMAS)


@case()
def structured_predict_by_prompt() -> None:
    """A model that is not declared to support tools gets the request for JSON in the prompt only."""
    question = PromptTemplate("What is {a} times {b}?")
    if "json" not in WITHOUT:
        assert isinstance(PLAIN.structured_predict(Product, question, a=7, b=8), Product)
        return
    failed = False
    try:
        PLAIN.structured_predict(Product, question, a=7, b=8)
    except ValueError:
        failed = True
    assert failed


@case(needs="json")
def structured_llm() -> None:
    for model in (LLM, SCHEMAS):
        response = model.as_structured_llm(Product).chat(asking(COUNT))
        assert isinstance(response.raw, Product)
        assert Product.model_validate_json(response.message.content) == response.raw


@case(needs="json")
def structured_llm_streamed() -> None:
    *_, last = LLM.as_structured_llm(Product).stream_chat(asking(f"{COUNT} Call the tool Product."))
    assert Product.model_validate_json(last.message.content)


@case(needs="json")
def predict_and_call() -> None:
    response = LLM.predict_and_call(TOOLS, WEATHER)
    assert response.response == FORECAST
    assert [source.tool_name for source in response.sources] == ["get_weather"]
    assert "Paris" in called[-1]


@case(needs="json")
def tool_loop() -> None:
    history = asking(WEATHER)
    response = LLM.chat_with_tools(TOOLS, chat_history=history)
    [call] = LLM.get_tool_calls_from_response(response)
    assert call.tool_name == "get_weather"
    assert "Paris" in call.tool_kwargs["city"]
    history += [
        response.message,
        ChatMessage(role="tool", content=FORECAST, additional_kwargs={"tool_call_id": call.tool_id}),
    ]
    answer = LLM.chat_with_tools(TOOLS, chat_history=history).message.content
    assert "snow" in answer or "7" in answer


@case(needs="json")
def tool_loop_streamed() -> None:
    *_, last = LLM.stream_chat_with_tools(TOOLS, user_msg=WEATHER)
    [call] = LLM.get_tool_calls_from_response(last)
    assert call.tool_name == "get_weather"
    assert "Paris" in call.tool_kwargs["city"]


@case(needs="json")
def tool_choice() -> None:
    for how in ({"tool_required": True}, {"tool_choice": "get_weather"}):
        response = LLM.chat_with_tools(TOOLS[:1], user_msg="Hello from Bern.", **how)
        assert {call.tool_name for call in LLM.get_tool_calls_from_response(response)} == {"get_weather"}


@case(needs="json")
async def agent() -> None:
    made = FunctionAgent(tools=TOOLS, llm=LLM, streaming=False, system_prompt="You are a helpful assistant.")
    output = await made.run(WEATHER)
    assert "Paris" in called[-1]
    assert "snow" in str(output) or "7" in str(output)


@case(needs="json")
async def agent_streamed() -> None:
    """Agents stream by default."""
    handler = FunctionAgent(tools=[get_weather], llm=LLM).run(WEATHER)
    results, written = [], ""
    async for event in handler.stream_events():
        if isinstance(event, ToolCallResult):
            results.append((event.tool_name, event.tool_output.content))
        elif isinstance(event, AgentStream):
            written += event.delta
    output = await handler
    assert results[0] == ("get_weather", FORECAST)
    assert "snow" in str(output) or "7" in str(output)
    assert str(output) in written


run()
