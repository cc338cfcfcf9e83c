# /// script
# dependencies = ["litellm==1.110.2"]
# ///
"""LiteLLM's library: completions, the Responses API and Anthropic's messages, configured as in its docs."""

from __future__ import annotations

import json
import os
from typing import Any, Literal

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # use packaged model prices instead of a download

import litellm
from cases import COUNT, DESCRIBE, DIGITS, FORECAST, KEY, MODEL, URL, WEATHER, case, picture_url, run
from pydantic import BaseModel

OPENAI: dict[str, Any] = {"model": f"openai/{MODEL}", "api_base": URL, "api_key": KEY, "timeout": 300, "num_retries": 0}
ANTHROPIC = OPENAI | {"model": f"anthropic/{MODEL}", "api_base": URL.removesuffix("/v1")}
PROXY = OPENAI | {"model": f"litellm_proxy/{MODEL}"}
HOSTED = OPENAI | {"model": f"hosted_vllm/{MODEL}"}
NUMBERS = "Write the numbers from 1 to 10, separated by commas."
ANIMAL = "Describe a cow."
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER_TOOL = {"name": "get_weather", "description": "The weather in a city.", "parameters": PARAMETERS}
TOOLS: list[Any] = [{"type": "function", "function": WEATHER_TOOL}]


class Animal(BaseModel):
    name: str
    diet: Literal["plants", "meat", "both"]
    legs: int


def request(question: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}]}


@case()
def text() -> None:
    response = litellm.completion(**OPENAI, **request(COUNT))
    assert response.choices[0].message.content
    assert response.choices[0].finish_reason == "stop"
    assert response.usage.completion_tokens > 0
    assert response.usage.total_tokens == response.usage.prompt_tokens + response.usage.completion_tokens


@case()
def stream() -> None:
    asked = OPENAI | request(DESCRIBE) | {"max_tokens": 60}
    chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage.completion_tokens > 0
    built = litellm.stream_chunk_builder(chunks)
    assert built.choices[0].message.content
    assert built.choices[0].finish_reason in ("stop", "length")


