"""Replies in JSON, compared by what they mean, not by how they are written.

Replies that may call tools are read into one form, and compared by name and arguments:

    {"tool_calls": [{"name": …, "arguments": {…}}, …]}      or      {"answer": …}

That is also the form of a question's schema (`Union`). Servers that enforce it send nothing else. Of the others it is
read more widely: a call by itself or a list of calls, between fences or `<tool_call>` tags, arguments as JSON text, and
prose, which is an answer where one is allowed. Where prose is allowed, JSON within it is not a call: it may be quoted
from what a tool or a web page has sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cuecard.answers import schemas
from cuecard.answers.answer import UNPARSED, Answer
from cuecard.domain.question import Calling, Question

CALLS, ANSWER, NAME, ARGUMENTS = "tool_calls", "answer", "name", "arguments"
TEXT: Mapping[str, Any] = {"type": "string"}
"""The schema of an answer in words."""
_AROUND = re.compile(r"</?tool_calls?>|```[a-z]{0,12}", re.IGNORECASE)
_BEGINS = re.compile(
    r"(?:```[a-z]{0,12}\s{0,9}|<tool_calls?>\s{0,9})?(?:\[\s{0,9})?"
    r'\{\s{0,9}"(?:tool_calls|answer|name|function|arguments|parameters)"',
    re.IGNORECASE,
)
"""How JSON of the one form begins, or what is read as if it had it."""
_MOST_PIECES = 200
_MOST_REFERENCES = 32
"""References that are followed from one schema to the next, where they may lead in a circle."""
_ANSWER_BEGINS = re.compile(r'\{\s{0,9}"answer"\s{0,9}:\s{0,9}"')
_HALF_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")


NO_JSON = "it is not one JSON value, with no name twice in an object"
_FENCE = re.compile(r"```(?:json)?[^\S\n]*+\n", re.IGNORECASE)
_ATTEMPTS = 50
_OPENS = re.compile(r"[\[{]")
_BRACKET = re.compile(r"[\[\]{}]")
_KEYED = re.compile(r'\s*"[^"\n]{0,100}"\s*:')


@dataclass(frozen=True)
class Union:
    """What a schema of this form allows."""

    arguments: Mapping[str, Any]
    """Schemas of the tools' arguments, by the tool's name."""
    answer: Any
    """The schema of an answer; None: the reply has to call a tool."""
    definitions: Mapping[str, Any]
    most: int | None = None
    """Calls of a reply; further ones are left out. None: any number."""


@lru_cache(maxsize=8)
def union(schema: str) -> Union:
    """The parts of a question's schema."""
    whole = json.loads(schema)
    branches = whole.get("anyOf", [whole])
    items = branches[0]["properties"][CALLS]["items"]
    calls = [call["properties"] for call in items.get("anyOf", [items])]
    answer = branches[1]["properties"][ANSWER] if len(branches) > 1 else None
    most = branches[0]["properties"][CALLS].get("maxItems")
    return Union({call[NAME]["const"]: call[ARGUMENTS] for call in calls}, answer, whole.get("$defs", {}), most)


def read(shown: str, question: Question) -> Answer:
    """The only JSON value of a reply, or its calls of tools; unparseable where it does not fit the question's schema.

    Blocks while it is checked against the schema.
    """
    if question.calling is not None:
        try:
            return _calls_or_answer(shown.strip(), question)
        except RecursionError:  # nested too deep
            return UNPARSED
    found = read_json(shown)
    fits = question.schema is None or not found.parsed or schemas.misfit(question.schema, found.text) is None
    return found if fits else UNPARSED


# --- calls of tools ---------------------------------------------------------------------------------------------------


