"""API keys: hashes, expiry, limits per minute, budgets, and the pairs that they may use."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from cuecard.gateway.admission.ledger import Budget

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
