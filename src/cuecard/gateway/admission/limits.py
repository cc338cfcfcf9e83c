"""Limits of keys: what is counted, behind one interface, in this process or shared by several gateways; and the gate.

A request enters, reserves an estimate of what it will use, and settles what it has used when it ends:

    LimitState.enter      count the request; refused over a budget or a limit per minute
    LimitState.reserve    reserve its estimate of the key's budgets: a lease
    Lease.call            before each call, make the lease cover the call's worst case
    Lease.settle          replace the reservation by the actual use

Over many gateways that share a state, the use of a budget exceeds it by less than the use of one request.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cuecard.disk import CannotStore, is_there, load, save
from cuecard.domain.errors import BadInput, BudgetUsed, RateLimited, Unauthorised
from cuecard.gateway.tables import Budget, Key, digest

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

    now: Callable[[], float]
    """The wall clock, a Unix time in seconds."""

    async def enter(self, key: Key) -> None:
        """Count a request. Raises RateLimited, BudgetUsed or StateUnavailable, and then counts nothing."""
        ...

    async def reserve(self, key: Key, estimate: Amount) -> Lease:
        """Reserve a request's estimated use of the budgets. Raises BudgetUsed, BudgetReserved, StateUnavailable."""
        ...

    async def extend(self, lease: Lease, held: Amount) -> None:
        """Reserve more for a running request: `held` in all. By default nothing is reserved. Raises BudgetReached."""
        return

    def settle(self, lease: Lease, used: Amount) -> None:
        """Charge a request that has ended, and free its reservation. Returns at once."""
        ...

    def allowances(self, key: Key) -> Mapping[str, Allowance]:
        """The key's limits per minute, by what they limit, as they were last seen."""
        ...

    def keep_in(self, path: Path) -> None:
        """Keep the use of budgets in a file from now on, unless it is kept already. Raises BadInput."""
        return

    def as_dict(self) -> dict[str, Any] | None:
        """The health of a shared state: `up`, `on_failure`, `failures`, `unsettled`; None for one in this process."""
        return None

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


def budget_used(key: Key, budget: Budget, now: float) -> BudgetUsed:
    """The error for a key that has used a budget."""
    resets = budget.resets_at(now)
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


# --- counted in this process ------------------------------------------------------------------------------------------

VERSION = 1
HINT = "put it back, or move it away: then all budgets begin again"
KEEP_S = 1.0
"""Seconds between two writes of the keys' usage."""
log = logging.getLogger("cuecard.gateway")

Used = dict[tuple[str, Budget], tuple[str, float]]
"""(Hash of a key, budget) -> (period, usage in it)."""


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


class LocalState(LimitState):
    """Counts in this process, and keeps the use of budgets in a file.

    Requests that run at the same time may together overspend a budget.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        path: Path | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`clock`: monotonic, for limits per minute; `now`: the wall clock. Raises BadInput, as `keep_in`."""
        self._clock, self.now = clock, now
        self._path: Path | None = None
        self._used: Used = {}
        self._is_dirty = self._is_failing = False
        self._buckets: dict[tuple[str, str], Bucket] = {}
        """By key and what they limit."""
        if path is not None:
            self.keep_in(path)

    async def enter(self, key: Key) -> None:
        for budget in key.budgets:
            if self._use(key.sha256, budget) >= key.budgets[budget]:
                raise budget_used(key, budget, self.now())
        buckets = self._buckets_of(key)
        for what, bucket in buckets.items():
            if (wait_s := bucket.wait_s(1)) > 0:
                raise rate_limited(key, what, bucket.most, wait_s)
        if "requests" in buckets:
            buckets["requests"].take(1)

    async def reserve(self, key: Key, estimate: Amount) -> Lease:
        return Lease(key, self)

    def settle(self, lease: Lease, used: Amount) -> None:
        key = lease.key
        if (bucket := self._buckets_of(key).get("tokens")) is not None:
            bucket.take(used.tokens)
        if key.sha256:
            for budget in Budget:  # all of them, so that a budget that is added later includes it
                self._add(key.sha256, budget, used.cost if budget.is_cost else round(used.tokens))

    def allowances(self, key: Key) -> dict[str, Allowance]:
        buckets = self._buckets_of(key)
        return {what: Allowance(each.most, each.left, each.wait_s(each.most)) for what, each in buckets.items()}

    def keep_in(self, path: Path) -> None:
        """As `LimitState.keep_in`. Raises BadInput if the file cannot be read or written, or holds something else."""
        if self._path is not None:
            return
        there, since = _read(path), self._used
        try:
            save(path, _as_object(there, self.now()))
        except CannotStore as error:
            raise BadInput(error.message, "give another path for state under [server]") from error
        self._used, self._path = there, path
        for (sha256, budget), (period, amount) in since.items():
            self._add(sha256, budget, amount if period == budget.period(self.now()) else 0.0)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(KEEP_S)
            await self.aclose()

    async def aclose(self) -> None:
        """Write changes to the file, in a thread. A failed write is retried at the next call."""
        if self._path is None or not self._is_dirty:
            return
        self._is_dirty = False
        try:
            await asyncio.to_thread(save, self._path, _as_object(self._used, self.now()))
        except CannotStore as error:
            if not self._is_failing:
                log.warning("what keys have used is not kept: %s", error.message)
            self._is_dirty = self._is_failing = True
        else:
            if self._is_failing:
                log.warning("what keys have used is kept again")
            self._is_failing = False

    def _use(self, sha256: str, budget: Budget) -> float:
        """Usage of the budget in the current period."""
        period, amount = self._used.get((sha256, budget), ("", 0.0))
        return amount if period == budget.period(self.now()) else 0.0

    def _add(self, sha256: str, budget: Budget, amount: float) -> None:
        self._used[sha256, budget] = budget.period(self.now()), self._use(sha256, budget) + amount
        self._is_dirty = True

    def _buckets_of(self, key: Key) -> Mapping[str, Bucket]:
        """The key's buckets; a limit that has changed begins again, the others keep what is left."""
        buckets: dict[str, Bucket] = {}
        for what, most in per_minute(key).items():
            bucket = self._buckets.get((key.sha256, what))
            if bucket is None or bucket.most != most:
                bucket = self._buckets[key.sha256, what] = Bucket(most, self._clock)
            buckets[what] = bucket
        return buckets


