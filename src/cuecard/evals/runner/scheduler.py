"""Has the calls made that are not stored yet: in slots, tried again where that helps, those about one item in turn."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from cuecard.domain.call import Mode
from cuecard.domain.errors import ModelBusy, ModelTimeout, ModelUnreachable, RateLimited
from cuecard.evals.runner.compose import Asked
from cuecard.evals.runner.worker import Before, Order
from cuecard.evals.runner.workers import Place, WorkerLost
from cuecard.evals.storage.database import CallRow, Record
from cuecard.evals.storage.requests import Book, Seat, Wanted, failure
from cuecard.evals.storage.untimed import batched
from cuecard.evals.storage.writer import MOST_WAITING
from cuecard.models import prompt as layouts

ORDER = {Mode.SHORT: 0, Mode.REASON: 1, Mode.READ: 2, Mode.PROBE: 2, Mode.REPAIR: 3, Mode.SCORE: 3, Mode.WEIGH: 3}
"""Of the calls about one question: later ones find it computed, and the first has shown what that saves."""
TRIES = {ModelBusy.__name__: 8, ModelUnreachable.__name__: 4}
OTHER_TRIES = 2
MOST_RECENT = 2 * MOST_WAITING
HOPELESS = 8
"""A model whose first so many calls have all failed is not asked any more."""


@dataclass
class Health:
    """What has become of a model's calls in this process."""

    well: int = 0
    failed: int = 0


@dataclass(frozen=True)
class At:
    """An item in work, and where."""

    asked: Asked
    book: Book
    place: Place
    running: Callable[[], int]

    def before(self, wanted: Wanted) -> Before | None:
        """The short call about the item, if there is one and its model keeps what it computes."""
        if not wanted.seat.abilities.prefix_sessions or wanted.about is not None:
            return None
        prompt = layouts.short(self.asked.item.question, wanted.seat.abilities.style)
        found = self.book.get(Wanted(wanted.seat, prompt, wanted.limits))
        return None if found is None else Before(prompt, found[1])


@dataclass
class Caller:
    """Makes calls, and hands each over to be stored at once. Of equal calls wanted at once, one is made."""

    keep: Callable[[CallRow], Awaitable[None]]
    backoff_s: float = 0.5
    """After a first failure; doubled with each further one, and never less than the server asks for."""
    timed: bool = True
    """Else calls were decoded together, and what one took is not kept as its latency."""
    made: int = 0
    _health: dict[str, Health] = field(default_factory=dict)
    _making: dict[str, asyncio.Future[Record]] = field(default_factory=dict)
    _recent: OrderedDict[str, Record] = field(default_factory=OrderedDict)
    """What may still be on its way to the store."""

    async def make(self, asked: Asked, book: Book, place: Place, running: Callable[[], int]) -> None:
        """All that is missing, models side by side, one call after the other on each.

        `running`: calls under way on the place's machine. Raises WorkerLost, ModelError when a model is lost.
        """
        at = At(asked, book, place, running)
        missing, book.missing = list(book.missing.values()), {}
        of_role: dict[str, list[Wanted]] = {}
        for wanted in sorted(missing, key=lambda each: (ORDER[each.mode], -each.limits.reasoning_tokens)):
            of_role.setdefault(wanted.seat.role, []).append(wanted)
        await together(*(self._in_turn(each, at) for each in of_role.values()))

    async def _in_turn(self, calls: list[Wanted], at: At) -> None:
        for wanted in calls:
            if at.book.get(wanted) is None:  # a reasoning under a larger budget may have come in between
                at.book.add(wanted.key, await self._once(wanted, at))

    async def _once(self, wanted: Wanted, at: At) -> Record:
        while (making := self._making.get(wanted.key)) is not None:
            with suppress(WorkerLost):  # then it is made here
                return await asyncio.shield(making)
        if (recent := self._recent.get(wanted.key)) is not None:
            return recent
        future = self._making[wanted.key] = asyncio.get_running_loop().create_future()
        try:
            record = await self._made(wanted, at)
            await self.keep(CallRow(wanted.key, record))
        except BaseException as error:
            # whoever makes it may be cancelled because its worker died, which is no reason for others to end
            future.set_exception(WorkerLost() if isinstance(error, asyncio.CancelledError) else error)
            future.exception()  # looked at, as nobody else may be waiting for it
            raise
        else:
            future.set_result(record)
            self._recent[wanted.key] = record
            if len(self._recent) > MOST_RECENT:
                self._recent.popitem(last=False)
            return record
        finally:
            del self._making[wanted.key]

    async def _made(self, wanted: Wanted, at: At) -> Record:
        """Tried until it is there, or until trying again is no use. Raises ModelError when the model is lost."""
        failures, slots = list[Record](), at.place.slots
        while True:
            async with slots.use(wanted.seat.role) as began:
                order = Order(wanted, at.asked.name, at.before(wanted), at.running(), tuple(failures))
                record = await at.place.worker.make(order)
                # one's own time-out says the same as a refusal: there is more to do than is borne
                overloaded = record["status"] != "ok" and record["error"]["class"] in _OVERLOADED
            if overloaded:
                slots.overloaded(wanted.seat.role, began)
            if record["status"] == "ok":
                slots.went_well(wanted.seat.role)
            self.made += 1
            failed = record["error"]
            if not failed or not failed["retryable"] or len(failures) + 1 >= TRIES.get(failed["class"], OTHER_TRIES):
                self._judge(wanted.seat, record)
                return record if self.timed else batched(record)
            failures.append(brief(record))
            await asyncio.sleep(max(failed["retry_after_s"] or 0.0, self.backoff_s * 2 ** (len(failures) - 1)))

    def _judge(self, seat: Seat, record: Record) -> None:
        """Raises ModelError when there is no use in asking this model for more."""
        health = self._health.setdefault(seat.role, Health())
        if record["status"] == "ok":
            health.well += 1
            return
        health.failed += 1
        error = failure(record["error"])
        if isinstance(error, ModelUnreachable):  # is no failure of a call, so nothing is stored
            then = "see to its server; the same command goes on then"
            raise ModelUnreachable(f"{seat.name} is lost: {error.message}", then)
        if not health.well and health.failed >= HOPELESS:
            hint = f"{error.hint}; then the same command with --retry-errors goes on"
            raise type(error)(f"{seat.name} has failed all of its first {HOPELESS} calls: {error.message}", hint)


_OVERLOADED = (ModelBusy.__name__, RateLimited.__name__, ModelTimeout.__name__)


def brief(record: Record) -> Record:
    """A try that failed: what it cost."""
    names = ("end_s", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
    return {"error": record["error"]["class"], **{name: record[name] for name in names}}


async def together(*works: Awaitable[object]) -> None:
    """All at once; the first that fails ends the others before its error is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
