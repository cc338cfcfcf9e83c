"""A worker: makes and times calls of its models, and tracks which questions each model has in its KV cache."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast

from cuecard.domain.call import Call, FinishReason, Mode
from cuecard.domain.errors import BadInput, CuecardError, ModelError, ModelTimeout
from cuecard.domain.outcome import LatencyKind
from cuecard.domain.question import Question
from cuecard.evals.arm import Arm
from cuecard.evals.database import Record
from cuecard.evals.requests import TOKENS, CallRequest, error_record
from cuecard.evals.runner import compose
from cuecard.evals.runner.compose import TaskItem
from cuecard.models import prompt as layouts
from cuecard.models.base import CallRecorder, Limits, Model, ReasoningDelta, Weigher
from cuecard.models.prompt import Prompt

HOT = (Mode.SHORT, Mode.READ)
"""Modes of calls that are repeated, to measure their time with the prompt in the KV cache."""
MOST_VISITS = 4096
PACE_PAIRS = 8
MOST_PIECES = 256


@dataclass(frozen=True)
class WorkOrder:
    """A call to be made. `about`: the item's name; `at_once`: number of calls that run on the machine meanwhile."""

    request: CallRequest
    about: str
    short: tuple[Prompt, Record] | None
    """The model's short call about the item, if one is stored; another worker or process may have made it."""
    at_once: int
    failures: tuple[Record, ...] = ()


class Worker(Protocol):
    """Makes calls and returns records; stores nothing. Each method may raise `scheduler.WorkerLost`."""

    async def make(self, order: WorkOrder) -> Record:
        """Make one call, without retries; a failure is part of the record."""
        ...

    async def live(self, item: TaskItem, arm: Arm, foreign_card: str | None) -> Record:
        """Run one arm end to end; returns the answer's record, with measured latency."""
        ...

    async def pace(self, questions: Sequence[Question], limits: Limits) -> float | None:
        """As `pace_of`."""
        ...


@dataclass
class Visit:
    """State of one model for one item."""

    begun: bool = False
    """The question is in the KV cache, if the model keeps its cache between calls."""
    first: Record | None = None
    """The record of the short call that found no cached prefix, with the times of its repetition."""


class LocalWorker:
    """Models in this process. `alone`: one call runs at a time, and models drop their caches between items.

    `timed`: calls are repeated to measure the cost of prefilling the question.
    """

    def __init__(self, models: Mapping[str, Model], *, alone: bool, timed: bool = True) -> None:
        self.models, self._alone, self._timed = models, alone, timed
        self._visits = OrderedDict[tuple[str, str], Visit]()
        self._at: dict[str, str] = {}
        """The item of the latest call, by role."""

    async def make(self, order: WorkOrder) -> Record:
        """As `Worker.make`."""
        request = order.request
        seat, model = request.seat, self.models[request.seat.role]
        visit = await self._visit(order)
        keeps = seat.abilities.prefix_sessions
        warm = keeps and visit.begun
        first = await timed_call(model, request, time.perf_counter)
        again: TimedCall | None = None
        if self._timed and keeps and request.mode in HOT and first.error is None:
            again = await timed_call(model, request, time.perf_counter)
        visit.begun = visit.begun or first.error is None
        facts: Record = {"warm": warm, "cold": cold(visit.first) if warm else None, "at_once": order.at_once}
        facts |= {"failures": list(order.failures), "made_at": round(time.time(), 3)}
        record = call_record(request, first, again, **facts)
        if record["status"] == "ok" and request.mode is Mode.SHORT and not warm:
            visit.first = record
        return record

    async def live(self, item: TaskItem, arm: Arm, foreign_card: str | None) -> Record:
        """As `Worker.live`."""
        if self._alone:
            self._at.clear()
            for model in self.models.values():
                model.forget()
        outcome = await compose.live(item, arm, self.models, foreign_card)
        return await asyncio.to_thread(compose.answer_record, item, outcome, LatencyKind.MEASURED)

    async def pace(self, questions: Sequence[Question], limits: Limits) -> float | None:
        """As `Worker.pace`."""
        self._at.clear()
        return await pace_of(self.models, questions, limits, time.perf_counter)

    async def _visit(self, order: WorkOrder) -> Visit:
        """The model's state for this item; the question is prefilled again if an earlier call did so elsewhere."""
        role, about = order.request.seat.role, order.request.about or order.about
        if self._alone and self._at.get(role) != about:  # with other calls running, caches must be kept
            self.models[role].forget()
            self._visits.pop((role, about), None)
        self._at[role] = about
        if (role, about) in self._visits:
            return self._visits[role, about]
        visit = self._visits[role, about] = Visit()
        if len(self._visits) > MOST_VISITS:
            self._visits.popitem(last=False)
        if self._timed and order.short is not None:
            # prefill the question again, so that times are as if the short call had been made here
            prompt, record = order.short
            with suppress(ModelError):
                await self.models[role].warm(prompt)
                visit.begun, visit.first = True, None if record["warm"] else record
        return visit


