"""Replies in JSON, compared by meaning, not by spelling.

Replies that may call tools are normalised to one form, and compared by name and arguments:

    {"tool_calls": [{"name": …, "arguments": {…}}, …]}      or      {"answer": …}

A question's schema (`Union`) has the same form, so servers that enforce it send nothing else. Other replies are read
more leniently: a single call or a list of calls, between fences or `<tool_call>` tags, arguments as JSON text, and
prose, which is an answer if one is allowed. If prose is allowed, JSON within it is not a call: it may be a quotation
from the output of a tool or from a web page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cuecard.answers import schemas
from cuecard.domain.question import UNPARSED, Answer, Calling, Question

CALLS, ANSWER, NAME, ARGUMENTS = "tool_calls", "answer", "name", "arguments"
TEXT: Mapping[str, Any] = {"type": "string"}
"""The schema of an answer in prose."""
_AROUND = re.compile(r"</?tool_calls?>|```[a-z]{0,12}", re.IGNORECASE)
_BEGINS = re.compile(
    r"(?:```[a-z]{0,12}\s{0,9}|<tool_calls?>\s{0,9})?(?:\[\s{0,9})?"
    r'\{\s{0,9}"(?:tool_calls|answer|name|function|arguments|parameters)"',
    re.IGNORECASE,
)
"""The beginning of JSON in this form, or of JSON that is read as such."""
_MOST_PIECES = 200
_MOST_REFERENCES = 32
"""Maximum number of references followed from one schema to the next, as they may be circular."""
_ANSWER_BEGINS = re.compile(r'\{\s{0,9}"answer"\s{0,9}:\s{0,9}"')
_HALF_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")


_FENCE = re.compile(r"```(?:json)?[^\S\n]*+\n", re.IGNORECASE)
_ATTEMPTS = 50
_OPENS = re.compile(r"[\[{]")
_BRACKET = re.compile(r"[\[\]{}]")
_KEYED = re.compile(r'\s*"[^"\n]{0,100}"\s*:')


@dataclass(frozen=True)
class Union:
    """The content of a schema in this form."""

    arguments: Mapping[str, Any]
    """Schemas of the tools' arguments, by tool name."""
    answer: Any
    """The schema of an answer; None: the reply must call a tool."""
    definitions: Mapping[str, Any]
    most: int | None = None
    """Maximum number of calls in a reply; further ones are dropped. None: no limit."""


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
    """The only JSON value of a reply, or its tool calls; unparseable if it does not fit the question's schema.

    Blocks during the check against the schema.
    """
    if question.calling is not None:
        try:
            return _calls_or_answer(shown.strip(), question)
        except RecursionError:  # nested too deeply
            return UNPARSED
    found = read_json(shown)
    fits = question.schema is None or not found.parsed or schemas.misfit(question.schema, found.text) is None
    return found if fits else UNPARSED


# --- calls of tools ---------------------------------------------------------------------------------------------------


def _calls_or_answer(shown: str, question: Question) -> Answer:
    """The calls or the answer of a reply, as JSON in this form; unparseable if it is neither."""
    assert question.schema is not None
    allowed, may_answer = union(question.schema), question.calling is Calling.AUTO
    found = _whole(shown)
    if found is None and not may_answer:  # prose is no answer here, but may contain the call
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
    names_a_call = any(
        isinstance(each, dict) and (CALLS in each or (NAME in each and ARGUMENTS in each)) for each in found or ()
    )
    if _BEGINS.match(shown) and (found is None or names_a_call):
        return UNPARSED  # truncated, or a call of an unknown tool
    return _answer(shown)


def begun(shown: str) -> bool:
    """Whether a truncated reply begins as a call or an answer in this form."""
    return _BEGINS.match(shown.strip()) is not None


def cut_answer(shown: str) -> str:
    """The text of an answer that was truncated within its JSON; empty if the answer had not begun."""
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
    """The JSON values of a reply; None if it contains anything else."""
    if (value := _loaded(shown)) is not None:
        return [value]
    found: list[Any] = []
    for piece in filter(str.strip, _AROUND.split(shown, _MOST_PIECES)):
        values = _lines(piece) if (value := _loaded(piece)) is None else [value]
        if values is None:
            return None
        found += values
    return found or None


def _lines(text: str) -> list[Any] | None:
    """JSON values, one per line; None if a line is no JSON or there is only one."""
    lines = [line.strip().rstrip(";") for line in text.strip().split("\n", _MOST_PIECES)]
    values = [_loaded(line) for line in lines if line] if len(lines) > 1 else [None]
    return None if None in values else values


