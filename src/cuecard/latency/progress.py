"""How far a profile is, and how it ended: in this process or of a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProfileProgress:
    """How far a profile is, in readings (of a server: requests)."""

    done: int
    left: int
    """At most; points that are narrow end earlier."""
    left_s: float
    now: str


@dataclass(frozen=True)
class ProfileEnd:
    """How a profile ended."""

    readings: int
    wide: int
    """Points that are not as narrow as wanted."""
    out_of_time: bool
    drift: dict[str, float]
    notes: tuple[str, ...]
