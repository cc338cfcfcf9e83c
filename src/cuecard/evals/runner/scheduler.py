"""Schedules requested calls on the workers of a run, with concurrency limits and retries; equal calls are made once.

An item stays with one worker, which has the item's question in its KV cache. If a worker is lost, its items go to other
workers.

The number of concurrent calls is bounded overall, and adapted for each model to the load that its server bears:
additive increase, multiplicative decrease (Chiu and Jain 1989), as in TCP. A successful call raises its model's limit
by 1 / limit; a refusal or a time-out halves the limit, once for all calls that were running together.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from cuecard.domain.call import Mode
from cuecard.domain.errors import CuecardError, ModelBusy, ModelTimeout, ModelUnreachable, RateLimited
from cuecard.evals.database import MOST_WAITING, CallRow, Record
from cuecard.evals.requests import TOKENS, CallRequest, Seat, StoredCalls, batched, error_of
from cuecard.evals.runner.compose import Requests, TaskItem
from cuecard.evals.runner.worker import LocalWorker, Worker, WorkOrder
from cuecard.models.base import Model
from cuecard.models.prompt import Prompt

T = TypeVar("T")
TRIES = {ModelBusy.__name__: 8, ModelUnreachable.__name__: 4}
OTHER_TRIES = 2
OVERLOADED = (ModelBusy.__name__, RateLimited.__name__, ModelTimeout.__name__)
"""Errors that show that the model's server is overloaded; our own time-out counts as a refusal."""
MOST_RECENT = 2 * MOST_WAITING
HOPELESS = 8
"""If the first this many calls of a model all fail, it gets no more calls."""


# --- workers and their slots ------------------------------------------------------------------------------------------


class WorkerLost(Exception):
    """A worker died during a call. Not a ModelError: another worker makes the call."""


@dataclass
class ModelLimit:
    """The concurrency limit of one model."""

    calls: float
    running: int = 0
    halved_at_s: float = float("-inf")


@dataclass
class CallSlots:
    """Slots for `most` concurrent calls. `clock`: monotonic seconds from any origin."""

    most: int
    clock: Callable[[], float]
    busy_s: float = 0.0
    """Seconds in use, summed over slots."""
    running: int = 0
    limits: dict[str, ModelLimit] = field(default_factory=dict)
    _freed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def limit_of(self, model: str) -> ModelLimit:
        return self.limits.setdefault(model, ModelLimit(float(self.most)))

    @asynccontextmanager
    async def use(self, model: str) -> AsyncIterator[float]:
        """Wait for a slot and hold it; yields the clock time at which it was acquired."""
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
        """Record that a call that began at `began_s` was refused or timed out."""
        limit = self.limit_of(model)
        if began_s > limit.halved_at_s:
            limit.calls, limit.halved_at_s = max(1.0, limit.calls / 2), self.clock()


@dataclass(eq=False)
class PooledWorker:
    """A worker, its slots, and its number of items in progress. `machine`: the host that it runs on."""

    worker: Worker
    slots: CallSlots
    machine: str
    pool: WorkerPool
    items: int = 0


class WorkerPool:
    """The workers of a run. `expected`: the number of workers when all have joined."""

    def __init__(self, at_once: int, clock: Callable[[], float], expected: int = 1) -> None:
        self._at_once, self._clock, self._expected = at_once, clock, expected
        # while some items are replayed, others fill the slots; with a single slot, one item at a time
        self._each = 1 if at_once == 1 else 2 * at_once + 2
        self._workers: list[PooledWorker] = []
        self._lost: list[PooledWorker] = []
        self._error: CuecardError | None = None
        self._changed = asyncio.Condition()

    @classmethod
    def of(
        cls, models: Mapping[str, Model], at_once: int, clock: Callable[[], float], *, timed: bool = True
    ) -> WorkerPool:
        """A pool with this process as the only worker; `timed` as in `LocalWorker`."""
        pool = cls(at_once, clock)
        pool._workers.append(pool._pooled(LocalWorker(models, alone=at_once == 1, timed=timed), ""))
        return pool

    @property
    def room(self) -> int:
        """The maximum number of items in progress at once."""
        return self._expected * self._each

    @property
    def busy_s(self) -> float:
        return sum(each.slots.busy_s for each in (*self._workers, *self._lost))

    @property
    def slots(self) -> int:
        return self._expected * self._at_once

    def running(self, machine: str) -> int:
        """Running calls on a machine."""
        return sum(each.slots.running for each in self._workers if each.machine == machine)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[PooledWorker]:
        """The worker with the fewest items in progress, when one has room. Raises the error given to `end`."""
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
        """Add a worker."""
        async with self._changed:
            self._workers.append(self._pooled(worker, machine))
            self._changed.notify_all()

    def lose(self, worker: Worker) -> bool:
        """Remove the worker, so that it gets no more items; False if it was lost already."""
        lost = [each for each in self._workers if each.worker is worker]
        self._workers = [each for each in self._workers if each.worker is not worker]
        self._lost += lost
        return bool(lost)

    async def end(self, error: CuecardError) -> None:
        """Fail all waiting and later calls of `worker` with this error: no worker is left, and none will join."""
        async with self._changed:
            self._error = error
            self._changed.notify_all()

    def _pooled(self, worker: Worker, machine: str) -> PooledWorker:
        return PooledWorker(worker, CallSlots(self._at_once, self._clock), machine, self)

    def _has_room(self, pooled: PooledWorker) -> bool:
        return pooled.items < self._each


