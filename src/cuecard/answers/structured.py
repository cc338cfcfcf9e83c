"""Answers in JSON: compared by what they say, not by how they are written."""

from __future__ import annotations

import json
import re

from cuecard.answers.answer import UNPARSED, Answer

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_ATTEMPTS = 50
_OPENS = re.compile(r"[\[{]")
_BRACKET = re.compile(r"[\[\]{}]")
_KEYED = re.compile(r'\s*"[^"\n]{0,100}"\s*:')


def read(shown: str) -> Answer:
    """The only JSON value of a reply: the whole of it, what is fenced, or the one object or list within its text."""
    fenced = _FENCED.findall(shown)
    if (whole := _parsed(shown)) is not None:
        return whole
    found = [_parsed(text) for text in fenced or _within(shown)]
    values = {answer.value for answer in found if answer is not None}
    return found[-1] if found and found[-1] is not None and len(values) == 1 and None not in found else UNPARSED


def _parsed(text: str) -> Answer | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return Answer(text.strip(), json.dumps(value, sort_keys=True, ensure_ascii=False))


def _within(text: str) -> list[str]:
    """Every object or list in a text, outermost ones only, as far as a few attempts find them."""
    found, at, decoder = [], 0, json.JSONDecoder()
    for _ in range(_ATTEMPTS):
        if not (opening := _OPENS.search(text, at)):
            break
        try:
            _, at = decoder.raw_decode(text, opening.start())
            found.append(text[opening.start() : at])
        except (ValueError, RecursionError):
            at = _behind(text, opening.start())
    return found


def _behind(text: str, start: int) -> int:
    """Where to look on behind a bracket that opens no JSON: behind all of a broken object, else behind the bracket."""
    closing = _closing(text, start)
    broken = text[start] == "{" and _KEYED.match(text, start + 1)
    return closing if broken and closing else start + 1


def _closing(text: str, start: int) -> int | None:
    """Behind the bracket that closes the one at `start`; texts in quotes are not told apart."""
    depth = 0
    for found in _BRACKET.finditer(text, start):
        depth += 1 if found[0] in "[{" else -1
        if depth == 0:
            return found.end()
    return None
