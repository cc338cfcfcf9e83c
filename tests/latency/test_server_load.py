"""The send times of requests, in virtual time: every time is known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import accumulate, pairwise
from random import Random
from statistics import fmean

import pytest

from cuecard.latency.server_requests import Raw, closed_loop, open_loop
from cuecard.virtual_time import run


def server(seconds: float, most: list[int]) -> Callable[[bytes, float | None], Awaitable[Raw]]:
    """A server where each request takes `seconds`; appends the number of open requests to `most`."""
    at_once = 0

    async def ask(body: bytes, due_s: float | None) -> Raw:
        nonlocal at_once
        sent = asyncio.get_running_loop().time()
        at_once += 1
        most.append(at_once)
        await asyncio.sleep(seconds)
        at_once -= 1
        return Raw(sent if due_s is None else due_s, sent, chunks=[(sent, body)], end_s=sent + seconds)

    return ask


BODIES = [str(number).encode() for number in range(7)]


def test_a_closed_loop_keeps_so_many_requests_open_and_none_waits_at_the_client() -> None:
    most: list[int] = []
    seen = run(closed_loop(BODIES, 3, server(1.0, most)))
    assert [raw.chunks[0][1] for raw in seen] == BODIES
    assert [raw.sent_s for raw in seen] == pytest.approx([0, 0, 0, 1, 1, 1, 2])
    assert max(most) == 3
    assert all(raw.sent_s == raw.due_s for raw in seen)


def test_an_open_loop_sends_at_poisson_times_whatever_the_server_does() -> None:
    gaps = [Random(3).expovariate(2.0) for _ in range(1)]
    seen = run(open_loop(BODIES, 2.0, None, Random(3), server(50.0, [])))
    chance = Random(3)
    due = list(accumulate(chance.expovariate(2.0) for _ in BODIES))
    assert [raw.due_s for raw in seen] == pytest.approx(due)
    assert [raw.sent_s for raw in seen] == pytest.approx(due)
    assert seen[0].due_s == pytest.approx(gaps[0])


def test_gaps_of_an_open_loop_are_exponential() -> None:
    seen = run(open_loop([b""] * 4000, 4.0, None, Random(1), server(0.0, [])))
    gaps = [b.due_s - a.due_s for a, b in pairwise(seen)]
    assert fmean(gaps) == pytest.approx(0.25, rel=0.05)
    assert fmean(gap**2 for gap in gaps) == pytest.approx(2 * 0.25**2, rel=0.1)


def test_beyond_the_most_at_once_requests_wait_at_the_client_and_stay_due() -> None:
    most: list[int] = []
    seen = run(open_loop(BODIES, 1000.0, 2, Random(0), server(1.0, most)))
    assert max(most) == 2
    waits = [raw.sent_s - raw.due_s for raw in seen]
    assert waits == pytest.approx([0, 0, 1, 1, 2, 2, 3], abs=0.01)
