"""Making a call of a living model, timed, and the record that the store keeps of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from cuecard.domain.call import FinishReason
from cuecard.domain.errors import BadInput, CuecardError, ModelError, ModelTimeout
from cuecard.evals.runner.replay import Note
from cuecard.evals.storage.database import Record
from cuecard.evals.storage.requests import TOKENS, Wanted
from cuecard.models.base import Model, ReasoningDelta, Weigher

MOST_PIECES = 256


@dataclass(frozen=True)
class Take:
    """One call as it went, alone; seconds since it began."""

    note: Note
    pieces: list[tuple[float, int]]
    score: float | None
    weighed: list[tuple[str, float]] | None
    error: CuecardError | None


async def take(model: Model, wanted: Wanted, clock: Callable[[], float]) -> Take:
    """Make a call of a living model. Its failure is part of what it gives back; everything else is raised."""
    began, pieces, score, weighed = clock(), list[tuple[float, int]](), None, None
    error: CuecardError | None = None
    note = Note(wanted.seat.role, wanted.seat.name, wanted.mode, 0.0)
    try:
        async with asyncio.timeout(wanted.limits.timeout_s):
            if wanted.by is not None:
                told, note.usage = await cast(Weigher, model).weigh(wanted.prompt, wanted.answer or "", wanted.by)
                weighed, note.finish_reason = [(text, round(weight, 6)) for text, weight in told], FinishReason.STOP
            elif wanted.answer is not None:
                score = await model.score(wanted.prompt, wanted.answer)
                note.finish_reason = FinishReason.STOP
            else:
                async with aclosing(model.stream(wanted.prompt, wanted.limits)) as events:
                    async for event in events:
                        note.take(event, now_s := clock() - began)
                        if isinstance(event, ReasoningDelta):
                            pieces.append((round(now_s, 6), len(event.text)))
    except TimeoutError:
        error = ModelTimeout(f"{wanted.seat.name} took longer than {wanted.limits.timeout_s:g} s")
    except (ModelError, BadInput) as failed:
        error = failed
    note.end_s = clock() - began
    return Take(note, pieces, score, weighed, error)


def record_of(wanted: Wanted, made: Take, again: Take | None, **facts: Any) -> Record:
    """What the store keeps of a call and of its repetition with the prompt computed.

    `facts`: `warm` (it found the question computed), `cold` (what it would have cost more without), `at_once` (calls
    that ran then), `failures` (tries before it), `made_at`.
    """
    note, error = made.note, made.error
    hot = again.note if again is not None and again.error is None else None
    turns = [
        {"role": turn.role, "text": turn.text, "images": [image.digest for image in turn.images]}
        for turn in wanted.prompt.turns
    ]
    return {
        "model": wanted.seat.name,
        "mode": wanted.mode,
        "prompt": {"turns": turns, "opening": wanted.prompt.opening, "answer": wanted.answer},
        "limits": wanted.limits.as_object(),
        "status": "ok" if error is None else "error",
        "error": None if error is None else told(error),
        "first_token_s": _rounded(note.first_token_s),
        "end_s": _rounded(note.end_s),
        "reasoning_end_s": _rounded(note.reasoning_end_s),
        "hot_first_token_s": None if hot is None else _rounded(hot.first_token_s),
        "hot_end_s": None if hot is None else _rounded(hot.end_s),
        "pieces": _thinned(made.pieces),
        "reasoning": note.reasoning or None,
        "answer": note.answer or None,
        "answer_logprob": note.answer_logprob,
        "score": made.score,
        **({} if made.weighed is None else {"weighed": made.weighed}),
        **{name: getattr(note.usage, name) for name in TOKENS},
        "finish_reason": FinishReason.ERROR if error is not None else note.finish_reason,
        **facts,
    }


def told(error: CuecardError) -> Record:
    """An error as plain data."""
    return {
        "class": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "retryable": error.retryable,
        "retry_after_s": error.retry_after_s,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _thinned(pieces: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """At most so many pieces, neighbours joined at the time of the later one."""
    size = -(-len(pieces) // MOST_PIECES) or 1
    groups = [pieces[start : start + size] for start in range(0, len(pieces), size)]
    return [(group[-1][0], sum(characters for _, characters in group)) for group in groups]
