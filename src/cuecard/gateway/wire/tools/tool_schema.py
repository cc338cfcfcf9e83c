"""The schema of a reply that may call tools: the form that `answers.readers.tool_calls` reads.

Servers make a grammar of it, so it holds no more than what a value has to fit: descriptions and the like are left out,
and what a tool's own schema refers to is lifted to `$defs` at the top, under names that no two tools share. Patterns
are left out too: few servers can follow a regular expression with more than the simplest parts, and refuse the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from cuecard.answers.readers.tool_calls import ANSWER, ARGUMENTS, CALLS, NAME
from cuecard.domain.errors import BadInput

Schema = dict[str, Any]
MOST_CHARACTERS = 400_000
"""Of all schemas of a request, what is referred to counted wherever it is lifted."""
MOST_CALLS = 32
"""Calls in one reply: a small model may repeat itself without an end."""
_LEFT_OUT = (
    "title",
    "description",
    "examples",
    "example",
    "$comment",
    "$schema",
    "$id",
    "$defs",
    "definitions",
    "pattern",
)
_OF_SCHEMAS = ("properties", "patternProperties", "dependentSchemas")
"""Keywords whose values are schemas by name."""
_OF_VALUES = ("enum", "const", "default", "required", "dependentRequired")
"""Keywords whose values are no schemas."""


def union(
    tools: Iterable[tuple[str, Mapping[str, Any]]], answer: Mapping[str, Any] | None, *, parallel: bool
) -> Schema:
    """The schema of a reply: calls of these tools (name, schema of arguments), or an answer of this schema.

    `answer`: None where a tool has to be called. Raises BadInput for schemas that refer to what they do not hold.
    """
    lifting = _Lifting()
    calls = [_call(name, lifting.lifted(f"the parameters of {name!r}", schema)) for name, schema in tools]
    items = calls[0] if len(calls) == 1 else {"anyOf": calls}
    listed = {"type": "array", "items": items, "minItems": 1, "maxItems": MOST_CALLS if parallel else 1}
    whole = _object({CALLS: listed})
    if answer is not None:
        whole = {"anyOf": [whole, _object({ANSWER: lifting.lifted("response_format", answer)})]}
    return whole | ({"$defs": lifting.definitions} if lifting.definitions else {})


def _call(name: str, arguments: Schema) -> Schema:
    return _object({NAME: {"const": name}, ARGUMENTS: arguments})


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


class _Lifting:
    """Copies of schemas without what says nothing of values, and the definitions that they refer to."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._characters = self._schemas = 0

    def lifted(self, where: str, schema: Mapping[str, Any]) -> Schema:
        """A copy of one whole schema. Raises BadInput."""
        self._schemas += 1
        names: dict[str, str] = {}
        waiting: list[str] = []

        def refer(pointer: object) -> str:
            if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
                raise BadInput(f"{where} refer to {str(pointer)[:100]!r}", "put what is referred to into the schema")
            if pointer not in names:
                names[pointer] = f"schema{self._schemas}-{len(names) + 1}"
                waiting.append(pointer)
            return f"#/$defs/{names[pointer]}"

        copy: Schema = self._copy(schema, refer)
        while waiting:
            pointer = waiting.pop()
            self.definitions[names[pointer]] = self._copy(_at(schema, pointer, where), refer)
        return copy

    def _copy(self, value: Any, refer: Callable[[object], str]) -> Any:
        if isinstance(value, list):
            return [self._copy(item, refer) for item in value]
        if not isinstance(value, dict):
            return self._counted(value)
        return {key: self._part(key, inner, refer) for key, inner in value.items() if key not in _LEFT_OUT}

    def _part(self, key: str, value: Any, refer: Callable[[object], str]) -> Any:
        self._counted(key)
        if key == "$ref":
            return refer(value)
        if key in _OF_VALUES:
            return self._counted(value)
        if key in _OF_SCHEMAS and isinstance(value, dict):
            return {self._counted(name): self._copy(inner, refer) for name, inner in value.items()}
        return self._copy(value, refer)

    def _counted(self, value: Any) -> Any:
        self._characters += len(json.dumps(value, ensure_ascii=False))
        if self._characters > MOST_CHARACTERS:
            raise BadInput(f"the schemas of tools have more than {MOST_CHARACTERS} characters", "send fewer tools")
        return value


def _at(schema: Any, pointer: str, where: str) -> Any:
    """What a JSON pointer in a fragment leads to. Raises BadInput."""
    place = schema
    for part in unquote(pointer).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(place, list) and key.isdecimal() and len(key) < 6 and int(key) < len(place):
            place = place[int(key)]
        else:
            place = place.get(key) if isinstance(place, dict) else None
    if not isinstance(place, dict | bool):
        raise BadInput(f"{where} refer to {pointer[:100]!r}, which is not there", "correct the reference")
    return place
