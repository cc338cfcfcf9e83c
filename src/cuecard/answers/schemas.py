"""JSON Schemas: whether a schema is usable, and whether an answer fits it.

Schemas come from clients and answers from models: a pattern, `uniqueItems` or nested combinators can take practically
unlimited time. Therefore jsonschema checks them in child processes, which are killed after LIMIT_S. Schemas without
such keywords have a child process of their own, so that they do not wait for slow ones.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from cuecard.domain.errors import BadInput, ChecksBusy
from cuecard.worker import ChildWorker, off_the_loop

T = TypeVar("T")
LIMIT_S, BUSY_S = 2.0, 6.0
"""Timeout of a check, and of its wait for other checks, in seconds."""
_QUEUE_S = 20.0
"""Timeout of the wait in an executor's queue, in seconds."""
MOST_CHARS, MOST_DEPTH, MOST_ANSWER_CHARS = 50_000, 64, 1_000_000
"""Maximum characters and depth of a schema, as JSON; maximum characters of an answer to check."""
ANY_OBJECT = json.dumps({"type": "object"})
"""The schema of `json_object`."""
_QUICK_WORK = 40_000
_QUICK_NAMES = """$schema title description default examples deprecated readOnly writeOnly $comment type enum const
properties required additionalProperties propertyNames items prefixItems anyOf oneOf allOf not if then else
minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength minItems maxItems
minProperties maxProperties format"""
_QUICK = frozenset(_QUICK_NAMES.split())
"""Keywords with which every part of a schema without references checks each part of an answer at most once."""
_DATA = frozenset(("const", "enum", "default", "examples"))
_NAMED = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_REFERENCES = frozenset(("$ref", "$dynamicRef", "$recursiveRef"))
SCRIPT = Path(__file__).with_name("checks_worker.py")
"""Script of the child processes that check schemas or compare expressions."""
_SIMPLER = "send a smaller or simpler one: no nested quantifiers in patterns, fewer combinators"


@dataclass(frozen=True)
class Misfit:
    """Why an answer does not fit its schema. `repairable`: another answer may fit."""

    why: str
    repairable: bool = True


class Checker:
    """A child process that checks one schema or answer at a time."""

    def __init__(self) -> None:
        self._worker = ChildWorker(SCRIPT, "schemas")
        self._turn = threading.Lock()
        self.threads = ThreadPoolExecutor(2, "cuecard schemas")

    def why(self, schema: str, text: str | None = None) -> str | None:
        """Why a schema is invalid, or why a text does not fit it, else None. Raises TimeoutError, ChecksBusy."""
        if not self._turn.acquire(timeout=BUSY_S):
            raise ChecksBusy(f"other JSON schemas have been checked for more than {BUSY_S:g} s")
        try:
            job = {"schema": schema} if text is None else {"schema": schema, "text": text}
            reply, _ = self._worker.do(job, LIMIT_S)
        except EOFError as error:  # the child ran out of memory
            raise TimeoutError from error
        finally:
            self._turn.release()
        why = reply["why"]
        return None if why is None else str(why)


QUICK, SLOW = Checker(), Checker()
"""Checkers of this process: for checks known to be quick, and for all others."""


async def check(schema: str) -> None:
    """Check that a schema is usable. Raises BadInput, ChecksBusy."""
    try:
        why = await _off_the_loop(_checker(schema, 1), _verdict, schema)
    except TimeoutError:
        why = f"takes longer than {LIMIT_S:g} s to check; {_SIMPLER}"
    if why is not None:
        raise BadInput(f"the JSON schema {why}", "correct or simplify it; references work inside it only")


