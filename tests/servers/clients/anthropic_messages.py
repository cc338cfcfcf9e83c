# /// script
# dependencies = ["anthropic==2.14.0"]
# ///
"""Anthropic's client: messages, images, thinking, streams, tools, token counts and errors."""

from __future__ import annotations

from typing import Any

import anthropic
from cases import COUNT, DESCRIBE, DIGITS, FORECAST, KEY, MODEL, URL, WEATHER, case, picture, run

CLIENT = anthropic.Anthropic(base_url=URL.removesuffix("/v1"), api_key=KEY, max_retries=0, timeout=300)
ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 512, "messages": [{"role": "user", "content": COUNT}]}
THINKING = {"type": "enabled", "budget_tokens": 1024}


@case()
def text() -> None:
    message = CLIENT.messages.create(**ASKED, system="Be brief.")
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens > 0
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens > 0
    assert message.model_extra["cuecard"]["route"]
    assert message._request_id == message.id


@case()
def blocks_and_cache_control() -> None:
    cached = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    content = [{"type": "text", "text": COUNT, "cache_control": {"type": "ephemeral"}}]
    asked = ASKED | {"messages": [{"role": "user", "content": content}]}
    assert CLIENT.messages.create(**asked, system=[cached], metadata={"user_id": "u"}).content[0].text


@case(needs="images")
def image() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": picture()}
    content = [{"type": "image", "source": source}, {"type": "text", "text": DIGITS}]
    message = CLIENT.messages.create(**ASKED | {"messages": [{"role": "user", "content": content}]})
    assert message.content[0].text


@case()
def thinking() -> None:
    message = CLIENT.messages.create(**ASKED | {"model": "cuecard/transfer"}, thinking=THINKING)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking
    assert message.content[0].signature
    again = [
        *ASKED["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": "Sure?"},
    ]
    assert CLIENT.messages.create(**ASKED | {"messages": again}).content[-1].text


@case()
def stream() -> None:
    with CLIENT.messages.stream(**ASKED | {"model": "cuecard/transfer"}, thinking=THINKING) as events:
        kinds = list(dict.fromkeys(event.type for event in events))
        final = events.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[0].signature
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens > 0


@case()
def raw_stream() -> None:
    asked = ASKED | {"messages": [{"role": "user", "content": DESCRIBE}]}
    events = list(CLIENT.messages.create(**asked, stream=True))
    written = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert written
    assert events[-2].model_extra["cuecard"]["route"]


@case()
def cut() -> None:
    asked = ASKED | {"max_tokens": 2, "messages": [{"role": "user", "content": DESCRIBE}]}
    assert CLIENT.messages.create(**asked, extra_body={"temperature": 0.0}).stop_reason in ("max_tokens", "end_turn")


@case()
def count_tokens() -> None:
    counted = CLIENT.messages.count_tokens(model=MODEL, messages=ASKED["messages"], system="Be brief.")
    assert counted.input_tokens > 0


@case()
def beta() -> None:
    assert CLIENT.beta.messages.create(**ASKED, betas=["context-1m-2025-08-07"]).content[0].text


def refused(kind: str, **asked: Any) -> None:
    problem = None
    try:
        CLIENT.messages.create(**ASKED | asked)
    except anthropic.APIStatusError as error:
        problem = error
    assert problem is not None, "it was not refused"
    assert isinstance(problem.body, dict)
    assert (problem.body["type"], problem.body["error"]["type"]) == ("error", kind)
    assert problem.body["error"]["message"]
    assert problem.body["request_id"] == problem.request_id


@case()
def errors() -> None:
    refused("not_found_error", model="claude-not-served")
    refused("invalid_request_error", messages=[])
    refused("invalid_request_error", messages=[{"role": "user", "content": [{"type": "x"}]}])
    refused("invalid_request_error", max_tokens=0)


TOOL: Any = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def tools(messages: list[Any], **how: Any) -> Any:
    return ASKED | {"messages": messages, "tools": [TOOL]} | how


@case(needs="json")
def tool_loop() -> None:
    messages: list[Any] = [{"role": "user", "content": WEATHER}]
    message = CLIENT.messages.create(**tools(messages))
    assert message.stop_reason == "tool_use"
    [use] = [block for block in message.content if block.type == "tool_use"]
    assert "Paris" in use.input["city"]
    result = {"type": "tool_result", "tool_use_id": use.id, "content": FORECAST}
    messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    answer = CLIENT.messages.create(**tools(messages))
    assert answer.stop_reason == "end_turn"
    assert "snow" in answer.content[-1].text or "7" in answer.content[-1].text


@case(needs="json")
def tool_loop_streamed() -> None:
    messages: list[Any] = [{"role": "user", "content": WEATHER}]
    with CLIENT.messages.stream(**tools(messages)) as events:
        message = events.get_final_message()
    [use] = [block for block in message.content if block.type == "tool_use"]
    assert "Paris" in use.input["city"]
    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": FORECAST}]}
    messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    with CLIENT.messages.stream(**tools(messages)) as events:
        assert events.get_final_message().content[-1].text


@case(needs="json")
def tool_choice() -> None:
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        message = CLIENT.messages.create(**tools([{"role": "user", "content": "Hello from Bern."}], tool_choice=choice))
        assert {block.name for block in message.content if block.type == "tool_use"} == {"get_weather"}


@case(needs="json")
def tool_runner() -> None:
    """The client's own tool loop."""

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """The weather in a city.

        Args:
            city: The city's name.
        """
        return f"{city}: {FORECAST}"

    asked: Any = ASKED | {"messages": [{"role": "user", "content": WEATHER}], "tools": [get_weather]}
    final = CLIENT.beta.messages.tool_runner(**asked, max_iterations=4).until_done()
    assert final.content[-1].type == "text"


run()
