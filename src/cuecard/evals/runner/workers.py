"""The workers of a run: the items that each has in hand, and how many calls each makes at once.

An item stays with one worker, as that one has its question computed. When a worker is lost, its items go to others.

Calls at once are bounded overall, and for each model adapted to what its server bears: additive increase,
multiplicative decrease (Chiu and Jain 1989), as TCP. A call that went well raises its model's limit by one over the
limit; a refusal or a time-out halves it, once for all calls that were under way together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cuecard.domain.errors import CuecardError
from cuecard.evals.runner.worker import LocalWorker, Worker
from cuecard.models.base import Model


class WorkerLost(Exception):
    """A worker has died under a call. No ModelError: another worker makes the call."""


@dataclass
class ModelLimit:
    """One model's share of the slots."""

    calls: float
    running: int = 0
    halved_at_s: float = float("-inf")


@dataclass
class CallSlots:
    """Room for `most` calls at once. The clock counts seconds from any beginning."""

    most: int
    clock: Callable[[], float]
    busy_s: float = 0.0
    """Seconds of use, summed over slots."""
    running: int = 0
    limits: dict[str, ModelLimit] = field(default_factory=dict)
    _freed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def limit_of(self, model: str) -> ModelLimit:
        return self.limits.setdefault(model, ModelLimit(float(self.most)))

    @asynccontextmanager
    async def use(self, model: str) -> AsyncIterator[float]:
        """A slot, once there is one; gives the time at which it was had."""
        limit = self.limit_of(model)
        async with self._freed:
            await self._freed.wait_for(lambda: self.running < self.most and limit.running < max(1, int(limit.calls)))
            self.running, limit.running = self.running + 1, limit.running + 1
        began = self.clock()
        try:
            yield began
        finally:
            self.busy_s += self.clock() - began
            self.running, limit.running = self.running - 1, limit.running - 1
            async with self._freed:
                self._freed.notify_all()

    def went_well(self, model: str) -> None:
        limit = self.limit_of(model)
        limit.calls = min(float(self.most), limit.calls + 1 / limit.calls)

    def overloaded(self, model: str, began_s: float) -> None:
        """A call that began then was refused, or timed out."""
        limit = self.limit_of(model)
        if began_s > limit.halved_at_s:
            limit.calls, limit.halved_at_s = max(1.0, limit.calls / 2), self.clock()


@dataclass(eq=False)
class PooledWorker:
    """A worker, its slots, and how many items it has in hand. `machine`: where it runs."""

    worker: Worker
    slots: CallSlots
    machine: str
    pool: WorkerPool
    items: int = 0

    @property
    def running(self) -> int:
        """Calls under way on its machine, those of other workers too."""
        return self.pool.running(self.machine)


class WorkerPool:
    """The workers of a run. `expected`: how many there will be once all have joined."""

    def __init__(self, at_once: int, clock: Callable[[], float], expected: int = 1) -> None:
        self._at_once, self._clock, self._expected = at_once, clock, expected
        # while some items are replayed, others fill the slots; a single slot has one item in work at a time
        self._each = 1 if at_once == 1 else 2 * at_once + 2
        self._workers: list[PooledWorker] = []
        self._lost: list[PooledWorker] = []
        self._error: CuecardError | None = None
        self._changed = asyncio.Condition()

    @classmethod
    def of(
        cls, models: Mapping[str, Model], at_once: int, clock: Callable[[], float], *, timed: bool = True
    ) -> WorkerPool:
        """This process alone; `timed` as a `LocalWorker` takes it."""
        pool = cls(at_once, clock)
        pool._workers.append(pool._pooled(LocalWorker(models, alone=at_once == 1, timed=timed), ""))
        return pool

    @property
    def room(self) -> int:
        """How many items may be in hand at once."""
        return self._expected * self._each

    @property
    def busy_s(self) -> float:
        return sum(each.slots.busy_s for each in (*self._workers, *self._lost))

    @property
    def slots(self) -> int:
        return self._expected * self._at_once

    def running(self, machine: str) -> int:
        """Calls under way on a machine."""
        return sum(each.slots.running for each in self._workers if each.machine == machine)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[PooledWorker]:
        """The worker with fewest items in hand, once one has room. Raises what `end` was given."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._error or any(map(self._has_room, self._workers)))
            if self._error is not None:
                raise self._error
            chosen = min(filter(self._has_room, self._workers), key=lambda each: each.items)
            chosen.items += 1
        try:
            yield chosen
        finally:
            async with self._changed:
                chosen.items -= 1
                self._changed.notify_all()

    async def join(self, worker: Worker, machine: str) -> None:
        """One worker more."""
        async with self._changed:
            self._workers.append(self._pooled(worker, machine))
            self._changed.notify_all()

    def lose(self, worker: Worker) -> bool:
        """The worker gets no more items; False if it was lost already."""
        lost = [each for each in self._workers if each.worker is worker]
        self._workers = [each for each in self._workers if each.worker is not worker]
        self._lost += lost
        return bool(lost)

    async def end(self, error: CuecardError) -> None:
        """No worker is left, and none will join."""
        async with self._changed:
            self._error = error
            self._changed.notify_all()

    @property
    def is_empty(self) -> bool:
        return not self._workers

    def _pooled(self, worker: Worker, machine: str) -> PooledWorker:
        return PooledWorker(worker, CallSlots(self._at_once, self._clock), machine, self)

    def _has_room(self, pooled: PooledWorker) -> bool:
        return pooled.items < self._each
