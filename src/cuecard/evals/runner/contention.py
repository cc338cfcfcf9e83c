"""Models that share a machine: how much slower two calls at once are than each alone, measured, and replayed.

Two models in one process get little done side by side: they share an interpreter and its cores. A run that makes one
call at a time would not see it, so a few pairs of reasonings are made alone and at once.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing

from cuecard.domain.errors import CuecardError
from cuecard.domain.question import Question
from cuecard.models import prompt as layouts
from cuecard.models.base import Limits, Model

PAIRS = 8
_NOTHING_S = 1e-9


class Machine:
    """Work of calls in virtual time. `pace`: what each of two at once gets done in a second; None: they do not meet.

    Every further call slows the others by as much: of n calls each gets 1 / (1 + (n - 1)(1/pace - 1)).
    """

    def __init__(self, pace: float | None = None) -> None:
        self._slower = 0.0 if pace is None else 1 / pace - 1
        self._running = 0
        self._changed = asyncio.Event()

    async def work(self, seconds: float) -> None:
        """Takes as long as so many seconds of work do beside whatever else runs."""
        if seconds <= 0:
            return
        self._turn(+1)
        try:
            while seconds > _NOTHING_S:
                rate, began, changed = 1 / (1 + (self._running - 1) * self._slower), _now(), self._changed
                try:
                    async with asyncio.timeout(seconds / rate):
                        await changed.wait()
                except TimeoutError:
                    return
                seconds -= (_now() - began) * rate
        finally:
            self._turn(-1)

    def _turn(self, more: int) -> None:
        self._running += more
        self._changed.set()
        self._changed = asyncio.Event()


async def pace(
    models: Mapping[str, Model], questions: Iterable[Question], limits: Limits, clock: Callable[[], float]
) -> float | None:
    """Of two reasonings at once, what the one that ends first gets done in a second: the median over the questions.

    None where no pair of them succeeds: the run's own calls will say why.
    """
    both, seen = [models["small"], models["large"]], []
    for question in questions:
        for model in both:
            model.forget()
        try:
            alone = [await _took(model, question, limits, clock) for model in both]
            for model in both:
                model.forget()
            at_once = await asyncio.gather(*(_took(model, question, limits, clock) for model in both))
        except CuecardError:
            continue
        first = at_once.index(min(at_once))
        seen.append(min(1.0, alone[first] / at_once[first]))
    return statistics.median(seen) if seen else None


async def _took(model: Model, question: Question, limits: Limits, clock: Callable[[], float]) -> float:
    """Seconds of one reasoning. Raises ModelError."""
    began = clock()
    async with aclosing(model.stream(layouts.reason(question, model.abilities.style), limits)) as events:
        async for _ in events:
            pass
    return clock() - began


def _now() -> float:
    return asyncio.get_running_loop().time()
