"""Tables of `cuecard.toml` that are no pair's: where it listens, images, second looks, the journal, keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictBool, field_validator

from cuecard.domain.suggestions import did_you_mean
from cuecard.gateway.admission.budgets import Budget
from cuecard.gateway.admission.keys import Key
from cuecard.strategies.run import STRATEGIES

ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#@\s]+")


class StrictTable(BaseModel):
    """A table whose unknown keys are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GatewaySettings(StrictTable):
    """Where the gateway listens, and how much it takes."""

    host: str = "127.0.0.1"
    open: StrictBool = False
    """Whether it may listen on other addresses than this machine's own without keys."""
    port: int = Field(8400, ge=0, le=65535)
    hosts: list[str] | None = None
    """Host names that it accepts besides this machine's own and `host`; None: any where there are keys, else none."""
    origins: list[str] = []
    """Sites whose pages may send requests from a browser (CORS), as https://app.example.org; `*`: all."""
    most_body_mib: int = Field(48, ge=1)
    most_text: int = Field(400_000, ge=1)
    """Characters of all texts of a request."""
    ping_s: float = Field(10.0, gt=0)
    drain_s: int = Field(30, ge=0)
    """How long requests under way may continue when the server stops."""
    state: Path | None = None
    """What keys have used of their budgets; None: beside the journal."""

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, given: list[str]) -> list[str]:
        for origin in given:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin, write it like https://app.example.org")
        return given


class ImageSettings(StrictTable):
    """Limits of images in requests."""

    urls: StrictBool = False
    """Fetch images that are given as web addresses."""
    hosts: list[str] = []
    """From these hosts only, and what is under them; from all if empty."""
    most: int = Field(16, ge=0)
    """Images of one request."""
    most_megapixels: float = Field(50.0, gt=0, le=178)
    """Of one image."""
    request_megapixels: float = Field(200.0, gt=0)
    """Of all images of one request."""
    decode_mib: int = Field(768, ge=64)
    """Memory for decoding one image."""
    decode_s: float = Field(10.0, gt=0)
    """Time for decoding one image."""

    @field_validator("hosts")
    @classmethod
    def _are_names(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            host.encode("idna")  # raises a ValueError that says what is wrong
        return hosts


class AuditSettings(StrictTable):
    """The audit: how answers that were accepted without reasoning are checked."""

    share: float = Field(0.0, ge=0, le=1)
    """Of the agreed requests."""
    strategy: str = "reason:large"
    warn_above: float = Field(0.1, ge=0, le=1)
    """Warn when false accepts are surely more than this share."""
    tokens_per_hour: int | None = Field(None, ge=1)
    """No second look begins in an hour in which those before it have used so many."""

    @field_validator("strategy")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return known_strategy(name)


class JournalSettings(StrictTable):
    """The decision log; none if there is no path."""

    path: Path | None = None
    content: StrictBool = False
    """Keep texts and images instead of hashes."""
    most_mib: float = Field(64.0, gt=0)
    keep: int = Field(3, ge=1)
    """Files that were full before."""


class KeyEntry(StrictTable):
    """A client's API key: `cuecard key` makes one and shows its hash, which is all that is kept."""

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
    """A date is valid to its end, in UTC."""
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
                return datetime.combine(given + timedelta(days=1), time(), UTC)
            except OverflowError:
                raise ValueError(f"{given} is too late: leave it out") from None
        return given

    @property
    def budgets(self) -> tuple[Budget, ...]:
        return tuple(each for each in Budget if getattr(self, each) is not None)

    def key(self) -> Key:
        fields = self.model_dump(exclude={*Budget, "pairs"})
        budgets = {each: float(getattr(self, each)) for each in self.budgets}
        return Key(**fields, budgets=budgets, pairs=None if self.pairs is None else frozenset(self.pairs))


def known_strategy(name: str) -> str:
    """The name, if there is such a strategy. Raises ValueError."""
    if name not in STRATEGIES:
        raise ValueError(f"unknown strategy {name!r}{nearest(name, list(STRATEGIES))}")
    return name


def nearest(name: str, known: Sequence[str]) -> str:
    near = did_you_mean(name, known, "")
    return f", {near}" if near else ""
