"""API keys: hashes, limits per minute, expiry, pairs, and budgets with their usage kept in a file."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from cuecard.disk import CannotStore, save
from cuecard.domain.errors import BadInput, BudgetUsed, RateLimited, Unauthorised

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


class Bucket:
    """A limit per minute that refills steadily (token bucket); it may be overdrawn, as usage is known at the end."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.most, self._clock = per_minute, clock
        self._left, self._at = float(per_minute), clock()

    @property
    def left(self) -> float:
        now = self._clock()
        self._left = min(self.most, self._left + (now - self._at) * self.most / 60)
        self._at = now
        return self._left

    def take(self, count: float) -> None:
        self._left = self.left - count

    def wait_s(self, count: float) -> float:
        """Seconds until `count` is available."""
        return max(0.0, (count - self.left) * 60 / self.most)


class ApiClient:
    """The holder of a key, with what is left of its limits per minute and of its budgets."""

    def __init__(self, key: Key, clock: Callable[[], float], ledger: BudgetLedger) -> None:
        self._clock, self._ledger = clock, ledger
        self._allowances: dict[str, Bucket] = {}
        """By what they limit: requests or tokens per minute."""
        self.renew(key)

    def renew(self, key: Key) -> None:
        """Take over changed settings of the key; an unchanged limit keeps its usage."""
        self.key = key
        limits = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
        kept = {what: bucket for what, bucket in self._allowances.items() if bucket.most == limits[what]}
        fresh = {what: Bucket(most, self._clock) for what, most in limits.items() if most is not None}
        self._allowances = fresh | kept

    def enter(self) -> None:
        """Count a request. Raises RateLimited or BudgetUsed, and then counts nothing."""
        for budget, most in self.key.budgets.items():
            self._check(budget, most)
        for what, allowance in self._allowances.items():
            if (wait_s := allowance.wait_s(1)) > 0:
                message = f"{self.key.name} has used its {allowance.most} {what} a minute"
                limited = RateLimited(message, f"try again in {math.ceil(wait_s)} s")
                limited.retry_after_s = wait_s
                raise limited
        if "requests" in self._allowances:
            self._allowances["requests"].take(1)

    def _check(self, budget: Budget, most: float) -> None:
        if self._ledger.used(self.key.sha256, budget) < most:
            return
        now = self._ledger.now()
        resets = budget.resets_at(now)
        what, _, period = budget.partition("_per_")
        message = f"{self.key.name} has used its budget, {what} of {most:,.10g} a {period}"
        error = BudgetUsed(message, f"it resets at {resets:%Y-%m-%dT%H:%M:%SZ}")
        error.retry_after_s = max(1.0, resets.timestamp() - now)
        raise error

    def spend(self, tokens: int, cost: float = 0.0) -> None:
        """Charge a request that has ended."""
        if "tokens" in self._allowances:
            self._allowances["tokens"].take(tokens)
        if self.key.sha256:
            self._ledger.add(self.key.sha256, tokens, cost)

    def headers(self) -> dict[str, str]:
        """Rate limits, as OpenAI's response headers."""
        headers: dict[str, str] = {}
        for what, allowance in self._allowances.items():
            headers |= {
                f"x-ratelimit-limit-{what}": str(allowance.most),
                f"x-ratelimit-remaining-{what}": str(max(0, math.floor(allowance.left))),
                f"x-ratelimit-reset-{what}": f"{allowance.wait_s(allowance.most):.1f}s",
            }
        return headers


class Gate:
    """Finds the client of a key; without any keys, all requests belong to one client."""

    def __init__(self, keys: Sequence[Key], clock: Callable[[], float], ledger: BudgetLedger | None = None) -> None:
        """`clock`: monotonic, for limits per minute; the ledger has its own wall clock."""
        self._clock, self.ledger = clock, ledger or BudgetLedger()
        self._clients: list[ApiClient] = []
        self._anonymous = ApiClient(Key.model_construct(name="anybody", sha256=""), clock, self.ledger)
        self.renew(keys)

    def renew(self, keys: Sequence[Key]) -> None:
        """Replace the keys. Running requests continue, charged to the client that began them."""
        known = {client.key.sha256: client for client in self._clients}
        self._clients = [known.get(key.sha256) or ApiClient(key, self._clock, self.ledger) for key in keys]
        for key, client in zip(keys, self._clients, strict=True):
            client.renew(key)

    @property
    def is_open(self) -> bool:
        """Whether requests need no key."""
        return not self._clients

    def known(self, authorization: str | None, api_key: str | None = None) -> ApiClient:
        """The client of this `Authorization` or `x-api-key` header; counts no request. Raises Unauthorised."""
        if self.is_open:
            return self._anonymous
        scheme, _, bearer = (authorization or "").partition(" ")
        sent = (bearer if scheme.lower() == "bearer" else "", api_key or "")
        given = [digest(secret.strip()) for secret in sent if secret.strip()]
        if not given:
            raise Unauthorised("no API key was given", "send Authorization: Bearer KEY, or x-api-key: KEY")
        known = [  # compared with all of them, so that the time reveals nothing
            client for client in self._clients for each in given if hmac.compare_digest(each, client.key.sha256)
        ]
        if not known:
            raise Unauthorised("this API key is not known", "ask the operator of this gateway for a key")
        client = known[-1]
        end = client.key.expires
        if end is not None and self.ledger.now() >= end.timestamp():
            message = f"the API key {client.key.name} has expired: it was valid until {end:%Y-%m-%d %H:%M %Z}"
            raise Unauthorised(message, "ask the operator of this gateway for a new one")
        return client
