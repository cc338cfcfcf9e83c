"""Daily and monthly budgets of API keys, and expiry of keys."""

from __future__ import annotations

import errno
from datetime import UTC, datetime, timedelta
from pathlib import Path

import openai
import pytest
from gateways import COUNT, gateway

from cuecard.domain.errors import BadInput, BudgetUsed, Unauthorised
from cuecard.gateway.admission.limits import Amount, Gate, LocalState
from cuecard.gateway.tables import Budget, Key, digest

SECRET = "cue-of-the-tests"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Clock:
    """A clock that tests set."""

    def __init__(self, at: datetime = NOON) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at.timestamp()


def key(**settings) -> Key:
    return Key(name="team", sha256=digest(SECRET), **settings)


def gate(state: LocalState, **settings) -> Gate:
    return Gate([key(**settings)], state)


def client(gate: Gate):
    return gate.known(f"Bearer {SECRET}")


async def spend(client, used: Amount) -> None:
    (await client.reserve(used)).settle(used)


@pytest.mark.parametrize(
    ("budget", "resets"),
    [
        (Budget.TOKENS_PER_DAY, "2026-02-01T00:00:00Z"),
        (Budget.COST_PER_DAY, "2026-02-01T00:00:00Z"),
        (Budget.TOKENS_PER_MONTH, "2026-02-01T00:00:00Z"),
    ],
)
async def test_a_key_over_its_budget_is_refused_until_the_period_ends(budget, resets):
    clock = Clock()
    team = client(gate(LocalState(now=clock), **{budget: 100}))
    await team.enter()
    await spend(team, Amount(100, 100.0))
    with pytest.raises(BudgetUsed, match=resets) as refused:
        await team.enter()
    assert refused.value.http_status == 429
    assert refused.value.retry_after_s == pytest.approx(12 * 3600)
    clock.at += timedelta(hours=12)
    await team.enter()


async def test_a_month_does_not_end_with_the_day():
    clock = Clock(datetime(2026, 3, 1, tzinfo=UTC))
    team = client(gate(LocalState(now=clock), tokens_per_month=100))
    await spend(team, Amount(100))
    clock.at += timedelta(days=30)
    with pytest.raises(BudgetUsed, match="2026-04-01"):
        await team.enter()


async def test_what_was_used_survives_a_restart(tmp_path):
    file, limit = tmp_path / "budgets.json", {"tokens_per_day": 100}
    before = LocalState(path=file, now=Clock())
    await spend(client(gate(before, **limit)), Amount(100))
    await before.aclose()
    with pytest.raises(BudgetUsed):
        await client(gate(LocalState(path=file, now=Clock()), **limit)).enter()


@pytest.mark.parametrize("content", ["", "{", '{"version": 9, "used": {}}', '{"version": 1, "used": {"a": {"b": 1}}}'])
def test_a_file_of_budgets_that_cannot_be_read_is_no_fresh_budget(content, tmp_path):
    file = tmp_path / "budgets.json"
    file.write_text(content)
    with pytest.raises(BadInput, match=r"budgets\.json"):
        LocalState(path=file, now=Clock())
    assert file.read_text() == content


def test_a_file_of_budgets_that_cannot_be_looked_up_is_no_fresh_budget(tmp_path, monkeypatch):
    def stale(path: Path, **_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(Path, "stat", stale)
    with pytest.raises(BadInput, match="Stale file handle"):
        LocalState(path=tmp_path / "budgets.json", now=Clock())


def test_a_key_that_has_expired_is_not_let_in():
    clock = Clock()
    entrance = gate(LocalState(now=clock), expires=NOON + timedelta(seconds=1))
    client(entrance)
    clock.at += timedelta(seconds=1)
    with pytest.raises(Unauthorised, match="expired: it was valid until 2026-01-31 12:00 UTC"):
        client(entrance)


async def test_a_request_that_follows_one_that_used_the_budget_up_is_429():
    entrance = Gate([key(tokens_per_day=1)], LocalState(now=Clock()))
    async with gateway(gate=entrance) as plain:
        asking = plain.with_options(api_key=SECRET)
        question = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}]}
        await asking.chat.completions.create(**question)
        with pytest.raises(openai.RateLimitError, match="has used its budget, tokens of 1 a day") as refused:
            await asking.chat.completions.create(**question)
    assert refused.value.code == "budget_exceeded"
    assert int(refused.value.response.headers["retry-after"]) == 12 * 3600
