"""Who may ask, and how much: API keys, known by their hashes only, and limits a minute for each."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cuecard.domain.errors import RateLimited, Unauthorised

PREFIX = "cue-"


@dataclass(frozen=True)
class Key:
    """A client's key: its name, the SHA-256 of its secret, and what it may do in a minute (None: no limit)."""

    name: str
    sha256: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


def make() -> tuple[str, str]:
    """A new secret of 256 random bits, and its SHA-256. With so many bits a plain hash cannot be searched."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, digest(secret)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Bucket:
    """A minute's allowance that refills steadily; it may be overdrawn by what was not known beforehand."""

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


@dataclass
class Client:
    """Whoever holds a key, and what is left of the minute's allowance."""

    key: Key
    requests: Bucket | None
    tokens: Bucket | None

    def enter(self) -> None:
        """One request more. Raises RateLimited, and then takes nothing."""
        for what, bucket, need in (("requests", self.requests, 1.0), ("tokens", self.tokens, 1.0)):
            if bucket is not None and (wait_s := bucket.wait_s(need)) > 0:
                message = f"{self.key.name} has used its {bucket.most} {what} a minute"
                limited = RateLimited(message, f"try again in {math.ceil(wait_s)} s")
                limited.retry_after_s = wait_s
                raise limited
        if self.requests is not None:
            self.requests.take(1)

    def spend(self, tokens: int) -> None:
        """What a request has cost, known at its end."""
        if self.tokens is not None:
            self.tokens.take(tokens)

    def headers(self) -> dict[str, str]:
        told: dict[str, str] = {}
        for what, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                told |= {
                    f"x-ratelimit-limit-{what}": str(bucket.most),
                    f"x-ratelimit-remaining-{what}": str(max(0, math.floor(bucket.left))),
                    f"x-ratelimit-reset-{what}": f"{bucket.wait_s(bucket.most):.1f}s",
                }
        return told


class Gate:
    """Lets those in who hold a key; everybody where there are no keys."""

    def __init__(self, keys: Sequence[Key], clock: Callable[[], float]) -> None:
        def bucket(per_minute: int | None) -> Bucket | None:
            return None if per_minute is None else Bucket(per_minute, clock)

        self._clients = [Client(key, bucket(key.requests_per_minute), bucket(key.tokens_per_minute)) for key in keys]
        self._anybody = Client(Key("anybody", ""), None, None)

    @property
    def is_open(self) -> bool:
        """Everybody may ask."""
        return not self._clients

    def known(self, authorization: str | None, api_key: str | None = None) -> Client:
        """The client with this `Authorization` or `x-api-key` header, who has still to enter. Raises Unauthorised."""
        if self.is_open:
            return self._anybody
        scheme, _, bearer = (authorization or "").partition(" ")
        sent = (bearer if scheme.lower() == "bearer" else "", api_key or "")
        given = [digest(secret.strip()) for secret in sent if secret.strip()]
        if not given:
            raise Unauthorised("no API key was given", "send Authorization: Bearer KEY, or x-api-key: KEY")
        found = None
        for client in self._clients:  # all of them, so that the time tells nothing
            for each in given:
                if hmac.compare_digest(each, client.key.sha256):
                    found = client
        if found is None:
            raise Unauthorised("this API key is not known", "ask whoever runs this gateway for a key")
        return found
