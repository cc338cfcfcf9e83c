"""Makes the calls that are not stored yet: in slots, tried again where that helps, those about one item in turn."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from cuecard.domain.call import Mode
from cuecard.domain.errors import ModelBusy, ModelError, ModelTimeout, ModelUnreachable, RateLimited
from cuecard.evals.calls import Book, Seat, Wanted, failure
from cuecard.evals.compose import Asked
from cuecard.evals.making import Take, record_of, take
from cuecard.evals.slots import Slots
from cuecard.evals.store import CallRow, Record
from cuecard.evals.writer import MOST_WAITING
from cuecard.models import prompt as layouts
from cuecard.models.base import Model

ORDER = {Mode.SHORT: 0, Mode.REASON: 1, Mode.READ: 2, Mode.SCORE: 3}
"""Of the calls about one question: later ones find it computed, and the first has shown what that saves."""
HOT = (Mode.SHORT, Mode.READ)
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


@dataclass
class Visit:
    """The calls about one item on one model so far."""

    begun: bool = False
    """The model has the question computed, if it keeps what it computes."""
    first: Record | None = None
    """The short call that found nothing computed, and its repetition."""


@dataclass
class Caller:
    """Makes calls, and hands each over to be stored at once. Of equal calls wanted at once, one is made."""

    models: Mapping[str, Model]
    seats: Mapping[str, Seat]
    slots: Slots
    keep: Callable[[CallRow], Awaitable[None]]
    backoff_s: float = 0.5
    """After a first failure; doubled with each further one, and never less than the server asks for."""
    made: int = 0
    _visits: dict[tuple[str, str], Visit] = field(default_factory=dict)
    _at: dict[str, str] = field(default_factory=dict)
    """By role, the item that was asked about last."""
    _health: dict[str, Health] = field(default_factory=dict)
    _making: dict[str, asyncio.Future[Record]] = field(default_factory=dict)
    _recent: OrderedDict[str, Record] = field(default_factory=OrderedDict)
    """What may still be on its way to the store."""

    async def make(self, asked: Asked, book: Book) -> None:
        """All that is missing, models side by side, one call after the other on each."""
        missing, book.missing = list(book.missing.values()), {}
        of_role: dict[str, list[Wanted]] = {}
        for wanted in sorted(missing, key=lambda each: (ORDER[each.mode], -each.limits.reasoning_tokens)):
            of_role.setdefault(wanted.seat.role, []).append(wanted)
        await together(*(self._in_turn(each, asked, book) for each in of_role.values()))

    def done_with(self, asked: Asked) -> None:
        """Nothing more is going to be asked about this item."""
        for role in self.models:
            self._visits.pop((role, asked.name), None)

    async def _in_turn(self, calls: list[Wanted], asked: Asked, book: Book) -> None:
        for wanted in calls:
            if book.get(wanted) is None:  # a reasoning under a larger budget may have come in between
                book.add(wanted.key, await self._once(wanted, asked, book))

    async def _once(self, wanted: Wanted, asked: Asked, book: Book) -> Record:
        if (making := self._making.get(wanted.key)) is not None:
            return await asyncio.shield(making)
        if (recent := self._recent.get(wanted.key)) is not None:
            return recent
        future = self._making[wanted.key] = asyncio.get_running_loop().create_future()
        try:
            record = await self._made(wanted, asked, book)
            await self.keep(CallRow(wanted.key, record))
        except BaseException as error:
            future.set_exception(error)
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

    async def _made(self, wanted: Wanted, asked: Asked, book: Book) -> Record:
        """Tried until it is there, or until trying again is no use. Raises ModelError when the model is lost."""
        failures: list[Record] = []
        while True:
            async with self.slots.use(wanted.seat.role) as began:
                record = await self._tried(wanted, asked, book, failures)
                # one's own time-out says the same as a refusal: there is more to do than is borne
                overloaded = record["status"] != "ok" and record["error"]["class"] in _OVERLOADED
            if overloaded:
                self.slots.overloaded(wanted.seat.role, began)
            if record["status"] == "ok":
                self.slots.went_well(wanted.seat.role)
            self.made += 1
            failed = record["error"]
            if not failed or not failed["retryable"] or len(failures) + 1 >= TRIES.get(failed["class"], OTHER_TRIES):
                self._judge(wanted.seat, record)
                return record
            failures.append(brief(record))
            await asyncio.sleep(max(failed["retry_after_s"] or 0.0, self.backoff_s * 2 ** (len(failures) - 1)))

    async def _tried(self, wanted: Wanted, asked: Asked, book: Book, failures: list[Record]) -> Record:
        seat, model, at_once = wanted.seat, self.models[wanted.seat.role], self.slots.running
        visit = await self._visit(wanted, asked, book)
        keeps = seat.abilities.prefix_sessions
        warm = keeps and visit.begun
        made = await take(model, wanted, time.perf_counter)
        again: Take | None = None
        if keeps and wanted.mode in HOT and made.error is None:
            again = await take(model, wanted, time.perf_counter)
        visit.begun = visit.begun or made.error is None
        facts: Record = {"warm": warm, "cold": cold(visit.first) if warm else None, "at_once": at_once}
        facts |= {"failures": list(failures), "made_at": round(time.time(), 3)}
        record = record_of(wanted, made, again, **facts)
        if record["status"] == "ok" and wanted.mode is Mode.SHORT and not warm:
            visit.first = record
        return record

    async def _visit(self, wanted: Wanted, asked: Asked, book: Book) -> Visit:
        """The calls about this item on this model, the model being as if they had just been made."""
        role, about = wanted.seat.role, wanted.about or asked.name
        alone = self.slots.most == 1  # with others under way nothing may be forgotten
        if alone and self._at.get(role) != about:
            self.models[role].forget()
            self._visits.pop((role, about), None)
        self._at[role] = about
        if (role, about) in self._visits:
            return self._visits[role, about]
        visit = self._visits[role, about] = Visit()
        if wanted.seat.abilities.prefix_sessions and wanted.about is None:
            prompt = layouts.short(asked.item.question, wanted.seat.abilities.style)
            if (before := book.get(Wanted(wanted.seat, prompt, wanted.limits))) is not None:
                # an earlier process has made it: the question is computed again, so that times are as they would be
                with suppress(ModelError):
                    await self.models[role].warm(prompt)
                    visit.begun, visit.first = True, None if before[1]["warm"] else before[1]
        return visit

    def _judge(self, seat: Seat, record: Record) -> None:
        """Raises ModelError when there is no use in asking this model for more."""
        health = self._health.setdefault(seat.role, Health())
        if record["status"] == "ok":
            health.well += 1
            return
        health.failed += 1
        error = failure(record["error"])
        if isinstance(error, ModelUnreachable):  # is no failure of a call, so nothing is stored
            raise ModelUnreachable(f"{seat.name} is lost: {error}", "see to its server; the same command goes on then")
        if not health.well and health.failed >= HOPELESS:
            hint = f"{error.hint}; then the same command with --retry-errors goes on"
            raise type(error)(f"{seat.name} has failed all of its first {HOPELESS} calls: {error}", hint)


_OVERLOADED = (ModelBusy.__name__, RateLimited.__name__, ModelTimeout.__name__)


def cold(first: Record | None) -> Record | None:
    """What a call that found the question computed would have cost more without; None where nothing shows it."""
    if first is None or first["first_token_s"] is None or first["hot_first_token_s"] is None:
        return None
    extra_s = max(0.0, first["first_token_s"] - first["hot_first_token_s"])
    return {"extra_s": extra_s, "cached_tokens": first["cached_tokens"]}


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
