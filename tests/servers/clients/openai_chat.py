# /// script
# dependencies = ["openai==3.57.0"]
# ///
"""OpenAI's client for Python: chat completions, completions, responses, parsing and tools."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
from cases import COUNT, DESCRIBE, DIGITS, FORECAST, KEY, MODEL, URL, WEATHER, WITHOUT, case, picture_url, run
from pydantic import BaseModel

CLIENT = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=300)
ASYNC = openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=300)
ASKED: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": COUNT}]}
LONG = ASKED | {"messages": [{"role": "user", "content": DESCRIBE}], "max_tokens": 200}
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {"name": "get_weather", "description": "The weather in a city.", "parameters": PARAMETERS}


class Product(BaseModel):
    reason: str
    value: int


class Animal(BaseModel):
    name: str
    diet: Literal["plants", "meat", "both"]
    legs: int


def tools(messages: list[Any], **how: Any) -> Any:
    return ASKED | {"messages": messages, "tools": [{"type": "function", "function": TOOL}], "max_tokens": 200} | how


@case()
def models() -> None:
    assert MODEL in [model.id for model in CLIENT.models.list()]
    assert CLIENT.models.retrieve(MODEL).id == MODEL


@case()
def text() -> None:
    completion = CLIENT.chat.completions.create(**ASKED)
    assert completion.choices[0].message.content
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.completion_tokens > 0
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


@case()
def stream() -> None:
    chunks = list(CLIENT.chat.completions.create(**LONG, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert len({chunk.id for chunk in chunks}) == 1


@case()
async def asynchronous() -> None:
    completion = await ASYNC.chat.completions.create(**ASKED)
    assert completion.choices[0].message.content
    async with ASYNC.chat.completions.stream(**LONG) as events:
        kinds = {event.type async for event in events}
        final = await events.get_final_completion()
    assert "content.done" in kinds
    assert final.choices[0].message.content


@case()
def parameters() -> None:
    """Parameters that frameworks send by default, and parameters that servers support."""
    completion = CLIENT.chat.completions.create(
        **ASKED,
        temperature=0.0,
        top_p=0.9,
        seed=1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        logit_bias={},
        user="u",
        metadata={"run": "r"},
        store=False,
        n=1,
        parallel_tool_calls=None,
        reasoning_effort="low",
        stop=["\n\n\n"],
        extra_body={"top_k": 40, "min_p": 0.0, "repetition_penalty": 1.0, "chat_template_kwargs": {}},
    )
    assert completion.choices[0].message.content


@case()
def stop() -> None:
    whole = CLIENT.chat.completions.create(**LONG, temperature=0.0).choices[0].message.content
    word = whole[len(whole) // 2 :][:4]
    before = whole[: whole.index(word)]
    cut = CLIENT.chat.completions.create(**LONG, temperature=0.0, stop=word).choices[0]
    chunks = list(CLIENT.chat.completions.create(**LONG, temperature=0.0, stop=[word], stream=True))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert cut.message.content == streamed == before
    assert cut.finish_reason == "stop"


@case()
def logprobs() -> None:
    choice = CLIENT.chat.completions.create(**ASKED, logprobs=True, top_logprobs=2).choices[0]
    assert (choice.logprobs is None) == ("logprobs" in WITHOUT)
    if choice.logprobs is None:
        return
    assert "".join(token.token for token in choice.logprobs.content).strip() == choice.message.content.strip()
    assert all(token.logprob <= 0 for token in choice.logprobs.content)


@case(needs="images")
def image() -> None:
    content = [{"type": "image_url", "image_url": {"url": picture_url()}}, {"type": "text", "text": DIGITS}]
    asked = ASKED | {"messages": [{"role": "user", "content": content}]}
    whole = CLIENT.chat.completions.create(**asked).choices[0].message.content
    chunks = CLIENT.chat.completions.create(**asked, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert whole == streamed
    assert whole.strip().isdecimal()


@case()
def conversation() -> None:
    messages: list[Any] = [{"role": "developer", "content": "Be brief."}, *ASKED["messages"]]
    first = CLIENT.chat.completions.create(**ASKED | {"messages": messages}).choices[0].message
    messages += [first, {"role": "user", "content": "Are you sure? Answer with yes or no."}]
    assert CLIENT.chat.completions.create(**ASKED | {"messages": messages}).choices[0].message.content


@case()
def reasoning() -> None:
    asked = ASKED | {"extra_body": {"cuecard": {"strategy": "transfer", "budget": 128}}}
    message = CLIENT.chat.completions.create(**asked).choices[0].message
    assert message.content
    assert message.model_extra["reasoning_content"]


@case()
def completions() -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": COUNT, "max_tokens": 200}
    assert CLIENT.completions.create(**asked).choices[0].text
    assert "".join(chunk.choices[0].text for chunk in CLIENT.completions.create(**asked, stream=True) if chunk.choices)


@case(needs="json")
def parse() -> None:
    completion = CLIENT.chat.completions.parse(**ASKED, response_format=Product)
    assert isinstance(completion.choices[0].message.parsed, Product)


@case(needs="json")
def parse_streamed() -> None:
    asked = ASKED | {"messages": [{"role": "user", "content": "Describe a cow."}]}
    with CLIENT.chat.completions.stream(**asked, response_format=Animal) as events:
        final = events.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Animal)


@case(needs="json")
def json_object() -> None:
    asked = ASKED | {"messages": [{"role": "user", "content": 'What is 7 times 8? Answer as JSON: {"value": …}'}]}
    completion = CLIENT.chat.completions.create(**asked, response_format={"type": "json_object"})
    assert isinstance(json.loads(completion.choices[0].message.content), dict)


@case(needs="json")
def tool_loop() -> None:
    messages: list[Any] = [{"role": "user", "content": WEATHER}]
    message = CLIENT.chat.completions.create(**tools(messages)).choices[0].message
    [call] = message.tool_calls
    assert "Paris" in json.loads(call.function.arguments)["city"]
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": FORECAST}]
    choice = CLIENT.chat.completions.create(**tools(messages)).choices[0]
    assert choice.finish_reason == "stop"
    assert "snow" in choice.message.content or "7" in choice.message.content


@case(needs="json")
def tool_loop_streamed() -> None:
    messages: list[Any] = [{"role": "user", "content": WEATHER}]
    strict = [openai.pydantic_function_tool(City, name="get_weather", description="The weather in a city.")]
    with CLIENT.chat.completions.stream(**tools(messages, tools=strict, parallel_tool_calls=False)) as events:
        message = events.get_final_completion().choices[0].message
    [call] = message.tool_calls
    assert isinstance(call.function.parsed_arguments, City)
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": FORECAST}]
    with CLIENT.chat.completions.stream(**tools(messages)) as events:
        assert events.get_final_completion().choices[0].message.content


class City(BaseModel):
    city: str


@case(needs="json")
def tool_choice() -> None:
    forced = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", forced):
        asked = tools([{"role": "user", "content": "Hello from Bern."}], tool_choice=choice)
        message = CLIENT.chat.completions.create(**asked).choices[0].message
        assert {call.function.name for call in message.tool_calls} == {"get_weather"}
    none = CLIENT.chat.completions.create(**tools([{"role": "user", "content": COUNT}], tool_choice="none"))
    assert none.choices[0].message.content


@case()
def responses() -> None:
    response = CLIENT.responses.create(model=MODEL, input=COUNT, instructions="Be brief.")
    assert response.output_text
    assert response.status == "completed"
    assert response.usage.output_tokens > 0


@case()
def responses_streamed() -> None:
    with CLIENT.responses.stream(model=MODEL, input=DESCRIBE, max_output_tokens=200) as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert final.output_text


@case()
def responses_conversation() -> None:
    history: list[Any] = [{"role": "user", "content": COUNT}]
    first = CLIENT.responses.create(model=MODEL, input=history)
    history += [*first.output, {"role": "user", "content": "Are you sure? Answer with yes or no."}]
    assert CLIENT.responses.create(model=MODEL, input=history).output_text


@case(needs="images")
def responses_image() -> None:
    content: Any = [{"type": "input_image", "image_url": picture_url()}, {"type": "input_text", "text": DIGITS}]
    response = CLIENT.responses.create(model=MODEL, input=[{"role": "user", "content": content}])
    assert response.output_text.strip().isdecimal()


@case(needs="json")
def responses_parse() -> None:
    response = CLIENT.responses.parse(model=MODEL, input=COUNT, text_format=Product)
    assert isinstance(response.output_parsed, Product)


@case(needs="json")
def responses_tool_loop() -> None:
    flat: Any = [{"type": "function", "strict": True, **TOOL}]
    history: list[Any] = [{"role": "user", "content": WEATHER}]
    first = CLIENT.responses.create(model=MODEL, input=history, tools=flat)
    [call] = [item for item in first.output if item.type == "function_call"]
    assert "Paris" in json.loads(call.arguments)["city"]
    history += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": FORECAST}]
    with CLIENT.responses.stream(model=MODEL, input=history, tools=flat) as events:
        final = events.get_final_response()
    assert "snow" in final.output_text or "7" in final.output_text


@case()
def errors() -> None:
    problem = None
    try:
        CLIENT.chat.completions.create(**ASKED | {"model": "gpt-not-served"})
    except openai.NotFoundError as error:
        problem = error
    assert problem is not None
    assert problem.message
    try:
        CLIENT.chat.completions.create(**ASKED | {"messages": []})
    except openai.BadRequestError as error:
        problem = error
    assert isinstance(problem, openai.BadRequestError)


run()
