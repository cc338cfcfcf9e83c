"""A worker: models, and what they hold computed of the questions that they were asked about last."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from cuecard.domain.call import Mode
from cuecard.domain.errors import ModelError
from cuecard.domain.outcome import LatencyKind
from cuecard.domain.question import Question
from cuecard.evals.arm import Arm
from cuecard.evals.runner import compose, contention
from cuecard.evals.runner.timed_call import Take, record_of, take
from cuecard.evals.storage.database import Record
from cuecard.evals.storage.requests import Book, Seat, Wanted
from cuecard.models.base import Limits, Model
from cuecard.models.prompt import Prompt

HOT = (Mode.SHORT, Mode.READ)
MOST_VISITS = 4096


@dataclass(frozen=True)
class Before:
    """The short call about a question, made by another worker or an earlier process."""

    prompt: Prompt
    record: Record


@dataclass(frozen=True)
class Order:
    """A call to be made. `about`: the item that it is about; `at_once`: calls that run on the machine meanwhile."""

    wanted: Wanted
    about: str
    before: Before | None
    at_once: int
    failures: tuple[Record, ...] = ()


class Worker(Protocol):
    """Where calls are made. What it gives back are records: it stores nothing. Each may raise `crew.WorkerLost`."""

    async def make(self, order: Order) -> Record:
        """One call, tried once; its failure is part of the record."""
        ...

    async def live(self, asked: compose.Asked, arm: Arm, seats: Mapping[str, Seat], book: Book) -> Record:
        """One arm end to end: the answer's record, measured."""
        ...

    async def pace(self, questions: Sequence[Question], limits: Limits) -> float | None:
        """As `contention.pace`."""
        ...


@dataclass
class Visit:
    """The calls about one item on one model so far."""

    begun: bool = False
    """The model has the question computed, if it keeps what it computes."""
    first: Record | None = None
    """The short call that found nothing computed, and its repetition."""


class Maker:
    """Models in this process, at work. `alone`: one call runs at a time, and models forget between items.

    `timed`: calls are repeated to see what computing the question costs.
    """

    def __init__(self, models: Mapping[str, Model], *, alone: bool, timed: bool = True) -> None:
        self._models, self._alone, self._timed = models, alone, timed
        self._visits = OrderedDict[tuple[str, str], Visit]()
        self._at: dict[str, str] = {}
        """By role, the item that was asked about last."""

    async def make(self, order: Order) -> Record:
        """As `Worker.make`."""
        wanted = order.wanted
        seat, model = wanted.seat, self._models[wanted.seat.role]
        visit = await self._visit(order)
        keeps = seat.abilities.prefix_sessions
        warm = keeps and visit.begun
        made = await take(model, wanted, time.perf_counter)
        again: Take | None = None
        if self._timed and keeps and wanted.mode in HOT and made.error is None:
            again = await take(model, wanted, time.perf_counter)
        visit.begun = visit.begun or made.error is None
        facts: Record = {"warm": warm, "cold": cold(visit.first) if warm else None, "at_once": order.at_once}
        facts |= {"failures": list(order.failures), "made_at": round(time.time(), 3)}
        record = record_of(wanted, made, again, **facts)
        if record["status"] == "ok" and wanted.mode is Mode.SHORT and not warm:
            visit.first = record
        return record

    async def live(self, asked: compose.Asked, arm: Arm, seats: Mapping[str, Seat], book: Book) -> Record:
        """As `Worker.live`."""
        if self._alone:
            self._at.clear()
            for model in self._models.values():
                model.forget()
        told = await compose.live(asked, arm, self._models, seats, book)
        return await asyncio.to_thread(compose.record_of, asked, told, LatencyKind.MEASURED)

    async def pace(self, questions: Sequence[Question], limits: Limits) -> float | None:
        """As `Worker.pace`."""
        self._at.clear()
        return await contention.pace(self._models, questions, limits, time.perf_counter)

    async def _visit(self, order: Order) -> Visit:
        """The calls about this item on this model, the model being as if they had just been made."""
        role, about = order.wanted.seat.role, order.wanted.about or order.about
        if self._alone and self._at.get(role) != about:  # with others under way nothing may be forgotten
            self._models[role].forget()
            self._visits.pop((role, about), None)
        self._at[role] = about
        if (role, about) in self._visits:
            return self._visits[role, about]
        visit = self._visits[role, about] = Visit()
        if len(self._visits) > MOST_VISITS:
            self._visits.popitem(last=False)
        if self._timed and (before := order.before) is not None:
            # somebody else has made it: the question is computed again, so that times are as they would be
            with suppress(ModelError):
                await self._models[role].warm(before.prompt)
                visit.begun, visit.first = True, None if before.record["warm"] else before.record
        return visit


def cold(first: Record | None) -> Record | None:
    """What a call that found the question computed would have cost more without; None where nothing shows it."""
    if first is None or first["first_token_s"] is None or first["hot_first_token_s"] is None:
        return None
    extra_s = max(0.0, first["first_token_s"] - first["hot_first_token_s"])
    return {"extra_s": extra_s, "cached_tokens": first["cached_tokens"]}
