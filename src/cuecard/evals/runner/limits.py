"""How many calls run at once: bounded overall, and for each model adapted to what its server bears.

Additive increase, multiplicative decrease (Chiu and Jain 1989), as TCP: a call that went well raises its model's limit
by one over the limit, a refusal or a time-out halves it, once for all calls that were under way together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Lane:
    """One model's share of the slots."""

    limit: float
    running: int = 0
    halved_at_s: float = float("-inf")


@dataclass
class Slots:
    """Room for `most` calls at once. The clock counts seconds from any beginning."""

    most: int
    clock: Callable[[], float]
    busy_s: float = 0.0
    """Seconds of use, summed over slots."""
    running: int = 0
    lanes: dict[str, Lane] = field(default_factory=dict)
    _freed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def lane(self, model: str) -> Lane:
        return self.lanes.setdefault(model, Lane(float(self.most)))

    @asynccontextmanager
    async def use(self, model: str) -> AsyncIterator[float]:
        """A slot, once there is one; gives the time at which it was had."""
        lane = self.lane(model)
        async with self._freed:
            await self._freed.wait_for(lambda: self.running < self.most and lane.running < max(1, int(lane.limit)))
            self.running, lane.running = self.running + 1, lane.running + 1
        began = self.clock()
        try:
            yield began
        finally:
            self.busy_s += self.clock() - began
            self.running, lane.running = self.running - 1, lane.running - 1
            async with self._freed:
                self._freed.notify_all()

    def went_well(self, model: str) -> None:
        lane = self.lane(model)
        lane.limit = min(float(self.most), lane.limit + 1 / lane.limit)

    def overloaded(self, model: str, began_s: float) -> None:
        """A call that began then was refused, or timed out."""
        lane = self.lane(model)
        if began_s > lane.halved_at_s:
            lane.limit, lane.halved_at_s = max(1.0, lane.limit / 2), self.clock()
