"""Anthropic's Messages API: requests, messages, stream events and errors in its wire format."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
import pytest
from gateways import COUNT, DESCRIBE, THOUGHT, disagreeing, gateway, model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cuecard.domain.errors import BadInput, ModelUnreachable
from cuecard.domain.question import Image
from cuecard.gateway.tables import Key, digest
from cuecard.gateway.wire import messages
from cuecard.models.images.images import decoded
from cuecard.models.replay import Says, ScriptedModel

ASKED: dict[str, Any] = {"model": "cuecard", "max_tokens": 100, "messages": [{"role": "user", "content": COUNT}]}
SHOWN = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
SECRET = "cue-of-the-tests"


@asynccontextmanager
async def plain(*given: Any, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    async with gateway(*given, **settings) as client:
        headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "context-1m-2025-08-07"}
        async with httpx2.AsyncClient(base_url=str(client.base_url), headers=headers) as http:
            yield http


def saying(*content: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return ASKED | {"messages": [{"role": role, "content": list(content)}]} | more


def events_of(answer: httpx2.Response) -> list[tuple[str, dict[str, Any]]]:
    """(name, data) of every event; the name must equal the type in the data."""
    reply = []
    for event in answer.text.split("\n\n"):
        if event:
            name, data = event.split("\n")
            reply.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    assert all(name == data["type"] for name, data in reply)
    return reply


# --- whole ------------------------------------------------------------------------------------------------------------


async def test_a_message_is_one_block_of_text_unless_thinking_is_enabled():
    async with plain(disagreeing()) as http:
        answer = await http.post("messages", json=ASKED | {"system": "Be brief."})
    reply = answer.json()
    assert (reply["type"], reply["role"], reply["model"]) == ("message", "assistant", "cuecard")
    assert reply["content"] == [{"type": "text", "text": "3"}]
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("end_turn", None)
    assert reply["id"].startswith("msg_")
    assert answer.headers["request-id"] == answer.headers["x-request-id"] == reply["id"]
    assert reply["cuecard"]["route"] == "transferred"


async def test_usage_is_the_sum_over_all_calls_with_cached_tokens_apart():
    async with plain(disagreeing()) as http:
        reply = (await http.post("messages", json=ASKED)).json()
    calls = reply["cuecard"]["calls"]
    prompt, cached = (sum(call[key] or 0 for call in calls) for key in ("prompt_tokens", "cached_tokens"))
    assert reply["usage"]["input_tokens"] + reply["usage"]["cache_read_input_tokens"] == prompt
    assert reply["usage"]["cache_read_input_tokens"] == cached
    assert reply["usage"]["output_tokens"] == sum(call["completion_tokens"] for call in calls)
    assert reply["usage"]["output_tokens_details"]["thinking_tokens"] == len(THOUGHT.split())


@pytest.mark.parametrize(
    ("thinking", "kinds"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, ["thinking", "text"]),
        ({"type": "adaptive"}, ["thinking", "text"]),
        ({"type": "adaptive", "display": "summarized"}, ["thinking", "text"]),
        ({"type": "adaptive", "display": "omitted"}, ["text"]),
        ({"type": "disabled"}, ["text"]),
    ],
)
async def test_the_reasoning_is_shown_where_thinking_is_enabled_and_the_route_does_not_depend_on_it(thinking, kinds):
    async with plain(disagreeing()) as http:
        reply = (await http.post("messages", json=ASKED | {"thinking": thinking})).json()
    assert [block["type"] for block in reply["content"]] == kinds
    if kinds[0] == "thinking":
        assert reply["content"][0] == {"type": "thinking", "thinking": THOUGHT, "signature": messages.SIGNATURE}
    assert reply["cuecard"]["route"] == "transferred"


async def test_the_thinking_budget_and_the_effort_limit_the_reasoning():
    async with plain(disagreeing()) as http:
        for more, tokens in ((SHOWN, 1024), ({"output_config": {"effort": "low"}}, 512),
                             ({"output_config": {"effort": "max"}}, 16384)):  # fmt: skip
            reply = (await http.post("messages", json=ASKED | more)).json()
            assert reply["cuecard"]["limits"] == {"answer_tokens": 100, "reasoning_tokens": tokens}


async def test_an_answer_that_is_cut_ends_with_max_tokens():
    models = {"small": model("tiny", "x"), "large": model("huge", "y", "word " * 300)}
    async with plain(models) as http:
        reply = (await http.post("messages", json=saying({"type": "text", "text": DESCRIBE}, max_tokens=5))).json()
    assert reply["stop_reason"] == "max_tokens"


async def test_an_answer_in_json_fits_the_schema_of_the_output_format():
    models = {"small": model("tiny", '{"cats": 3}'), "large": model("huge", '{"cats": 3}')}
    schema = {"type": "object", "properties": {"cats": {"type": "integer"}}}
    async with plain(models) as http:
        wanted = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
        reply = (await http.post("messages", json=ASKED | wanted)).json()
    assert json.loads(reply["content"][0]["text"]) == {"cats": 3}
    assert reply["cuecard"]["kind"] == "json"
    assert json.loads(models["large"].prompts[0].schema or "{}") == schema


# --- requests ---------------------------------------------------------------------------------------------------------


async def test_blocks_of_text_and_images_reach_the_models(board):
    models = disagreeing()
    data = base64.b64encode(board.read_bytes()).decode()
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    paper = {
        "type": "document",
        "title": "Cats",
        "source": {"type": "text", "media_type": "text/plain", "data": "Meow"},
    }
    cached = {"cache_control": {"type": "ephemeral"}}
    system = [{"type": "text", "text": "Be brief.", **cached}, {"type": "text", "text": "Be kind."}]
    async with plain(models) as http:
        asked = saying(picture | cached, paper, {"type": "text", "text": COUNT}, system=system)
        assert (await http.post("messages", json=asked)).status_code == 200
    system, user = models["large"].prompts[-1].turns[:2]
    assert system.text == "Be brief.\nBe kind."
    assert f"Cats\nMeow\n{COUNT}" in user.text
    assert len(user.images) == 1


def test_an_image_of_the_web_is_fetched_like_any_other():
    urls: list[str] = []
    picture = {"type": "image", "source": {"type": "url", "url": "https://cats.example/1.png"}}
    asked = messages.parse(
        saying(picture, {"type": "text", "text": COUNT}), lambda url: urls.append(url) or Image(b"x")
    )
    assert (urls, len(asked.question.images)) == (["https://cats.example/1.png"], 1)


async def test_an_answer_is_sent_back_with_the_next_question():
    models = disagreeing()
    async with plain(models) as http:
        first = (await http.post("messages", json=ASKED | SHOWN)).json()
        blocks = [*first["content"], {"type": "redacted_thinking", "data": "x"}]
        history = [
            *ASKED["messages"],
            {"role": "assistant", "content": blocks},
            {"role": "user", "content": "And dogs?"},
        ]
        again = await http.post("messages", json=ASKED | {"messages": history})
    assert again.status_code == 200
    turns = models["large"].prompts[-1].turns
    assert [turn.role for turn in turns[:3]] == ["user", "assistant", "user"]
    assert turns[1].text == "3"


async def test_what_other_parameters_there_are_is_ignored():
    cached = {"cache_control": {"type": "ephemeral"}}
    more = {"metadata": {"user_id": "u"}, "service_tier": "auto", "speed": "fast", "inference_geo": "eu", **cached}
    async with plain() as http:
        answer = await http.post(
            "messages?beta=true", json=ASKED | more | {"container": None, "top_p": 0.9, "temperature": 0.5}
        )
    assert answer.status_code == 200


TOOLS = [{"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {"x": {}}}}]
LOOKS = json.dumps({"tool_calls": [{"name": "look", "arguments": {"x": 1}}]})


def looking() -> dict[str, Any]:
    return {"small": model("tiny", LOOKS), "large": model("huge", LOOKS)}


async def test_a_call_of_a_tool_is_a_tool_use_block():
    async with plain(looking()) as http:
        message = (await http.post("messages", json=ASKED | {"tools": TOOLS})).json()
    [block] = message["content"]
    assert (block["type"], block["name"], block["input"]) == ("tool_use", "look", {"x": 1})
    assert message["stop_reason"] == "tool_use"
    assert message["cuecard"]["route"] == "agreed"


async def test_a_streamed_call_has_its_input_in_pieces():
    async with plain(looking()) as http:
        events = events_of(await http.post("messages", json=ASKED | {"tools": TOOLS, "stream": True}))
    [start] = [data["content_block"] for name, data in events if name == "content_block_start"]
    pieces = [data["delta"]["partial_json"] for name, data in events if name == "content_block_delta"]
    assert (start["type"], start["name"], start["input"]) == ("tool_use", "look", {})
    assert json.loads("".join(pieces)) == {"x": 1}
    [ending] = [data["delta"] for name, data in events if name == "message_delta"]
    assert ending["stop_reason"] == "tool_use"


async def test_the_result_of_a_tool_goes_to_the_models_and_a_text_comes_back():
    called = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"x": 1}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "four cats"}
    turns = [
        *ASKED["messages"],
        {"role": "assistant", "content": [called]},
        {"role": "user", "content": [result]},
    ]
    models = {"small": model("tiny", '{"answer": "Four."}'), "large": model("huge", '{"answer": "Four."}')}
    async with plain(models) as http:
        message = (await http.post("messages", json=ASKED | {"messages": turns, "tools": TOOLS})).json()
    assert message["content"] == [{"type": "text", "text": "Four."}]
    assert message["stop_reason"] == "end_turn"
    assert "four cats" in models["large"].prompts[0].turns[-1].text


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_stop_sequence_ends_the_text_and_is_named(stream, tools):
    written = '{"answer": "One cat. END Two cats."}' if tools else "One cat. END Two cats."
    models = {"small": model("tiny", written), "large": model("huge", written)}
    body = ASKED | {"stop_sequences": ["END"], "tools": tools, "stream": stream, "cuecard": {"strategy": "short:large"}}
    body |= {"messages": [{"role": "user", "content": "Describe the picture."}]}
    async with plain(models) as http:
        answer = await http.post("messages", json=body)
    if stream:
        events = events_of(answer)
        text = "".join(data["delta"].get("text", "") for name, data in events if name == "content_block_delta")
        [ending] = [data["delta"] for name, data in events if name == "message_delta"]
    else:
        ending = answer.json()
        text = "".join(block["text"] for block in ending["content"])
    assert text.strip() == "One cat."
    assert (ending["stop_reason"], ending["stop_sequence"]) == ("stop_sequence", "END")


def test_tools_and_their_calls_and_results_become_those_of_chat_completions():
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    called = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"x": 1}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "four"}]}
    body = {
        "messages": [
            {"role": "user", "content": COUNT},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "y"}, called]},
            {"role": "user", "content": [result, result | {"is_error": True}, {"type": "text", "text": "So?"}]},
        ],
        "tools": [{"name": "look", "description": "Looks.", "input_schema": schema, "cache_control": {}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    call = {"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
    assert messages.chat_messages(body) == [
        {"role": "user", "content": [{"type": "text", "text": COUNT}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "four"},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Error: four"},
        {"role": "user", "content": [{"type": "text", "text": "So?"}]},
    ]
    function = {"name": "look", "description": "Looks.", "parameters": schema}
    assert messages.chat_tools(body) == {
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }


@pytest.mark.parametrize(
    ("choice", "translated"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_a_choice_of_tools_has_its_counterpart(choice, translated):
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    assert messages.chat_tools({"tools": tools, "tool_choice": choice})["tool_choice"] == translated


# --- events -----------------------------------------------------------------------------------------------------------


async def test_a_stream_has_the_events_of_the_wire_in_their_order():
    async with plain(disagreeing()) as http:
        events = events_of(await http.post("messages", json=ASKED | SHOWN | {"stream": True}))
    assert [name for name, _ in events if name != "content_block_delta"] == [
        *("message_start", "content_block_start", "ping", "content_block_stop"),
        *("content_block_start", "content_block_stop", "message_delta", "message_stop"),
    ]
    start = events[0][1]["message"]
    assert (start["content"], start["stop_reason"], start["role"]) == ([], None, "assistant")
    assert start["usage"]["input_tokens"] > 0
    blocks = [(data["index"], data["content_block"]) for name, data in events if name == "content_block_start"]
    assert blocks == [
        (0, {"type": "thinking", "thinking": "", "signature": ""}),
        (1, {"type": "text", "text": ""}),
    ]
    deltas = [(data["index"], data["delta"]) for name, data in events if name == "content_block_delta"]
    thoughts = [delta["thinking"] for index, delta in deltas if delta["type"] == "thinking_delta" and index == 0]
    assert "".join(thoughts) == THOUGHT
    assert deltas[-2:] == [
        (0, {"type": "signature_delta", "signature": messages.SIGNATURE}),
        (1, {"type": "text_delta", "text": "3"}),
    ]
    end = events[-2][1]
    assert end["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert end["usage"]["output_tokens"] > len(THOUGHT.split())
    assert end["cuecard"]["route"] == "transferred"


async def test_without_thinking_a_stream_has_one_block_of_text():
    async with plain(disagreeing()) as http:
        asked = saying({"type": "text", "text": DESCRIBE}, stream=True)
        events = events_of(await http.post("messages", json=asked))
    assert [data["content_block"]["type"] for name, data in events if name == "content_block_start"] == ["text"]
    written = [data["delta"]["text"] for name, data in events if name == "content_block_delta"]
    assert "".join(written) == "3"


async def test_in_silence_a_stream_has_ping_events():
    async with plain(disagreeing(first_token_s=0.2), ping_s=0.05) as http:
        answer = await http.post("messages", json=ASKED | {"stream": True})
    names = [name for name, _ in events_of(answer)]
    assert names.count("ping") > 1
    assert names[0] == "message_start"


async def test_a_failure_in_the_midst_is_an_error_event():
    broken = {name: ScriptedModel(name, [Says(error=ModelUnreachable("gone"))] * 9) for name in ("small", "large")}
    async with plain(broken) as http:
        answer = await http.post("messages", json=ASKED | {"stream": True})
        whole = await http.post("messages", json=ASKED)
    name, reply = events_of(answer)[-1]
    assert (name, reply["error"]["type"]) == ("error", "overloaded_error")
    assert reply["request_id"] == answer.headers["request-id"]
    assert (whole.status_code, whole.json()["error"]["type"]) == (503, "overloaded_error")
    assert "retry-after" in whole.headers


# --- keys, counting, errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": SECRET}, 200),
        ({"authorization": f"Bearer {SECRET}"}, 200),
        ({"x-api-key": SECRET, "authorization": "Basic eDp5"}, 200),
        ({"x-api-key": SECRET, "authorization": "Bearer another"}, 200),
        ({"x-api-key": "another", "authorization": f"Bearer {SECRET}"}, 200),
        ({"x-api-key": "another"}, 401),
        ({"x-api-key": ""}, 401),
        ({}, 401),
    ],
)
async def test_a_key_is_read_from_either_header_on_every_path(headers, status):
    async with plain(keys=[Key(name="app", sha256=digest(SECRET))]) as http:
        for path, body in (("messages", ASKED), ("messages/count_tokens", ASKED), ("chat/completions", ASKED)):
            answer = await http.post(path, json=body, headers=headers)
            assert answer.status_code == status
        assert (await http.get("models", headers=headers)).status_code == status


async def test_counting_needs_no_limit_fetches_no_image_and_costs_no_request():
    picture = {"type": "image", "source": {"type": "url", "url": "https://cats.example/1.png"}}
    asked = saying(picture, {"type": "text", "text": COUNT * 10})
    del asked["max_tokens"]
    async with plain(keys=[Key(name="app", sha256=digest(SECRET), requests_per_minute=1)]) as http:
        for _ in range(3):
            counted = await http.post("messages/count_tokens", json=asked, headers={"x-api-key": SECRET})
            assert counted.json() == {"input_tokens": 256 + len(COUNT) * 10 // 4}


@pytest.mark.parametrize("path", ["messages", "messages/count_tokens"])
@pytest.mark.parametrize(
    ("request_", "status", "kind"),
    [
        ({"content": b"{"}, 400, "invalid_request_error"),
        ({"content": b"[]"}, 400, "invalid_request_error"),
        ({"content": b" " * 2**21}, 413, "request_too_large"),
        ({"content": b"\x1f\x8b"}, 415, "invalid_request_error"),
        ({"json": ASKED | {"model": "claude-not-served"}}, 404, "not_found_error"),
        ({"json": ASKED, "headers": {"origin": "https://elsewhere.example"}}, 403, "permission_error"),
        ({"json": ASKED, "headers": {"host": "rebound.example"}}, 403, "permission_error"),
    ],
    ids=["broken", "list", "large", "compressed", "model", "origin", "host"],
)
async def test_every_error_has_the_form_of_the_wire(path, request_, status, kind):
    async with plain() as http:
        answer = await http.post(path, **request_)
    reply = answer.json()
    assert (answer.status_code, reply["type"], reply["error"]["type"]) == (status, "error", kind)
    assert reply["error"]["message"]
    assert reply["request_id"] == answer.headers["request-id"]


async def test_a_conversation_that_the_server_is_to_keep_ends_in_the_code_that_makes_clients_send_it_whole():
    async with plain() as http:
        answer = await http.post("messages", json=ASKED | {"thread": {"type": "create"}})
    details = answer.json()["error"]["details"]
    assert (answer.status_code, details) == (400, {"error_code": "thread_unsupported_request"})


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "messages", 405), ("POST", "messages/batches", 404)])
async def test_so_has_an_error_about_the_path(method, path, status):
    async with plain() as http:
        answer = await http.request(method, path)
    assert (answer.status_code, answer.json()["type"]) == (status, "error")


async def test_a_client_over_its_limit_gets_an_error_of_the_wire():
    async with plain(keys=[Key(name="app", sha256=digest(SECRET), requests_per_minute=1)]) as http:
        first, second = [await http.post("messages", json=ASKED, headers={"x-api-key": SECRET}) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 429)
    assert second.json()["error"]["type"] == "rate_limit_error"
    assert int(second.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({key: value for key, value in ASKED.items() if key != "max_tokens"}, "max_tokens is missing"),
        (ASKED | {"max_tokens": 0}, "max_tokens is not a whole number of at least 1"),
        (ASKED | {"max_tokens": "many"}, "max_tokens is not a number"),
        (ASKED | {"messages": []}, "messages is not a list, or empty"),
        (ASKED | {"messages": "x"}, "messages is not a list, or empty"),
        (ASKED | {"messages": [1]}, "messages.0 has the role 'None'"),
        (ASKED | {"messages": [{"role": "tool", "content": "x"}]}, "messages.0 has the role 'tool'"),
        (ASKED | {"messages": [{"role": "user"}]}, "messages.0 has no content"),
        (ASKED | {"messages": [{"role": "user", "content": []}]}, "a question needs a text"),
        (ASKED | {"system": [{"type": "image"}]}, "system has a block of type 'image'"),
        (ASKED | {"system": 5}, "system has no content"),
        (saying("x"), "messages.0 has a block without a type"),
        (saying({"type": "text"}), "messages.0 has a text block without a text"),
        (saying({"type": "search_result"}), "block of type 'search_result'"),
        (saying({"type": "image"}), "has an image from a 'None'"),
        (saying({"type": "image", "source": {"type": "file", "file_id": "f"}}), "has an image from a 'file'"),
        (saying({"type": "image", "source": {"type": "url"}}), "an image without its data"),
        (saying({"type": "image", "source": {"type": "base64", "media_type": "a,b", "data": "x"}}), "without its data"),
        (saying({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "%"}}), "base64"),
        (saying({"type": "document", "source": {"type": "base64", "data": "x"}}), "a document that is not a text"),
        (saying({"type": "tool_result"}), "a tool_result without a tool_use_id"),
        (saying({"type": "tool_use", "id": "1"}, role="assistant"), "a tool_use without an id, a name or an input"),
        (saying({"type": "image"}, role="assistant"), "block of type 'image'"),
        (ASKED | {"thinking": {"type": "enabled"}}, "budget_tokens of thinking"),
        (ASKED | {"thinking": {"type": "enabled", "budget_tokens": True}}, "budget_tokens of thinking"),
        (ASKED | {"thinking": {"type": "deep"}}, "thinking has the type 'deep'"),
        (ASKED | {"thinking": True}, "thinking is not an object"),
        (ASKED | {"output_config": {"effort": ["x"]}}, "reasoning_effort is no name of an effort"),
        (ASKED | {"output_config": {"format": {"type": "json_schema"}}}, "has no json_schema.schema"),
        (ASKED | {"stop_sequences": "x"}, "stop_sequences is not a list"),
        (ASKED | {"mcp_servers": [{"url": "https://x"}]}, "mcp_servers is not supported"),
        (ASKED | {"thread": {"type": "create"}}, "the gateway keeps no conversations"),
        (ASKED | {"tools": {"a": 1}}, "tools is not a list"),
        (ASKED | {"tools": [{"type": "web_search_20250305", "name": "search"}]}, "is of type 'web_search_20250305'"),
        (ASKED | {"tools": [{"type": "function", "function": {"name": "f"}}]}, '"input_schema": {…}'),
        (ASKED | {"tools": [{"name": "f"}], "tool_choice": {"type": "some"}}, "tool_choice has the type 'some'"),
        (ASKED | {"stream": "yes"}, "stream is neither true nor false"),
    ],
)  # fmt: skip
def test_an_error_names_what_is_wrong_with_a_request(asked, words):
    with pytest.raises(BadInput, match=words):
        messages.parse(asked, lambda url: Image(decoded(url)))


WORDS = st.sampled_from(
    ["type", "text", "role", "content", "source", "data", "media_type", "url", "id", "name", "input", "tool_use_id",
     "thinking", "budget_tokens", "effort", "format", "schema", "title", "is_error", "display", "input_schema"]
)  # fmt: skip
LEAF = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
JSON = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5), max_leaves=25
)
KINDS = st.sampled_from(
    ["text", "image", "document", "thinking", "tool_use", "tool_result", "enabled", "tool", "base64"]
)
BLOCK = st.dictionaries(WORDS, JSON, max_size=5) | st.fixed_dictionaries({"type": KINDS, "text": JSON, "source": JSON})
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": JSON | st.lists(BLOCK, max_size=4)}
)
BODY = st.fixed_dictionaries(
    {"model": st.just("cuecard"), "messages": JSON | st.lists(MESSAGE, max_size=4)},
    optional=dict.fromkeys((*messages.OWN[1:], "max_tokens", "stream", "cuecard"), JSON | BLOCK),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(BODY)
def test_a_malformed_request_is_refused_with_an_expected_error(body):
    with suppress(BadInput):
        assert messages.parse_countable(body, lambda url: Image(b"x")).question.text
