"""API keys: hashes, limits a minute, budgets, expiry, and the pairs that a key may use."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cuecard.domain.errors import BudgetUsed, RateLimited, Unauthorised
from cuecard.gateway.admission.budgets import Budget, BudgetLedger

PREFIX = "cue-"


@dataclass(frozen=True)
class Key:
    """A client's key: its name, the SHA-256 of its secret, and what it may do (None: no limit)."""

    name: str
    sha256: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    budgets: Mapping[Budget, float] = field(default_factory=dict)
    expires: datetime | None = None
    """From then on it is refused."""
    pairs: frozenset[str] | None = None
    """The only pairs that it may use; None: all."""

    def may_use(self, pair: str) -> bool:
        return self.pairs is None or pair in self.pairs


def make() -> tuple[str, str]:
    """A new secret of 256 random bits, and its SHA-256. With so many bits a plain hash cannot be searched."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, digest(secret)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Bucket:
    """An allowance a minute that refills steadily; it may be overdrawn, as tokens are known at the end."""

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
        """Seconds until so much is there."""
        return max(0.0, (count - self.left) * 60 / self.most)


class ApiClient:
    """The holder of a key, with what is left of its allowances a minute and of its budgets."""

    def __init__(self, key: Key, clock: Callable[[], float], ledger: BudgetLedger) -> None:
        self.key, self._clock, self._ledger = key, clock, ledger
        self.requests, self.tokens = self._bucket(key.requests_per_minute), self._bucket(key.tokens_per_minute)

    def _bucket(self, per_minute: int | None) -> Bucket | None:
        return None if per_minute is None else Bucket(per_minute, self._clock)

    def renew(self, key: Key) -> None:
        """The key's settings have changed; an allowance that has not is kept as far as it is used."""
        before, self.key = self.key, key
        if before.requests_per_minute != key.requests_per_minute:
            self.requests = self._bucket(key.requests_per_minute)
        if before.tokens_per_minute != key.tokens_per_minute:
            self.tokens = self._bucket(key.tokens_per_minute)

    def enter(self) -> None:
        """Count a request. Raises RateLimited or BudgetUsed, and then counts nothing."""
        for budget, most in self.key.budgets.items():
            self._check(budget, most)
        for what, bucket, need in (("requests", self.requests, 1.0), ("tokens", self.tokens, 1.0)):
            if bucket is not None and (wait_s := bucket.wait_s(need)) > 0:
                message = f"{self.key.name} has used its {bucket.most} {what} a minute"
                limited = RateLimited(message, f"try again in {math.ceil(wait_s)} s")
                limited.retry_after_s = wait_s
                raise limited
        if self.requests is not None:
            self.requests.take(1)

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
        """Charge a request, at its end."""
        if self.tokens is not None:
            self.tokens.take(tokens)
        if self.key.sha256:
            self._ledger.add(self.key.sha256, tokens, cost)

    def headers(self) -> dict[str, str]:
        """Rate limits, as OpenAI's response headers."""
        headers: dict[str, str] = {}
        for what, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                headers |= {
                    f"x-ratelimit-limit-{what}": str(bucket.most),
                    f"x-ratelimit-remaining-{what}": str(max(0, math.floor(bucket.left))),
                    f"x-ratelimit-reset-{what}": f"{bucket.wait_s(bucket.most):.1f}s",
                }
        return headers


class Gate:
    """Finds the client of a key; without any keys, all requests are one client's."""

    def __init__(self, keys: Sequence[Key], clock: Callable[[], float], ledger: BudgetLedger | None = None) -> None:
        """`clock`: monotonic, of limits a minute; the ledger has a clock of its own, of the date."""
        self._clock, self.ledger = clock, ledger or BudgetLedger()
        self._clients: list[ApiClient] = []
        self._anonymous = ApiClient(Key("anybody", ""), clock, self.ledger)
        self.renew(keys)

    def renew(self, keys: Sequence[Key]) -> None:
        """Replace the keys. Requests under way continue, charged to the client that began them."""
        known = {client.key.sha256: client for client in self._clients}
        self._clients = []
        for key in keys:
            client = known.get(key.sha256) or ApiClient(key, self._clock, self.ledger)
            client.renew(key)
            self._clients.append(client)

    @property
    def is_open(self) -> bool:
        """Whether requests need no key."""
        return not self._clients

    def known(self, authorization: str | None, api_key: str | None = None) -> ApiClient:
        """The client of this `Authorization` or `x-api-key` header; not counted yet. Raises Unauthorised."""
        if self.is_open:
            return self._anonymous
        scheme, _, bearer = (authorization or "").partition(" ")
        sent = (bearer if scheme.lower() == "bearer" else "", api_key or "")
        given = [digest(secret.strip()) for secret in sent if secret.strip()]
        if not given:
            raise Unauthorised("no API key was given", "send Authorization: Bearer KEY, or x-api-key: KEY")
        client = None
        for each_client in self._clients:  # all of them, so that the time shows nothing
            for each in given:
                if hmac.compare_digest(each, each_client.key.sha256):
                    client = each_client
        if client is None:
            raise Unauthorised("this API key is not known", "ask the operator of this gateway for a key")
        end = client.key.expires
        if end is not None and self.ledger.now() >= end.timestamp():
            message = f"the API key {client.key.name} has expired: it was valid until {end:%Y-%m-%d %H:%M %Z}"
            raise Unauthorised(message, "ask the operator of this gateway for a new one")
        return client
