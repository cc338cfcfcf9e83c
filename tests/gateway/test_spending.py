"""The cost of a request is charged, counted and logged, however the request ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from gateways import COUNT, DESCRIBE, disagreeing, gateway, model

from cuecard import virtual_time
from cuecard.domain.call import Call, FinishReason, Mode, Usage
from cuecard.domain.errors import ModelRefused
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.gateway.config import AuditSettings
from cuecard.gateway.metrics import Audit
from cuecard.gateway.pairs import Service
from cuecard.gateway.records import Journal
from cuecard.gateway.spending import charge
from cuecard.gateway.tables import Key, digest
from cuecard.models.base import Model
from cuecard.models.openai import OpenAIModel
from cuecard.models.pool import Breaker, Pool, Replica
from cuecard.models.replay import Says, ScriptedModel
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, Stall

SECRET = "cue-of-the-tests"
MOST = 10_000
TOOLS = [{"type": "custom", "custom": {"name": "look"}}]


@asynccontextmanager
async def charged(models: dict[str, Model], most: int = MOST, **how: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with an API key that allows `most` tokens per minute."""
    keys = [Key(name="app", sha256=digest(SECRET), tokens_per_minute=most)]
    async with gateway(models, keys=keys, clock=lambda: 0.0, **how) as client:
        headers = {"authorization": f"Bearer {SECRET}"}
        root = str(client.base_url).removesuffix("v1/")
        async with httpx2.AsyncClient(base_url=root, headers=headers) as plain:
            yield plain


async def spent(plain: httpx2.AsyncClient) -> int:
    """Tokens charged to the key so far. The query costs no tokens."""
    answer = await plain.post("v1/decision", json=asked("cuecard/transfer"))
    return MOST - int(answer.headers["x-ratelimit-remaining-tokens"])


def asked(name: str = "cuecard", text: str = COUNT, **more: Any) -> dict[str, Any]:
    return {"model": name, "messages": [{"role": "user", "content": text}]} | more


async def leaves(plain: httpx2.AsyncClient, body: dict[str, Any], events: int) -> None:
    """Disconnect after this number of events of a stream."""
    async with plain.stream("POST", "v1/chat/completions", json=body | {"stream": True}) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            events -= line.startswith("data:")
            if not events:
                return


async def stats_once(plain: httpx2.AsyncClient, gone: int) -> dict[str, Any]:
    """Waits until the gateway counts `gone` disconnected clients; returns its statistics."""
    while (result := (await plain.get("stats")).json())["clients_gone"] < gone:  # noqa: ASYNC110 - the gateway has no event for it
        await asyncio.sleep(0.01)
    return result


def counted(stats: dict[str, Any]) -> int:
    return sum(row["tokens"] for row in stats["tokens"])


