"""Metrics, health and readiness of the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai
import pytest
from gateways import COUNT, agreeing, disagreeing, gateway, model
from prometheus_client.parser import text_string_to_metric_families

from cuecard import virtual_time
from cuecard.domain.errors import BadInput, ModelBusy, ModelUnreachable, NoAnswer, RateLimited, TooLarge
from cuecard.domain.question import AnswerKind, Question
from cuecard.gateway.config import AuditSettings
from cuecard.gateway.metrics import Audit, GatewayMetrics
from cuecard.gateway.pairs import Service
from cuecard.models.openai import OpenAIModel
from cuecard.models.pool import Breaker, Pool, Replica
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.run import answer
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Stall

ASKED: dict[str, Any] = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}]}


@asynccontextmanager
async def both(models: Any) -> AsyncIterator[tuple[openai.AsyncOpenAI, httpx2.AsyncClient]]:
    async with gateway(models) as client:
        root = str(client.base_url).removesuffix("v1/")
        async with httpx2.AsyncClient(base_url=root) as plain:
            yield client, plain


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_tokens_in_the_metrics_are_those_of_the_answers():
    async with both(disagreeing()) as (client, plain):
        answers = [await client.chat.completions.create(**ASKED) for _ in range(3)]
        result = (await plain.get("metrics")).text
    spent = sum(value for name, value in samples(result).items() if name[0] == "cuecard_tokens_total")
    assert spent == sum(answer.usage.total_tokens for answer in answers)
    assert samples(result)["cuecard_requests_total", "cuecard", "cuecard", "mutual", "transferred"] == 3


async def test_routes_in_the_stats_sum_to_the_requests():
    async with both(agreeing()) as (client, plain):
        await client.chat.completions.create(**ASKED)
        await client.chat.completions.create(**ASKED | {"model": "cuecard/transfer"})
        result = (await plain.get("stats")).json()
    assert result["routes"] == {"agreed": 1, "transferred": 1}
    assert sum(result["routes"].values()) == result["requests"] == len(result["recent"])
    assert COUNT not in str(result)


async def test_failures_are_counted_and_reported_as_temporary():
    broken = {name: ScriptedModel(name, lambda _: Says(error=ModelUnreachable("gone"))) for name in ("small", "large")}
    async with both(broken) as (client, plain):
        with pytest.raises(openai.APIStatusError) as refused:
            await client.chat.completions.create(**ASKED)
        assert (await plain.get("stats")).json()["failures"] == {"NoAnswer": 1}
    assert refused.value.status_code == 503
    assert refused.value.response.headers["retry-after"]


async def test_clients_mistakes_are_refusals_and_no_failures():
    async with both(agreeing()) as (client, plain):
        for wrong in ({"model": "no-such"}, {"messages": []}, {"n": 2}):
            with pytest.raises(openai.APIStatusError):
                await client.chat.completions.create(**ASKED | wrong)
        await plain.post("v1/chat/completions", content=b" " * 2**21)
        await plain.post("v1/chat/completions", json=ASKED, headers={"origin": "https://elsewhere.example"})
        result = (await plain.get("stats")).json()
        counted = samples((await plain.get("metrics")).text)
    assert result["failures"] == {}
    assert sum(minute["routes"].get("failed", 0) for minute in result["minutes"]) == 0
    assert result["refusals"] == {"UnknownModel": 1, "BadInput": 1, "BeyondAPair": 1, "TooLarge": 1, "Forbidden": 1}
    assert counted["cuecard_refusals_total", "UnknownModel"] == 1
    assert not [name for name in counted if name[0] == "cuecard_failures_total"]


@pytest.mark.parametrize(
    ("error", "clients"),
    [
        (BadInput("x"), True),
        (TooLarge("x"), True),
        (RateLimited("x"), True),
        (ModelBusy("x"), False),
        (NoAnswer("x"), False),
        (ModelUnreachable("x"), False),
        (KeyError("x"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_are_described_and_counted_by_their_cause(error, clients):
    seen = GatewayMetrics()
    seen.failed(error)
    result = seen.stats()
    assert (sum(result["refusals"].values()), sum(result["failures"].values())) == (int(clients), int(not clients))
    (words,) = result["words"].values()
    assert words.endswith((".", "…)"))
    assert type(error).__name__ not in words


async def test_retry_after_is_that_of_the_models():
    busy = ModelBusy("too many")
    busy.retry_after_s = 6.5
    models = {name: ScriptedModel(name, lambda _: Says(error=busy)) for name in ("small", "large")}
    async with both(models) as (client, _):
        with pytest.raises(openai.APIStatusError) as refused:
            await client.chat.completions.create(**ASKED)
    assert (refused.value.status_code, refused.value.response.headers["retry-after"]) == (503, "7")


async def test_breakers_retries_cached_tokens_and_false_accepts_are_in_the_metrics():
    pools = {role: Pool([Replica(each, Breaker(lambda: 0.0))]) for role, each in disagreeing().items()}
    async with both(pools) as (client, plain):
        await client.chat.completions.create(**ASKED)
        result = (await plain.get("metrics")).text
    found = {family.name: family for family in text_string_to_metric_families(result)}
    breakers = found["cuecard_upstream_breaker"].samples
    assert {(s.labels["state"], s.value) for s in breakers} == {("closed", 1), ("open", 0), ("half_open", 0)}
    assert [s.value for s in found["cuecard_upstream_retries"].samples] == [0, 0]
    assert {s.labels["what"] for s in found["cuecard_tokens"].samples if "what" in s.labels} >= {"cached", "reasoning"}
    for name in ("ttft", "ttfo", "handoff", "overhead"):
        counts = [s.value for s in found[f"cuecard_{name}_seconds"].samples if s.name.endswith("_count")]
        assert counts == [1], name

    seen = GatewayMetrics()
    audit = {"checked": 10, "differed": 1, "low": 0.02, "high": 0.4}
    result = samples(seen.exposition(audit).decode())
    assert (result["cuecard_audit_interval", "low"], result["cuecard_audit_interval", "high"]) == (0.02, 0.4)


async def test_health_and_readiness():
    async with both(agreeing()) as (_, plain):
        assert (await plain.get("health")).json()["status"] == "ok"
        assert (await plain.get("ready")).json() == {"status": "ok", "down": []}


async def test_the_gateway_answers_at_once_and_is_ready_when_its_servers_are_probed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result: list[str] = []
    async with MockServer([Stall()], models=["mock"]) as url:
        models = {role: Pool([Replica(OpenAIModel(url, "mock"), Breaker(lambda: 0.0))]) for role in ("small", "large")}
        async with gateway(models, tell=result.append) as client, httpx2.AsyncClient() as plain:
            root = str(client.base_url).removesuffix("v1/")
            ready, health = await plain.get(f"{root}ready"), await plain.get(f"{root}health")
    assert (ready.status_code, ready.json()["status"], health.status_code) == (503, "probing", 200)


async def test_when_no_server_can_be_probed_the_gateway_is_ready_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    models = {
        role: Pool([Replica(OpenAIModel("http://127.0.0.1:9/v1", "mock"), Breaker(lambda: 0.0))])
        for role in ("small", "large")
    }
    async with gateway(models, tell=lambda line: None) as client, httpx2.AsyncClient() as plain:
        ready = str(client.base_url).replace("v1/", "ready")
        while (answer := await plain.get(ready)).json()["status"] == "probing":  # noqa: ASYNC110 - polled over HTTP
            await asyncio.sleep(0.05)
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


@pytest.mark.parametrize(
    ("models", "name", "route", "calls"),
    [
        (agreeing, "cuecard", "agreed", 2),
        (disagreeing, "cuecard", "transferred", 2),
        (agreeing, "cuecard/transfer", "transferred", 0),
        (agreeing, "cuecard/cascade", "direct", 1),
        (agreeing, "cuecard/route", "direct", 0),
    ],
)
async def test_a_decision_needs_no_expensive_calls(models, name, route, calls):
    async with both(models()) as (_, plain):
        result = (await plain.post("v1/decision", json=ASKED | {"model": name})).json()
    assert (result["route"], len(result["calls"])) == (route, calls)
    assert {call["mode"] for call in result["calls"]} <= {"short"}
    assert result["reason"]


@pytest.mark.parametrize(("reasoned", "differed"), [("3", 0), ("4", 6)])
async def test_agreed_answers_are_audited_while_no_request_runs(reasoned, differed):
    models = {"small": model("tiny", "3"), "large": model("huge", "3", reasoned)}
    service = Service(models)
    audit = Audit(service, AuditSettings(share=1.0, warn_above=0.3))
    for _ in range(6):
        asked = Question(COUNT, kind=AnswerKind.NUMBER)
        audit.consider(asked, await answer(asked, models))
    while audit.as_dict()["waiting"] or not audit._working.done():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    result = audit.as_dict()
    assert (result["checked"], result["differed"], result["alarming"]) == (6, differed, differed > 0)
    await audit.aclose()


async def test_nothing_is_looked_at_again_while_a_client_waits():
    models = agreeing()
    service = Service(models)
    audit = Audit(service, AuditSettings(share=1.0))
    service.occupancy.idle.clear()
    asked = Question(COUNT, kind=AnswerKind.NUMBER)
    audit.consider(asked, await answer(asked, models))
    await asyncio.sleep(0.05)
    assert (audit.checked, audit.as_dict()["waiting"]) == (0, 1)
    service.occupancy.idle.set()
    await asyncio.sleep(0.05)
    assert audit.checked == 1
    await audit.aclose()


async def test_a_second_look_makes_way_for_a_client_and_is_taken_later():
    models = {"small": model("tiny", "3"), "large": model("huge", "3", first_token_s=0.05)}
    service, asked = Service(models), Question(COUNT, kind=AnswerKind.NUMBER)
    audit = Audit(service, AuditSettings(share=1.0))
    audit.consider(asked, await answer(asked, models))
    await asyncio.sleep(0.02)
    assert models["large"].running == 1
    service.occupancy.idle.clear()
    service.occupancy.busy.set()
    await asyncio.sleep(0.02)
    assert (models["large"].running, audit.checked, audit.as_dict()["waiting"]) == (0, 0, 1)
    service.occupancy.busy.clear()
    service.occupancy.idle.set()
    await asyncio.sleep(0.1)
    assert audit.checked == 1
    await audit.aclose()


def test_second_looks_keep_to_their_own_budget_of_tokens():
    async def looks(budget: int | None) -> tuple[int, int]:
        models = agreeing()
        asked = Question(COUNT, kind=AnswerKind.NUMBER)
        audit = Audit(Service(models), AuditSettings(share=1.0, tokens_per_hour=budget))
        for _ in range(4):
            audit.consider(asked, await answer(asked, models))
        await asyncio.sleep(1)
        soon = audit.checked
        await asyncio.sleep(4 * 3600)
        await audit.aclose()
        return soon, audit.checked

    assert virtual_time.run(looks(None)) == (4, 4)
    assert virtual_time.run(looks(1)) == (1, 4)


async def test_the_dashboard_needs_nothing_from_elsewhere():
    async with both(agreeing()) as (_, plain):
        page = await plain.get("dashboard")
        parts = [await plain.get(f"dashboard/page.{kind}") for kind in ("js", "css")]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert all(part.status_code == 200 for part in parts)
    assert not any("://" in part.text for part in (page, *parts))
