"""Calls laid out in time: one row a role, and a further lane where calls of one role overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cuecard.domain.call import Call, Mode
from cuecard.domain.outcome import Outcome

Lane = tuple[Call, ...]


@dataclass(frozen=True)
class Track:
    """The calls of one role, in lanes within which no two overlap, each ordered by start."""

    role: str
    model: str
    lanes: tuple[Lane, ...]


def ordered(calls: Sequence[Call]) -> list[Call]:
    """By start, then by end."""
    return sorted(calls, key=lambda call: (call.start_s, call.end_s))


def tracks(calls: Sequence[Call]) -> list[Track]:
    """One a role: the large model last, since it reads what the others write."""
    in_time = ordered(calls)
    roles = sorted(dict.fromkeys(call.role for call in in_time), key=lambda role: (role == "large", role != "small"))
    return [_track(role, [call for call in in_time if call.role == role]) for role in roles]


def _track(role: str, calls: Sequence[Call]) -> Track:
    lanes: list[list[Call]] = []
    for call in calls:
        free = next((lane for lane in lanes if lane[-1].end_s <= call.start_s), None)
        if free is None:
            lanes.append([call])
        else:
            free.append(call)
    return Track(role, calls[0].model, tuple(map(tuple, lanes)))


def handoff(outcome: Outcome) -> tuple[float, float] | None:
    """From the last reasoning token to the reader's first answer token, on the request's clock; None if none read."""
    took = outcome.handoff_s
    read = next((c for c in outcome.calls if c.mode is Mode.READ and c.first_token_s is not None), None)
    if took is None or read is None or read.first_token_s is None:
        return None
    return read.first_token_s - took, read.first_token_s
