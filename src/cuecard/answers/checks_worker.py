"""A child process that checks JSON Schemas, and texts against them, or compares expressions. Imports no Cuecard.

checks_worker.py schemas    {"schema": …}, or {"schema": …, "text": …} -> {"why": …}, None where nothing is wrong
checks_worker.py maths      {"truth": …, "given": …, "limit_s": …} -> {"same": …}; ends after limit_s of CPU time
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from itertools import islice
from typing import Any

MEMORY_BYTES = 512 * 2**20
MOST_ERRORS = 20
"""Maximum number of errors from which the most informative one is selected."""
_LONGEST = 240
_TRIALS: tuple[Any, ...] = (None, True, 0, "", [], {})
"""One value of each type: a schema with infinite self-reference fails on one of them."""
_DATA = ("const", "enum", "default", "examples")


class Wrong(Exception):
    """A schema is not usable."""


def main(does: str) -> None:
    """Process jobs until the input ends; an empty job only loads the libraries."""
    work = {"schemas": _check, "maths": _compare}[does]
    if does == "schemas":
        _limit()
    for line in sys.stdin:
        print(json.dumps({**work(json.loads(line)), "bytes": 0}), flush=True)


def _compare(job: dict[str, Any]) -> dict[str, Any]:
    """Compare two expressions; an unreadable one equals no other."""
    maths = import_module("math_verify")
    with suppress(AttributeError):  # on Windows, only the waiting side has a timeout
        signal.setitimer(signal.ITIMER_PROF, job.get("limit_s", 0))
    latex = [maths.LatexExtractionConfig()]
    pair = [
        maths.parse(f"${job[each]}$", extraction_config=latex, parsing_timeout=None)
        for each in ("truth", "given")
        if each in job
    ]
    same = len(pair) == 2 and bool(maths.verify(*pair, timeout_seconds=None))
    with suppress(AttributeError):
        signal.setitimer(signal.ITIMER_PROF, 0)
    return {"same": same}


def _check(job: dict[str, Any]) -> dict[str, Any]:
    import_module("jsonschema")
    return {"why": _wrong(job) if "schema" in job else None}


def _wrong(job: dict[str, Any]) -> str | None:
    try:
        validator = _validator(job["schema"])
        return None if "text" not in job else _misfit(validator, json.loads(job["text"]))
    except Wrong as wrong:
        return str(wrong)
    except RecursionError:
        return "it refers to itself without an end"
    except Exception as error:
        return _line(f"{type(error).__name__}: {error}")


@lru_cache(maxsize=64)
def _validator(text: str) -> Any:
    """The validator of a schema, without access to external references. Raises Wrong."""
    validators, referencing = import_module("jsonschema.validators"), import_module("referencing")
    schema = json.loads(text)
    if not isinstance(schema.get("$schema", ""), str):
        raise Wrong("$schema is not a text")
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except import_module("jsonschema.exceptions").SchemaError as error:
        raise Wrong(_line(f"at {error.json_path}: {error.message}")) from error
    _resolve(schema, referencing)
    validator = kind(schema, registry=referencing.Registry())
    for trial in _TRIALS:
        validator.is_valid(trial)
    return validator


def _resolve(schema: Any, referencing: Any) -> None:
    """Raises Wrong for an unresolvable reference; those below an `$id` of their own fail only when used."""
    objects = list(_objects(schema))
    if any(isinstance(each.get("$id"), str) for each in objects[1:]):
        return
    resource = referencing.Resource.from_contents(
        schema, default_specification=import_module("referencing.jsonschema").DRAFT202012
    )
    resolver = referencing.Registry().resolver_with_root(resource)
    for reference in (each.get("$ref") for each in objects):
        try:
            if isinstance(reference, str):
                resolver.lookup(reference)
        except referencing.exceptions.Unresolvable as error:
            raise Wrong(_line(f"the reference {reference!r} leads nowhere")) from error


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema and all objects in it that are no data, the schema first."""
    if isinstance(schema, dict):
        yield schema
    inner = schema.items() if isinstance(schema, dict) else enumerate(schema) if isinstance(schema, list) else ()
    for key, value in inner:
        if key not in _DATA:
            yield from _objects(value)


def _misfit(validator: Any, value: Any) -> str | None:
    """The part of a value that does not fit, on one line."""
    errors = list(islice(validator.iter_errors(value), MOST_ERRORS))
    if not errors:
        return None
    error = import_module("jsonschema.exceptions").best_match(errors)
    return _line(f"at {error.json_path}: {error.message}")


def _line(text: str) -> str:
    line = " ".join(text[: 20 * _LONGEST].split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _limit() -> None:
    """Limit the memory of this process, and let the kernel kill it first if the machine runs out."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
    with suppress(ImportError, OSError, ValueError, AttributeError):
        resource = import_module("resource")
        if sys.platform == "linux":
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, hard))


if __name__ == "__main__":
    main(sys.argv[1])