# --- the calls of an item ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ItemAtWorker:
    """An item in progress, the stored calls about it, and its worker."""

    item: TaskItem
    stored: StoredCalls
    worker: PooledWorker

    def short(self, request: CallRequest) -> tuple[Prompt, Record] | None:
        """The model's short call about the item, if one is stored and the model keeps its KV cache between calls."""
        if not request.seat.abilities.prefix_sessions or request.about is not None:
            return None
        return self.stored.short(request.seat, self.item.item.question, request.limits)


@dataclass
class Scheduler:
    """Makes calls and passes each to `keep` immediately, to be stored. Equal concurrent requests share one call."""

    keep: Callable[[CallRow], Awaitable[None]]
    backoff_s: float = 0.5
    """Wait after a first failure; doubled after each further one, and never shorter than the server's retry-after."""
    timed: bool = True
    """False: calls are decoded in a batch, and a call's time is not stored as its latency."""
    calls: int = 0
    """Calls made, including failed tries."""
    _succeeded: set[str] = field(default_factory=set)
    """Roles with at least one successful call in this process."""
    _failed: Counter[str] = field(default_factory=Counter)
    _pending: dict[str, asyncio.Future[Record]] = field(default_factory=dict)
    _recent: OrderedDict[str, Record] = field(default_factory=OrderedDict)
    """Recent records by cache key; the store may not have written them yet."""

    async def make(self, requests: Requests, item: TaskItem, stored: StoredCalls, worker: PooledWorker) -> None:
        """Make all requested calls, models in parallel and each model's calls in sequence; add each to `stored`.

        Raises WorkerLost, and ModelError if a model is lost.
        """
        at = ItemAtWorker(item, stored, worker)
        of_role: dict[str, list[CallRequest]] = {}
        for request in sorted(requests.values(), key=_turn):
            of_role.setdefault(request.seat.role, []).append(request)
        await together(*(self._in_turn(each, at) for each in of_role.values()))

    async def _in_turn(self, requests: list[CallRequest], at: ItemAtWorker) -> None:
        for request in requests:
            if at.stored.get(request) is None:  # a reasoning with a larger budget may cover it by now
                at.stored.add(request.key, await self._once(request, at))

    async def _once(self, request: CallRequest, at: ItemAtWorker) -> Record:
        while (pending := self._pending.get(request.key)) is not None:
            with suppress(WorkerLost):  # then the call is made here
                return await asyncio.shield(pending)
        if (recent := self._recent.get(request.key)) is not None:
            return recent
        future = self._pending[request.key] = asyncio.get_running_loop().create_future()
        try:
            record = await self._with_retries(request, at)
            await self.keep(CallRow(request.key, record))
        except BaseException as error:
            # the call may be cancelled because its worker died; those that wait for it must not be cancelled
            future.set_exception(WorkerLost() if isinstance(error, asyncio.CancelledError) else error)
            future.exception()  # mark it as retrieved: nothing else may be waiting for it
            raise
        else:
            future.set_result(record)
            self._recent[request.key] = record
            if len(self._recent) > MOST_RECENT:
                self._recent.popitem(last=False)
            return record
        finally:
            del self._pending[request.key]

    async def _with_retries(self, request: CallRequest, at: ItemAtWorker) -> Record:
        """Make the call, with retries while they may help. Raises ModelError if the model is lost."""
        failures, slots, role = list[Record](), at.worker.slots, request.seat.role
        while True:
            async with slots.use(role) as began:
                running = at.worker.pool.running(at.worker.machine)  # including other workers' calls
                order = WorkOrder(request, at.item.name, at.short(request), running, tuple(failures))
                record = await at.worker.worker.make(order)
            failed = record["error"]
            if failed and failed["class"] in OVERLOADED:
                slots.overloaded(role, began)
            if record["status"] == "ok":
                slots.went_well(role)
            self.calls += 1
            if not failed or not failed["retryable"] or len(failures) + 1 >= TRIES.get(failed["class"], OTHER_TRIES):
                self._check_health(request.seat, record)
                return record if self.timed else batched(record)
            failures.append({"error": failed["class"], **{name: record[name] for name in ("end_s", *TOKENS)}})
            await asyncio.sleep(max(failed["retry_after_s"] or 0.0, self.backoff_s * 2 ** (len(failures) - 1)))

    def _check_health(self, seat: Seat, record: Record) -> None:
        """Raises ModelError if further calls of this model are useless."""
        if record["status"] == "ok":
            self._succeeded.add(seat.role)
            return
        self._failed[seat.role] += 1
        error = error_of(record["error"])
        if isinstance(error, ModelUnreachable):  # not a failure of the call, so nothing is stored
            then = "see to its server; the same command resumes the run then"
            raise ModelUnreachable(f"{seat.name} is lost: {error.message}", then)
        if seat.role not in self._succeeded and self._failed[seat.role] >= HOPELESS:
            hint = f"{error.hint}; then the same command with --retry-errors resumes the run"
            raise type(error)(f"{seat.name} has failed all of its first {HOPELESS} calls: {error.message}", hint)


def _turn(request: CallRequest) -> tuple[int, int]:
    """Sort key: short, reason, read (the first call measures the question's prefill); larger budgets first."""
    return tuple(Mode).index(request.mode), -request.limits.reasoning_tokens


async def together(*works: Awaitable[object]) -> None:
    """Run all concurrently. If one fails, the others are cancelled and awaited before its error is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def for_each(items: Iterator[T], at_once: int, work: Callable[[T], Awaitable[None]]) -> None:
    """Run `work` for every item, `at_once` items concurrently; items are read on a thread, one at a time."""
    turn = asyncio.Lock()

    async def work_on() -> None:
        while True:
            async with turn:
                item = await asyncio.to_thread(next, items, None)
            if item is None:
                return
            await work(item)

    await together(*(work_on() for _ in range(at_once)))
