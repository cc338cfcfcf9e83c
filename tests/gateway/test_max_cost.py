"""`max_cost`: no call starts if its worst case exceeds the budget; the best available answer is returned."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest
from gateways import COUNT, gateway, model
from test_passthrough import TOOLS

from cuecard import virtual_time
from cuecard.domain.call import Call, Mode
from cuecard.domain.errors import CostLimit, ModelError, ModelTimeout, NoAnswer
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.gateway.pairs import Service
from cuecard.gateway.spending import CostBudget, check_passed, tokens_of_image, tokens_of_text
from cuecard.gateway.tables import Prices, costs
from cuecard.models.base import Limits, Model
from cuecard.models.pool import Breaker, Pool, Replica
from cuecard.models.prompt import TAGS, short
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.policy import Policy, Schedule
from cuecard.strategies.run import answer

PRICES = {"small": Prices(prompt=1, completion=10), "large": Prices(prompt=10, cached=1, completion=100)}
LIMITS = Limits(answer_tokens=10, reasoning_tokens=100)
ASKED = Question(COUNT, kind=AnswerKind.NUMBER)


def disagreeing() -> dict[str, Model]:
    return {"small": model("tiny", "2", "4"), "large": model("huge", "5", "3")}


def run(
    most: float,
    models: dict[str, Model] | None = None,
    strategy: str = "mutual",
    prices: Mapping[str, Prices] = PRICES,
    **policy: Any,
) -> Any:
    """The outcome or the error of a request, and its calls, in virtual time."""
    calls: list[Call] = []
    models = models or disagreeing()

    async def one() -> Any:
        own = Policy(limits=LIMITS, **policy)
        try:
            return await answer(ASKED, CostBudget(most, prices).models(models), strategy, own, calls=calls)
        except (ModelError, NoAnswer) as error:
            return error

    return virtual_time.run(one()), calls


def made(calls: list[Call]) -> list[tuple[str, Mode]]:
    return [(call.role, call.mode) for call in calls if call.error is None]


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("strategy", ["mutual", "transfer", "cascade", "vote", "reason"])
def test_no_request_costs_more_than_its_limit(schedule, strategy):
    whole = run(1.0, strategy=strategy, schedule=schedule)[1]
    dear = sum(costs(whole, PRICES).values())
    for share in range(1, 80):
        _, calls = run(dear * share / 20, strategy=strategy, schedule=schedule)
        assert sum(costs(calls, PRICES).values()) <= dear * share / 20


def test_a_limit_below_the_first_call_is_an_error():
    error, calls = run(1e-9)
    assert made(calls) == []
    assert (error.http_status, error.code, error.retryable) == (402, "max_cost_exceeded", False)
    assert "could cost" in str(error)
    assert "max_cost" in str(error)


def worst(role: str) -> float:
    """The worst-case cost of a short call."""
    with CostBudget(1.0, PRICES).call(role, short(ASKED, TAGS), LIMITS) as hold:
        return hold.most.cost


def test_when_the_next_call_does_not_fit_the_best_answer_at_hand_is_given():
    dear = {"small": PRICES["large"], "large": PRICES["small"]}  # so that reasoning exceeds the budget
    most = 2 * worst("large")
    outcome, calls = run(most, schedule=Schedule.THRIFTY, prices=dear)
    assert made(calls) == [("large", Mode.SHORT), ("small", Mode.SHORT)]
    assert (outcome.answer, outcome.route) == ("5", "degraded")
    assert "max_cost" in outcome.reason


def test_a_strict_request_that_does_not_fit_fails():
    error, _ = run(1e-9, strict=True)
    assert isinstance(error, CostLimit)


def test_calls_at_once_do_not_fit_together_what_only_one_of_them_fits():
    slow = {role: model(role, "2", first_token_s=1.0) for role in ("small", "large")}
    _, calls = run(worst("large"), slow, schedule=Schedule.OVERLAP)
    assert ("large", Mode.SHORT) in made(calls)
    assert ("small", Mode.SHORT) not in made(calls)


def test_a_call_that_is_cut_counts_what_it_has_used():
    async def spends() -> float:
        purse = CostBudget(1.0, PRICES)
        models = purse.models({"small": model("tiny", "word " * 50, token_s=1.0)})
        events = models["small"].stream(short(ASKED, TAGS), Limits(answer_tokens=60))
        result = 0
        async for event in events:
            result += type(event).__name__ == "AnswerDelta"
            if result == 5:
                break
        await asyncio.sleep(0.1)
        await events.aclose()
        return purse.spent

    words = len(short(ASKED, TAGS).turns[0].text.split())
    assert virtual_time.run(spends()) == pytest.approx((words + 4 * 10) / 1e6, rel=0.6)


def test_a_retry_is_checked_and_the_failed_call_counts_its_prompt():
    async def tries(most: float) -> tuple[int, float, type[Exception] | None]:
        failing = ScriptedModel("tiny", lambda _: Says(error=ModelTimeout("late")))
        purse = CostBudget(most, PRICES)
        pool = Pool([Replica(failing, Breaker(lambda: 0.0))])
        metered, raised = purse.models({"small": pool})["small"], None
        try:
            async for _ in metered.stream(short(ASKED, TAGS), LIMITS):
                pass
        except ModelError as error:
            raised = type(error)
        return len(failing.prompts), purse.spent, raised

    attempts, spent, raised = virtual_time.run(tries(1.0))
    assert (attempts, raised) == (4, ModelTimeout)
    one = spent / 4
    assert one > 0
    attempts, spent, raised = virtual_time.run(tries(1.5 * one + worst("small")))
    assert (attempts, raised) == (2, CostLimit)
    assert spent == pytest.approx(2 * one)


def test_a_server_that_counts_more_tokens_makes_later_calls_longer():
    async def second() -> float:
        purse = CostBudget(1.0, PRICES)
        heavy = ScriptedModel("tiny", lambda _: Says("2"))
        metered = purse.models({"small": heavy})["small"]
        long = Question("a " * 3000, kind=AnswerKind.NUMBER)  # one token per word of two bytes
        with purse.call("small", short(long, TAGS), LIMITS) as hold:
            before = hold.prompt_tokens
        async for _ in metered.stream(short(long, TAGS), LIMITS):
            pass
        with purse.call("small", short(long, TAGS), LIMITS) as hold:
            return hold.prompt_tokens / before

    assert virtual_time.run(second()) > 1.3


def test_images_and_texts_of_all_scripts_are_estimated():
    assert tokens_of_text("猫が三匹います") >= 7
    assert tokens_of_text("word " * 300) >= 300
    assert tokens_of_image(Image(b"no image")) > 10_000


# --- over HTTP --------------------------------------------------------------------------------------------------------


def priced(**settings: Any) -> dict[str, Any]:
    return {"prices": PRICES, **settings}


async def post(body: dict[str, Any], models: dict[str, Model] | None = None, **settings: Any) -> httpx2.Response:
    async with gateway(models or disagreeing(), **settings) as client, httpx2.AsyncClient() as plain:
        return await plain.post(f"{client.base_url}chat/completions", json=asked() | body)


def asked() -> dict[str, Any]:
    return {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}]}


async def test_the_lower_limit_of_the_request_and_the_pair_holds():
    for own, pairs in ((1e-9, 1.0), (1.0, 1e-9)):
        refused = await post({"cuecard": {"max_cost": own}}, **priced(max_cost=pairs))
        assert (refused.status_code, refused.json()["error"]["code"]) == (402, "max_cost_exceeded")
    answered = await post({"cuecard": {"max_cost": 2}}, **priced(max_cost=1.0))
    assert answered.json()["cuecard"]["limits"]["max_cost"] == 1.0
    assert answered.json()["cuecard"]["cost"]["total"] < 1.0


async def test_without_prices_a_limit_is_refused():
    refused = await post({"cuecard": {"max_cost": 1}}, prices={"small": Prices()})
    assert refused.status_code == 400
    assert "there are none for: large" in refused.json()["error"]["message"]


@pytest.mark.parametrize("wrong", [0, -1, "1", True])
async def test_a_limit_is_a_number_above_0(wrong):
    refused = await post({"cuecard": {"max_cost": wrong}}, **priced())
    assert (refused.status_code, "max_cost" in refused.json()["error"]["message"]) == (400, True)


async def test_what_is_passed_on_needs_a_limit_of_tokens_that_fits():
    messages = [{"role": "user", "content": COUNT}]
    check_passed({"messages": messages, "max_tokens": 10}, PRICES["large"], 1.0)
    with pytest.raises(CostLimit, match="could cost"):
        check_passed({"messages": messages, "max_tokens": 10**6}, PRICES["large"], 1.0)
    refused = await post({"tools": TOOLS}, **priced(max_cost=1.0, pass_to="large"))
    assert (refused.status_code, "max_completion_tokens" in refused.json()["error"]["message"]) == (400, True)


def test_a_service_without_a_limit_makes_calls_as_ever():
    service = Service(disagreeing())
    assert service.limited(None) is None
