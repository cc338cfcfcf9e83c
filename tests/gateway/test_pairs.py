"""Several pairs behind one gateway: model names, permissions of keys, and the fallback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from gateways import COUNT, gateway, model, service
from prometheus_client.parser import text_string_to_metric_families

from cuecard.domain.call import Mode
from cuecard.domain.errors import ModelUnreachable
from cuecard.gateway.pairs import Occupancy, Pairs, Service
from cuecard.gateway.records import Journal
from cuecard.gateway.tables import Key, Prices, digest
from cuecard.models.base import Model
from cuecard.models.pool import Breaker, Pool, Replica
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.policy import Policy

SECRET = "cue-of-the-tests"


def pair(small: str, large: str, **settings: Any) -> Service:
    """A pair; each model answers with the number in its name."""
    models = {role: model(name, name[-1]) for role, name in (("small", small), ("large", large))}
    return service(models | settings.pop("more", {}), **settings)


@asynccontextmanager
async def served(*pairs: Service, keys: Sequence[Key] = (), **how: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with an API key for a gateway with these pairs."""
    async with gateway(pairs=Pairs(pairs), keys=keys, **how) as client:
        root, headers = str(client.base_url).removesuffix("v1/"), {"authorization": f"Bearer {SECRET}"}
        async with httpx2.AsyncClient(base_url=root, headers=headers) as plain:
            yield plain


def two() -> list[Service]:
    return [
        pair("tiny-1", "huge-1", strategy="transfer", aliases=["gpt-4o"]),
        pair("tiny-2", "huge-1", strategy="reason", name="vision", aliases=["gpt-4o-mini", "huge-1-fast"]),
    ]


async def answered(plain: httpx2.AsyncClient, name: str, **more: Any) -> dict[str, Any]:
    answer = await plain.post("v1/chat/completions", json=asked(name, **more))
    assert answer.status_code == 200, answer.text
    return answer.json()


def asked(name: str, **more: Any) -> dict[str, Any]:
    return {"model": name, "messages": [{"role": "user", "content": COUNT}]} | more


@pytest.mark.parametrize(
    ("name", "of", "strategy", "models"),
    [
        ("cuecard", "cuecard", "transfer", {"tiny-1", "huge-1"}),
        ("gpt-4o", "cuecard", "transfer", {"tiny-1", "huge-1"}),
        ("vision", "vision", "reason", {"huge-1"}),
        ("gpt-4o-mini", "vision", "reason", {"huge-1"}),
        ("vision/mutual-thrifty", "vision", "mutual", {"tiny-2", "huge-1"}),
        ("tiny-2", "vision", "short:small", {"tiny-2"}),
        ("huge-1", "cuecard", "short:large", {"huge-1"}),  # in both pairs: the first one answers
    ],
)
async def test_a_request_names_a_pair_by_its_name_an_alias_or_a_model(name, of, strategy, models):
    async with served(*two()) as plain:
        result = await answered(plain, name)
    assert (result["model"], result["cuecard"]["pair"], result["cuecard"]["strategy"]) == (name, of, strategy)
    assert {call["model"] for call in result["cuecard"]["calls"]} <= models


async def test_all_that_can_be_named_is_listed_once():
    async with served(*two()) as plain:
        listed = [each["id"] for each in (await plain.get("v1/models")).json()["data"]]
        alone = [(await plain.get(f"v1/models/{name}")).status_code for name in ("vision/transfer-eager", "gpt-4o")]
        near = await plain.post("v1/chat/completions", json=asked("visoin"))
    assert len(listed) == len(set(listed))
    assert {"cuecard", "cuecard/vote", "gpt-4o", "tiny-1", "vision", "vision/vote", "gpt-4o-mini", "tiny-2"} < {*listed}
    assert alone == [200, 200]
    assert (near.status_code, "did you mean vision?" in near.text) == (404, True)


async def test_a_key_is_for_its_pairs_only():
    key = Key(name="eyes", sha256=digest(SECRET), pairs=frozenset({"vision"}))
    async with served(*two(), keys=[key]) as plain:
        listed = {each["id"] for each in (await plain.get("v1/models")).json()["data"]}
        shared = await answered(plain, "huge-1")
        refused = [
            await plain.post(f"v1/{path}", json=asked(name))
            for name in ("cuecard", "cuecard/vote", "gpt-4o", "tiny-1")
            for path in ("chat/completions", "decision")
        ]
        nowhere = await plain.post("v1/chat/completions", json=asked("cuecrad"))
    assert "cuecard" not in listed
    assert {"vision", "gpt-4o-mini", "huge-1"} < listed
    assert shared["cuecard"]["pair"] == "vision"
    assert {answer.status_code for answer in refused} == {403}
    error = refused[0].json()["error"]
    assert error["code"] == "PairForbidden"
    assert "it is for: vision" in error["message"]
    assert (nowhere.status_code, "cuecard" in nowhere.json()["error"]["message"].partition("here")[2]) == (404, False)


