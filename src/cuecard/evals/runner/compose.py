"""One item answered by every arm in virtual time, from stored calls; or end to end, live; and the records of both."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cuecard import virtual_time
from cuecard.answers import extract
from cuecard.domain.call import FinishReason, Mode
from cuecard.domain.errors import BadInput, CuecardError
from cuecard.domain.outcome import LatencyKind, Outcome, Route
from cuecard.evals.arm import Arm
from cuecard.evals.item import Item
from cuecard.evals.placebo import CardSwap
from cuecard.evals.runner.contention import Machine
from cuecard.evals.runner.replay import Note, StoredModel, WatchedModel
from cuecard.evals.scoring import scorers
from cuecard.evals.storage.database import Record
from cuecard.evals.storage.requests import TOKENS, Book, Missing, Seat, Wanted
from cuecard.models import prompt as layouts
from cuecard.models.base import Model
from cuecard.strategies.policy import Policy, Schedule
from cuecard.strategies.run import answer

MOST_SAMPLES = 64
_READ_ROUTES = (Route.TRANSFERRED, Route.STOPPED, Route.JUDGED)


@dataclass(frozen=True)
class Told:
    """What an arm did with an item. `outcome` is None where it failed, then `error` says why."""

    arm: str
    outcome: Outcome | None
    error: CuecardError | None
    notes: tuple[Note, ...]

    @property
    def generated(self) -> int:
        return sum(note.usage.completion_tokens or 0 for note in self.notes)


@dataclass(frozen=True)
class Asked:
    """An item as the arms are asked it; `partner` is another item, whose card is the foreign one."""

    task: str
    item: Item
    partner: Item | None

    @property
    def name(self) -> str:
        return f"{self.task}/{self.item.id}"


def compose(
    asked: Asked, arms: Sequence[Arm], known: Mapping[str, Told], seats: Mapping[str, Seat], book: Book
) -> dict[str, Told]:
    """`known` and the arms that could be told from what is stored; the book tells what is missing for the others."""
    told = dict(known)
    for arm in (arm for arm in arms if arm.name not in told):
        if arm.equal is None:
            found = _told(asked, arm, arm.policy, seats, book)
        else:
            found = _as_many_as_fit(asked, arm, told.get(arm.equal), seats, book)
        if found is not None:
            told[arm.name] = found
    return told


def _told(asked: Asked, arm: Arm, policy: Policy, seats: Mapping[str, Seat], book: Book) -> Told | None:
    """One arm, on an event loop of its own, so that its times do not depend on others. None: calls are missing."""
    notes: list[Note] = []
    # what a time-out has cost is in the stored call that ran into it
    unhurried = replace(policy, limits=replace(policy.limits, timeout_s=None))
    book.stumbled = False
    machine, overlapping = Machine(book.pace), policy.schedule_of(seats) is not Schedule.THRIFTY
    models: dict[str, Model] = {
        role: StoredModel(
            seat,
            book,
            notes,
            machine,
            streamed=overlapping and arm.placebo is None,
            in_pieces=overlapping or policy.early_stop is not None,
            short=_short(asked, seat, policy, book) if overlapping else None,
            cut=policy.cut is not None,
        )
        for role, seat in seats.items()
    }
    models = with_placebo(models, asked, arm, seats, book)
    try:
        outcome, error = virtual_time.run(_answered(asked, arm, unhurried, models, LatencyKind.COMPOSED)), None
    except Missing:
        return None
    except CuecardError as failure:
        outcome, error = None, failure
    # a call that an arm began and then did without is part of its cost all the same
    if book.stumbled:
        return None
    return Told(arm.name, outcome, error, tuple(notes))


def _short(asked: Asked, seat: Seat, policy: Policy, book: Book) -> Record | None:
    """The model's short call about the item, if it is stored."""
    found = book.get(Wanted(seat, layouts.short(asked.item.question, seat.abilities.style), policy.limits))
    return None if found is None else found[1]


async def _answered(
    asked: Asked, arm: Arm, policy: Policy, models: Mapping[str, Model], kind: LatencyKind | None
) -> Outcome:
    return await answer(asked.item.question, models, arm.strategy, policy, latency_kind=kind)


def _as_many_as_fit(asked: Asked, arm: Arm, measure: Told | None, seats: Mapping[str, Seat], book: Book) -> Told | None:
    """As many samples as are expected to generate no more tokens than the arm that this one is measured by."""
    if measure is None:
        return None
    for samples in range(1, MOST_SAMPLES + 1):
        found = _told(asked, arm, replace(arm.policy, samples=samples), seats, book)
        if found is None or found.error is not None:
            return found
        if found.generated * (samples + 1) / samples > measure.generated:
            break
    return found


def with_placebo(
    models: Mapping[str, Model], asked: Asked, arm: Arm, seats: Mapping[str, Seat], book: Book
) -> dict[str, Model]:
    """The models, the reader's cards changed if the arm wants it so."""
    given = dict(models)
    if arm.placebo is not None and "large" in given:

        def foreign() -> str:
            return card_of(asked, arm, seats, book)

        given["large"] = CardSwap(given["large"], asked.item, arm.placebo, arm.policy.card, foreign)
    return given