def _calls_or_answer(shown: str, question: Question) -> Answer:
    """The calls or the answer of a reply, as JSON of the one form; unparseable where it is neither."""
    assert question.schema is not None
    allowed, may_answer = union(question.schema), question.calling is Calling.AUTO
    found = _whole(shown)
    if found is None and not may_answer:  # prose is no reply here, so what it leads to is
        inner = read_json(shown)
        found = [json.loads(inner.text)] if inner.parsed else None
    if found is not None and (calls := _calls(found, allowed)) is not None:
        calls = calls[: allowed.most]
        return Answer(_json({CALLS: calls}), _compared({CALLS: sorted(_normal(call, allowed) for call in calls)}))
    if not may_answer:
        return UNPARSED
    if found is not None and len(found) == 1 and _is_form(found[0]) and ANSWER in found[0] and not found[0].get(CALLS):
        return _answer(found[0][ANSWER])
    if allowed.answer != TEXT:
        return UNPARSED if found is None or len(found) != 1 else _answer(found[0])
    if _BEGINS.match(shown) and (found is None or _claims_calls(found)):
        return UNPARSED  # broken off, or a call of what is no tool
    return _answer(shown)


def begun(shown: str) -> bool:
    """Whether a reply that was cut begins as a call or an answer of the one form."""
    return _BEGINS.match(shown.strip()) is not None


def cut_answer(shown: str) -> str:
    """The text of an answer that was cut within its JSON; empty where it had not begun."""
    shown = shown.strip()
    if (begun := _ANSWER_BEGINS.match(shown)) is None:
        return "" if _BEGINS.match(shown) else shown
    text = _HALF_ESCAPE.sub("", shown[begun.end() :])
    try:
        read, _ = json.JSONDecoder(strict=False).raw_decode(f'"{text}"')
    except ValueError:
        return ""
    return _HALF_CHARACTER.sub("\ufffd", str(read))


def _answer(value: Any) -> Answer:
    return Answer(_json({ANSWER: value}), _compared({ANSWER: value}))


def _whole(shown: str) -> list[Any] | None:
    """The JSON values that a reply consists of; None where there is anything else in it."""
    if (value := _loaded(shown)) is not None:
        return value
    pieces = [piece for piece in _AROUND.split(shown, _MOST_PIECES) if piece.strip()]
    found: list[Any] = []
    for piece in pieces:
        if (values := _loaded(piece) or _lines(piece)) is None:
            return None
        found += values
    return found or None


def _lines(text: str) -> list[Any] | None:
    """JSON values one a line."""
    lines = [line.strip().rstrip(";") for line in text.strip().split("\n", _MOST_PIECES)]
    values = [_loaded(line) for line in lines if line] if len(lines) > 1 else [None]
    return None if None in values else [value for found in values if found for value in found]


def _loaded(text: str) -> list[Any] | None:
    """The JSON value of a text, in a list; objects and lists only."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return [value]


def _calls(found: Sequence[Any], allowed: Union) -> list[dict[str, Any]] | None:
    """The calls of tools that there are; None if it is anything else."""
    values: list[Any] = []
    for each in found:
        listed = each[CALLS] if _is_form(each) and each.get(CALLS) else each
        values += listed if isinstance(listed, list) else [listed]
    calls = [_call(value, allowed) for value in values]
    return None if not calls or None in calls else [call for call in calls if call is not None]


def _call(value: Any, allowed: Union) -> dict[str, Any] | None:
    """One call. Models write it as {"type": "function", "function": {…}} too, and arguments as `parameters`."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or value.get(NAME) not in allowed.arguments:
        return None
    arguments = value.get(ARGUMENTS, value.get("parameters", {}))
    if isinstance(arguments, str):
        loaded = _loaded(arguments or "{}")
        arguments = loaded[0] if loaded else None
    return {NAME: value[NAME], ARGUMENTS: arguments} if isinstance(arguments, dict) else None


def _claims_calls(found: Sequence[Any]) -> bool:
    return any(isinstance(each, dict) and (CALLS in each or (NAME in each and ARGUMENTS in each)) for each in found)


