"""What the gateway counts for keys, behind one interface: in this process, or shared by several gateways.

A request enters, reserves an estimate of what it will use, and settles what it has used when it ends:

    LimitState.enter      count the request; refused over a budget or a limit per minute
    LimitState.reserve    reserve its estimate of the key's budgets: a lease
    Lease.call            before each call, make the lease cover the call's worst case
    Lease.settle          replace the reservation by the actual use

Over many gateways that share a state, the use of a budget exceeds it by less than the use of one request.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from cuecard.domain.errors import BudgetUsed, RateLimited
from cuecard.gateway.admission.keys import Key
from cuecard.gateway.admission.ledger import Budget

LIMITS = ("requests", "tokens")
"""What is limited per minute."""


@dataclass(frozen=True)
class Amount:
    """Use of budgets: tokens, and their cost in the currency of the prices."""

    tokens: float = 0.0
    cost: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.tokens + other.tokens, self.cost + other.cost)

    def fits(self, other: Amount) -> bool:
        """Whether neither is more than in the other, rounding aside."""
        return self.tokens <= other.tokens + 1e-6 and self.cost <= other.cost * (1 + 1e-9) + 1e-12


@dataclass(frozen=True)
class Allowance:
    """A limit per minute: the most, what is left, and the seconds until all of it is left again."""

    most: int
    left: float
    full_in_s: float


class LimitState(Protocol):
    """What is counted for keys. A key without a hash has no limits."""

    def now(self) -> float:
        """The wall clock, a Unix time in seconds."""
        ...

    async def enter(self, key: Key) -> None:
        """Count a request. Raises RateLimited, BudgetUsed or StateUnavailable, and then counts nothing."""
        ...

    async def reserve(self, key: Key, estimate: Amount) -> Lease:
        """Reserve a request's estimated use of the budgets. Raises BudgetUsed, BudgetReserved, StateUnavailable."""
        ...

    async def extend(self, lease: Lease, held: Amount) -> None:
        """Reserve more for a running request: `held` in all. Raises BudgetReached."""
        ...

    def settle(self, lease: Lease, used: Amount) -> None:
        """Charge a request that has ended, and free its reservation. Returns at once."""
        ...

    def allowances(self, key: Key) -> Mapping[str, Allowance]:
        """The key's limits per minute, by what they limit, as they were last seen."""
        ...

    def keep_in(self, path: Path) -> None:
        """Keep the use of budgets in a file from now on, unless it is kept already. Raises BadInput."""
        ...

    def as_dict(self) -> dict[str, Any] | None:
        """The health of a shared state: `up`, `on_failure`, `failures`, `unsettled`; None for one in this process."""
        ...

    async def run(self) -> None:
        """Background work, until cancelled."""
        ...

    async def aclose(self) -> None:
        """Store what is not stored yet, and close connections."""
        ...


class Lease:
    """What one running request may use of its key's budgets. Leaving the context settles it, if nothing else has."""

    def __init__(self, key: Key, state: LimitState, held: Amount | None = None) -> None:
        """`held`: what is reserved; None: nothing is, and its calls are not limited."""
        self.id, self.key, self.held, self._state = uuid.uuid4().hex, key, held, state
        self.spent = Amount()
        """The use of its calls that have ended."""
        self.reported = Amount()
        """How much of it the state knows, in case this process dies."""
        self._running: dict[object, Amount] = {}
        self._extending = asyncio.Lock()
        self._is_settled = False

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *failure: object) -> None:
        self.settle(Amount())

    @asynccontextmanager
    async def call(self, worst: Amount) -> AsyncIterator[list[Amount]]:
        """Encloses a call: the reservation covers its worst case, or BudgetReached is raised.

        What the call has used is to be appended to the list that this yields.
        """
        if self.held is None:
            yield []
            return
        this, used = object(), list[Amount]()
        self._running[this] = worst
        try:
            await self._cover()
            yield used
        finally:
            del self._running[this]
            self.spent = sum(used, self.spent)

    async def _cover(self) -> None:
        """Extend the reservation to all calls that have ended or are running."""
        async with self._extending:
            wanted = sum(self._running.values(), self.spent)
            if self.held is not None and not wanted.fits(self.held):
                more = Amount(max(wanted.tokens, self.held.tokens), max(wanted.cost, self.held.cost))
                await self._state.extend(self, more)
                self.held = more

    def settle(self, used: Amount) -> None:
        """Charge the actual use, once; a second time does nothing."""
        if not self._is_settled:
            self._is_settled = True
            self._state.settle(self, used)


def check_budget(key: Key, budget: Budget, used: float, now: float) -> None:
    """Raises BudgetUsed if all of a budget is used."""
    if used >= key.budgets[budget]:
        raise budget_used(key, budget, now)


def budget_used(key: Key, budget: Budget, now: float) -> BudgetUsed:
    """The error for a key that has used a budget."""
    resets: datetime = budget.resets_at(now)
    what, _, period = budget.partition("_per_")
    message = f"{key.name} has used its budget, {what} of {key.budgets[budget]:,.10g} a {period}"
    error = BudgetUsed(message, f"it resets at {resets:%Y-%m-%dT%H:%M:%SZ}")
    error.retry_after_s = max(1.0, resets.timestamp() - now)
    return error


def rate_limited(key: Key, what: str, most: int, wait_s: float) -> RateLimited:
    """The error for a key over a limit per minute."""
    error = RateLimited(f"{key.name} has used its {most} {what} a minute", f"try again in {math.ceil(wait_s)} s")
    error.retry_after_s = wait_s
    return error


def per_minute(key: Key) -> dict[str, int]:
    """The key's limits per minute, by what they limit."""
    limits = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
    return {what: most for what, most in limits.items() if most is not None}
