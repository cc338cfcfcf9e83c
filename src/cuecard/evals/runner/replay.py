"""Models in one arm: stored calls replayed in virtual time, or living models; every call noted as the arm saw it.

A replayed call takes as long as it took alone. Which of the times measured for it applies depends on what its arm has
done before on that model: see `StoredModel`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.errors import CuecardError, ModelError, Unsupported
from cuecard.evals.runner.contention import Machine
from cuecard.evals.storage.database import Record
from cuecard.evals.storage.requests import TOKENS, Book, Seat, Wanted, failure
from cuecard.models.base import (
    Abilities,
    AnswerDelta,
    Event,
    Finished,
    Limits,
    Model,
    Progress,
    ReasoningDelta,
    ReasoningEnded,
    Started,
    Weigher,
    Weighing,
)
from cuecard.models.prompt import Prompt

Weighed = tuple[tuple[str, float], ...]

# --- what a team of one arm did ---------------------------------------------------------------------------------------


@dataclass
class Note:
    """One call as its arm saw it; seconds since the arm began."""

    role: str
    model: str
    mode: Mode
    start_s: float
    key: str | None = None
    first_token_s: float | None = None
    end_s: float = 0.0
    usage: Usage = field(default_factory=Usage)
    finish_reason: FinishReason = FinishReason.CANCELLED
    answer_logprob: float | None = None
    reasoning_end_s: float | None = None
    reasoning: str = ""
    answer: str = ""
    error: str | None = None
    retries: int = 0

    def take(self, event: Event, now_s: float) -> None:
        match event:
            case ReasoningDelta(text):
                self.reasoning += text
            case ReasoningEnded():
                self.reasoning_end_s = now_s
            case AnswerDelta(text):
                self.answer += text
            case Progress(usage):
                self.usage = usage
            case Finished(usage, reason, logprob):
                self.usage, self.finish_reason, self.answer_logprob = usage, reason, logprob
        if isinstance(event, ReasoningDelta | AnswerDelta) and self.first_token_s is None:
            self.first_token_s = now_s


async def noted(events: AsyncGenerator[Event], note: Note, clock: Callable[[], float]) -> AsyncGenerator[Event]:
    """The events as they come, and the note kept of them, whatever becomes of the call."""
    try:
        async with aclosing(events):
            async for event in events:
                note.take(event, clock())
                yield event
    except CuecardError as failure:
        note.finish_reason, note.error = FinishReason.ERROR, str(failure)
        raise
    finally:
        note.end_s = clock()


@dataclass(frozen=True)
class WatchedModel:
    """A living model in one arm, each of its calls noted."""

    role: str
    model: Model
    notes: list[Note]
    clock: Callable[[], float]

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def abilities(self) -> Abilities:
        return self.model.abilities

    def _note(self, mode: Mode) -> Note:
        self.notes.append(Note(self.role, self.name, mode, self.clock()))
        return self.notes[-1]

    def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        return noted(self.model.stream(prompt, limits), self._note(prompt.mode), self.clock)

    @contextmanager
    def _noted(self, mode: Mode) -> Iterator[Note]:
        """A call that decodes nothing."""
        note = self._note(mode)
        try:
            yield note
            note.finish_reason = FinishReason.STOP
        except ModelError as failure:
            note.finish_reason, note.error = FinishReason.ERROR, str(failure)
            raise
        finally:
            note.end_s = self.clock()

    async def warm(self, prompt: Prompt) -> Usage:
        with self._noted(Mode.WARM) as note:
            note.usage = await self.model.warm(prompt)
        return note.usage

    async def weigh(self, prompt: Prompt, answer: str, by: Weighing) -> tuple[Weighed, Usage]:
        with self._noted(Mode.WEIGH) as note:
            weighed, note.usage = await cast(Weigher, self.model).weigh(prompt, answer, by)
        return weighed, note.usage

    async def score(self, prompt: Prompt, answer: str) -> float:
        with self._noted(Mode.SCORE):
            return await self.model.score(prompt, answer)

    def forget(self) -> None:
        self.model.forget()

    async def aclose(self) -> None:
        """Whoever has given the model closes it."""


# --- replay -----------------------------------------------------------------------------------------------------------


class StoredModel:
    """A model in one arm, in virtual time, that says what it has said before. Raises Missing.

    Calls about one question were made one after the other, so all but the first found the question computed. An arm's
    own first call on this model has to compute it: it takes the difference more that the first one's repetition showed.
    `streamed`: the reader computes the card while it is written, so a READ takes what its repetition took, which is
    the least that this can come to. Each piece of the card that is computed takes what a call does that finds all else
    computed, `short`: the model's short answer to the question. A card that ends before a piece is computed takes what
    was measured. Of a card that is `cut` nothing is computed ahead but the question. All work is done on the `machine`.
    """

    def __init__(
        self,
        seat: Seat,
        book: Book,
        notes: list[Note],
        machine: Machine,
        *,
        streamed: bool,
        in_pieces: bool,
        short: Record | None = None,
        cut: bool = False,
    ) -> None:
        self._seat, self._book, self._notes, self._machine = seat, book, notes, machine
        self._streamed, self._in_pieces, self._short, self._cut = streamed, in_pieces, short, cut
        self._begun = False
        """This arm has had a token of this model: the question is computed."""
        self._followed = False
        """Some of the card is computed, or being so."""
        self._following = asyncio.Lock()

    @property
    def name(self) -> str:
        return self._seat.name

    @property
    def abilities(self) -> Abilities:
        able, short = self._seat.abilities, self._short
        told = short is not None and short["hot_first_token_s"] is not None
        return replace(able, prefix_sessions=able.prefix_sessions and self._streamed and told)

    def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        key, record = self._book.find(Wanted(self._seat, prompt, limits))
        note = self._note(prompt.mode, key, record)
        return noted(self._replayed(record), note, _now)

    def _note(self, mode: Mode, key: str, record: Record) -> Note:
        note = Note(self._seat.role, self.name, mode, _now(), key, retries=len(record["failures"]))
        self._notes.append(note)
        return note

    async def _replayed(self, record: Record) -> AsyncGenerator[Event]:
        shift_s, hot, cached = self._times(record)
        if hot or self._cut:  # what is still being computed ahead is needed
            async with self._following:
                pass
        first_s, end_s = (record["hot_first_token_s"], record["hot_end_s"]) if hot else _measured(record)
        usage, done_s = replace(_usage(record), cached_tokens=cached), 0.0
        yield Started()
        yield Progress(replace(usage, completion_tokens=0, reasoning_tokens=0))
        if first_s is not None:
            await self._machine.work(shift_s + first_s)
            done_s, self._begun = first_s, True
        if self._in_pieces and record["pieces"]:  # an arm that reads along, or may cancel, has to know how far it got
            for at_s, event in _pieces(record, usage):
                await self._machine.work(at_s - done_s)
                done_s = max(done_s, at_s)
                yield event
        elif record["reasoning"]:
            yield ReasoningDelta(record["reasoning"])
        if record["mode"] == Mode.REASON and record["status"] == "ok":
            closed_s = record.get("reasoning_end_s")  # records of earlier versions do not hold it
            closed_s = end_s if closed_s is None else closed_s
            await self._machine.work(closed_s - done_s)
            done_s = max(done_s, closed_s)
            yield Progress(replace(usage, completion_tokens=_until(closed_s, first_s, end_s, usage)))
            yield ReasoningEnded()
        if record["answer"] and not record["reasoning"]:
            yield AnswerDelta(record["answer"])
        await self._machine.work(end_s - done_s + (shift_s if first_s is None else 0.0))
        if record["answer"] and record["reasoning"]:
            yield AnswerDelta(record["answer"])
        yield Progress(usage)
        if record["status"] != "ok":
            raise failure(record["error"])
        yield Finished(usage, FinishReason(record["finish_reason"]), record["answer_logprob"])

    def _times(self, record: Record) -> tuple[float, bool, int | None]:
        """Seconds later than measured, whether the repetition's times apply, and cached tokens as this arm has them."""
        read_along = self._streamed and not self._cut
        ahead = read_along and (self._followed or not self.abilities.prefix_sessions)
        if record["mode"] == Mode.READ and ahead and record["hot_end_s"] is not None:
            return 0.0, True, record["cached_tokens"]
        if not self._begun and (cold := record["cold"]) is not None:
            return cold["extra_s"], False, cold["cached_tokens"]
        return 0.0, False, record["cached_tokens"]

    async def warm(self, prompt: Prompt) -> Usage:
        if (short := self._short) is None or (step_s := short["hot_first_token_s"]) is None:
            raise Unsupported(f"nothing tells what {self.name} takes to compute ahead")
        note = Note(self._seat.role, self.name, Mode.WARM, _now())
        self._notes.append(note)
        cold_s = short["cold"]["extra_s"] if short["cold"] else max(0.0, short["first_token_s"] - step_s)
        extra_s, self._begun, self._followed = 0.0 if self._begun else cold_s, True, True
        try:
            async with self._following:
                await self._machine.work(extra_s + step_s)
            note.usage, note.finish_reason = Usage(completion_tokens=0), FinishReason.STOP
        finally:
            note.end_s = _now()
        return note.usage

    async def score(self, prompt: Prompt, answer: str) -> float:
        record = await self._prefilled(Wanted(self._seat, prompt, Limits(), answer))
        return float(record["score"])

    async def weigh(self, prompt: Prompt, answer: str, by: Weighing) -> tuple[Weighed, Usage]:
        record = await self._prefilled(Wanted(self._seat, prompt, Limits(), answer, by))
        return tuple((text, weight) for text, weight in record["weighed"]), _usage(record)

    async def _prefilled(self, wanted: Wanted) -> Record:
        """A call that decodes nothing, once it is over. Raises Missing, and the error it ended in."""
        key, record = self._book.find(wanted)
        note = self._note(wanted.mode, key, record)
        try:
            await self._machine.work(record["end_s"])
            note.usage = _usage(record)
            note.finish_reason = FinishReason.STOP if record["status"] == "ok" else FinishReason.ERROR
        finally:
            note.end_s = _now()
        if record["status"] != "ok":
            note.error = record["error"]["message"]
            raise failure(record["error"])
        return record

    def forget(self) -> None:
        """Nothing is held."""

    async def aclose(self) -> None:
        """Nothing is held."""


