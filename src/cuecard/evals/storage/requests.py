"""Calls and their identity: what an arm wants to have said, whether it is stored, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from cuecard.domain import errors
from cuecard.domain.call import FinishReason, Mode
from cuecard.domain.errors import CuecardError, ModelError
from cuecard.evals.storage.database import Record
from cuecard.evals.storage.untimed import timeless
from cuecard.models import replay
from cuecard.models.base import Abilities, Limits, Weighing
from cuecard.models.prompt import Prompt

TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


class Missing(Exception):
    """A call is not stored. No ModelError, so that no strategy takes it for a model that failed."""


@dataclass(frozen=True)
class Seat:
    """A model of the run, as its stored calls know it: `revision` is part of every call's identity."""

    role: str
    name: str
    revision: str
    abilities: Abilities


@dataclass(frozen=True)
class Wanted:
    """A call to be had: of the store, or else of the model.

    `answer`: the text to score, for a score; or the one by which a card is weighed, and `by` what it is.
    """

    seat: Seat
    prompt: Prompt
    limits: Limits
    answer: str | None = None
    by: Weighing | None = None
    about: str | None = None
    """The item that it is about, if it is not the one at hand."""

    @property
    def mode(self) -> Mode:
        if self.by is not None:
            return Mode.WEIGH
        return self.prompt.mode if self.answer is None else Mode.SCORE

    @cached_property
    def key(self) -> str:
        """SHA-256 of all that decides what is said, and of nothing else, so that arms share what they can."""
        limits = replace(
            self.limits,
            reasoning_tokens=self.limits.reasoning_tokens if self.mode is Mode.REASON else 0,
            seed=self.limits.seed if self.limits.temperature else None,
        )
        extra = json.dumps([self.answer, self.prompt.schema, *([self.by] if self.by else [])])
        return replay.key(f"{self.seat.name}@{self.seat.revision}", self.prompt, limits, extra)


class Book:
    """The calls about one item that arms ask for, and those among them that are not there yet.

    `pace`: what each of two calls at once gets done in a second; None where they do not meet, or nobody measured it.
    """

    def __init__(
        self, look: Callable[[str], Record | None], budgets: Sequence[int] = (), pace: float | None = None
    ) -> None:
        self._look, self._budgets, self.pace = look, budgets, pace
        self._known: dict[str, Record] = {}
        self.missing: dict[str, Wanted] = {}
        self.stumbled = False
        """A call was looked for that is not there."""

    def alone(self) -> Book:
        """The calls that it knows, without a store behind them, to be sent elsewhere."""
        return Book(dict(self._known).get, self._budgets, self.pace)

    def add(self, key: str, record: Record) -> None:
        self._known[key] = timeless(record) or record

    def get(self, wanted: Wanted) -> tuple[str, Record] | None:
        """The call's key and record: its own, or a greedy reasoning under a larger budget that this does not cut."""
        if (own := self.call(wanted.key)) is not None:
            return wanted.key, own
        if wanted.mode is Mode.REASON and not wanted.limits.temperature:
            budget = wanted.limits.reasoning_tokens
            for larger in (each for each in self._budgets if each > budget):
                other = replace(wanted, limits=replace(wanted.limits, reasoning_tokens=larger))
                found = self.call(other.key)
                if (
                    found
                    and found["finish_reason"] in (FinishReason.STOP, FinishReason.REPETITION)
                    and _thought(found) < budget
                ):
                    return other.key, found
        return None

    def find(self, wanted: Wanted) -> tuple[str, Record]:
        """As `get`. Raises Missing, and notes what is."""
        found = self.get(wanted)
        if found is None:
            self.missing[wanted.key], self.stumbled = wanted, True
            raise Missing(wanted.key)
        return found

    def call(self, key: str) -> Record | None:
        """The call of this key, as it is replayed."""
        if key not in self._known and (stored := timeless(self._look(key))) is not None:
            self._known[key] = stored
        return self._known.get(key)


def _thought(record: Record) -> float:
    """Tokens of its reasoning; beyond every budget if nobody counted them."""
    counts = [record[name] for name in ("reasoning_tokens", "completion_tokens") if record[name] is not None]
    return counts[0] if counts else float("inf")


def failure(told: Record) -> CuecardError:
    """The error that a record tells of, as it was raised."""
    kind = getattr(errors, told["class"], ModelError)
    again: CuecardError = kind(told["message"], told["hint"])
    again.retryable = told["retryable"]
    return again
