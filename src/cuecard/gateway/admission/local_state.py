"""Limits of keys counted in this process, the default: nothing is reserved, and budgets are kept in a file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cuecard.gateway.admission.keys import Key
from cuecard.gateway.admission.ledger import BudgetLedger
from cuecard.gateway.admission.state import Allowance, Amount, Lease, check_budget, per_minute, rate_limited

KEEP_S = 1.0
"""Seconds between two writes of the keys' usage."""


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


class LocalState:
    """Counts in this process. Requests that run at the same time may together overspend a budget."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, ledger: BudgetLedger | None = None) -> None:
        """`clock`: monotonic, for limits per minute; the ledger has its own wall clock."""
        self._clock, self._ledger = clock, ledger or BudgetLedger()
        self._buckets: dict[tuple[str, str], Bucket] = {}
        """By key and what they limit."""

    def now(self) -> float:
        return self._ledger.now()

    async def enter(self, key: Key) -> None:
        for budget in key.budgets:
            check_budget(key, budget, self._ledger.used(key.sha256, budget), self.now())
        buckets = self._buckets_of(key)
        for what, bucket in buckets.items():
            if (wait_s := bucket.wait_s(1)) > 0:
                raise rate_limited(key, what, bucket.most, wait_s)
        if "requests" in buckets:
            buckets["requests"].take(1)

    async def reserve(self, key: Key, estimate: Amount) -> Lease:
        return Lease(key, self)

    async def extend(self, lease: Lease, held: Amount) -> None:
        """Does nothing, as nothing is reserved."""

    def settle(self, lease: Lease, used: Amount) -> None:
        key = lease.key
        if (bucket := self._buckets_of(key).get("tokens")) is not None:
            bucket.take(used.tokens)
        if key.sha256:
            self._ledger.add(key.sha256, round(used.tokens), used.cost)

    def allowances(self, key: Key) -> dict[str, Allowance]:
        buckets = self._buckets_of(key)
        return {what: Allowance(each.most, each.left, each.wait_s(each.most)) for what, each in buckets.items()}

    def keep_in(self, path: Path) -> None:
        if self._ledger.path is None:
            self._ledger.keep_in(path)

    def as_dict(self) -> dict[str, Any] | None:
        return None

    async def run(self) -> None:
        while True:
            await asyncio.sleep(KEEP_S)
            await self._ledger.keep()

    async def aclose(self) -> None:
        await self._ledger.keep()

    def _buckets_of(self, key: Key) -> Mapping[str, Bucket]:
        """The key's buckets; a limit that has changed begins again, the others keep what is left."""
        buckets: dict[str, Bucket] = {}
        for what, most in per_minute(key).items():
            bucket = self._buckets.get((key.sha256, what))
            if bucket is None or bucket.most != most:
                bucket = self._buckets[key.sha256, what] = Bucket(most, self._clock)
            buckets[what] = bucket
        return buckets
