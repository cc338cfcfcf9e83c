"""The JSON schema of a reply that may contain tool calls."""

from __future__ import annotations

import json

import pytest

from cuecard.answers.json_replies import TEXT
from cuecard.domain.errors import BadInput
from cuecard.gateway.wire.tools import MOST_CHARACTERS, union

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}


def parts(*tools, answer=TEXT, parallel=True):
    whole = union([(f"f{at}", schema) for at, schema in enumerate(tools)], answer, parallel=parallel)
    listed = (whole["anyOf"][0] if "anyOf" in whole else whole)["properties"]["tool_calls"]
    each = listed["items"].get("anyOf", [listed["items"]])
    return whole, listed, [call["properties"]["arguments"] for call in each]


def test_a_reply_calls_tools_by_their_names_or_is_an_answer():
    assert union([("look", {"type": "object"})], TEXT, parallel=False) == {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "tool_calls": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {"name": {"const": "look"}, "arguments": {"type": "object"}},
                            "required": ["name", "arguments"],
                            "additionalProperties": False,
                        },
                        "minItems": 1,
                        "maxItems": 1,
                    }
                },
                "required": ["tool_calls"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {"answer": {"type": "string"}},
                "required": ["answer"],
                "additionalProperties": False,
            },
        ]
    }


def test_where_a_tool_has_to_be_called_there_is_no_other_branch():
    whole, listed, _ = parts({"type": "object"}, answer=None)
    assert "anyOf" not in whole
    assert listed["maxItems"] > 1


def test_two_tools_share_no_definition_and_none_is_left_behind():
    other = {"type": "object", "properties": {"node": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": {"type": "string"}}}
    first = {"type": "object", "properties": {"node": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": NODE}}
    whole, _, (one, two) = parts(first, other)
    places = [each["properties"]["node"]["$ref"].removeprefix("#/$defs/") for each in (one, two)]
    assert [whole["$defs"][place]["type"] for place in places] == ["object", "string"]
    assert whole["$defs"][places[0]]["properties"]["next"] == {"$ref": f"#/$defs/{places[0]}"}
    assert "$defs" not in one


@pytest.mark.parametrize(
    ("pointer", "kind"),
    [("#", "object"), ("#/properties/a~1b", "integer"), ("#/properties/a%2Fb", None), ("#/definitions/D", "boolean"),
     ("#/properties/any/anyOf/1", "null")],
)  # fmt: skip
def test_references_into_any_part_of_a_tools_schema_are_lifted(pointer, kind):
    schema = {
        "type": "object",
        "properties": {"a/b": {"type": "integer"}, "any": {"anyOf": [{}, {"type": "null"}]}, "it": {"$ref": pointer}},
        "definitions": {"D": {"type": "boolean"}},
    }
    if kind is None:
        with pytest.raises(BadInput, match="not there"):
            parts(schema)
        return
    whole, _, (arguments,) = parts(schema)
    place = arguments["properties"]["it"]["$ref"].removeprefix("#/$defs/")
    assert whole["$defs"][place]["type"] == kind


@pytest.mark.parametrize(
    "pointer", ["#/$defs/Missing", "https://example.org/schema", "#anchor", 7, "#/properties/x/enum/0", "#/required/9"]
)
def test_a_reference_to_what_is_not_there_is_refused(pointer):
    schema = {"type": "object", "properties": {"x": {"$ref": pointer}}, "required": []}
    with pytest.raises(BadInput, match="the parameters of 'f0' refer to"):
        parts(schema)


def test_only_what_a_value_has_to_fit_is_left():
    schema = {
        "type": "object",
        "title": "Look",
        "properties": {
            "title": {"type": "string", "description": "of a book", "pattern": "^(?!x)", "default": {"title": 1}},
            "description": {"enum": [{"title": "kept"}]},
        },
    }
    _, _, (arguments,) = parts(schema)
    assert arguments == {
        "type": "object",
        "properties": {
            "title": {"type": "string", "default": {"title": 1}},
            "description": {"enum": [{"title": "kept"}]},
        },
    }


@pytest.mark.parametrize("schema", [
    {"type": "object", "default": "x" * MOST_CHARACTERS},
    {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(MOST_CHARACTERS // 10)}},
])  # fmt: skip
def test_schemas_without_an_end_are_refused(schema):
    with pytest.raises(BadInput, match="characters"):
        parts(schema)


def test_nested_references_do_not_multiply_a_schema():
    schema = {"type": "object", "properties": {"end": {"const": "x" * 20_000}}}
    for _ in range(40):
        schema = {"type": "object", "properties": {"a": schema}}
    pointers = ["#" + "/properties/a" * depth for depth in range(40)]
    schema["properties"] |= {f"r{at}": {"$ref": pointer} for at, pointer in enumerate(pointers)}
    with pytest.raises(BadInput, match="characters"):
        json.dumps(parts(schema))
