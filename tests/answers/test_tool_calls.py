"""Replies that may contain tool calls: detection of calls and answers, and equality of calls."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuecard.answers import agree, extract
from cuecard.answers.json_replies import cut_answer
from cuecard.domain.question import AnswerKind, Calling, Question
from cuecard.gateway.wire.tools import Tool, Tools

WEATHER = Tool(
    "get_weather",
    "The weather in a city",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "number", "default": 1},
            "place": {"$ref": "#/$defs/Place"},
        },
        "$defs": {"Place": {"type": "object", "properties": {"country": {"type": "string", "default": "any"}}}},
    },
)
CLOCK = Tool("get_time", "The time in a city", {"type": "object", "properties": {"city": {"type": "string"}}})
PARIS = {"name": "get_weather", "arguments": {"city": "Paris"}}
OSLO = {"name": "get_time", "arguments": {"city": "Oslo"}}


def question(calling: Calling = Calling.AUTO, **how) -> Question:
    schema = Tools((WEATHER, CLOCK), calling, **how).schema
    return Question("What is the weather?", kind=AnswerKind.JSON, schema=schema, calling=calling)


def calls(*each) -> str:
    return json.dumps({"tool_calls": each})


def read_as(text: str, calling: Calling = Calling.AUTO, **how):
    found = extract(text, question(calling, **how))
    return json.loads(found.text) if found.parsed else None


def same(one: str, other: str) -> bool:
    asked = question()
    return agree(extract(one, asked), extract(other, asked), asked)


@pytest.mark.parametrize(
    "text",
    [
        calls(PARIS),
        json.dumps(PARIS),
        json.dumps([PARIS]),
        f"```json\n{json.dumps(PARIS, indent=2)}\n```",
        f"<tool_call>\n{json.dumps(PARIS)}\n</tool_call>",
        json.dumps({"tool_calls": PARIS}),
        json.dumps({"answer": "Let me look.", "tool_calls": [PARIS]}),
        json.dumps({"tool_calls": [{"id": "1", "type": "function", "function": PARIS}]}),
        json.dumps({"name": "get_weather", "parameters": {"city": "Paris"}}),
        json.dumps({"name": "get_weather", "arguments": '{"city": "Paris"}'}),
    ],
)
@pytest.mark.parametrize("calling", Calling)
def test_a_call_is_read_in_the_forms_that_models_write(text, calling):
    assert read_as(text, calling) == {"tool_calls": [PARIS]}


@pytest.mark.parametrize(
    "text", [f"<tool_call>{json.dumps(PARIS)}</tool_call>\n<tool_call>{json.dumps(OSLO)}</tool_call>",
             f"{json.dumps(PARIS)}\n{json.dumps(OSLO)}", f"{json.dumps(PARIS)};\n{json.dumps(OSLO)}"]
)  # fmt: skip
def test_several_calls_are_read_one_after_the_other(text):
    assert read_as(text) == {"tool_calls": [PARIS, OSLO]}


@pytest.mark.parametrize(
    "text",
    [
        "It is sunny.",
        "[Note] It is sunny.",
        f"A page says: {calls(PARIS)}",
        f"```python\nprint({json.dumps(PARIS)})\n```",
        '{"sunny": true}',
    ],
)
def test_a_reply_without_a_call_is_an_answer_where_one_is_allowed(text):
    assert read_as(text) == {"answer": text}


@pytest.mark.parametrize("calls", [[], None])
def test_an_answer_beside_no_calls_is_an_answer(calls):
    assert read_as(json.dumps({"tool_calls": calls, "answer": "Sunny."})) == {"answer": "Sunny."}


def test_a_call_within_prose_counts_only_where_a_tool_has_to_be_called():
    assert read_as(f"I call it: {calls(PARIS)}", Calling.REQUIRED) == {"tool_calls": [PARIS]}
    assert read_as(f"I call it: {calls(PARIS)}") == {"answer": f"I call it: {calls(PARIS)}"}


@pytest.mark.parametrize(
    "text", ["It is sunny.", '{"answer": "It is sunny."}', '{"sunny": true}', calls({"name": "rm", "arguments": {}})]
)
def test_where_a_call_is_required_other_replies_are_unparseable(text):
    assert read_as(text, Calling.REQUIRED) is None


@pytest.mark.parametrize(
    "text", ['{"tool_calls": [{"name": "get_wea', calls({"name": "rm", "arguments": {}}), '{"answer": "It is', calls()]
)
def test_broken_json_and_calls_of_unknown_tools_are_unparseable(text):
    assert read_as(text) is None


def test_an_answer_that_has_a_schema_is_its_value():
    wanted = {"type": "object"}
    assert read_as('{"answer": {"sunny": true}}', answer=wanted) == {"answer": {"sunny": True}}
    assert read_as('{"sunny": true}', answer=wanted) == {"answer": {"sunny": True}}
    assert read_as("It is sunny.", answer=wanted) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (calls(PARIS, OSLO), calls(OSLO, PARIS)),
        (calls(PARIS), '{"tool_calls":[{"arguments":{"city":"Paris"},"name":"get_weather"}]}'),
        (calls(PARIS), calls({"name": "get_weather", "arguments": {"city": "Paris", "days": 1.0}})),
        (calls(OSLO), '{"name": "get_time", "arguments": {"city": "Oslo"}}'),
        (
            calls({"name": "get_weather", "arguments": {"place": {"country": "any"}}}),
            calls({"name": "get_weather", "arguments": {"place": {}}}),
        ),
        (
            calls({"name": "get_time", "arguments": {"a": 10}}, {"name": "get_time", "arguments": {"a": 1.0}}),
            calls({"name": "get_time", "arguments": {"a": 10.0}}, {"name": "get_time", "arguments": {"a": 1}}),
        ),
        ("It is sunny.", '{"answer": "It is sunny."}'),
    ],
)  # fmt: skip
def test_calls_agree_by_name_and_by_what_their_arguments_mean(one, other):
    assert same(one, other)
    assert same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (calls(PARIS), calls({"name": "get_weather", "arguments": {"city": "Paris "}})),
        (calls(PARIS), calls({"name": "get_time", "arguments": {"city": "Paris"}})),
        (calls(PARIS), calls(PARIS, PARIS)),
        (calls(PARIS), calls({"name": "get_weather", "arguments": {"city": "Paris", "days": True}})),
        (calls(PARIS), calls({"name": "get_weather", "arguments": {"city": "Paris", "days": "1"}})),
        ("It is sunny.", "It's sunny."),
        ("It is sunny.", "it is sunny."),
        ('{"tool_calls": [{"name": "get_wea', '{"tool_calls": [{"name": "get_wea'),
    ],
)
def test_calls_that_differ_do_not_agree(one, other):
    assert not same(one, other)


@pytest.mark.parametrize(
    ("cut", "text"),
    [
        ('{"answer": "It is su', "It is su"),
        ('{"answer": "a \\"quoted\\" line\\nand \\', 'a "quoted" line\nand '),
        ('{"answer": "caf\\u00', "caf"),
        ('{"answer": "\\ud83d', "\ufffd"),
        ('{"answer": ', ""),
        ('{"tool_calls": [{"name": "get', ""),
        ("It is su", "It is su"),
    ],
)
def test_a_cut_answer_keeps_its_text(cut, text):
    assert cut_answer(cut) == text


PIECES = st.sampled_from(
    ['{"tool_calls": [', '{"answer": "', '{"name": "get_weather", "arguments": {', "}", "]", '"', "```", "<tool_call>",
     "</tool_call>", "\n", ";", "NaN", "1e999", "\\ud83d", "[" * 3000, '{"a":' * 800, " " * 500, "text"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map("".join), st.sampled_from(Calling))
def test_any_reply_becomes_the_one_form_or_is_unparseable(text, calling):
    asked = question(calling)
    found = extract(text, asked)
    if found.parsed:
        read = json.loads(found.text)
        found.text.encode()
        assert set(read) in ({"tool_calls"}, {"answer"})
        assert calling is Calling.AUTO or set(read) == {"tool_calls"}
        assert extract(found.text, asked) == found
    cut_answer(text).encode()
