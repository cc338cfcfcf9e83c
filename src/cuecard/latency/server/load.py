"""Who asks when: so many at once, each as soon as one has ended (closed loop), or at random times (open loop)."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from random import Random

from cuecard.latency.server.client import Ask, Raw


@contextmanager
def undisturbed() -> Iterator[None]:
    """Garbage is collected before, and not while others wait to be timed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def closed(bodies: Sequence[bytes], at_once: int, ask: Ask) -> list[Raw]:
    """In the order of the bodies. Nothing waits at the client: a request is due when it is sent."""
    left = iter(enumerate(bodies))
    found: dict[int, Raw] = {}

    async def one_after_another() -> None:
        for number, body in left:
            found[number] = await ask(body, None)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(bodies))):
            group.create_task(one_after_another())
    return [found[number] for number in sorted(found)]


async def opened(bodies: Sequence[bytes], rate: float, at_once: int | None, chance: Random, ask: Ask) -> list[Raw]:
    """Arrivals of a Poisson process, whatever the server does; of more than `at_once` the others wait here, due."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    gaps = [chance.expovariate(rate) for _ in bodies]
    slots = nullcontext() if at_once is None else asyncio.Semaphore(at_once)

    async def arriving(body: bytes, due_s: float) -> Raw:
        await asyncio.sleep(due_s - loop.time())
        async with slots:
            return await ask(body, due_s)

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(arriving(body, start + after))
            for body, after in zip(bodies, accumulate(gaps), strict=True)
        ]
    return [task.result() for task in tasks]