def card_of(asked: Asked, arm: Arm, seats: Mapping[str, Seat], book: Book) -> str:
    """What the small model wrote about the partner. Raises Missing, BadInput where there is none."""
    if asked.partner is None:
        raise BadInput("a foreign card needs another question", "give the task more than one item")
    style = seats["small"].abilities.style
    prompt = layouts.reason(asked.partner.question, style)
    _, record = book.find(Wanted(seats["small"], prompt, arm.policy.limits, about=f"{asked.task}/{asked.partner.id}"))
    return record["reasoning"] or ""


async def live(asked: Asked, arm: Arm, models: Mapping[str, Model], seats: Mapping[str, Seat], book: Book) -> Told:
    """One arm end to end with living models."""
    notes: list[Note] = []
    began = time.perf_counter()

    def clock() -> float:
        return time.perf_counter() - began

    watched: dict[str, Model] = {role: WatchedModel(role, model, notes, clock) for role, model in models.items()}
    watched = with_placebo(watched, asked, arm, seats, book)
    try:
        outcome, error = await _answered(asked, arm, arm.policy, watched, None), None
    except CuecardError as failure:
        outcome, error = None, failure
    return Told(arm.live, outcome, error, tuple(notes))


# --- records ----------------------------------------------------------------------------------------------------------


def record_of(asked: Asked, told: Told, kind: LatencyKind) -> Record:
    """The answer as the store keeps it, scored. An error has no answer and no score; what it cost is there."""
    item, outcome = asked.item, told.outcome
    notes = sorted(told.notes, key=lambda note: (note.start_s, note.end_s))
    latest = max((note.end_s for note in notes), default=0.0)
    total_s = outcome.total_s if outcome is not None else latest
    record: Record = {
        "task": asked.task,
        "id": item.id,
        "arm": told.arm,
        "status": "error" if outcome is None else "degraded" if outcome.route is Route.DEGRADED else "ok",
        "route": None if outcome is None else outcome.route,
        "reason": str(told.error) if outcome is None else outcome.reason,
        "answer": None if outcome is None else outcome.answer,
        **_scored(item, outcome, notes),
        "truncated": outcome is not None and outcome.truncated,
        "confidence": None if outcome is None else outcome.confidence,
        "latency": {
            "total_s": _round(total_s),
            "handoff_s": None if outcome is None else _round(outcome.handoff_s),
            "kind": kind,
        },
        "calls": [_call(note, total_s) for note in notes],
        "attempts": len(notes) + sum(note.retries for note in notes),
    }
    if outcome is not None:  # counted by the team, and checked against the calls when the summary is made
        record["usage"] = {
            model: {name: getattr(usage, name) for name in TOKENS} for model, usage in outcome.usage.items()
        }
    return record


def _scored(item: Item, outcome: Outcome | None, notes: Sequence[Note]) -> dict[str, Any]:
    """From the raw reply; a failure has none."""
    if outcome is None:
        return {"reply": None, "parsed": False, "score": None, "scores": {}, "scorer": scorers.version()}
    return scorers.scored(_reply(item, outcome, notes), item)


def _reply(item: Item, outcome: Outcome, notes: Sequence[Note]) -> str:
    """The text that the answer was taken from: the reader's on its routes, else the last that says so."""
    said = [note for note in notes if note.answer and note.mode in (Mode.SHORT, Mode.REASON, Mode.READ, Mode.PROBE)]
    if outcome.route in _READ_ROUTES:
        said = [note for note in said if note.mode in (Mode.READ, Mode.PROBE)] or said
    elif outcome.route in (Route.AGREED, Route.CONFIRMED):
        said = [note for note in said if note.mode is Mode.SHORT and note.role == "large"] or said
    for note in reversed(said):
        found = extract(note.answer, item.question)
        if outcome.answer in (found.text if found.parsed else note.answer.strip(),):
            return note.answer.strip()
    return outcome.answer


def _call(note: Note, total_s: float) -> Record:
    # live: what is cancelled as the answer is given ends a moment after it, by the clock of whoever cleans up
    end_s = min(note.end_s, total_s)
    first_s = note.first_token_s
    return {
        "role": note.role,
        "model": note.model,
        "mode": note.mode,
        "key": note.key,
        "start_s": _round(min(note.start_s, end_s)),
        "first_token_s": None if first_s is None else _round(min(first_s, end_s)),
        "reasoning_end_s": None if note.reasoning_end_s is None else _round(min(note.reasoning_end_s, end_s)),
        "end_s": _round(end_s),
        **{name: getattr(note.usage, name) for name in TOKENS},
        "finish_reason": note.finish_reason,
        "cancelled": note.finish_reason is FinishReason.CANCELLED,
        "error": note.error,
        "retries": note.retries,
    }


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 7)
