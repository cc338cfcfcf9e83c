"""Audit of answers that were accepted without reasoning: checked by reasoning while no request runs."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from random import Random

from cuecard.answers import extract, same_answer
from cuecard.domain.call import Call
from cuecard.domain.errors import CuecardError
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import Question
from cuecard.gateway.config import AuditSettings
from cuecard.gateway.pairs import Service
from cuecard.gateway.wire.values import charge, estimated_tokens
from cuecard.stats.inference import wilson_bounds
from cuecard.strategies.run import answer

WAITING = 100
HOUR_S = 3600.0
log = logging.getLogger("cuecard.gateway")


class Audit:
    """Checks a share of the agreed requests by reasoning, one at a time, while no client's request runs.

    A request that arrives meanwhile cancels the check, which is repeated later. No check begins while the checks of the
    last hour, including cancelled and failed ones, have used `tokens_per_hour`.

    A reasoned answer may be wrong, too: the audit counts how often it differs from the accepted one.
    """

    def __init__(self, service: Service, settings: AuditSettings, rng: Random | None = None) -> None:
        """`service`: the first pair."""
        self._service, self._share, self._strategy = service, settings.share, settings.strategy
        self._warn_above, self._rng = settings.warn_above, rng or Random()
        self._budget, self._spent = settings.tokens_per_hour, deque[tuple[float, int]]()
        self._waiting: asyncio.Queue[tuple[Question, Outcome, Service]] = asyncio.Queue(WAITING)
        self._working: asyncio.Task[None] | None = None
        self.checked = self.differed = self.failed = self.skipped = 0
        """Skipped: the queue was full, or their pair is no longer served."""

    def consider(self, question: Question, outcome: Outcome, pair: Service | None = None) -> None:
        """Queue a share of the agreed requests. `pair`: the pair that answered; None: the first."""
        if outcome.route is not Route.AGREED or self._rng.random() >= self._share:
            return
        if self._waiting.full():
            self.skipped += 1
            return
        self._waiting.put_nowait((question, outcome, pair or self._service))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the share of false accepts."""
        return wilson_bounds(self.differed, self.checked)

    @property
    def alarming(self) -> bool:
        """Whether false accepts exceed `warn_above` with 97.5% confidence."""
        return self.checked > 0 and self.interval[0] > self._warn_above

    def as_dict(self) -> dict[str, float | int | bool | None]:
        """The counts, and the interval of the share of false accepts."""
        low, high = self.interval
        return {
            "checked": self.checked,
            "differed": self.differed,
            "rate": self.differed / self.checked if self.checked else None,
            "low": low if self.checked else None,
            "high": high if self.checked else None,
            "failed": self.failed,
            "skipped": self.skipped,
            "waiting": self._waiting.qsize(),
            "alarming": self.alarming,
        }

    async def aclose(self) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])

    async def _work(self) -> None:
        while not self._waiting.empty():
            await self._wait_for_budget()
            await self._service.occupancy.idle.wait()
            question, outcome, pair = self._waiting.get_nowait()
            if pair.is_retired:
                self.skipped += 1
                continue
            try:
                second = await self._check_while_idle(question, pair)
            except CuecardError:
                self.failed += 1
                continue
            if second is None and not self._waiting.full():
                self._waiting.put_nowait((question, outcome, pair))
            elif second is None:
                self.skipped += 1
            else:
                await self._note(question, outcome, second)

    async def _wait_for_budget(self) -> None:
        """Wait until what was spent in the last hour is less than the budget."""
        clock = asyncio.get_running_loop().time
        while self._budget is not None and self._spent:
            if self._spent[0][0] + HOUR_S <= clock():
                self._spent.popleft()
            elif sum(tokens for _, tokens in self._spent) >= self._budget:
                await asyncio.sleep(self._spent[0][0] + HOUR_S - clock())
            else:
                return

    async def _check_while_idle(self, question: Question, service: Service) -> Outcome | None:
        """The second answer; None if a request arrived before it was complete. Raises CuecardError."""
        calls = list[Call]()
        work = answer(question, service.models, self._strategy, service.policy, calls=calls)
        looking, coming = asyncio.ensure_future(work), asyncio.ensure_future(service.occupancy.busy.wait())
        try:
            await asyncio.wait([looking, coming], return_when=asyncio.FIRST_COMPLETED)
            return looking.result() if looking.done() else None
        finally:
            for task in (looking, coming):
                task.cancel()
            await asyncio.gather(looking, coming, return_exceptions=True)
            if self._budget is not None:
                self._spent.append((asyncio.get_running_loop().time(), charge(calls, estimated_tokens(question))))

    async def _note(self, question: Question, first: Outcome, second: Outcome) -> None:
        was_alarming = self.alarming
        self.checked += 1
        one, other = extract(first.answer, question), extract(second.answer, question)
        self.differed += not await same_answer(one, other, question)
        if self.alarming and not was_alarming:
            log.warning("more than %.0f%% of the agreed answers are wrong: %s", 100 * self._warn_above, self.as_dict())
