"""The models of one arm: stored calls replayed in virtual time, each recorded as the arm observes it.

A replayed call takes as long as it took alone. The measured time that applies depends on what the arm has done on that
model before: see `StoredModel`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from cuecard import virtual_time
from cuecard.domain.call import Call, FinishReason, Mode, Usage
from cuecard.domain.errors import Unsupported
from cuecard.evals.database import Record
from cuecard.evals.requests import TOKENS, CallRequest, Seat, StoredCalls, error_of
from cuecard.models.base import (
    AnswerDelta,
    CallRecorder,
    Event,
    Finished,
    Limits,
    Progress,
    ReasoningDelta,
    ReasoningEnded,
    Started,
    Weighed,
    Weighing,
)
from cuecard.models.prompt import Prompt
from cuecard.models.replay import ReplayedModel, StoredCall

_NOTHING_S = 1e-9


@dataclass
class ArmCalls:
    """The calls of one arm: the stored ones that it replays, those it waits for, and each as the arm observes it."""

    stored: StoredCalls
    requests: dict[str, CallRequest] = field(default_factory=dict)
    """Calls that are not stored, by cache key."""
    recorders: list[CallRecorder] = field(default_factory=list)

    async def fetch(self, request: CallRequest) -> tuple[str, Record]:
        """The call's key and record. If the call is not stored, requests it and waits; this takes no virtual time."""
        while (stored := self.stored.get(request)) is None:
            self.requests[request.key] = request
            await virtual_time.outside()
        return stored

    @property
    def ended(self) -> tuple[Call, ...]:
        """The calls as the arm observed them. Valid when the arm is done."""
        return tuple(recorder.call for recorder in self.recorders)

    def recorder(self, seat: Seat, mode: Mode, key: str | None = None, retries: int = 0) -> CallRecorder:
        self.recorders.append(CallRecorder(seat.role, seat.name, mode, _now(), key, retries))
        return self.recorders[-1]


class Machine:
    """Contention between calls, in virtual time. `pace`: speed of each of two concurrent calls; None: no contention.

    Speeds are relative to a call that runs alone. Each of n concurrent calls gets 1 / (1 + (n - 1)(1/pace - 1)).
    """

    def __init__(self, pace: float | None = None) -> None:
        self._slower = 0.0 if pace is None else 1 / pace - 1
        self._running = 0
        self._changed = asyncio.Event()

    async def work(self, seconds: float) -> None:
        """Wait until this much work is done: seconds of a call that runs alone, longer beside other calls."""
        if seconds <= 0:
            return
        self._turn(+1)
        try:
            while seconds > _NOTHING_S:
                rate, began, changed = 1 / (1 + (self._running - 1) * self._slower), _now(), self._changed
                try:
                    async with asyncio.timeout(seconds / rate):
                        await changed.wait()
                except TimeoutError:
                    return
                seconds -= (_now() - began) * rate
        finally:
            self._turn(-1)

    def _turn(self, more: int) -> None:
        self._running += more
        self._changed.set()
        self._changed = asyncio.Event()


