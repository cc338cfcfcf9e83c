"""Limits of keys that several gateways share on a Redis server."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import aiohttp
import openai
import pytest
from gateways import COUNT, gateway
from redis_server import RedisServer, redis_server

from cuecard.domain.errors import (
    BadInput,
    BudgetReached,
    BudgetReserved,
    BudgetUsed,
    MissingExtra,
    RateLimited,
    StateUnavailable,
)
from cuecard.gateway.admission.limits import Amount, Gate
from cuecard.gateway.admission.shared_state import SharedState
from cuecard.gateway.tables import Key, digest

pytestmark = pytest.mark.timeout(100)
PATIENCE_S = 20.0
"""For a machine that is busy with other work."""
ASKED = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}]}
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"test-{abs(hash(request.node.name))}"


def key(**settings) -> Key:
    return Key(name="team", sha256=digest("secret"), **settings)


@asynccontextmanager
async def states(server: RedisServer, prefix: str, count: int = 2, **more) -> AsyncIterator[list[SharedState]]:
    """The states of several gateways, with their background work."""
    made = [SharedState(server.url, prefix=prefix, timeout_s=PATIENCE_S, **more) for _ in range(count)]
    running = [asyncio.create_task(each.run()) for each in made]
    try:
        yield made
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for each in made:
            await each.aclose()


async def spend(state: SharedState, to: Key, used: Amount) -> None:
    (await state.reserve(to, used)).settle(used)
    await charged(state)


async def charged(*states: SharedState) -> None:
    """Wait until all requests that have ended are charged."""
    for state in states:
        while state.as_dict()["unsettled"]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)  # those on their way


async def until(call, error: type[Exception]) -> None:
    """Repeat a call until it no longer raises this error."""
    while True:
        try:
            await call()
            return
        except error:
            await asyncio.sleep(0.05)


async def test_requests_a_minute_are_counted_over_all_gateways(server, prefix):
    async with states(server, prefix) as (one, other):
        team = key(requests_per_minute=2)
        await one.enter(team)
        await other.enter(team)
        assert int(other.allowances(team)["requests"].left) == 0
        with pytest.raises(RateLimited, match="2 requests a minute") as limited:
            await one.enter(team)
    assert 0 < limited.value.retry_after_s <= 30


async def test_tokens_a_minute_may_be_overdrawn_by_a_request_and_are_refused_everywhere(server, prefix):
    async with states(server, prefix) as (one, other):
        team = key(tokens_per_minute=600)
        await one.enter(team)
        await spend(one, team, Amount(900))
        with pytest.raises(RateLimited, match="600 tokens a minute"):
            await other.enter(team)


@pytest.mark.parametrize("budget", ["tokens_per_day", "tokens_per_month", "cost_per_day", "cost_per_month"])
async def test_a_budget_that_one_gateway_has_used_is_refused_by_the_others_until_it_resets(server, prefix, budget):
    at = [NOON]
    async with states(server, prefix, now=lambda: at[0].timestamp()) as (one, other):
        team = key(**{budget: 100})
        await other.enter(team)
        await spend(one, team, Amount(100, 100.0))
        with pytest.raises(BudgetUsed, match="2026-02-01T00:00:00Z"):
            await other.enter(team)
        with pytest.raises(BudgetUsed):
            await other.reserve(team, Amount(1))
        at[0] += timedelta(hours=12)
        await other.enter(team)


async def test_the_use_of_a_key_without_a_budget_counts_for_a_budget_that_it_gets_later(server, prefix):
    async with states(server, prefix) as (one, other):
        await spend(one, key(), Amount(100, 1.5))
        with pytest.raises(BudgetUsed):
            await other.enter(key(cost_per_month=1.5))


async def test_what_running_requests_have_reserved_is_not_given_to_others(server, prefix):
    async with states(server, prefix) as (one, other):
        team = key(tokens_per_day=100)
        with await one.reserve(team, Amount(100)) as lease:
            with pytest.raises(BudgetReserved, match="team's budget, tokens a day") as held:
                await other.reserve(team, Amount(1))
            assert held.value.retryable
            assert held.value.retry_after_s == 1
            lease.settle(Amount(10))
        await until(lambda: spend(other, team, Amount(10)), BudgetReserved)


async def test_a_request_that_never_began_frees_what_it_had_reserved(server, prefix):
    async with states(server, prefix) as (one, other):
        team = key(tokens_per_day=100)
        with await one.reserve(team, Amount(100)):
            pass
        await charged(one)
        (await other.reserve(team, Amount(1))).settle(Amount())


async def test_of_several_running_requests_only_one_may_exceed_the_budget(server, prefix):
    async with states(server, prefix) as (one, other):
        team = key(tokens_per_day=100)
        first, second = await one.reserve(team, Amount(40)), await other.reserve(team, Amount(40))
        async with first.call(Amount(500)):
            with pytest.raises(BudgetReached, match="tokens a day of team"):
                async with second.call(Amount(110)):
                    pass
            async with second.call(Amount(40)):
                pass
        first.settle(Amount(150))
        await charged(one)
        with pytest.raises(BudgetReached):
            async with second.call(Amount(60)):
                pass
        second.settle(Amount())


async def test_the_reservation_of_a_dead_process_expires_and_what_it_reported_is_charged(server, prefix):
    async with states(server, prefix, lease_s=1.0) as (one, other):
        team = key(tokens_per_day=100)
        lease = await one.reserve(team, Amount(100))
        async with lease.call(Amount(100)) as used:
            used.append(Amount(30))
        while lease.reported != Amount(30):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await asyncio.sleep(1.5)
        with pytest.raises(BudgetReserved):  # it is renewed as long as its process lives
            await other.reserve(team, Amount(1))
        one._leases.clear()
        await until(lambda: spend(other, team, Amount(69)), BudgetReserved)
        await other.enter(team)
        await spend(other, team, Amount(1))
        with pytest.raises(BudgetUsed):
            await other.enter(team)


async def test_a_request_that_outlives_its_reservation_is_charged_once(server, prefix):
    async with states(server, prefix, lease_s=1.0) as (one, other):
        team = key(tokens_per_day=100)
        lease = await one.reserve(team, Amount(10))
        async with lease.call(Amount(10)) as used:
            used.append(Amount(10))
        while lease.reported != Amount(10):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        one._leases.clear()
        await asyncio.sleep(1.5)
        await other.enter(team)  # frees it
        lease.settle(Amount(30))
        await charged(one)
        await one._settle(lease, Amount(30))
        await spend(other, team, Amount(69))
        await other.enter(team)


@pytest.mark.parametrize("seed", range(3))
async def test_random_requests_overspend_by_less_than_one_of_them(server, prefix, seed):
    """Estimates are often too low, calls are cut, and processes disappear."""
    drawn, most, largest, true = random.Random(seed), 20_000, 0.0, 0.0
    team = key(tokens_per_day=most)

    async def request(state: SharedState) -> None:
        nonlocal largest, true
        try:
            lease = await state.reserve(team, Amount(drawn.choice([1, 100, 1000])))
        except (BudgetReserved, BudgetUsed):
            return
        with suppress(BudgetReached):
            for _ in range(drawn.randint(1, 4)):
                worst = drawn.randint(1, 600)
                async with lease.call(Amount(worst)) as used:
                    await asyncio.sleep(drawn.random() / 500)
                    used.append(Amount(drawn.randint(0, worst)))
        largest, true = max(largest, lease.spent.tokens), true + lease.spent.tokens
        lease.settle(lease.spent)

    async with states(server, prefix, 3) as gateways:
        for _ in range(20):
            await asyncio.gather(*(request(drawn.choice(gateways)) for _ in range(40)))
        await charged(*gateways)
        name = f"{prefix}:{{{team.sha256}}}:day:{datetime.now(UTC):%Y-%m-%d}"
        used = float(await gateways[0]._redis.hget(name, "tokens"))
    assert used == true
    assert most <= used < most + largest


@pytest.mark.parametrize("allow", [False, True])
async def test_while_the_server_is_down_requests_are_refused_or_admitted_as_configured(prefix, allow):
    with redis_server() as server:
        async with states(server, prefix, 1, allow=allow) as (state,):
            team = key(tokens_per_day=100, requests_per_minute=1000)
            await state.enter(team)
            running = await state.reserve(team, Amount(10))
            server.stop()
            if allow:
                await state.enter(team)
                async with (await state.reserve(team, Amount(1000))).call(Amount(5000)), running.call(Amount(20)):
                    pass
            else:
                with pytest.raises(StateUnavailable) as down:
                    await state.enter(team)
                assert (down.value.http_status, down.value.retryable) == (503, True)
                with pytest.raises(StateUnavailable):
                    await state.reserve(team, Amount(1000))
                with pytest.raises(BudgetReached):
                    async with running.call(Amount(20)):
                        pass
            running.settle(Amount(100))
            assert not state.as_dict()["up"]
            assert state.as_dict()["failures"]
            server.start()
            while not state.as_dict()["up"]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await charged(state)
            with pytest.raises(BudgetUsed):  # charged now
                await state.enter(team)


@pytest.mark.parametrize(("allow", "status"), [(False, 503), (True, 200)])
async def test_ready_and_the_metrics_show_a_server_that_is_down_until_it_is_up_again(prefix, allow, status):
    with redis_server() as server:
        state = SharedState(server.url, prefix=prefix, timeout_s=PATIENCE_S, allow=allow)
        async with gateway(gate=Gate([key(requests_per_minute=100)], state)) as plain:
            client = plain.with_options(api_key="secret")
            root = str(plain.base_url).removesuffix("/v1/")
            await client.chat.completions.create(**ASKED)
            async with aiohttp.ClientSession(root, headers={"authorization": "Bearer secret"}) as session:

                async def ready(wanted: str) -> tuple[int, str]:
                    while True:
                        async with session.get("/ready") as response:
                            found = await response.json()
                        if found["state"] == wanted:
                            return response.status, found["status"]
                        await asyncio.sleep(0.05)

                assert await ready("ok") == (200, "ok")
                server.stop()
                assert await ready("down") == (status, "degraded" if allow else "down")
                async with session.get("/metrics") as response:
                    assert 'cuecard_state_up{kind="redis"} 0.0' in await response.text()
                if allow:
                    await client.chat.completions.create(**ASKED)
                else:
                    with pytest.raises(openai.InternalServerError, match="shared state") as refused:
                        await client.chat.completions.create(**ASKED)
                    assert refused.value.status_code == 503
                server.start()
                assert await ready("ok") == (200, "ok")
                await client.chat.completions.create(**ASKED)


async def test_a_budget_that_is_used_at_one_gateway_is_used_at_the_other(server, prefix):
    async with AsyncExitStack() as held:
        team, clients = key(tokens_per_day=1), []
        for _ in range(2):
            state = SharedState(server.url, prefix=prefix, timeout_s=PATIENCE_S)
            plain = await held.enter_async_context(gateway(gate=Gate([team], state)))
            clients.append(plain.with_options(api_key="secret"))
        await clients[0].chat.completions.create(**ASKED)
        await charged(state)
        codes = []
        while "budget_exceeded" not in codes:
            with pytest.raises(openai.RateLimitError) as refused:
                await clients[1].chat.completions.create(**ASKED)
            codes.append(refused.value.code)
        assert set(codes) <= {"budget_exceeded", "BudgetReserved"}  # reserved until it is charged


async def test_a_server_that_does_not_answer_is_not_waited_for(prefix):
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    mute = await asyncio.start_server(silent, "127.0.0.1", 0)
    state = SharedState(f"redis://127.0.0.1:{mute.sockets[0].getsockname()[1]}/0", timeout_s=0.1)
    async with asyncio.timeout(20):
        for _ in range(50):
            with pytest.raises(StateUnavailable):
                await state.enter(key(requests_per_minute=1))
    await state.aclose()
    mute.close()


def test_an_address_that_is_none_is_refused_without_its_password():
    with pytest.raises(BadInput, match="state") as refused:
        SharedState("redis://:secret@host:port/0")
    assert "secret" not in str(refused.value)


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(MissingExtra, match="redis"):
        SharedState("redis://localhost/0")
