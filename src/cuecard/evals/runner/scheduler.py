"""Has requested calls made: by the workers of a run, with concurrency limits and retries, equal ones once.

An item stays with one worker, as that one has its question computed. When a worker is lost, its items go to others.

Calls at once are bounded overall, and for each model adapted to what its server bears: additive increase,
multiplicative decrease (Chiu and Jain 1989), as TCP. A call that went well raises its model's limit by one over the
limit; a refusal or a time-out halves it, once for all calls that were under way together.
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
"""A time-out of one's own says the same as a refusal: there is more to do than the model's server bears."""
MOST_RECENT = 2 * MOST_WAITING
HOPELESS = 8
"""A model whose first this many calls have all failed gets no more calls."""


# --- workers and their slots ------------------------------------------------------------------------------------------


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

    def _pooled(self, worker: Worker, machine: str) -> PooledWorker:
        return PooledWorker(worker, CallSlots(self._at_once, self._clock), machine, self)

    def _has_room(self, pooled: PooledWorker) -> bool:
        return pooled.items < self._each


# --- the calls of an item ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ItemAtWorker:
    """An item in work, the stored calls about it, and the worker that has it in hand."""

    item: TaskItem
    stored: StoredCalls
    worker: PooledWorker

    def short(self, request: CallRequest) -> tuple[Prompt, Record] | None:
        """The model's short call about the item, if one is stored and its model keeps what it computes."""
        if not request.seat.abilities.prefix_sessions or request.about is not None:
            return None
        return self.stored.short(request.seat, self.item.item.question, request.limits)


@dataclass
class Scheduler:
    """Makes calls, and hands each over to be stored at once. Of equal calls requested at once, one is made."""

    keep: Callable[[CallRow], Awaitable[None]]
    backoff_s: float = 0.5
    """After a first failure; doubled with each further one, and never less than the server asks for."""
    timed: bool = True
    """Else calls were decoded together, and what one took is not kept as its latency."""
    calls: int = 0
    """Calls made, failed tries included."""
    _succeeded: set[str] = field(default_factory=set)
    """The roles of which a call has succeeded in this process."""
    _failed: Counter[str] = field(default_factory=Counter)
    _pending: dict[str, asyncio.Future[Record]] = field(default_factory=dict)
    _recent: OrderedDict[str, Record] = field(default_factory=OrderedDict)
    """What may still be on its way to the store."""

    async def make(self, requests: Requests, item: TaskItem, stored: StoredCalls, worker: PooledWorker) -> None:
        """All requested calls, models side by side, one call after the other on each; each is added to `stored`.

        Raises WorkerLost, ModelError when a model is lost.
        """
        at = ItemAtWorker(item, stored, worker)
        of_role: dict[str, list[CallRequest]] = {}
        for request in sorted(requests.values(), key=_turn):
            of_role.setdefault(request.seat.role, []).append(request)
        await together(*(self._in_turn(each, at) for each in of_role.values()))

    async def _in_turn(self, requests: list[CallRequest], at: ItemAtWorker) -> None:
        for request in requests:
            if at.stored.get(request) is None:  # a reasoning under a larger budget may have come in between
                at.stored.add(request.key, await self._once(request, at))

    async def _once(self, request: CallRequest, at: ItemAtWorker) -> Record:
        while (pending := self._pending.get(request.key)) is not None:
            with suppress(WorkerLost):  # then it is made here
                return await asyncio.shield(pending)
        if (recent := self._recent.get(request.key)) is not None:
            return recent
        future = self._pending[request.key] = asyncio.get_running_loop().create_future()
        try:
            record = await self._with_retries(request, at)
            await self.keep(CallRow(request.key, record))
        except BaseException as error:
            # the call may be cancelled because its worker died, which is no reason for others to end
            future.set_exception(WorkerLost() if isinstance(error, asyncio.CancelledError) else error)
            future.exception()  # retrieved, as nothing else may be waiting for it
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
        """Tried until it succeeds, or until trying again is no use. Raises ModelError when the model is lost."""
        failures, slots, role = list[Record](), at.worker.slots, request.seat.role
        while True:
            async with slots.use(role) as began:
                order = WorkOrder(request, at.item.name, at.short(request), at.worker.running, tuple(failures))
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
        """Raises ModelError when more calls of this model are no use."""
        if record["status"] == "ok":
            self._succeeded.add(seat.role)
            return
        self._failed[seat.role] += 1
        error = error_of(record["error"])
        if isinstance(error, ModelUnreachable):  # is no failure of a call, so nothing is stored
            then = "see to its server; the same command resumes the run then"
            raise ModelUnreachable(f"{seat.name} is lost: {error.message}", then)
        if seat.role not in self._succeeded and self._failed[seat.role] >= HOPELESS:
            hint = f"{error.hint}; then the same command with --retry-errors resumes the run"
            raise type(error)(f"{seat.name} has failed all of its first {HOPELESS} calls: {error.message}", hint)


def _turn(request: CallRequest) -> tuple[int, int]:
    """Short, reason, read: the first call shows what computing the question takes. The largest budget comes first."""
    return tuple(Mode).index(request.mode), -request.limits.reasoning_tokens


async def together(*works: Awaitable[object]) -> None:
    """All at once; the first that fails ends the others before its error is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def for_each(items: Iterator[T], at_once: int, work: Callable[[T], Awaitable[None]]) -> None:
    """Work on every item, on this many at once; items are read on a thread, one at a time."""
    turn = asyncio.Lock()

    async def work_on() -> None:
        while True:
            async with turn:
                item = await asyncio.to_thread(next, items, None)
            if item is None:
                return
            await work(item)

    await together(*(work_on() for _ in range(at_once)))
