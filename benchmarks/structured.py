"""Answers under JSON schemas:  python benchmarks/structured.py [--url URL#MODEL] [--questions N] [--strategies a,b]

Sends the gateway N questions for each of several schemas and each strategy, streamed and not. Counts valid answers,
errors, and invalid answers, of which there must be none. Without --url, both models are on a mock server that returns
prose, fences, wrong types and cut JSON, and refuses some schemas; with --url, both are on that server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import openai
from jsonschema import Draft202012Validator

from common import save

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "gateway"))

from gateways import gateway  # noqa: E402

from cuecard.models import spec  # noqa: E402
from cuecard.testing.mock_server import MockServer  # noqa: E402
from cuecard.testing.replies import Completion, HttpError, Received, Reply  # noqa: E402

PARTS = {"type": "array", "items": {"$ref": "#/$defs/part"}}
SCHEMAS: dict[str, Any] = {
    "object": None,
    "count": {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]},
    "list": {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 2, "maxItems": 3},
    "union": {
        "anyOf": [
            {"type": "object", "properties": {"name": {"const": "count"}}, "required": ["name"]},
            {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]},
        ]
    },
    "pattern": {"type": "object", "properties": {"code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}}},
    "reference": {
        "$defs": {
            "part": {"type": "object", "properties": {"parts": {"type": "array", "items": {"$ref": "#/$defs/part"}}}}
        },
        "$ref": "#/$defs/part",
    },
}
QUESTIONS = (
    "How many legs has a cat?",
    "Which colours has the flag of France?",
    "Give a code for a spare part.",
    "Which parts has a bicycle?",
)
STRATEGIES = ("short", "reason", "transfer", "mutual", "vote", "cascade")
ANSWERS = (
    "There are four, I think.",
    '{"count": 4}',
    'Here it is:\n```json\n{"count": 4, "answer": "four"}\n```',
    '["blue", "white", "red"]',
    '{"count": "four", "code": "ab-1"}',
    '{"code": "AB-123", "name": "count", "parts": [{"parts": []}]}',
    '{"count": 4, "why": "',
)


def faulty(rng: Random) -> Any:
    """Replies of a server without constrained decoding, sometimes status 500."""

    def reply(request: Received) -> Reply:
        return HttpError(500) if rng.random() < 0.03 else Completion(rng.choice(ANSWERS), "One after the other.")

    return reply


@asynccontextmanager
async def client_of(url: str | None, seed: int) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of a gateway in front of a real server (`url`), or of a faulty mock server that refuses patterns."""
    if url is not None:
        models = {role: spec.load(url, role) for role in ("small", "large")}
        async with gateway(models) as client:
            yield client
        return
    mock = MockServer(faulty(Random(seed)), models=["qwen3-8b"], refuses_keywords=["pattern"])
    async with mock as address:
        models = {role: spec.load(f"{address}#qwen3-8b", role) for role in ("small", "large")}
        async with gateway(models) as client:
            yield client


async def one(
    client: openai.AsyncOpenAI, question: str, schema: Any, strategy: str, *, stream: bool
) -> tuple[str, str]:
    """The result of one request (valid, error or invalid), and the answer or the error."""
    form: Any = {"type": "json_object"}
    if schema is not None:
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    request: Any = {
        "model": "cuecard",
        "messages": [{"role": "user", "content": question}],
        "response_format": form,
        "max_tokens": 200,
        "extra_body": {"cuecard": {"strategy": strategy, "budget": 100}},
    }
    text = ""
    try:
        if stream:
            async for chunk in await client.chat.completions.create(**request, stream=True):
                text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        else:
            text = (await client.chat.completions.create(**request)).choices[0].message.content or ""
    except openai.APIError as error:
        return ("invalid" if text else "error"), text or f"{error.code}: {error.message}"
    try:
        fits = Draft202012Validator(schema or {"type": "object"}).is_valid(json.loads(text))
    except ValueError:
        fits = False
    return ("valid" if fits else "invalid"), text


async def main(given: argparse.Namespace) -> int:
    ends: dict[str, Counter[str]] = {}
    errors: Counter[str] = Counter()
    async with client_of(given.url, given.seed) as client:
        for strategy in given.strategies.split(","):
            for stream in (False, True):
                row = ends[f"{strategy}, {'streamed' if stream else 'whole'}"] = Counter(valid=0, error=0, invalid=0)
                for name in given.schemas.split(","):
                    for number in range(given.questions):
                        question = QUESTIONS[number % len(QUESTIONS)]
                        end, reply = await one(client, question, SCHEMAS[name], strategy, stream=stream)
                        row[end] += 1
                        if end == "error":
                            errors[reply.partition(":")[0]] += 1
                        if end != "valid" or given.show:
                            print(f"{end}: {strategy}, {name}: {reply[:300]!r}")
    for where, row in ends.items():
        print(f"{where:24}" + "  ".join(f"{end} {count}" for end, count in row.items()))
    total = sum(ends.values(), Counter())
    print(
        "all: " + ", ".join(f"{end} {total[end]}" for end in ("valid", "error", "invalid")), "; errors:", dict(errors)
    )
    if given.save:
        how = {"upstream": given.name, "schemas": given.schemas.split(","), "questions": given.questions}
        figures = how | {"ends": {where: dict(row) for where, row in ends.items()}, "all": dict(total)}
        print(save(f"structured_{given.name}", figures | {"errors": dict(errors)}))
    return int(total["invalid"] > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", help="URL#MODEL of a server; default: a mock server with faults")
    parser.add_argument("--name", default="mock", help="what the results call the upstream")
    parser.add_argument("--questions", type=int, default=8, help="of each schema, strategy and way")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--schemas", default=",".join(SCHEMAS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print every answer")
    parser.add_argument("--save", action="store_true", help="write the counts under benchmarks/results")
    raise SystemExit(asyncio.run(main(parser.parse_args())))
