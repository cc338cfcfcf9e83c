"""Limits of keys counted in Redis or Valkey, for several gateways: the interface of `state`, over one Lua script.

Each operation is one call of `shared_state.lua`, so it is atomic. A reservation whose process no longer renews it
expires, and what the process has reported of its use is charged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from weakref import WeakSet

from cuecard.domain.errors import BadInput, BudgetReached, BudgetReserved, StateUnavailable, required
from cuecard.gateway.admission.limits import (
    LIMITS,
    Allowance,
    Amount,
    Lease,
    LimitState,
    budget_used,
    per_minute,
    rate_limited,
)
from cuecard.gateway.tables import Budget, Key

BUDGETS = (Budget.TOKENS_PER_DAY, Budget.TOKENS_PER_MONTH, Budget.COST_PER_DAY, Budget.COST_PER_MONTH)
"""In the order of the script's arguments."""
PAUSE_S = 1.0
"""Seconds between two attempts to reach a server that has failed."""
MOST_CONNECTIONS = 32
MOST_UNSETTLED = 100_000
"""Requests that wait to be charged while the server is down; beyond that, the oldest are dropped."""
AT_ONCE = 16
"""Requests that are charged at the same time."""
SETTLED_S = 3600
"""Seconds for which the server knows that a request was charged, so that a repeated attempt changes nothing."""
log = logging.getLogger("cuecard.gateway")