def cold(first: Record | None) -> Record | None:
    """The extra cost of a call without the question in the KV cache; None if unknown. `first`: as `Visit.first`."""
    if first is None or first["first_token_s"] is None or first["hot_first_token_s"] is None:
        return None
    extra_s = max(0.0, first["first_token_s"] - first["hot_first_token_s"])
    return {"extra_s": extra_s, "cached_tokens": first["cached_tokens"]}


# --- one call ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TimedCall:
    """One call; times in seconds since its start. `pieces`: (arrival time, characters) of each chunk of reasoning."""

    call: Call
    pieces: list[tuple[float, int]]
    score: float | None
    weighed: list[tuple[str, float]] | None
    error: CuecardError | None


async def timed_call(model: Model, request: CallRequest, clock: Callable[[], float]) -> TimedCall:
    """Make a call of a live model. ModelError and BadInput are part of the result; other errors are raised."""
    began, pieces, score, weighed = clock(), list[tuple[float, int]](), None, None
    error: CuecardError | None = None
    recorder = CallRecorder(request.seat.role, request.seat.name, request.mode, 0.0)
    try:
        async with asyncio.timeout(request.limits.timeout_s):
            if request.by is not None:
                weights, recorder.usage = await cast(Weigher, model).weigh(
                    request.prompt, request.answer or "", request.by
                )
                weighed = [(text, round(weight, 6)) for text, weight in weights]
                recorder.finish_reason = FinishReason.STOP
            elif request.answer is not None:
                score = await model.score(request.prompt, request.answer)
                recorder.finish_reason = FinishReason.STOP
            else:
                async with aclosing(model.stream(request.prompt, request.limits)) as events:
                    async for event in events:
                        recorder.take(event, now_s := clock() - began)
                        if isinstance(event, ReasoningDelta):
                            pieces.append((round(now_s, 6), len(event.text)))
    except TimeoutError:
        error = ModelTimeout(f"{request.seat.name} took longer than {request.limits.timeout_s:g} s")
    except (ModelError, BadInput) as failed:
        error = failed
    recorder.end_s = clock() - began
    return TimedCall(recorder.call, pieces, score, weighed, error)


def call_record(request: CallRequest, first: TimedCall, again: TimedCall | None, **facts: Any) -> Record:
    """The stored record of a call and of its repetition with the prompt in the KV cache.

    `facts`: `warm` (the question was in the cache), `cold` (the extra cost without it), `at_once` (concurrent calls),
    `failures` (earlier tries), `made_at`.
    """
    call, error = first.call, first.error
    hot = again.call if again is not None and again.error is None else None
    turns = [
        {"role": turn.role, "text": turn.text, "images": [image.digest for image in turn.images]}
        for turn in request.prompt.turns
    ]
    return {
        "model": request.seat.name,
        "mode": request.mode,
        "prompt": {"turns": turns, "opening": request.prompt.opening, "answer": request.answer},
        "limits": request.limits.as_object(),
        "status": "ok" if error is None else "error",
        "error": None if error is None else error_record(error),
        "first_token_s": _rounded(call.first_token_s),
        "end_s": _rounded(call.end_s),
        "reasoning_end_s": _rounded(call.reasoning_end_s),
        "hot_first_token_s": None if hot is None else _rounded(hot.first_token_s),
        "hot_end_s": None if hot is None else _rounded(hot.end_s),
        "pieces": _thinned(first.pieces),
        "reasoning": call.reasoning,
        "answer": call.answer,
        "answer_logprob": call.answer_logprob,
        "score": first.score,
        **({} if first.weighed is None else {"weighed": first.weighed}),
        **{name: getattr(call.usage, name) for name in TOKENS},
        "finish_reason": FinishReason.ERROR if error is not None else call.finish_reason,
        **facts,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _thinned(pieces: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """At most `MOST_PIECES` pieces; neighbours are joined at the time of the last one."""
    size = -(-len(pieces) // MOST_PIECES) or 1
    groups = [pieces[start : start + size] for start in range(0, len(pieces), size)]
    return [(group[-1][0], sum(characters for _, characters in group)) for group in groups]


# --- models that share a machine --------------------------------------------------------------------------------------


async def pace_of(
    models: Mapping[str, Model], questions: Iterable[Question], limits: Limits, clock: Callable[[], float]
) -> float | None:
    """Relative speed of two models that reason concurrently in one process, where they share the interpreter and cores.

    Median over the questions of time alone / time beside the other, for the reasoning that ends first; at most 1. None
    if no pair succeeds: the run's own calls then show the error.
    """
    both, seen = [models["small"], models["large"]], []
    for question in questions:
        for model in both:
            model.forget()
        try:
            alone = [await _took(model, question, limits, clock) for model in both]
            for model in both:
                model.forget()
            at_once = await asyncio.gather(*(_took(model, question, limits, clock) for model in both))
        except CuecardError:
            continue
        first = at_once.index(min(at_once))
        seen.append(min(1.0, alone[first] / at_once[first]))
    return statistics.median(seen) if seen else None


async def _took(model: Model, question: Question, limits: Limits, clock: Callable[[], float]) -> float:
    """Duration of one reasoning in seconds. Raises ModelError."""
    began = clock()
    async with aclosing(model.stream(layouts.reason(question, model.abilities.style), limits)) as events:
        async for _ in events:
            pass
    return clock() - began
