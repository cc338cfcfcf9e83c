"""What keys may use in a day or a month, and what they have used: kept in a file, so that a restart forgets nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from cuecard.disk import CannotStore, save
from cuecard.domain.errors import BadInput

VERSION = 1
HINT = "put it back, or move it away: then all budgets begin anew"
log = logging.getLogger("cuecard.gateway")


class Budget(StrEnum):
    """What a key may be limited to."""

    TOKENS_PER_DAY = "tokens_per_day"
    TOKENS_PER_MONTH = "tokens_per_month"
    COST_PER_DAY = "cost_per_day"
    COST_PER_MONTH = "cost_per_month"

    @property
    def is_cost(self) -> bool:
        return self.startswith("cost")

    @property
    def is_daily(self) -> bool:
        return self.endswith("day")

    def period(self, now: float) -> str:
        """The day or month of a Unix time, in UTC."""
        return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d" if self.is_daily else "%Y-%m")

    def resets_at(self, now: float) -> datetime:
        """The end of the day or month: midnight in UTC."""
        today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self.is_daily:
            return today + timedelta(days=1)
        return (today.replace(day=1) + timedelta(days=32)).replace(day=1)


Used = dict[str, dict[Budget, tuple[str, float]]]
"""Hash of a key -> budget -> the period it was used in, and how much."""


class BudgetLedger:
    """What keys have used, by their hashes. Written to a file by `keep`, whole or not at all."""

    def __init__(self, path: Path | None = None, now: Callable[[], float] = time.time) -> None:
        """Raises BadInput, as `keep_in`."""
        self.now, self.path = now, path
        self._used: Used = {}
        self._is_dirty = self._is_failing = False
        if path is not None:
            self.keep_in(path)

    def keep_in(self, path: Path) -> None:
        """Continue from what the file holds, and keep it there from now on.

        Raises BadInput when the file cannot be read or written, or holds something else.
        """
        there, since = _read(path), self._used
        try:
            save(path, _as_object(there, self.now()))
        except CannotStore as error:
            raise BadInput(error.message, "give another path for state under [server]") from error
        self._used, self.path = there, path
        for sha256, own in since.items():
            for budget in own:
                self._add(sha256, budget, _current(since, sha256, budget, self.now()))

    def used(self, sha256: str, budget: Budget) -> float:
        """Of the budget, in the period that runs."""
        return _current(self._used, sha256, budget, self.now())

    def add(self, sha256: str, tokens: int, cost: float) -> None:
        """A request is over, and has used this; counted for all budgets, so that one given later knows of it."""
        for budget in Budget:
            self._add(sha256, budget, cost if budget.is_cost else tokens)

    def _add(self, sha256: str, budget: Budget, amount: float) -> None:
        used = self.used(sha256, budget) + amount
        self._used.setdefault(sha256, {})[budget] = budget.period(self.now()), used
        self._is_dirty = True

    async def keep(self) -> None:
        """Write what has changed, in a thread. A file that cannot be written is tried again the next time."""
        if self.path is None or not self._is_dirty:
            return
        self._is_dirty = False
        try:
            await asyncio.to_thread(save, self.path, _as_object(self._used, self.now()))
        except CannotStore as error:
            self._is_dirty = True
            if not self._is_failing:
                log.warning("what keys have used is not kept: %s", error.message)
            self._is_failing = True
        else:
            if self._is_failing:
                log.warning("what keys have used is kept again")
            self._is_failing = False


def _current(used: Used, sha256: str, budget: Budget, now: float) -> float:
    period, amount = used.get(sha256, {}).get(budget, ("", 0.0))
    return amount if period == budget.period(now) else 0.0


def _as_object(used: Used, now: float) -> dict[str, Any]:
    """Of the periods that run; what was used before counts no more."""
    there = {
        sha256: {str(each): list(stored) for each, stored in own.items() if stored[0] == each.period(now)}
        for sha256, own in used.items()
    }
    return {"version": VERSION, "used": {sha256: own for sha256, own in there.items() if own}}


def _read(path: Path) -> Used:
    """What the file holds. Raises BadInput where it cannot be read: to begin anew would reset all budgets."""
    try:
        if not path.exists():
            return {}
        stored = json.loads(path.read_bytes())
        if stored["version"] != VERSION:
            raise ValueError(f"it is of version {stored['version']!r}, not {VERSION}")
        used: Mapping[str, Mapping[str, tuple[str, float]]] = stored["used"]
        return {
            str(sha256): {Budget(name): (str(period), float(amount)) for name, (period, amount) in own.items()}
            for sha256, own in used.items()
        }
    except OSError as error:
        raise BadInput(f"cannot read {path}, what keys have used: {error.strerror}", HINT) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"{path} does not hold what keys have used: {type(error).__name__}: {error}", HINT) from error
