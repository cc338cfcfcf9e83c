"""JSON Schemas: which are supported, and which answers fit them."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuecard.answers import agree, extract, extract_soon, schemas
from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind, Question

COUNT = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}


def asked(schema: Any) -> Question:
    return Question("How many?", kind=AnswerKind.JSON, schema=json.dumps(schema))


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ('{"count": 3}', '{"count": 3}'),
        ('Sure:\n```json\n{"count": 3}\n```\nAnything else?', '{"count": 3}'),
        ('There are three: {"count": 3}.', '{"count": 3}'),
        ('{"count": "three"}', None),
        ('{"count": 3.5}', None),
        ("There are three.", None),
        ('{"count": 3, "count": 4}', None),
        ('{"count": 3, "more": NaN}', None),
        ('{"count": 3, "more": Infinity}', None),
        ('{"count": 3', None),
    ],
)
def test_an_answer_is_the_json_alone_and_one_that_does_not_fit_is_none(reply: str, text: str | None) -> None:
    found = extract(reply, asked(COUNT))
    assert (found.text if found.parsed else None) == text


def test_answers_that_do_not_fit_do_not_agree_even_if_they_are_the_same() -> None:
    wrong = extract('{"count": "3"}', asked(COUNT))
    assert not agree(wrong, wrong, asked(COUNT))


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "objekt"}, "not valid"),
        ({"type": "object", "required": "count"}, "not valid"),
        ({"pattern": "("}, "regex"),
        ({"$schema": 3}, "schema is not a text"),
        ({"$ref": "https://example.com/schema"}, "only references inside it"),
        ({"properties": {"a": {"$ref": "other.json#/a"}}}, "only references inside it"),
        ({"$dynamicRef": "file:///etc/passwd"}, "only references inside it"),
        ({"$ref": "#/$defs/missing"}, "leads nowhere"),
        ({"$ref": "#"}, "without an end"),
        ({"enum": ["x" * schemas.MOST_CHARS]}, "more than"),
        (json.loads('{"not":' * 70 + "{}" + "}" * 70), "deep"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_with_the_reason(schema: Any, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        asyncio.run(schemas.check(json.dumps(schema)))


@pytest.mark.parametrize(
    "schema",
    [
        COUNT,
        {"properties": {"$ref": {"type": "string"}}},
        {"const": {"$ref": "https://example.com"}},
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
        {"$defs": {"leaf": {"type": "integer"}}, "items": {"$ref": "#/$defs/leaf"}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {}}, "$ref": "#/definitions/a"},
    ],
)
def test_references_inside_a_schema_are_accepted(schema: Any) -> None:
    asyncio.run(schemas.check(json.dumps(schema)))


def test_branches_that_double_at_each_reference_are_refused_in_time() -> None:
    branches: dict[str, Any] = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(60)}
    with pytest.raises(BadInput, match="takes longer than"):
        asyncio.run(schemas.check(json.dumps({"$defs": branches | {"a60": {}}, "$ref": "#/$defs/a0"})))


def test_after_an_endless_pattern_later_answers_are_checked() -> None:
    pattern = json.dumps({"type": "string", "pattern": "^(a+)+$"})
    found = schemas.misfit(pattern, json.dumps("a" * 60 + "b"))
    assert found is not None
    assert not found.repairable
    assert "longer than" in found.why
    assert schemas.misfit(pattern, '"aa"') is None


async def test_a_slow_pattern_delays_neither_the_event_loop_nor_simple_schemas() -> None:
    pattern = {"type": "string", "pattern": "^(a+)+$"}
    slow = asyncio.create_task(extract_soon(json.dumps("a" * 60 + "b"), asked(pattern)))
    await asyncio.sleep(0)
    assert (await extract_soon('{"count": 3}', asked(COUNT))).parsed
    assert not slow.done()
    assert not (await slow).parsed


def test_a_reference_below_an_id_fetches_nothing() -> None:
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        base = f"http://127.0.0.1:{server.server_address[1]}"
        inner = {"$id": f"{base}/other", "$ref": "#/$defs/far"}
        schema = json.dumps({"$id": f"{base}/root", "$schema": f"{base}/meta", "properties": {"a": inner}})
        asyncio.run(schemas.check(schema))
        assert schemas.misfit(schema, '{"a": 1}') is not None
        with pytest.raises(BadInput):
            asyncio.run(schemas.check(json.dumps({"$ref": f"{base}/schema"})))
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
    assert fetched == []


LEAVES = st.sampled_from(
    [
        {"type": "integer"},
        {"type": "string", "maxLength": 3},
        {"type": "boolean"},
        {"enum": ["a", 1, None]},
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": "^[ab]*$"},
        {"const": {"a": 1}},
    ]
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(lambda one: {"type": "array", "items": one, "maxItems": 3, "uniqueItems": True}),
        st.lists(inner, min_size=1, max_size=3).map(lambda all_: {"anyOf": all_}),
        st.lists(inner, min_size=1, max_size=3).map(lambda all_: {"oneOf": all_}),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda named: {"type": "object", "properties": named, "required": [*named], "additionalProperties": False}
        ),
    ),
    max_leaves=5,
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["a", "b", "ab", "long"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(schema=SCHEMAS, value=VALUES)
def test_an_answer_is_accepted_exactly_where_the_schema_allows_it(schema: Any, value: Any) -> None:
    found = extract(json.dumps(value), asked(schema))
    assert found.parsed == jsonschema.Draft202012Validator(schema).is_valid(value)