async def test_metrics_and_stats_separate_pairs_by_their_names(tmp_path):
    pools = {role: Pool([Replica(model(role, "7"), Breaker(lambda: 0.0))]) for role in ("small", "large")}
    pairs = [pair("tiny-1", "huge-1"), service(pools, name="vision", prices={"large": Prices(prompt=1e6)})]
    async with served(*pairs, journal=Journal(tmp_path / "log")) as plain:
        for name in ("cuecard", "vision", "vision", "made-up"):
            await plain.post("v1/chat/completions", json=asked(name))
        result, stats = (await plain.get("metrics")).text, (await plain.get("stats")).json()
    found = {family.name: family.samples for family in text_string_to_metric_families(result)}
    requests = {s.labels["pair"]: s.value for s in found["cuecard_requests"] if s.name.endswith("_total")}
    assert requests == {"cuecard": 1, "vision": 2}
    assert {s.labels["pair"] for s in found["cuecard_upstream_running"]} == {"vision"}
    assert {row["pair"] for row in stats["upstreams"]} == {"vision"}
    assert stats["cost"]["total"] == stats["cost"]["large"] > 0
    assert "made-up" not in result
    assert (tmp_path / "log").read_text().count('"pair": "vision"') == 2


@pytest.mark.parametrize(("name", "tokens"), [("low", 7), ("high", 8192), ("huge", 99)])
async def test_an_effort_has_the_budget_of_its_pair(name, tokens):
    efforts = {"low": 7, "high": 8192, "huge": 99}
    async with served(pair("tiny-1", "huge-2", efforts=efforts)) as plain:
        result = await answered(plain, "cuecard", reasoning_effort=name)
        own = await answered(plain, "cuecard", reasoning={"effort": name}, cuecard={"budget": 3})
    assert result["cuecard"]["limits"]["reasoning_tokens"] == tokens
    assert own["cuecard"]["limits"]["reasoning_tokens"] == 3


@pytest.mark.parametrize("effort", ["huge", "hgih", "", 7])
async def test_an_effort_that_is_not_there_is_refused_with_those_that_are(effort):
    async with served(pair("tiny-1", "huge-2", efforts={"low": 7, "high": 9})) as plain:
        refused = await plain.post("v1/chat/completions", json=asked("cuecard", reasoning_effort=effort))
    assert refused.status_code == 400
    assert "low, medium, high" in refused.json()["error"]["message"] or effort == 7


def failing(name: str) -> ScriptedModel:
    return ScriptedModel(name, lambda _: Says(error=ModelUnreachable(f"{name} is gone")))


@pytest.mark.parametrize(("rescue", "mode"), [("short", "short"), ("reason", "reason")])
async def test_a_third_model_answers_alone_when_both_others_have_failed(rescue, mode):
    models: dict[str, Model] = {"small": failing("tiny"), "large": failing("huge"), "third": model("spare", "3")}
    prices = {role: Prices(prompt=1e6, completion=1e6) for role in models}
    async with served(service(models, prices=prices, policy=Policy(rescue=Mode(rescue)))) as plain:
        result = await answered(plain, "cuecard")
        stats = (await plain.get("stats")).json()
        listed = [each["id"] for each in (await plain.get("v1/models")).json()["data"]]
    own = result["cuecard"]
    assert (result["choices"][0]["message"]["content"], own["route"]) == ("3", "degraded")
    assert "the third model answered alone" in own["reason"]
    assert "is gone" in own["reason"]
    last = own["calls"][-1]
    assert (last["role"], last["model"], last["mode"]) == ("third", "spare", mode)
    assert own["cost"]["third"] == stats["cost"]["third"] > 0
    assert "spare" not in listed


async def test_a_third_model_answers_when_the_breakers_of_both_others_are_open():
    def open_pool(name: str) -> Pool:
        breaker = Breaker(lambda: 0.0, failures=1)
        breaker.end(True)
        return Pool([Replica(model(name, "9"), breaker)])

    models: dict[str, Model] = {"small": open_pool("tiny"), "large": open_pool("huge"), "third": model("spare", "3")}
    async with served(Service(models)) as plain:
        result = await answered(plain, "cuecard/transfer")
        ready = (await plain.get("ready")).json()
    assert (result["choices"][0]["message"]["content"], result["cuecard"]["route"]) == ("3", "degraded")
    assert ready == {"status": "degraded", "down": ["small", "large"]}


async def test_a_third_model_is_left_alone_while_another_answers():
    models: dict[str, Model] = {"small": model("tiny", "3"), "large": failing("huge"), "third": model("spare", "9")}
    async with served(Service(models)) as plain:
        for name in ("cuecard", "cuecard/verdict"):
            result = await answered(plain, name)
            assert result["choices"][0]["message"]["content"] == "3"
            assert {call["role"] for call in result["cuecard"]["calls"]} == {"small", "large"}


async def test_a_pair_is_ready_by_its_own_models():
    def down() -> Pool:
        breaker = Breaker(lambda: 0.0, failures=1)
        breaker.end(True)
        return Pool([Replica(model("x", "1"), breaker)])

    occupancy = Occupancy()
    one = Service({"small": down(), "large": down()}, occupancy=occupancy)
    other = Service({"small": down(), "large": model("y", "1")}, name="vision", occupancy=occupancy)
    async with served(one, other) as plain:
        result = await plain.get("ready")
    assert (result.status_code, result.json()) == (
        200,
        {"status": "degraded", "down": ["small", "large", "vision/small"]},
    )