def _as_object(used: Used, now: float) -> dict[str, Any]:
    """The usage in current periods, as plain data; earlier usage no longer counts."""
    there: dict[str, dict[str, tuple[str, float]]] = {}
    for (sha256, budget), (period, amount) in used.items():
        if period == budget.period(now):
            there.setdefault(sha256, {})[budget] = period, amount
    return {"version": VERSION, "used": there}


def _read(path: Path) -> Used:
    """The usage in the file, {} without a file. Raises BadInput if it is unreadable: {} would reset all budgets."""

    def used(stored: Mapping[str, Any]) -> Used:
        return {
            (str(sha256), Budget(name)): (str(period), float(amount))
            for sha256, own in stored["used"].items()
            for name, (period, amount) in own.items()
        }

    return load(path, VERSION, "what keys have used", HINT, used) if is_there(path) else {}


# --- clients ----------------------------------------------------------------------------------------------------------


class ApiClient:
    """The holder of a key."""

    def __init__(self, key: Key, state: LimitState) -> None:
        self.key, self._state = key, state

    async def enter(self) -> None:
        """Count a request. Raises RateLimited, BudgetUsed or StateUnavailable, and then counts nothing."""
        await self._state.enter(self.key)

    async def reserve(self, estimate: Amount) -> Lease:
        """Reserve a request's estimated use of its budgets. Raises BudgetUsed, BudgetReserved, StateUnavailable."""
        return await self._state.reserve(self.key, estimate)

    def headers(self) -> dict[str, str]:
        """Rate limits, as OpenAI's response headers."""
        headers: dict[str, str] = {}
        for what, allowance in self._state.allowances(self.key).items():
            headers |= {
                f"x-ratelimit-limit-{what}": str(allowance.most),
                f"x-ratelimit-remaining-{what}": str(max(0, math.floor(allowance.left))),
                f"x-ratelimit-reset-{what}": f"{allowance.full_in_s:.1f}s",
            }
        return headers


class Gate:
    """Finds the client of a key; without any keys, all requests belong to one client."""

    def __init__(self, keys: Sequence[Key], state: LimitState | None = None) -> None:
        """`state`: where limits are counted; None: in this process, with no file."""
        self.state: LimitState = state or LocalState()
        self._clients: list[ApiClient] = []
        self._anonymous = ApiClient(Key.model_construct(name="anybody", sha256=""), self.state)
        self.renew(keys)

    def renew(self, keys: Sequence[Key]) -> None:
        """Replace the keys. Running requests continue, charged to the key that began them; unchanged limits go on."""
        self._clients = [ApiClient(key, self.state) for key in keys]

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
        if end is not None and self.state.now() >= end.timestamp():
            message = f"the API key {client.key.name} has expired: it was valid until {end:%Y-%m-%d %H:%M %Z}"
            raise Unauthorised(message, "ask the operator of this gateway for a new one")
        return client