class SharedState(LimitState):
    """Counts on a server. After a failure, calls fail at once until an attempt, once a second, succeeds."""

    def __init__(
        self,
        url: str,
        *,
        allow: bool = False,
        timeout_s: float = 0.5,
        lease_s: float = 30.0,
        prefix: str = "cuecard",
        now: Callable[[], float] = time.time,
    ) -> None:
        """`allow`: admit requests without limits while the server is down, else refuse them; `now`: the wall clock.

        Raises MissingExtra, or BadInput for an URL that cannot be used. Does not connect yet.
        """
        redis = required("redis.asyncio", "a shared state", "pip install '.[redis]' in a checkout")
        retry = required("redis.asyncio.retry", "a shared state").Retry
        backoff = required("redis.backoff", "a shared state").NoBackoff()
        self._failures_of: tuple[type[Exception], ...] = (redis.RedisError, OSError, TimeoutError)
        try:
            pool = redis.BlockingConnectionPool.from_url(
                url,
                max_connections=MOST_CONNECTIONS,
                timeout=timeout_s,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                decode_responses=True,
                retry=retry(backoff, 1, (redis.ConnectionError,)),  # once, on a connection that was closed meanwhile
            )
        except ValueError as error:
            raise BadInput(f"url under [state] cannot be used: {error}", "write redis://HOST:PORT/DB") from None
        self._redis = redis.Redis(connection_pool=pool)
        source = (files("cuecard.gateway.admission") / "shared_state.lua").read_text(encoding="utf-8")
        self._script: Callable[..., Awaitable[Any]] = self._redis.register_script(source)
        self.now, self._allow, self._timeout_s, self._lease_s, self._prefix = now, allow, timeout_s, lease_s, prefix
        self._leases: WeakSet[Lease] = WeakSet()
        self._unsettled, self._wake = deque[tuple[Lease, Amount]](), asyncio.Event()
        self._seen: dict[str, tuple[float, dict[str, float]]] = {}
        """Key -> the monotonic time, and what was left of its limits per minute then."""
        self.up, self.failures, self._retry_at = True, 0, 0.0

    async def enter(self, key: Key) -> None:
        limits = per_minute(key)
        if not (key.sha256 and (limits or key.budgets)):
            return
        most = [limits.get(what, "") for what in LIMITS]
        try:
            result, which, *left = await self._call("enter", key, *self._limits_of(key), *most)
        except StateUnavailable:
            if self._allow:
                return
            raise
        found = dict(zip(LIMITS, map(float, left), strict=True))
        self._seen[key.sha256] = time.monotonic(), found
        if result == "used":
            raise budget_used(key, BUDGETS[which - 1], self.now())
        if result == "rate":
            what = LIMITS[which - 1]
            raise rate_limited(key, what, limits[what], (1 - found[what]) * 60 / limits[what])

    async def reserve(self, key: Key, estimate: Amount) -> Lease:
        if not (key.sha256 and key.budgets):
            return Lease(key, self)
        lease = Lease(key, self, estimate)
        try:
            result, which = await self._hold("reserve", lease, estimate)
        except StateUnavailable:
            lease.settle(Amount())  # the server may have got the reservation
            if not self._allow:
                raise
            return Lease(key, self)
        except BaseException:
            lease.settle(Amount())
            raise
        if result == "used":
            raise budget_used(key, BUDGETS[which - 1], self.now())
        if result == "held":
            what, _, period = BUDGETS[which - 1].partition("_per_")
            message = f"running requests have reserved the rest of {key.name}'s budget, {what} a {period}"
            error = BudgetReserved(message)
            error.retry_after_s = 1.0
            raise error
        self._leases.add(lease)
        return lease

    async def extend(self, lease: Lease, held: Amount) -> None:
        try:
            result, which = await self._hold("extend", lease, held)
        except StateUnavailable as error:
            if self._allow:
                return
            raise BudgetReached(error.message, error.hint) from error
        if result == "held":
            what, _, period = BUDGETS[which - 1].partition("_per_")
            raise BudgetReached(f"the next call does not fit in what is left of {what} a {period} of {lease.key.name}")

    def settle(self, lease: Lease, used: Amount) -> None:
        self._leases.discard(lease)
        if not lease.key.sha256 or (lease.held is None and used == Amount()):
            return
        if len(self._unsettled) >= MOST_UNSETTLED:
            self._unsettled.popleft()
        self._unsettled.append((lease, used))
        self._wake.set()
        if (seen := self._seen.get(lease.key.sha256)) is not None:
            seen[1]["tokens"] -= used.tokens

    def allowances(self, key: Key) -> Mapping[str, Allowance]:
        at, left = self._seen.get(key.sha256, (0.0, {}))
        allowances: dict[str, Allowance] = {}
        for what, most in per_minute(key).items():
            now = min(float(most), left.get(what, float(most)) + (time.monotonic() - at) * most / 60)
            allowances[what] = Allowance(most, now, (most - now) * 60 / most)
        return allowances

    def as_dict(self) -> dict[str, Any] | None:
        on_failure, unsettled = "allow" if self._allow else "refuse", len(self._unsettled)
        return {"up": self.up, "on_failure": on_failure, "failures": self.failures, "unsettled": unsettled}

    # --- background work ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Charge requests that have ended, renew the reservations of the others, and look for a server that is down."""
        await self._reach()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._charge_all())
            tasks.create_task(self._renew_all())
            while True:
                await asyncio.sleep(PAUSE_S)
                await self._reach()

    async def aclose(self) -> None:
        """Charge what is not charged yet, if the server is up, and close the connections."""
        try:
            if await self._reach():
                await self._charge_waiting()
        except StateUnavailable:
            log.warning("%d requests were not charged: the shared state is down", len(self._unsettled))
        await self._redis.aclose()
        await self._redis.connection_pool.aclose()

    async def _charge_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            with suppress(StateUnavailable):  # `_guarded` wakes this when the server is reached again
                await self._charge_waiting()

    async def _charge_waiting(self) -> None:
        """Charge requests until none waits. One that fails waits again. Raises StateUnavailable."""
        while self._unsettled:
            batch = [self._unsettled.popleft() for _ in range(min(AT_ONCE, len(self._unsettled)))]
            done = [False] * len(batch)

            async def charge(index: int, lease: Lease, used: Amount, done: list[bool] = done) -> None:
                await self._settle(lease, used)
                done[index] = True

            try:
                results = await asyncio.gather(
                    *(charge(index, *each) for index, each in enumerate(batch)), return_exceptions=True
                )
            finally:
                self._unsettled.extendleft([each for each, is_done in zip(batch, done, strict=True) if not is_done])
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    async def _settle(self, lease: Lease, used: Amount) -> None:
        key, reported = lease.key, lease.reported
        amounts = used.tokens, used.cost, reported.tokens, reported.cost
        most = "" if key.tokens_per_minute is None else key.tokens_per_minute
        await self._call("settle", key, lease.id, *map(_written, amounts), most, SETTLED_S, lease=lease)

    async def _renew_all(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            by_key: dict[str, list[Lease]] = {}
            for lease in list(self._leases):
                by_key.setdefault(lease.key.sha256, []).append(lease)
            for leases in by_key.values():
                spent = [(lease, lease.spent) for lease in leases]
                arguments = [part for lease, so_far in spent for part in (lease.id, so_far.tokens, so_far.cost)]
                try:
                    await self._call("renew", leases[0].key, self._lease_s, *map(_written, arguments))
                except StateUnavailable:
                    break
                for lease, so_far in spent:
                    lease.reported = so_far

    async def _reach(self) -> bool:
        """Whether the server answers."""
        try:
            await self._guarded(self._redis.ping)
        except StateUnavailable:
            return False
        return True

    # --- calls of the server ------------------------------------------------------------------------------------------

    def _limits_of(self, key: Key) -> list[float | str]:
        return [key.budgets.get(budget, "") for budget in BUDGETS]

    async def _hold(self, operation: str, lease: Lease, held: Amount) -> list[Any]:
        arguments = lease.id, _written(held.tokens), _written(held.cost), self._lease_s
        return await self._call(operation, lease.key, *self._limits_of(lease.key), *arguments, lease=lease)

    async def _call(self, operation: str, key: Key, *arguments: object, lease: Lease | None = None) -> list[Any]:
        """Run an operation of the script on a key. Raises StateUnavailable."""
        day = datetime.fromtimestamp(self.now(), UTC)
        names = ["leases", "ends", f"day:{day:%Y-%m-%d}", f"month:{day:%Y-%m}", "rates"]
        names += [f"settled:{lease.id}"] if lease is not None else []
        keys = [f"{self._prefix}:{{{key.sha256}}}:{name}" for name in names]  # in one slot of a cluster
        found: list[Any] = await self._guarded(lambda: self._script(keys=keys, args=[operation, *arguments]))
        return found

    async def _guarded(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """The result of a call, within the time-out. Raises StateUnavailable; at once if the last call just failed."""
        clock = time.monotonic
        if not self.up:
            if clock() < self._retry_at:
                raise StateUnavailable("the shared state of the gateways is down")
            self._retry_at = clock() + PAUSE_S  # for this call alone
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await call()
        except self._failures_of as error:
            self._fail(error)
            raise StateUnavailable("the shared state of the gateways is down") from error
        if not self.up:
            self.up = True
            log.warning("the shared state is reached again")
            self._wake.set()
        return result

    def _fail(self, error: Exception) -> None:
        self.failures += 1
        self._retry_at = time.monotonic() + PAUSE_S
        if self.up:
            log.warning("the shared state cannot be reached: %s", type(error).__name__)  # a message may hold the URL
        self.up = False


def _written(value: object) -> object:
    """A number for the script, which reads floats in full."""
    return repr(float(value)) if isinstance(value, int | float) else value
