"""Answers in JSON: compared by what they say, not by how they are written."""

from __future__ import annotations

import json
import re
from typing import Any

from cuecard.answers.answer import UNPARSED, Answer

NO_JSON = "it is not one JSON value, with no name twice in an object"
_FENCE = re.compile(r"```(?:json)?[^\S\n]*+\n", re.IGNORECASE)
_ATTEMPTS = 50
_OPENS = re.compile(r"[\[{]")
_BRACKET = re.compile(r"[\[\]{}]")
_KEYED = re.compile(r'\s*"[^"\n]{0,100}"\s*:')


def read(shown: str) -> Answer:
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