def _now() -> float:
    return asyncio.get_running_loop().time()


def _measured(record: Record) -> tuple[float | None, float]:
    return record["first_token_s"], record["end_s"]


def _usage(record: Record) -> Usage:
    return Usage(*(record[name] for name in TOKENS))


def _until(closed_s: float, first_s: float | None, end_s: float, usage: Usage) -> int | None:
    """Tokens generated until the reasoning was closed.

    Where the server does not count those of the reasoning, they are estimated by its share of the time of decoding.
    """
    if usage.reasoning_tokens or usage.completion_tokens is None:
        return usage.reasoning_tokens or None
    decoded_s = end_s - (first_s or 0.0)
    share = (closed_s - (first_s or 0.0)) / decoded_s if decoded_s > 0 else 1.0
    return round(usage.completion_tokens * min(1.0, max(0.0, share)))


def _pieces(record: Record, usage: Usage) -> list[tuple[float, Event]]:
    """The reasoning as it came; tokens so far by the share of its characters."""
    events: list[tuple[float, Event]] = []
    text, said = record["reasoning"] or "", 0
    thought = usage.reasoning_tokens
    for at_s, characters in record["pieces"]:
        events.append((at_s, ReasoningDelta(text[said : said + characters])))
        said += characters
        if thought is not None:
            so_far = round(thought * said / len(text))
            events.append((at_s, Progress(replace(usage, completion_tokens=so_far, reasoning_tokens=so_far))))
    return events
