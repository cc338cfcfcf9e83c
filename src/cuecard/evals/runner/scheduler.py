"""Has requested calls made: with concurrency limits and retries, equal ones once, those about one item in turn."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from cuecard.domain.call import Mode
from cuecard.domain.errors import ModelBusy, ModelTimeout, ModelUnreachable, RateLimited
from cuecard.evals.runner.compose import Requests, TaskItem
from cuecard.evals.runner.worker import WorkOrder
from cuecard.evals.runner.workers import PooledWorker, WorkerLost
from cuecard.evals.storage.database import MOST_WAITING, CallRow, Record
from cuecard.evals.storage.requests import TOKENS, CallRequest, Seat, StoredCalls, batched, error_of
from cuecard.models import prompt as layouts
from cuecard.models.prompt import Prompt

TRIES = {ModelBusy.__name__: 8, ModelUnreachable.__name__: 4}
OTHER_TRIES = 2
OVERLOADED = (ModelBusy.__name__, RateLimited.__name__, ModelTimeout.__name__)
"""A time-out of one's own says the same as a refusal: there is more to do than the model's server bears."""
MOST_RECENT = 2 * MOST_WAITING
HOPELESS = 8
"""A model whose first so many calls have all failed gets no more calls."""


@dataclass
class Health:
    """How a model's calls have ended in this process."""

    succeeded: int = 0
    failed: int = 0


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
        prompt = layouts.short(self.item.item.question, request.seat.abilities.style)
        stored = self.stored.get(CallRequest(request.seat, prompt, request.limits))
        return None if stored is None else (prompt, stored[1])


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
    _health: dict[str, Health] = field(default_factory=dict)
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
        health = self._health.setdefault(seat.role, Health())
        if record["status"] == "ok":
            health.succeeded += 1
            return
        health.failed += 1
        error = error_of(record["error"])
        if isinstance(error, ModelUnreachable):  # is no failure of a call, so nothing is stored
            then = "see to its server; the same command goes on then"
            raise ModelUnreachable(f"{seat.name} is lost: {error.message}", then)
        if not health.succeeded and health.failed >= HOPELESS:
            hint = f"{error.hint}; then the same command with --retry-errors goes on"
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
