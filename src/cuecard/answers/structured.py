"""Answers in JSON: compared by what they say, not by how they are written."""

from __future__ import annotations

import json
import re

from cuecard.answers.answer import UNPARSED, Answer

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_ATTEMPTS = 50
_OPENS = re.compile(r"[\[{]")


def read(shown: str) -> Answer:
    """The only JSON value of a reply: the whole of it, what is fenced, or the one object or list within its text."""
    fenced = _FENCED.findall(shown)
    for text in (shown, *(fenced if len(fenced) == 1 else ())):
        try:
            return _answer(json.loads(text), text.strip())
        except (ValueError, RecursionError):
            continue
    found = [] if fenced else _within(shown)
    return _answer(json.loads(found[0]), found[0]) if len(found) == 1 else UNPARSED


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
            at = opening.end()
    return found


def _answer(value: object, text: str) -> Answer:
    return Answer(text, json.dumps(value, sort_keys=True, ensure_ascii=False))
