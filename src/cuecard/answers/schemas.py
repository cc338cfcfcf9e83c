"""JSON Schemas: whether one can be used, and whether an answer fits it.

A schema comes from a client and an answer from a model: a pattern, `uniqueItems` or nested combinators can take
practically for ever. So both are checked by jsonschema in child processes that are killed when they take longer than
LIMIT_S. Schemas without such keywords have a child of their own, which waits for no slow one.
"""

from __future__ import annotations

import asyncio
import atexit
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
"""Seconds that a check may take, and that it may wait for others."""
_QUEUE_S = 20.0
"""The same where many wait."""
MOST_CHARS, MOST_DEPTH, MOST_ANSWER_CHARS = 50_000, 64, 1_000_000
"""Of a schema, as JSON; and characters of an answer that is checked."""
ANY_OBJECT = json.dumps({"type": "object"})
"""The schema of `json_object`."""
_QUICK_WORK = 20_000
_QUICK_NAMES = """$schema title description default examples deprecated readOnly writeOnly $comment type enum const
properties required additionalProperties propertyNames items prefixItems anyOf oneOf allOf not if then else
minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength minItems maxItems
minProperties maxProperties format"""
_QUICK = frozenset(_QUICK_NAMES.split())
"""Keywords by which every part of a schema, a tree without references, sees each part of an answer once at most."""
_DATA = frozenset(("const", "enum", "default", "examples"))
_NAMED = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_REFERENCES = frozenset(("$ref", "$dynamicRef", "$recursiveRef"))
SCRIPT = Path(__file__).with_name("checks_worker.py")
"""Of the child processes that check schemas, or compare expressions."""
_SIMPLER = "send a smaller or simpler one: no nested quantifiers in patterns, fewer combinators"


@dataclass(frozen=True)
class Misfit:
    """Why an answer does not fit its schema. `repairable`: another answer may."""

    why: str
    repairable: bool = True


class Checker:
    """A child process that checks one schema or answer at a time."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._worker = ChildWorker(SCRIPT, "schemas")
        self._turn = threading.Lock()
        self.threads = ThreadPoolExecutor(2, "cuecard schemas")

    def why(self, schema: str, text: str | None = None) -> str | None:
        """What is wrong with a schema, or with a text for it; None: nothing. Raises TimeoutError, ChecksBusy."""
        if not self._turn.acquire(timeout=BUSY_S):
            raise ChecksBusy(f"other JSON schemas have been checked for more than {BUSY_S:g} s")
        try:
            job = {"schema": schema} if text is None else {"schema": schema, "text": text}
            reply, _ = self._worker.do(job, self._limit_s)
        except EOFError as error:  # it ran out of memory
            raise TimeoutError from error
        finally:
            self._turn.release()
        why = reply["why"]
        return None if why is None else str(why)

    def close(self) -> None:
        """End the child; a later check starts another."""
        self._worker.close()


QUICK, SLOW = Checker(), Checker()
"""Those of this process: for what is known to be little work, and for all else."""
atexit.register(QUICK.close)
atexit.register(SLOW.close)


async def check(schema: str) -> None:
    """Whether answers can be held against a schema. Raises BadInput, ChecksBusy."""
    if (why := await _off_the_loop(_checker(schema, 1), _checked, schema)) is not None:
        raise BadInput(f"the JSON schema {why}", "correct or simplify it; references work inside it only")


def misfit(schema: str, text: str) -> Misfit | None:
    """Why a JSON text does not fit a schema that can be used; None where it fits. Blocks while it is checked."""
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
    """As `misfit`, without blocking the event loop."""
    try:
        return await _off_the_loop(_checker(schema, len(text)), misfit, schema, text)
    except ChecksBusy as busy:
        return Misfit(busy.message, repairable=False)


def outline(schema: object) -> str | None:
    """Why a schema is refused at a glance: no object, too large, too deep, or it refers to what is elsewhere."""
    if not isinstance(schema, dict):
        return "is no object"
    try:
        if len(json.dumps(schema)) > MOST_CHARS:
            return f"has more than {MOST_CHARS} characters"
    except (ValueError, RecursionError):
        return f"is nested more than {MOST_DEPTH} deep"
    if _depth(schema) > MOST_DEPTH:
        return f"is nested more than {MOST_DEPTH} deep"
    for reference in _references(schema):
        if not reference.startswith("#"):
            return f"refers to {reference[:100]!r}: only references inside it (#/$defs/…) are followed"
    return None


def _checked(schema: str) -> str | None:
    try:
        return _verdict(schema)
    except TimeoutError:
        return f"takes longer than {LIMIT_S:g} s to check; {_SIMPLER}"


@lru_cache(maxsize=256)
def _verdict(schema: str) -> str | None:
    """Remembered, unless it came to no end."""
    if len(schema) > 6 * MOST_CHARS:  # as many, each escaped
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
        async with asyncio.timeout(_QUEUE_S):
            return await off_the_loop(checker.threads, work, *given)
    except TimeoutError as error:
        raise ChecksBusy(f"other JSON schemas have been checked for more than {_QUEUE_S:g} s") from error


def _checker(schema: str, parts: int) -> Checker:
    """`parts`: of an answer, or a number above that."""
    size = _tree(schema)
    return QUICK if size is not None and size * parts <= _QUICK_WORK else SLOW


@lru_cache(maxsize=256)
def _tree(schema: str) -> int | None:
    """How many values a schema has whose keywords are all quick; None where one is not, or for no JSON."""
    try:
        found = json.loads(schema)
        return _parts(found) if len(schema) <= MOST_CHARS and _is_tree(found) else None
    except (ValueError, RecursionError):
        return None


def _is_tree(schema: object) -> bool:
    if not isinstance(schema, dict):
        return isinstance(schema, bool)
    for key, value in schema.items():
        if key not in _QUICK:
            return False
        if key in _NAMED and isinstance(value, dict):
            inner: list[object] = list(value.values())
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems") or (key == "items" and isinstance(value, list)):
            inner = value if isinstance(value, list) else []
        elif key in ("additionalProperties", "propertyNames", "items", "not", "if", "then", "else"):
            inner = [value]
        else:
            continue
        if not all(map(_is_tree, inner)):
            return False
    return True


def _parts(value: object) -> int:
    """Values in a value, itself and the names in objects included."""
    count, left = 0, [value]
    while left:
        each = left.pop()
        count += 1
        if isinstance(each, dict):
            count += len(each)
            left += each.values()
        elif isinstance(each, list):
            left += each
    return count


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while nested := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in nested for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def _references(schema: object, *, named: bool = False) -> Iterator[str]:
    """`named`: the keys are names, not keywords."""
    if isinstance(schema, list):
        for each in schema:
            yield from _references(each)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if not named and key in _REFERENCES and isinstance(value, str):
                yield value
            elif named or key not in _DATA:
                yield from _references(value, named=not named and key in _NAMED)
