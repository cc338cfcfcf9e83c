"""API keys: authentication, permissions and limits."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from gateways import COUNT, gateway

from cuecard.domain.errors import RateLimited, Unauthorised
from cuecard.gateway.admission.limits import Amount, Gate, LocalState
from cuecard.gateway.tables import Key, digest, make

ASKED: dict[str, Any] = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}]}
SECRET = "cue-of-the-tests"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_new_key_is_long_and_only_its_hash_is_kept():
    (one, its_hash), (other, _) = make(), make()
    assert one != other
    assert len(one) >= 40
    assert its_hash == digest(one)
    assert one not in repr(Key(name="app", sha256=its_hash))


def test_without_keys_every_request_is_admitted():
    assert Gate([]).known(None).headers() == {}


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer  ", "Basic cue-of-the-tests", "Bearer cue-of-others"])
def test_a_request_without_a_key_is_refused(given):
    with pytest.raises(Unauthorised):
        Gate([Key(name="app", sha256=digest(SECRET))], LocalState(Clock())).known(given)


async def test_requests_a_minute_refill_steadily():
    clock = Clock()
    gate = Gate([Key(name="app", sha256=digest(SECRET), requests_per_minute=2)], LocalState(clock))
    client = gate.known(f"Bearer {SECRET}")
    for left in ("1", "0"):
        await client.enter()
        assert client.headers()["x-ratelimit-remaining-requests"] == left
    with pytest.raises(RateLimited) as limited:
        await client.enter()
    assert limited.value.retry_after_s == pytest.approx(30)
    clock.now += 30
    await client.enter()


async def test_tokens_are_charged_at_the_end_and_may_overdraw():
    clock = Clock()
    gate = Gate([Key(name="app", sha256=digest(SECRET), tokens_per_minute=600)], LocalState(clock))
    client = gate.known(f"Bearer {SECRET}")
    await client.enter()
    (await client.reserve(Amount())).settle(Amount(900))
    with pytest.raises(RateLimited, match="600 tokens a minute"):
        await client.enter()
    clock.now += 31
    await client.enter()


async def test_a_client_with_a_key_is_admitted_and_sees_what_is_left():
    key = Key(name="app", sha256=digest(SECRET), requests_per_minute=9, tokens_per_minute=999)
    async with gateway(keys=[key]) as client:
        with pytest.raises(openai.AuthenticationError, match="not known") as refused:
            await client.chat.completions.create(**ASKED)
        assert refused.value.response.headers["www-authenticate"] == "Bearer"
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
        known = client.with_options(api_key=SECRET)
        raw = await known.chat.completions.with_raw_response.create(**ASKED)
        spent = raw.parse().usage.total_tokens
        assert raw.headers["x-ratelimit-remaining-requests"] == "8"
        assert int(raw.headers["x-ratelimit-remaining-tokens"]) in (999 - spent, 999 - spent + 1)


async def test_a_client_over_its_limit_gets_the_time_to_wait():
    async with gateway(keys=[Key(name="app", sha256=digest(SECRET), requests_per_minute=1)]) as client:
        known = client.with_options(api_key=SECRET)
        await known.chat.completions.create(**ASKED)
        with pytest.raises(openai.RateLimitError) as limited:
            await known.chat.completions.create(**ASKED)
    assert limited.value.body["type"] == "rate_limit_error"
    result = limited.value.response.headers
    assert 1 <= int(result["retry-after"]) <= 60
    assert (result["x-ratelimit-limit-requests"], result["x-ratelimit-remaining-requests"]) == ("1", "0")
