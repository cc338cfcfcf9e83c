"""Usage, limits and cost of a request in responses and metrics."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from gateways import COUNT, DESCRIBE, disagreeing, gateway
from prometheus_client.parser import text_string_to_metric_families

from cuecard.domain.call import Usage
from cuecard.gateway.tables import Prices, cost
from cuecard.strategies.policy import Policy

PRICES = {"large": Prices(prompt=1.5, cached=0.5, completion=6)}


def request_with(text: str = COUNT, **more: Any) -> dict[str, Any]:
    return {"model": "cuecard", "messages": [{"role": "user", "content": text}]} | more


def test_cached_tokens_have_a_price_of_their_own_where_one_is_given():
    used = Usage(prompt_tokens=1_000_000, cached_tokens=400_000, completion_tokens=100_000)
    assert cost(used, PRICES["large"]) == pytest.approx(0.6 * 1.5 + 0.4 * 0.5 + 0.1 * 6)
    assert cost(used, Prices(prompt=1.5, completion=6)) == pytest.approx(1.5 + 0.6)
    assert cost(Usage(), PRICES["large"]) == 0


async def test_the_price_of_a_request_is_that_of_all_its_calls_in_answer_stats_and_metrics():
    async with gateway(disagreeing(), prices=PRICES) as client:
        answers = [await client.chat.completions.create(**request_with()) for _ in range(2)]
        async with httpx2.AsyncClient(base_url=str(client.base_url).removesuffix("v1/")) as plain:
            stats, metrics = (await plain.get("stats")).json(), (await plain.get("metrics")).text
    account = answers[0].model_extra["cuecard"]
    calls = [call for call in account["calls"] if call["role"] == "large"]
    price = sum(cost(Usage(*(call[f"{what}_tokens"] for what in ("prompt", "cached", "completion"))), PRICES["large"])
                for call in calls)  # fmt: skip
    assert price > 0
    assert account["cost"] == pytest.approx({"total": price, "large": price})
    assert stats["cost"]["total"] == pytest.approx(2 * price)
    counted = {
        sample.labels["role"]: sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == "cuecard_cost_total"
    }
    assert counted == pytest.approx({"large": 2 * price})


async def test_without_prices_there_is_no_cost():
    async with gateway(disagreeing()) as client:
        answer = await client.chat.completions.create(**request_with())
    assert answer.model_extra["cuecard"]["cost"] is None


@pytest.mark.parametrize(
    ("asked", "limits"),
    [
        (request_with(), {"answer_tokens": 24, "reasoning_tokens": 2048}),
        (request_with(DESCRIBE), {"answer_tokens": 1024, "reasoning_tokens": 2048}),
        (request_with(max_completion_tokens=9, reasoning_effort="low"), {"answer_tokens": 9, "reasoning_tokens": 512}),
        (request_with(extra_body={"cuecard": {"budget": 33}}), {"answer_tokens": 24, "reasoning_tokens": 33}),
    ],
)
async def test_the_limits_of_answer_and_reasoning_are_both_shown(asked, limits):
    async with gateway(disagreeing()) as client:
        whole = await client.chat.completions.create(**asked)
        streamed = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
    assert whole.model_extra["cuecard"]["limits"] == streamed[-1].model_extra["cuecard"]["limits"] == limits


async def test_no_request_may_take_longer_than_the_configuration_allows():
    models = disagreeing(token_s=0.3)
    own = {"max_latency_ms": 60_000}
    async with gateway(models, policy=Policy(deadline_s=1.0)) as client:
        answer = await client.chat.completions.create(**request_with(), extra_body={"cuecard": own})
    account = answer.model_extra["cuecard"]
    assert (account["route"], answer.choices[0].message.content) == ("degraded", "5")
    assert account["latency"]["total_s"] < 2