class StoredModel(ReplayedModel):
    """A model of one arm, replayed from stored calls in virtual time; the arm pauses until its calls are stored.

    Calls about one question were made in sequence, so all but the first found the question's prefix in the KV cache.
    The arm's own first call on this model must prefill the question: it takes longer by the difference between the
    first stored call and its repetition (its cold extra).

    `streamed`: the reader prefills the card while it is written, so a READ takes the time of its repetition, which is a
    lower bound. Each prefilled piece of the card takes the time to first token of a call with everything else in the
    cache: the repetition of `short`, the model's short answer to the question. A card that ends before any piece is
    prefilled takes the measured time. If the card is `cut`, only the question is prefilled ahead. All work runs on the
    `machine`.
    """

    def __init__(
        self,
        seat: Seat,
        calls: ArmCalls,
        machine: Machine,
        *,
        streamed: bool,
        in_pieces: bool,
        short: Record | None = None,
        cut: bool = False,
    ) -> None:
        is_timed = short is not None and short["hot_first_token_s"] is not None
        ahead = seat.abilities.prefix_sessions and streamed and is_timed
        super().__init__(seat.name, replace(seat.abilities, prefix_sessions=ahead))
        self._seat, self._calls, self._machine = seat, calls, machine
        self._streamed, self._in_pieces, self._short, self._cut = streamed, in_pieces, short, cut
        self._begun = False
        """This arm has received a token from this model: the question is in the KV cache."""
        self._followed = False
        """Prefill of the card, while it is written, has started."""
        self._following = asyncio.Lock()

    async def fetch(self, prompt: Prompt, limits: Limits, answer: str | None = None) -> StoredCall:
        """As `ReplayedModel.fetch`, for streamed calls."""
        key, record = await self._calls.fetch(CallRequest(self._seat, prompt, limits))
        recorder = self._calls.recorder(self._seat, prompt.mode, key, len(record["failures"]))
        shift_s, hot, cached = self._times(record)
        if hot or self._cut:  # wait for the prefill that is still running
            with recorder.until_it_ends():
                async with self._following:
                    pass
        counted = record["prompt_tokens"] is not None  # a server may have counted a repetition only
        usage = replace(_usage(record), cached_tokens=cached if counted else None)
        return StoredCall(self._events(record, usage, shift_s, hot), work=self._machine.work, recorder=recorder)

    def _events(self, record: Record, usage: Usage, shift_s: float, hot: bool) -> Iterator[tuple[float, Event | None]]:
        """The events of a call with all times `shift_s` later than measured."""
        times = ("hot_first_token_s", "hot_end_s") if hot else ("first_token_s", "end_s")
        first_s, end_s = (record[name] for name in times)
        now_s, late_s = 0.0, 0.0 if first_s is None else shift_s
        yield now_s, Started()
        yield now_s, Progress(replace(usage, completion_tokens=0, reasoning_tokens=0))
        if first_s is not None:
            now_s = shift_s + first_s
            yield now_s, None
            self._begun = True
        if self._in_pieces and record["pieces"]:  # needed by an arm that reads along or may cancel
            for at_s, event in _pieces(record, usage):
                now_s = max(now_s, late_s + at_s)
                yield now_s, event
        elif record["reasoning"]:
            yield now_s, ReasoningDelta(record["reasoning"])
        if record["mode"] == Mode.REASON and record["status"] == "ok":
            closed_s = record.get("reasoning_end_s")  # records of earlier versions do not hold it
            closed_s = end_s if closed_s is None else closed_s
            now_s = max(now_s, late_s + closed_s)
            yield now_s, Progress(replace(usage, completion_tokens=_until(closed_s, first_s, end_s, usage)))
            yield now_s, ReasoningEnded()
        if record["answer"] and not record["reasoning"]:
            yield now_s, AnswerDelta(record["answer"])
        now_s = max(now_s, shift_s + end_s)
        yield now_s, AnswerDelta(record["answer"]) if record["answer"] and record["reasoning"] else None
        yield now_s, Progress(usage)
        if record["status"] != "ok":
            raise error_of(record["error"])
        yield now_s, Finished(usage, FinishReason(record["finish_reason"]), record["answer_logprob"])

    def _times(self, record: Record) -> tuple[float, bool, int | None]:
        """Seconds to add to the measured times, whether the repetition's times apply, cached tokens in this arm."""
        read_along = self._streamed and not self._cut
        ahead = read_along and (self._followed or not self.abilities.prefix_sessions)
        if record["mode"] == Mode.READ and ahead and record["hot_end_s"] is not None:
            return 0.0, True, record["cached_tokens"]
        if not self._begun and (cold := record["cold"]) is not None:
            return cold["extra_s"], False, cold["cached_tokens"]
        return 0.0, False, record["cached_tokens"]

    async def warm(self, prompt: Prompt) -> Usage:
        if (short := self._short) is None or (step_s := short["hot_first_token_s"]) is None:
            raise Unsupported(f"no stored call shows what {self.name} takes to compute ahead")
        recorder = self._calls.recorder(self._seat, Mode.WARM)
        cold_s = short["cold"]["extra_s"] if short["cold"] else max(0.0, short["first_token_s"] - step_s)
        extra_s, self._begun, self._followed = 0.0 if self._begun else cold_s, True, True
        with recorder.until_it_ends():
            async with self._following:
                await self._machine.work(extra_s + step_s)
            recorder.usage, recorder.finish_reason = Usage(completion_tokens=0), FinishReason.STOP
        return recorder.usage

    async def score(self, prompt: Prompt, answer: str) -> float:
        record = await self._prefilled(CallRequest(self._seat, prompt, Limits(), answer))
        return float(record["score"])

    async def weigh(self, prompt: Prompt, answer: str, by: Weighing) -> tuple[Weighed, Usage]:
        record = await self._prefilled(CallRequest(self._seat, prompt, Limits(), answer, by))
        return tuple((text, weight) for text, weight in record["weighed"]), _usage(record)

    async def _prefilled(self, request: CallRequest) -> Record:
        """The record of a prefill-only call, when it has ended. Raises the call's error if it failed."""
        key, record = await self._calls.fetch(request)
        recorder = self._calls.recorder(self._seat, request.mode, key, len(record["failures"]))
        cold = None if self._begun else record["cold"]  # as in `_times`
        self._begun = True
        with recorder.until_it_ends():
            await self._machine.work(record["end_s"] + (cold["extra_s"] if cold else 0.0))
            recorder.usage, recorder.finish_reason = _usage(record), FinishReason.STOP
        if record["status"] != "ok":
            recorder.finish_reason, recorder.error = FinishReason.ERROR, record["error"]["message"]
            raise error_of(record["error"])
        return record


def _now() -> float:
    return asyncio.get_running_loop().time()


def _usage(record: Record) -> Usage:
    return Usage(*(record[name] for name in TOKENS))


def _until(closed_s: float, first_s: float | None, end_s: float, usage: Usage) -> int | None:
    """Tokens generated until the reasoning was closed.

    If the server does not count reasoning tokens, they are estimated from the reasoning's share of the decode time.
    """
    if usage.reasoning_tokens or usage.completion_tokens is None:
        return usage.reasoning_tokens or None
    decoded_s = end_s - (first_s or 0.0)
    share = (closed_s - (first_s or 0.0)) / decoded_s if decoded_s > 0 else 1.0
    return round(usage.completion_tokens * min(1.0, max(0.0, share)))


def _pieces(record: Record, usage: Usage) -> list[tuple[float, Event]]:
    """The reasoning's chunks at their arrival times; tokens so far are estimated by the share of characters."""
    events: list[tuple[float, Event]] = []
    text, sent = record["reasoning"] or "", 0
    reasoned = usage.reasoning_tokens
    for at_s, characters in record["pieces"]:
        events.append((at_s, ReasoningDelta(text[sent : sent + characters])))
        sent += characters
        if reasoned is not None:
            so_far = round(reasoned * sent / len(text))
            events.append((at_s, Progress(Usage(usage.prompt_tokens, usage.cached_tokens, so_far, so_far))))
    return events