def _loaded(text: str) -> Any:
    """The JSON value of a text; None if it is no object or list."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return value


def _calls(found: Sequence[Any], allowed: Union) -> list[dict[str, Any]] | None:
    """The tool calls among the values; None if any value is not a call."""
    values: list[Any] = []
    for each in found:
        listed = each[CALLS] if _is_form(each) and each.get(CALLS) else each
        values += listed if isinstance(listed, list) else [listed]
    calls = [_call(value, allowed) for value in values]
    return None if not calls or None in calls else [call for call in calls if call is not None]


def _call(value: Any, allowed: Union) -> dict[str, Any] | None:
    """One call; also {"type": "function", "function": {…}}, and arguments as `parameters`, as some models write it."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or value.get(NAME) not in allowed.arguments:
        return None
    arguments = value.get(ARGUMENTS, value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _loaded(arguments or "{}")
    return {NAME: value[NAME], ARGUMENTS: arguments} if isinstance(arguments, dict) else None


def _is_form(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and set(value) <= {CALLS, ANSWER}


# --- comparing --------------------------------------------------------------------------------------------------------


def _normal(call: Mapping[str, Any], allowed: Union) -> str:
    """A call as text that is equal for calls with the same meaning."""
    arguments = _without_defaults(call[ARGUMENTS], allowed.arguments[call[NAME]], allowed.definitions)
    return _compared({NAME: call[NAME], ARGUMENTS: arguments})


def _without_defaults(value: Any, schema: Any, definitions: Mapping[str, Any]) -> Any:
    """The value without properties that equal their `default`, as far as the schema determines which one applies."""
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
        if not (isinstance(own := wanted.get(key), dict) and "default" in own)
        or _compared(inner) != _compared(own["default"])
    }


def _followed(schema: Any, definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a reference leads to; an empty one if it leads to no schema."""
    for _ in range(_MOST_REFERENCES):
        if not isinstance(schema, dict) or "$ref" not in schema:
            break
        schema = definitions.get(str(schema["$ref"]).removeprefix("#/$defs/"))
    return schema if isinstance(schema, dict) and "$ref" not in schema else {}


def _compared(value: Any) -> str:
    """A value as text, with keys in order and 1 for 1.0."""
    return _json(_plain_numbers(value), ordered=True)


def _plain_numbers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain_numbers(item) for item in value]
    return {key: _plain_numbers(item) for key, item in value.items()} if isinstance(value, dict) else value


def _json(value: Any, *, ordered: bool = False) -> str:
    """JSON text; lone surrogates, which JSON can express, are replaced."""
    return _HALF_CHARACTER.sub("\ufffd", json.dumps(value, sort_keys=ordered, ensure_ascii=False))


# --- one JSON value ---------------------------------------------------------------------------------------------------


def read_json(shown: str) -> Answer:
    """The only JSON value of a reply: the whole of it, its fenced part, or the one object or list within its text."""
    fenced = _fenced(shown)
    if (whole := _parsed(shown)) is not None:
        return whole
    found = [_parsed(text) for text in fenced or _within(shown)]
    values = {answer.value for answer in found if answer is not None}
    return found[-1] if found and found[-1] is not None and len(values) == 1 and None not in found else UNPARSED


def _fenced(text: str) -> list[str]:
    """The texts between fences."""
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
    """Refuse NaN and Infinity, which Python's parser accepts and JSON does not have."""
    raise ValueError(name)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse duplicate keys, as parsers differ in which of the values they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


def is_whole(text: str) -> bool:
    """Whether a text is exactly one JSON object, list or string, so that it cannot be truncated."""
    return text.lstrip()[:1] in ("{", "[", '"') and _parsed(text.strip()) is not None


def _within(text: str) -> list[str]:
    """The outermost objects and lists in a text, found within a limited number of attempts."""
    found, at, decoder, closing = [], 0, json.JSONDecoder(), _closings(text)
    for _ in range(_ATTEMPTS):
        if not (opening := _OPENS.search(text, at)):
            break
        try:
            _, at = decoder.raw_decode(text, opening.start())
            found.append(text[opening.start() : at])
        except (ValueError, RecursionError):
            # no JSON begins here: continue after the whole of a broken object, else after the bracket
            at = opening.start() + 1
            at = closing.get(opening.start(), at) if opening[0] == "{" and _KEYED.match(text, at) else at
    return found


def _closings(text: str) -> dict[int, int]:
    """For each closed bracket: start -> end of its closing; brackets inside quoted texts count too."""
    closings, opened = {}, []
    for bracket in _BRACKET.finditer(text):
        if bracket[0] in "[{":
            opened.append(bracket.start())
        elif opened:
            closings[opened.pop()] = bracket.end()
    return closings