def misfit(schema: str, text: str) -> Misfit | None:
    """Why a JSON text does not fit a usable schema; None if it fits. Blocks during the check."""
    if len(text) > MOST_ANSWER_CHARS:
        return Misfit(f"it has more than {MOST_ANSWER_CHARS} characters")
    try:
        why = _checker(schema, _parts(json.loads(text))).why(schema, text)
    except TimeoutError:
        return Misfit(f"holding it against the schema takes longer than {LIMIT_S:g} s", repairable=False)
    except ChecksBusy as busy:
        return Misfit(busy.message, repairable=False)
    except (ValueError, RecursionError):
        return Misfit("it is no JSON that can be read")
    return None if why is None else Misfit(why)


async def misfit_soon(schema: str, text: str) -> Misfit | None:
    """Same as `misfit`, without blocking the event loop."""
    try:
        return await _off_the_loop(_checker(schema, len(text)), misfit, schema, text)
    except ChecksBusy as busy:
        return Misfit(busy.message, repairable=False)


def outline(schema: object) -> str | None:
    """Why a schema is refused without a full check: no object, too large, too deep, or with external references."""
    if not isinstance(schema, dict):
        return "is no object"
    try:
        if len(json.dumps(schema)) > MOST_CHARS:
            return f"has more than {MOST_CHARS} characters"
    except (ValueError, RecursionError):
        return f"is nested more than {MOST_DEPTH} deep"
    if sum(any(isinstance(each, dict | list) for each in level) for level in _levels(schema)) > MOST_DEPTH:
        return f"is nested more than {MOST_DEPTH} deep"
    for key, reference in _keywords(schema):
        if key in _REFERENCES and isinstance(reference, str) and not reference.startswith("#"):
            return f"refers to {reference[:100]!r}: only references inside it (#/$defs/…) are followed"
    return None


@lru_cache(maxsize=256)
def _verdict(schema: str) -> str | None:
    """Why a schema is refused, cached; a timeout is not cached."""
    if len(schema) > 6 * MOST_CHARS:  # MOST_CHARS characters, each escaped
        return f"has more than {MOST_CHARS} characters"
    try:
        found = json.loads(schema)
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {str(error)[:100]}"
    if (why := outline(found)) is not None:
        return why
    why = _checker(schema, 1).why(schema)
    return None if why is None else f"is not valid: {why}"


async def _off_the_loop(checker: Checker, work: Callable[..., T], *given: str) -> T:
    try:
        async with asyncio.timeout(_QUEUE_S) as queue:
            return await off_the_loop(checker.threads, work, *given)
    except TimeoutError as error:
        if not queue.expired():  # the check itself took too long
            raise
        raise ChecksBusy(f"other JSON schemas have been checked for more than {_QUEUE_S:g} s") from error


def _checker(schema: str, parts: int) -> Checker:
    """The checker for a schema; `parts`: number of values in an answer, or an upper limit."""
    size = _tree(schema)
    return QUICK if size is not None and size * parts <= _QUICK_WORK else SLOW


@lru_cache(maxsize=256)
def _tree(schema: str) -> int | None:
    """The number of values in a schema with only quick keywords; None for other schemas, or for invalid JSON."""
    try:
        found = json.loads(schema)
        is_tree = len(schema) <= MOST_CHARS and all(key in _QUICK for key, _ in _keywords(found))
        return _parts(found) if is_tree else None
    except (ValueError, RecursionError):
        return None


def _parts(value: object) -> int:
    """At most this many values and keys are in a value, itself included."""
    return 2 * sum(map(len, _levels(value)))


def _levels(value: object) -> Iterator[list[object]]:
    """The value, the values directly inside it, those directly inside these, and so on."""
    level = [value]
    while level:
        yield level
        nested = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [inner for each in nested for inner in each]


def _keywords(schema: object, *, named: bool = False) -> Iterator[tuple[str, object]]:
    """All keywords of a schema, each with its value. `named`: the keys are names, not keywords."""
    if isinstance(schema, list):
        for each in schema:
            yield from _keywords(each)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if not named:
                yield key, value
            if named or key not in _DATA:
                yield from _keywords(value, named=not named and key in _NAMED)