def lines(path: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("events", [2, 8, 30])
async def test_a_stream_that_is_left_is_charged_counted_and_noted(events, tmp_path):
    models = {"small": model("tiny", "2", "4"), "large": model("huge", "5", "word " * 60, token_s=0.01)}
    async with charged(models, journal=Journal(tmp_path / "log")) as plain:
        await leaves(plain, asked(text=DESCRIBE), events)
        stats = await stats_once(plain, 1)
        took = await spent(plain)
    line = lines(tmp_path / "log")[0]
    assert took == counted(stats) == line["usage"]["total_tokens"] > 0
    assert (line["end"], line["route"]) == ("client_gone", None)
    assert sum(call["completion_tokens"] for call in line["calls"]) > 0


async def test_a_client_that_leaves_repeatedly_uses_up_its_key():
    models = {"small": model("tiny", "2"), "large": model("huge", "word " * 400, token_s=0.002)}
    async with charged(models, most=100) as plain:
        await leaves(plain, asked("huge", DESCRIBE), 150)
        await stats_once(plain, 1)
        refused = await plain.post("v1/chat/completions", json=asked())
    assert refused.status_code == 429


async def test_a_request_that_is_not_streamed_is_charged_when_its_client_leaves(tmp_path):
    models = {"small": model("tiny", "2", "4"), "large": model("huge", "5", "word " * 60, token_s=0.05)}
    async with charged(models, journal=Journal(tmp_path / "log")) as plain:
        asking = asyncio.create_task(plain.post("v1/chat/completions", json=asked(text=DESCRIBE)))
        await asyncio.sleep(0.4)
        asking.cancel()
        stats = await stats_once(plain, 1)
    assert counted(stats) == lines(tmp_path / "log")[0]["usage"]["total_tokens"] > 0


async def test_a_request_that_fails_is_charged_for_the_calls_that_did_not(tmp_path):
    small = ScriptedModel("tiny", lambda _: Says("2"))
    large = ScriptedModel("huge", lambda _: Says("5", error=ModelRefused("no")))
    async with charged({"small": small, "large": large}, journal=Journal(tmp_path / "log")) as plain:
        failed = await plain.post("v1/chat/completions", json=asked(cuecard={"strict": True}))
        stats = (await plain.get("stats")).json()
    assert failed.status_code >= 500
    line = lines(tmp_path / "log")[0]
    assert (line["end"], line["error"]) == ("failed", "ModelRefused")
    assert counted(stats) == line["usage"]["total_tokens"] > 0


async def test_a_decision_is_charged_counted_and_noted(tmp_path):
    async with charged(disagreeing(), journal=Journal(tmp_path / "log")) as plain:
        result = await plain.post("v1/decision", json=asked())
        stats = (await plain.get("stats")).json()
    used = sum(call["prompt_tokens"] + call["completion_tokens"] for call in result.json()["calls"])
    assert MOST - int(result.headers["x-ratelimit-remaining-tokens"]) == used
    assert counted(stats) == used > 0
    assert [line["end"] for line in lines(tmp_path / "log")] == ["decided"]


@pytest.mark.parametrize("whole", [True, False])
async def test_a_passed_request_is_charged_whether_it_is_read_to_its_end_or_not(whole, tmp_path):
    server = MockServer([Completion("one two three four five", delay_s=0.01, **({} if whole else {"after": Stall(4)}))])
    async with server as url:
        pool = Pool([Replica(OpenAIModel(url, "mock"), Breaker(time.monotonic))])
        models: dict[str, Model] = {"small": model("tiny", "2"), "large": pool}
        async with charged(models, pass_to="large", journal=Journal(tmp_path / "log")) as plain:
            body = asked(tools=TOOLS)
            await leaves(plain, body, 10**6 if whole else 3)
            stats = await stats_once(plain, int(not whole))
    (line,) = lines(tmp_path / "log")
    assert (line["end"], line["question"]) == ("answered" if whole else "client_gone", None)
    assert counted(stats) == line["usage"]["total_tokens"] > 0


def test_a_prompt_that_no_server_has_counted_is_charged_by_its_length():
    cut = Call("large", "huge", Mode.SHORT, 0, None, 1, Usage(), FinishReason.CANCELLED)
    counted_one = Call("large", "huge", Mode.SHORT, 0, None, 1, Usage(7, 0, 3), FinishReason.CANCELLED)
    assert charge([cut, counted_one], 500) == 510


async def test_a_client_that_leaves_before_the_first_token_is_charged_for_its_prompt():
    async with MockServer([Stall()] * 9, models=["mock"]) as url:
        models: dict[str, Model] = {
            role: Pool([Replica(OpenAIModel(url, "mock"), Breaker(time.monotonic))]) for role in ("small", "large")
        }
        async with charged(models) as plain:
            with pytest.raises(httpx2.ReadTimeout):
                await plain.post("v1/chat/completions", json=asked(text=f"{COUNT} {'cat ' * 5000}"), timeout=0.5)
            await stats_once(plain, 1)
            assert await spent(plain) > 5000


def test_second_looks_that_are_cut_short_count_on_their_budget():
    async def looks() -> int:
        begun = [0]

        def says(_: Any) -> Says:
            begun[0] += 1
            return Says("7", "step " * 200, token_s=0.01)

        service = Service({"small": ScriptedModel("s", lambda _: Says("7")), "large": ScriptedModel("l", says)})
        audit = Audit(service, AuditSettings(share=1.0, tokens_per_hour=10))
        asked = Question(COUNT, kind=AnswerKind.NUMBER)
        audit.consider(asked, Outcome("7", Route.AGREED, "mutual", (), 1.0, ""))
        for _ in range(20):  # a client connects every 1.5 s and stays for 0.1 s
            await asyncio.sleep(1.5)
            with service.at_work():
                await asyncio.sleep(0.1)
        await audit.aclose()
        return begun[0]

    assert virtual_time.run(looks()) == 1