@case()
async def asynchronous() -> None:
    response = await litellm.acompletion(**OPENAI, **request(COUNT))
    assert response.choices[0].message.content
    chunks = [chunk async for chunk in await litellm.acompletion(**OPENAI, **request(COUNT), stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"


@case()
def parameters() -> None:
    response = litellm.completion(
        **OPENAI,
        **request(COUNT),
        temperature=0.0,
        top_p=0.9,
        seed=1,
        n=1,
        max_tokens=60,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        logit_bias={},
        user="u",
        metadata={"run": "r"},
        extra_body={"top_k": 40},
        extra_headers={"x-run": "r"},
    )
    assert response.choices[0].message.content


@case()
def stop() -> None:
    for how in ({"stop": ", 7"}, {"stop": [", 7", "9"]}):
        chosen = litellm.completion(**OPENAI, **request(NUMBERS), **how).choices[0]
        assert chosen.message.content
        assert ", 7" not in chosen.message.content
        assert chosen.finish_reason == "stop"


@case(needs="images")
def image() -> None:
    url = {"type": "image_url", "image_url": {"url": picture_url()}}
    asked = OPENAI | request([{"type": "text", "text": DIGITS}, url])
    whole = litellm.completion(**asked).choices[0].message.content
    chunks = litellm.completion(**asked, stream=True)
    assert whole == "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert whole.strip().isdecimal()


@case()
def reasoning() -> None:
    message = (
        litellm.completion(**OPENAI, **request(COUNT), reasoning_effort="low", drop_params=True).choices[0].message
    )
    assert message.content


@case()
def text_completion() -> None:
    asked = OPENAI | {"model": f"text-completion-openai/{MODEL}", "prompt": COUNT, "max_tokens": 60}
    assert litellm.text_completion(**asked).choices[0].text
    assert "".join(chunk.choices[0].text or "" for chunk in litellm.text_completion(**asked, stream=True))


@case()
def other_providers() -> None:
    """LiteLLM's other providers for servers with OpenAI's API."""
    for provider in (PROXY, HOSTED):
        assert litellm.completion(**provider, **request(COUNT)).choices[0].message.content


@case(needs="json")
def response_format() -> None:
    response = litellm.completion(**OPENAI, **request(ANIMAL), response_format=Animal)
    assert isinstance(Animal.model_validate_json(response.choices[0].message.content), Animal)


@case(needs="json")
def response_format_streamed() -> None:
    chunks = litellm.completion(**OPENAI, **request(ANIMAL), response_format=Animal, stream=True)
    written = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert isinstance(Animal.model_validate_json(written), Animal)


@case(needs="json")
def json_object() -> None:
    asked = OPENAI | request('What is 7 times 8? Answer as JSON: {"value": …}')
    response = litellm.completion(**asked, response_format={"type": "json_object"})
    assert isinstance(json.loads(response.choices[0].message.content), dict)


def answered(message: Any, messages: list[Any]) -> list[Any]:
    """The conversation extended by the message and the result of its only tool call."""
    [call] = message.tool_calls
    assert call.function.name == "get_weather"
    assert "Paris" in json.loads(call.function.arguments)["city"]
    return [*messages, message, {"role": "tool", "tool_call_id": call.id, "name": "get_weather", "content": FORECAST}]


@case(needs="json")
def tool_loop() -> None:
    messages = request(WEATHER)["messages"]
    first = litellm.completion(**OPENAI, messages=messages, tools=TOOLS, tool_choice="auto").choices[0]
    assert first.finish_reason == "tool_calls"
    final = litellm.completion(**OPENAI, messages=answered(first.message, messages), tools=TOOLS).choices[0]
    assert final.finish_reason == "stop"
    assert "snow" in final.message.content or "7" in final.message.content


@case(needs="json")
def tool_loop_streamed() -> None:
    messages = request(WEATHER)["messages"]
    chunks = list(litellm.completion(**OPENAI, messages=messages, tools=TOOLS, stream=True))
    first = litellm.stream_chunk_builder(chunks).choices[0].message
    later = litellm.completion(**OPENAI, messages=answered(first, messages), tools=TOOLS, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in later)


@case()
def responses() -> None:
    response = litellm.responses(**OPENAI, input=COUNT, instructions="Be brief.")
    [message] = [item for item in response.output if item.type == "message"]
    assert message.content[0].text
    assert response.status == "completed"
    assert response.usage.output_tokens > 0


@case()
async def responses_streamed() -> None:
    asked = OPENAI | {"input": COUNT, "stream": True}
    for events in (list(litellm.responses(**asked)), [event async for event in await litellm.aresponses(**asked)]):
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert events[-1].type == "response.completed"
        assert events[-1].response.usage.output_tokens > 0


@case(needs="images")
def responses_image() -> None:
    content: Any = [{"type": "input_text", "text": DIGITS}, {"type": "input_image", "image_url": picture_url()}]
    response = litellm.responses(**OPENAI, input=[{"role": "user", "content": content}])
    assert response.output[-1].content[0].text.strip().isdecimal()


@case(needs="json")
def responses_text_format() -> None:
    response = litellm.responses(**OPENAI, input=ANIMAL, text_format=Animal)
    assert isinstance(Animal.model_validate_json(response.output[-1].content[0].text), Animal)


@case(needs="json")
def responses_tool_loop() -> None:
    flat: Any = [{"type": "function", **WEATHER_TOOL}]
    history: list[Any] = [{"role": "user", "content": WEATHER}]
    first = litellm.responses(**OPENAI, input=history, tools=flat)
    [call] = [item for item in first.output if item.type == "function_call"]
    assert "Paris" in json.loads(call.arguments)["city"]
    history += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": FORECAST}]
    final = litellm.responses(**OPENAI, input=history, tools=flat)
    assert final.output[-1].content[0].text


@case()
async def messages() -> None:
    """Anthropic's messages, which LiteLLM translates for OpenAI's API; their streams need LiteLLM's proxy installed."""
    for provider in (ANTHROPIC, OPENAI):
        message: Any = await litellm.anthropic.messages.acreate(**provider, **request(COUNT), max_tokens=512)
        assert message["content"][-1]["text"]
        assert message["stop_reason"] == "end_turn"
        assert message["usage"]["output_tokens"] > 0


@case()
def completion_of_messages() -> None:
    """Completions, which LiteLLM translates for Anthropic's API."""
    response = litellm.completion(**ANTHROPIC, **request(COUNT))
    assert response.choices[0].message.content
    assert response.usage.completion_tokens > 0
    chunks = litellm.completion(**ANTHROPIC, **request(COUNT), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@case(needs="json")
def tool_loop_of_messages() -> None:
    messages = request(WEATHER)["messages"]
    first = litellm.completion(**ANTHROPIC, messages=messages, tools=TOOLS).choices[0]
    final = litellm.completion(**ANTHROPIC, messages=answered(first.message, messages), tools=TOOLS).choices[0]
    assert final.message.content


@case()
def errors() -> None:
    problem = None
    try:
        litellm.completion(**OPENAI, **request(COUNT), temperature=-1.0)
    except litellm.BadRequestError as error:
        problem = error
    assert problem is not None, "it was not refused"
    assert "temperature" in str(problem)
    try:
        litellm.completion(**OPENAI | {"model": "openai/gpt-not-served"}, **request(COUNT))
    except litellm.NotFoundError as error:
        problem = error
    assert isinstance(problem, litellm.NotFoundError)


run()
