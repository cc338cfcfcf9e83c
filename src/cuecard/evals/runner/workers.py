"""Who makes a run's calls: workers, each with slots of its own, and how many items each has in hand.

An item stays with one worker, as that one has its question computed. When a worker is lost, its items go to others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cuecard.domain.errors import CuecardError
from cuecard.evals.runner.limits import Slots
from cuecard.evals.runner.worker import Maker, Worker
from cuecard.models.base import Model


class WorkerLost(Exception):
    """A worker has died under a call. No ModelError: it says nothing about the call, which another one makes."""


@dataclass(eq=False)
class Place:
    """A worker, its slots, and how many items it has in hand. `machine`: where it runs."""

    worker: Worker
    slots: Slots
    machine: str
    items: int = 0


class Crew:
    """The workers of a run. `expected`: how many there will be once all have joined."""

    def __init__(self, at_once: int, clock: Callable[[], float], expected: int = 1) -> None:
        self._at_once, self._clock, self._expected = at_once, clock, expected
        # while some items are replayed, others fill the slots; a single slot has one item in work at a time
        self._each = 1 if at_once == 1 else 2 * at_once + 2
        self._places: list[Place] = []
        self._gone: list[Place] = []
        self._ended: CuecardError | None = None
        self._changed = asyncio.Condition()

    @classmethod
    def of(cls, models: Mapping[str, Model], at_once: int, clock: Callable[[], float], *, timed: bool = True) -> Crew:
        """This process alone; `timed` as a maker takes it."""
        made = cls(at_once, clock)
        made._places.append(made._place(Maker(models, alone=at_once == 1, timed=timed), ""))
        return made

    @property
    def room(self) -> int:
        """How many items may be in hand at once."""
        return self._expected * self._each

    @property
    def busy_s(self) -> float:
        return sum(place.slots.busy_s for place in (*self._places, *self._gone))

    @property
    def slots(self) -> int:
        return self._expected * self._at_once

    def running(self, machine: str) -> int:
        """Calls under way on a machine."""
        return sum(place.slots.running for place in self._places if place.machine == machine)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        """The worker with fewest items in hand, once one has room. Raises what `end` was given."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._ended or any(map(self._has_room, self._places)))
            if self._ended is not None:
                raise self._ended
            chosen = min(filter(self._has_room, self._places), key=lambda place: place.items)
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
            self._places.append(self._place(worker, machine))
            self._changed.notify_all()

    def lose(self, worker: Worker) -> bool:
        """The worker gets no more items; False if that was known already."""
        lost = [place for place in self._places if place.worker is worker]
        self._places = [place for place in self._places if place.worker is not worker]
        self._gone += lost
        return bool(lost)

    async def end(self, error: CuecardError) -> None:
        """Nobody is left, and nobody will come."""
        async with self._changed:
            self._ended = error
            self._changed.notify_all()

    @property
    def is_empty(self) -> bool:
        return not self._places

    def _place(self, worker: Worker, machine: str) -> Place:
        return Place(worker, Slots(self._at_once, self._clock), machine)

    def _has_room(self, place: Place) -> bool:
        return place.items < self._each
