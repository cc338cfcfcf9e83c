"""API keys: hashes, expiry, limits, the pairs that they may use; and the usage of their budgets in a file."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from cuecard.disk import CannotStore, save
from cuecard.domain.errors import BadInput

PREFIX = "cue-"


class Key(BaseModel):
    """A client's key: its name, the SHA-256 of its secret (the secret is not stored), and what it may do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    tokens_per_day: int | None = Field(None, ge=1)
    tokens_per_month: int | None = Field(None, ge=1)
    cost_per_day: float | None = Field(None, gt=0, allow_inf_nan=False)
    cost_per_month: float | None = Field(None, gt=0, allow_inf_nan=False)
    """In the currency of the prices."""
    expires: AwareDatetime | None = None
    """The time from which the key is refused; a key with a date is valid until the end of that day, in UTC."""
    pairs: list[str] | None = Field(None, min_length=1)
    """The only pairs that it may use; None: all."""

    @field_validator("expires", mode="before")
    @classmethod
    def _is_a_time(cls, given: Any) -> Any:
        how = "write a date, or a time with its zone, such as 2026-12-31T18:00:00Z"
        if isinstance(given, str):
            try:
                given = date.fromisoformat(given) if len(given) == len("2026-12-31") else datetime.fromisoformat(given)
            except ValueError:
                raise ValueError(f"{given[:40]!r} is no time: {how}") from None
        if isinstance(given, datetime) and given.tzinfo is None:
            raise ValueError(f"{given} has no zone: {how}")
        if isinstance(given, date) and not isinstance(given, datetime):
            try:
                return datetime.combine(given + timedelta(days=1), datetime.min.time(), UTC)
            except OverflowError:
                raise ValueError(f"{given} is too late: leave it out") from None
        return given

    @cached_property
    def budgets(self) -> Mapping[Budget, float]:
        return {each: most for each in Budget if (most := getattr(self, each)) is not None}

    def may_use(self, pair: str) -> bool:
        return self.pairs is None or pair in self.pairs


def make() -> tuple[str, str]:
    """A new secret of 256 random bits, and its SHA-256. With so many bits, a hash without salt cannot be searched."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, digest(secret)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


# --- budgets ----------------------------------------------------------------------------------------------------------

VERSION = 1
HINT = "put it back, or move it away: then all budgets begin again"
log = logging.getLogger("cuecard.gateway")


class Budget(StrEnum):
    """The budgets that a key may have."""

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


Used = dict[tuple[str, Budget], tuple[str, float]]
"""(Hash of a key, budget) -> (period, usage in it)."""


class BudgetLedger:
    """The budget usage of keys, by their hashes. `keep` writes it to a file atomically."""

    def __init__(self, path: Path | None = None, now: Callable[[], float] = time.time) -> None:
        """Raises BadInput, as `keep_in`."""
        self.now, self.path = now, path
        self._used: Used = {}
        self._is_dirty = self._is_failing = False
        if path is not None:
            self.keep_in(path)

    def keep_in(self, path: Path) -> None:
        """Load the usage from the file, and keep it there from now on.

        Raises BadInput when the file cannot be read or written, or holds something else.
        """
        there, since = _read(path), self._used
        try:
            save(path, _as_object(there, self.now()))
        except CannotStore as error:
            raise BadInput(error.message, "give another path for state under [server]") from error
        self._used, self.path = there, path
        for (sha256, budget), (period, amount) in since.items():
            self._add(sha256, budget, amount if period == budget.period(self.now()) else 0.0)

    def used(self, sha256: str, budget: Budget) -> float:
        """Usage of the budget in the current period."""
        period, amount = self._used.get((sha256, budget), ("", 0.0))
        return amount if period == budget.period(self.now()) else 0.0

    def add(self, sha256: str, tokens: int, cost: float) -> None:
        """Add the usage of a request that has ended, to all budgets, so that a budget added later includes it."""
        for budget in Budget:
            self._add(sha256, budget, cost if budget.is_cost else tokens)

    def _add(self, sha256: str, budget: Budget, amount: float) -> None:
        used = self.used(sha256, budget) + amount
        self._used[sha256, budget] = budget.period(self.now()), used
        self._is_dirty = True

    async def keep(self) -> None:
        """Write changes to the file, in a thread. A failed write is retried at the next call."""
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


def _as_object(used: Used, now: float) -> dict[str, Any]:
    """The usage in current periods, as plain data; earlier usage no longer counts."""
    there: dict[str, dict[str, tuple[str, float]]] = {}
    for (sha256, budget), (period, amount) in used.items():
        if period == budget.period(now):
            there.setdefault(sha256, {})[budget] = period, amount
    return {"version": VERSION, "used": there}


def _read(path: Path) -> Used:
    """The usage in the file, {} without a file. Raises BadInput if it is unreadable: {} would reset all budgets."""
    try:
        if not path.exists():
            return {}
        stored = json.loads(path.read_bytes())
        if stored["version"] != VERSION:
            raise ValueError(f"it is of version {stored['version']!r}, not {VERSION}")
        return {
            (str(sha256), Budget(name)): (str(period), float(amount))
            for sha256, own in stored["used"].items()
            for name, (period, amount) in own.items()
        }
    except OSError as error:
        raise BadInput(f"cannot read {path}, what keys have used: {error.strerror}", HINT) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"{path} does not hold what keys have used: {type(error).__name__}: {error}", HINT) from error
