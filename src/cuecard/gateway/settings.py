"""Tables of `cuecard.toml` that hold for the whole server: where it listens, images, second looks, the journal."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cuecard.strategies.run import STRATEGIES

ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#@\s]+")


class Strict(BaseModel):
    """A table whose unknown keys are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(Strict):
    """Where the gateway listens, and how much it takes."""

    host: str = "127.0.0.1"
    open: bool = False
    """Whether it may listen on other addresses than this machine's own without keys."""
    port: int = Field(8400, ge=0, le=65535)
    hosts: list[str] | None = None
    """Names that it goes by besides this machine's own and `host`; None: any where there are keys, else no others."""
    origins: list[str] = []
    """Sites whose pages may ask from a browser (CORS), as https://app.example.org; `*`: all."""
    most_body_mib: int = Field(48, ge=1)
    most_text: int = Field(400_000, ge=1)
    """Characters of all texts of a request."""
    ping_s: float = Field(10.0, gt=0)
    drain_s: int = Field(30, ge=0)
    """How long requests under way may go on when the server is told to stop."""
    state: Path | None = None
    """What keys have used of their budgets; None: beside the journal."""

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, given: list[str]) -> list[str]:
        for origin in given:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin, write it like https://app.example.org")
        return given


class Images(Strict):
    """What of images is taken."""

    urls: bool = False
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


class AuditSettings(Strict):
    """How answers that were accepted without reasoning are looked at again."""

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


class JournalSettings(Strict):
    """The decision log; none if there is no path."""

    path: Path | None = None
    content: bool = False
    """Keep what was said, instead of hashes of it."""
    most_mib: float = Field(64.0, gt=0)
    keep: int = Field(3, ge=1)
    """Files that were full before."""


def known_strategy(name: str) -> str:
    """The name, if there is such a strategy. Raises ValueError."""
    if name not in STRATEGIES:
        raise ValueError(f"unknown strategy {name!r}{nearest(name, list(STRATEGIES))}")
    return name


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def nearest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f", did you mean {near[0]}?" if near else ""
