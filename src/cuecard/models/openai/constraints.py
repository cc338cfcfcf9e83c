"""Constrained decoding of brief answers, in the dialects of the servers that offer it.

    llama.cpp   grammar              GBNF
    vLLM        structured_outputs   a regular expression
    SGLang      regex                a regular expression
    OpenAI      response_format      a JSON Schema: {"answer": …}

A constraint bounds the length and the form of an answer, never which letters or numbers can be given: every letter of
the question's options, both of yes and no, every number with its sign, separators, currency and unit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from cuecard.domain.question import AnswerKind, Question, letter

FIELD = "answer"


class Dialect(StrEnum):
    """How a server is asked for constrained decoding."""

    GRAMMAR = "grammar"
    STRUCTURED_OUTPUTS = "structured_outputs"
    REGEX = "regex"
    JSON_SCHEMA = "json_schema"


_NUMBER = r"[-+−]?[$€£¥]? ?[0-9]{1,30}([.,:/ ][0-9]{1,15}){0,6}(e[-+]?[0-9]{1,3})?( ?[%°a-zA-Z²³]{1,12}){0,2}[.]?"
_NUMBER_GBNF = (
    'root ::= " "? [-+−]? [$€£¥]? " "? [0-9]{1,30} ([.,:/ ] [0-9]{1,15}){0,6} ("e" [-+]? [0-9]{1,3})? '
    '(" "? [%°a-zA-Z²³]{1,12}){0,2} "."?'
)


def fields(question: Question, dialect: Dialect) -> Mapping[str, Any]:
    """What a request's body holds for an answer to a question of `prompt.GRAMMAR_KINDS`."""
    match dialect:
        case Dialect.GRAMMAR:
            return {"grammar": _gbnf(question)}
        case Dialect.STRUCTURED_OUTPUTS:
            return {"structured_outputs": {"regex": _regex(question)}}
        case Dialect.REGEX:
            return {"regex": _regex(question)}
        case Dialect.JSON_SCHEMA:
            return {
                "response_format": {"type": "json_schema", "json_schema": {"name": FIELD, "schema": _schema(question)}}
            }


def unwrapped(text: str) -> str:
    """The answer in a reply under `json_schema`; the reply as it is where it is no such object."""
    try:
        found = json.loads(text)[FIELD]
    except (ValueError, TypeError, KeyError):
        return text
    return found if isinstance(found, str) else json.dumps(found)


def _words(question: Question) -> list[str]:
    if question.kind is AnswerKind.CHOICE:
        return [letter(index) for index in range(len(question.options))]
    return ["yes", "no", "Yes", "No"]


def _gbnf(question: Question) -> str:
    if question.kind is AnswerKind.NUMBER:
        return _NUMBER_GBNF
    return 'root ::= " "? (' + " | ".join(f'"{word}"' for word in _words(question)) + ")"


def _regex(question: Question) -> str:
    return _NUMBER if question.kind is AnswerKind.NUMBER else " ?(" + "|".join(_words(question)) + ")"


def _schema(question: Question) -> Mapping[str, Any]:
    value = {"type": "number"} if question.kind is AnswerKind.NUMBER else {"type": "string", "enum": _words(question)}
    return {"type": "object", "properties": {FIELD: value}, "required": [FIELD], "additionalProperties": False}