def _is_form(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and set(value) <= {CALLS, ANSWER}


# --- comparing --------------------------------------------------------------------------------------------------------


def _normal(call: Mapping[str, Any], allowed: Union) -> str:
    """A call as text that is the same for calls that mean the same."""
    arguments = _without_defaults(call[ARGUMENTS], allowed.arguments[call[NAME]], allowed.definitions)
    return _compared({NAME: call[NAME], ARGUMENTS: arguments})


def _without_defaults(value: Any, schema: Any, definitions: Mapping[str, Any]) -> Any:
    """The value without properties that equal their schema's `default`, wherever the schema says which one holds."""
    schema = _followed(schema, definitions)
    if isinstance(value, list):
        return [_without_defaults(item, schema.get("items"), definitions) for item in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties")
    wanted = properties if isinstance(properties, dict) else {}
    return {
        key: _without_defaults(inner, wanted.get(key), definitions)
        for key, inner in value.items()
        if not _is_default(inner, wanted.get(key))
    }


def _is_default(value: Any, schema: Any) -> bool:
    return isinstance(schema, dict) and "default" in schema and _compared(value) == _compared(schema["default"])


def _followed(schema: Any, definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a reference leads to; an empty one where that is no schema."""
    for _ in range(_MOST_REFERENCES):
        if not isinstance(schema, dict) or "$ref" not in schema:
            break
        schema = definitions.get(str(schema["$ref"]).removeprefix("#/$defs/"))
    return schema if isinstance(schema, dict) and "$ref" not in schema else {}


def _compared(value: Any) -> str:
    """A value as text, with its keys in order and 1 for 1.0, nothing else changed."""
    return _json(_plain_numbers(value), ordered=True)


def _plain_numbers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain_numbers(item) for item in value]
    return {key: _plain_numbers(item) for key, item in value.items()} if isinstance(value, dict) else value


def _json(value: Any, *, ordered: bool = False) -> str:
    """JSON in whole characters: half a one, which JSON can spell, is replaced."""
    return _HALF_CHARACTER.sub("\ufffd", json.dumps(value, sort_keys=ordered, ensure_ascii=False))


# --- one JSON value ---------------------------------------------------------------------------------------------------


def read_json(shown: str) -> Answer:
    """The only JSON value of a reply: the whole of it, what is fenced, or the one object or list within its text."""
    fenced = _fenced(shown)
    if (whole := _parsed(shown)) is not None:
        return whole
    found = [_parsed(text) for text in fenced or _within(shown)]
    values = {answer.value for answer in found if answer is not None}
    return found[-1] if found and found[-1] is not None and len(values) == 1 and None not in found else UNPARSED


def _fenced(text: str) -> list[str]:
    """What stands between fences."""
    found, at = [], 0
    while (opening := _FENCE.search(text, at)) and (end := text.find("```", opening.end())) >= 0:
        found.append(text[opening.end() : end])
        at = end + 3
    return found


def _parsed(text: str) -> Answer | None:
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_named_once)
        return Answer(text.strip(), json.dumps(value, sort_keys=True, ensure_ascii=False))
    except (ValueError, RecursionError):
        return None


def _no_constant(name: str) -> None:
    """Python's reader takes NaN and Infinity, which JSON has not."""
    raise ValueError(name)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ in which of two values of one name they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


def is_whole(text: str) -> bool:
    """Whether a text is one JSON object, list or string and nothing else, so that no more of it can have been cut."""
    return text.lstrip()[:1] in ("{", "[", '"') and _parsed(text.strip()) is not None


def _within(text: str) -> list[str]:
    """Every object or list in a text, outermost ones only, as far as a few attempts find them."""
    found, at, decoder, closing = [], 0, json.JSONDecoder(), _closings(text)
    for _ in range(_ATTEMPTS):
        if not (opening := _OPENS.search(text, at)):
            break
        try:
            _, at = decoder.raw_decode(text, opening.start())
            found.append(text[opening.start() : at])
        except (ValueError, RecursionError):
            # it opens no JSON: on behind all of a broken object, else behind the bracket
            at = opening.start() + 1
            at = closing.get(opening.start(), at) if opening[0] == "{" and _KEYED.match(text, at) else at
    return found


def _closings(text: str) -> dict[int, int]:
    """Where each bracket that is closed opens, and where its closing ends; brackets inside quoted texts count too."""
    closings, opened = {}, []
    for bracket in _BRACKET.finditer(text):
        if bracket[0] in "[{":
            opened.append(bracket.start())
        elif opened:
            closings[opened.pop()] = bracket.end()
    return closings
