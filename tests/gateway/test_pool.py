"""Replicas of one model, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from cuecard import virtual_time
from cuecard.domain.errors import BrokenStream, ModelBusy, ModelError, ModelRefused, ModelTimeout, ModelUnreachable
from cuecard.domain.question import Question
from cuecard.models.base import AnswerDelta, Limits
from cuecard.models.pool import Breaker, BreakerState, Pool, Replica
from cuecard.models.prompt import PROSE, TAGS, CardFormat, read, reason, short
from cuecard.models.replay import Says, ScriptedModel

ASK = short(Question("How many cats?"), TAGS)
FINE, DOWN = Says("3", token_s=1), Says(error=ModelUnreachable("no server"))


def pool(*scripts: Says | Sequence[Says], most: int | None = None) -> Pool:
    """A pool with one replica per script; a single reply is repeated."""

    def replica(name: int, script: Says | Sequence[Says]) -> Replica:
        says: Any = (lambda _: script) if isinstance(script, Says) else list(script)
        return Replica(ScriptedModel(f"server {name}", says), Breaker(asyncio.get_running_loop().time), most=most)

    return Pool([replica(name, script) for name, script in enumerate(scripts)], Random(0))


async def answer(asked: Pool, prompt=ASK, limits: Limits | None = None) -> str:
    events = [event async for event in asked.stream(prompt, limits or Limits())]
    return "".join(event.text for event in events if isinstance(event, AnswerDelta))


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        virtual_time.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def now() -> float:
    return asyncio.get_running_loop().time()


def asked(servers: Pool) -> list[int]:
    return [len(replica.model.prompts) for replica in servers.replicas]


@in_virtual_time
async def test_what_fails_before_its_first_word_is_tried_elsewhere_at_once():
    servers = pool(DOWN, FINE)
    for _ in range(4):
        assert await answer(servers) == "3"
    assert now() == 4


@in_virtual_time
async def test_a_call_that_breaks_after_its_first_word_is_not_retried():
    servers = pool(*[Says("one two three", error=BrokenStream("cut"), after_tokens=1)] * 2)
    with pytest.raises(BrokenStream):
        await answer(servers)
    assert sum(asked(servers)) == 1


@in_virtual_time
async def test_a_refusal_is_final():
    servers = pool(*[Says(error=ModelRefused("no such model"))] * 2)
    with pytest.raises(ModelRefused):
        await answer(servers)
    assert sum(asked(servers)) == 1


def busy(after_s: float) -> Says:
    error = ModelBusy("too many")
    error.retry_after_s = after_s
    return Says(error=error)


@in_virtual_time
async def test_a_call_to_a_busy_server_is_retried_after_its_retry_after():
    assert await answer(pool([busy(7), FINE])) == "3"
    assert now() == 7 + 1


@in_virtual_time
async def test_nothing_is_tried_again_beyond_the_time_limit():
    with pytest.raises(ModelBusy):
        await answer(pool([busy(7), FINE]), limits=Limits(timeout_s=5))
    assert now() < 5


@in_virtual_time
async def test_retries_are_a_share_of_the_calls():
    servers = pool(*[Says(error=BrokenStream("cut"))] * 2)
    servers.replicas = [Replica(r.model, Breaker(now, failures=10**6)) for r in servers.replicas]
    for _ in range(100):
        with pytest.raises(BrokenStream):
            await answer(servers)
    assert servers.retries <= 10 + 0.2 * 100


@in_virtual_time
async def test_a_server_that_fails_again_and_again_is_left_alone_for_a_while():
    servers = pool([DOWN] * 5 + [FINE] * 9)
    breaker = servers.replicas[0].breaker
    while breaker.state is BreakerState.CLOSED:
        with pytest.raises(ModelUnreachable):
            await answer(servers, limits=Limits(timeout_s=0.01))
    with pytest.raises(ModelUnreachable, match="failed of late"):
        await answer(servers)
    assert asked(servers) == [5]
    await asyncio.sleep(15)
    assert breaker.state is BreakerState.HALF_OPEN
    probe = asyncio.create_task(answer(servers))
    await asyncio.sleep(0.5)
    with pytest.raises(ModelUnreachable):
        await answer(servers)  # half open: one call at a time
    assert await probe == "3"
    assert breaker.state is BreakerState.CLOSED


BROKEN = Says("one two three", error=BrokenStream("cut"), after_tokens=1)


@in_virtual_time
async def test_a_request_that_fails_repeatedly_blocks_no_other_requests():
    servers = pool(BROKEN)
    for number in range(20):
        with pytest.raises(BrokenStream):
            await answer(servers, short(Question(f"Question {number % 4}?"), TAGS))
    assert servers.replicas[0].breaker.state is BreakerState.CLOSED


@in_virtual_time
async def test_a_server_that_fails_at_five_conversations_is_left_alone_until_one_goes_well():
    servers = pool([BROKEN] * 6 + [FINE] * 9)
    breaker = servers.replicas[0].breaker
    for number in range(5):
        with pytest.raises(BrokenStream):
            await answer(servers, short(Question(f"Question {number}?"), TAGS))
    assert breaker.state is BreakerState.OPEN
    await asyncio.sleep(15)
    with pytest.raises(BrokenStream):  # a conversation that failed before opens the breaker again
        await answer(servers, short(Question("Question 0?"), TAGS))
    assert breaker.state is BreakerState.OPEN
    await asyncio.sleep(15)
    assert await answer(servers) == "3"
    assert breaker.state is BreakerState.CLOSED


@in_virtual_time
async def test_time_outs_of_one_conversation_count_each():
    servers = pool(Says(error=ModelTimeout("too slow")))
    for _ in range(5):
        with suppress(ModelTimeout):
            await answer(servers, limits=Limits(timeout_s=0.01))
    assert servers.replicas[0].breaker.state is BreakerState.OPEN


@in_virtual_time
async def test_a_cancelled_call_changes_no_breaker():
    servers = pool(Says(hangs=True))
    for _ in range(9):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(answer(servers), timeout=1)
    assert servers.replicas[0].breaker.state is BreakerState.CLOSED
    assert servers.replicas[0].running == 0


@in_virtual_time
async def test_all_calls_about_one_question_go_to_one_server():
    servers = pool(*[FINE] * 4)
    question = Question("How many cats are on the mat?")
    for style in (TAGS, PROSE):
        for prompt in (
            short(question, style),
            reason(question, style),
            read(question, "One.", CardFormat.NOTES, style),
        ):
            await answer(servers, prompt)
    assert sorted(asked(servers)) == [0, 0, 0, 6]


@in_virtual_time
async def test_questions_are_spread_over_the_servers_by_their_weights():
    servers = pool(*[FINE] * 3)
    servers.replicas[0].weight = 2.0
    for number in range(400):
        await answer(servers, short(Question(f"Question {number}?"), TAGS))
    first, *others = asked(servers)
    assert 150 < first < 250
    assert all(60 < count < 140 for count in others)


@in_virtual_time
async def test_a_favourite_question_does_not_drown_its_server():
    servers = pool(*[FINE] * 4)
    await asyncio.gather(*(answer(servers) for _ in range(40)))
    assert max(asked(servers)) <= 20
    assert min(asked(servers)) >= 5


@in_virtual_time
async def test_no_more_calls_at_once_than_a_server_takes_and_in_order():
    servers = pool(FINE, most=2)
    ended = []

    async def one(number: int) -> None:
        await answer(servers)
        ended.append((number, now()))

    await asyncio.gather(*(one(number) for number in range(6)))
    assert ended == [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3), (5, 3)]


@in_virtual_time
async def test_a_call_that_stops_waiting_takes_no_place():
    servers = pool(FINE, most=1)
    first, waits, last = (asyncio.create_task(answer(servers)) for _ in range(3))
    await asyncio.sleep(0.5)
    waits.cancel()
    assert await asyncio.gather(first, last) == ["3", "3"]
    assert (now(), servers.replicas[0].running) == (2, 0)


@in_virtual_time
async def test_an_unknown_failure_opens_the_breaker_but_is_not_tried_again():
    servers = pool(*[Says(error=ModelError("engine died"))] * 2)
    with pytest.raises(ModelError):
        await answer(servers)
    assert sum(asked(servers)) == 1
