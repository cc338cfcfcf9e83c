"""Replay of stored calls at their recorded times; recordings; and a scripted double with given latencies and faults.

A recording is JSON Lines, one call per line, with a key of model, prompt, images and limits. It replays at the recorded
speed, so in virtual time a strategy's latency is composed from its recorded calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.errors import BadInput, ModelError, Unsupported
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.models.base import (
    Abilities,
    AnswerDelta,
    CallRecorder,
    Event,
    Finished,
    ForwardingModel,
    Limits,
    Model,
    Progress,
    ReasoningDelta,
    ReasoningEnded,
    Started,
)
from cuecard.models.prompt import TAGS, CardFormat, Prompt, Style
from cuecard.models.simulated import Script, spoken, words

_EVENTS = {kind.__name__: kind for kind in (Started, ReasoningDelta, ReasoningEnded, AnswerDelta, Progress, Finished)}


def key(model: str, prompt: Prompt, limits: Limits, extra: str = "") -> str:
    """The cache key of a call: model, prompt, images, limits except `timeout_s`; `extra`: the answer to score."""
    asked = {
        "model": model,
        "turns": [[turn.role, turn.text, [image.digest for image in turn.images]] for turn in prompt.turns],
        "opening": prompt.opening,
        "mode": prompt.mode,
        "limits": replace(limits, timeout_s=None).as_object(),
        "extra": extra,
        **({"constrained": True} if prompt.constrained else {}),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


# --- replay -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredCall:
    """One call to replay: its events in order, each with its time in seconds since the start of the call.

    An event of None only passes time. If the events come from a generator, it raises the call's error.
    """

    events: Iterable[tuple[float, Event | None]]
    score: float = 0.0
    work: Callable[[float], Awaitable[None]] | None = None
    """Waits for this many seconds of the call; None: by the event loop's clock."""
    recorder: CallRecorder | None = None


class ReplayedModel:
    """Replays stored calls at their recorded speed; `fetch` is their source. `warm` is not supported."""

    def __init__(self, name: str, abilities: Abilities) -> None:
        self.name, self.abilities = name, abilities

    async def fetch(self, prompt: Prompt, limits: Limits, answer: str | None = None) -> StoredCall:
        """The stored call; with `answer`, the call that scored it. Raises ModelError if there is none."""
        raise NotImplementedError

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        call = await self.fetch(prompt, limits)
        work, done_s, clock = call.work or _by_the_clock(), 0.0, asyncio.get_running_loop().time
        with nullcontext() if call.recorder is None else call.recorder.until_it_ends():
            for at_s, event in call.events:
                await work(at_s - done_s)
                done_s = max(done_s, at_s)
                if event is not None:
                    if call.recorder is not None:
                        call.recorder.take(event, clock())
                    yield event

    async def warm(self, prompt: Prompt) -> Usage:
        raise Unsupported(f"{self.name} is replayed and computes nothing ahead")

    async def score(self, prompt: Prompt, answer: str) -> float:
        call = await self.fetch(prompt, Limits(), answer)
        for seconds, _ in call.events:
            await asyncio.sleep(seconds)
        return call.score

    def forget(self) -> None:
        """Nothing is held."""

    async def aclose(self) -> None:
        """Nothing is held."""


def _by_the_clock() -> Callable[[float], Awaitable[None]]:
    """Waits by absolute due times of a call that starts now, so that a slow consumer does not delay later events."""
    clock = asyncio.get_running_loop().time
    due_s = clock()

    async def work(seconds: float) -> None:
        nonlocal due_s
        due_s += max(0.0, seconds)
        await asyncio.sleep(due_s - clock())

    return work


# --- recordings -------------------------------------------------------------------------------------------------------


class RecordingModel(ForwardingModel):
    """Forwards calls to a model and appends each finished one to a file; failed and cancelled calls are left out."""

    def __init__(self, model: Model, path: Path) -> None:
        super().__init__(model)
        self._path = path
        self._append({"header": _header(model)})

    @property
    def abilities(self) -> Abilities:
        return replace(self.model.abilities, weighing=False)  # weights are not recorded

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        clock = asyncio.get_running_loop().time
        began, events = clock(), []
        async with aclosing(self.model.stream(prompt, limits)) as stream:
            async for event in stream:
                events.append([round(clock() - began, 6), type(event).__name__, _fields(event)])
                if isinstance(event, Finished):  # before the yield: the consumer may stop here
                    self._append({"key": key(self.name, prompt, limits), "events": events})
                yield event

    async def score(self, prompt: Prompt, answer: str) -> float:
        began = asyncio.get_running_loop().time()
        value = await self.model.score(prompt, answer)
        took = asyncio.get_running_loop().time() - began
        self._append({"key": key(self.name, prompt, Limits(), answer), "score": value, "seconds": round(took, 6)})
        return value

    def _append(self, record: dict[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise BadInput(f"cannot write the recording {self._path}: {error.strerror}") from error


class RecordedModel(ReplayedModel):
    """Replays a recording. A call that was not recorded raises ModelError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._calls: dict[str, StoredCall] = {}
        headers = []
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read the recording {path}: {error}") from error
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                if "header" in record:
                    headers.append(record["header"])
                else:
                    self._calls[record["key"]] = _stored(record)
            except (ValueError, KeyError, TypeError) as error:
                message = f"line {number} of the recording {path} is broken: {type(error).__name__}: {error}"
                raise BadInput(message, "delete it, and record that call again") from error
        super().__init__(*self._described(headers))

    def _described(self, headers: list[Any]) -> tuple[str, Abilities]:
        try:
            names = {str(header["name"]) for header in headers}
            if len(names) != 1:
                wrong = f"holds calls of {' and '.join(sorted(names))}" if names else "has no header"
                raise BadInput(f"{self._path} is not the recording of one model: it {wrong}", "one file a model")
            able = {name: value for name, value in headers[-1].items() if name != "name"}
            formats, style = tuple(map(CardFormat, able.pop("card_formats"))), Style(**able.pop("style"))
            if "acceptance" in able:
                able["acceptance"] = AcceptanceTable.of_object(able["acceptance"])
            # a replay has nothing to warm: the recorded times already include what warming saved
            notes = (f"replayed from {self._path.name}",)
            return names.pop(), Abilities(**able, prefix_sessions=False, card_formats=formats, style=style, notes=notes)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"the header of {self._path} is broken: {type(error).__name__}: {error}") from error

    async def fetch(self, prompt: Prompt, limits: Limits, answer: str | None = None) -> StoredCall:
        call = self._calls.get(key(self.name, prompt, limits, answer or ""))
        if call is None:
            mode = prompt.mode if answer is None else Mode.SCORE
            hint = "record it first, with the same prompts and limits"
            raise ModelError(f"{self._path.name} holds no {mode} call like this one", hint)
        events = list(call.events)
        kinds = [type(event) for _, event in events]
        if prompt.mode is Mode.REASON and answer is None and ReasoningEnded not in kinds:
            # recordings made before this event existed
            place = next(at for at, kind in enumerate(kinds) if kind in (AnswerDelta, Finished))
            events.insert(place, (events[place][0], ReasoningEnded()))
        return replace(call, events=events)


def _stored(record: dict[str, Any]) -> StoredCall:
    if "score" in record:
        return StoredCall([(float(record["seconds"]), None)], float(record["score"]))
    return StoredCall([(float(at_s), _event(kind, fields)) for at_s, kind, fields in record["events"]])


def _header(model: Model) -> dict[str, Any]:
    able = model.abilities
    return {
        "name": model.name,
        "images": able.images,
        "logprobs": able.logprobs,
        "scoring": able.scoring,
        "card_formats": list(able.card_formats),
        "style": asdict(able.style),
        **({"resumes": True} if able.resumes else {}),
        **({} if able.acceptance is None else {"acceptance": able.acceptance.as_object()}),
    }


def _fields(event: Event) -> dict[str, Any]:
    """An event as plain data; the answer's tokens are not recorded."""
    fields = asdict(event)
    fields.pop("tokens", None)
    return fields


def _event(kind: str, fields: dict[str, Any]) -> Event:
    if "usage" in fields:
        fields = {**fields, "usage": Usage(**fields["usage"])}
    if "finish_reason" in fields:
        fields = {**fields, "finish_reason": FinishReason(fields["finish_reason"])}
    event: Event = _EVENTS[kind](**fields)
    return event


# --- the scripted double ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Says:
    """One scripted call: its texts, latencies and faults."""

    answer: str = ""
    reasoning: str = ""
    first_token_s: float = 0.0
    token_s: float = 0.0
    confidence_logprob: float | None = None
    error: ModelError | None = None
    after_tokens: int | None = None
    """The error comes after this many tokens; None: at once."""
    hangs: bool = False
    """The stream stalls forever after `after_tokens` tokens; None: at once."""


class ScriptedModel:
    """A model that follows a script: a list of calls in order, or a function of the prompt. Tokens are words."""

    def __init__(
        self,
        name: str,
        script: Iterable[Says] | Callable[[Prompt], Says],
        *,
        style: Style = TAGS,
        prefix_sessions: bool = False,
        scores: Callable[[str], float] | None = None,
        card_formats: tuple[CardFormat, ...] = tuple(CardFormat),
    ) -> None:
        self.name, self._scores = name, scores
        self._next = script if callable(script) else _in_order(name, script)
        self.abilities = Abilities(True, True, scores is not None, prefix_sessions, card_formats, style, resumes=True)
        self.prompts: list[Prompt] = []
        self.warmed: list[Prompt] = []
        self.running = 0

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        self.prompts.append(prompt)
        completion = self._next(prompt)
        self.running += 1
        try:
            yield Started()
            usage = Usage(sum(len(words(turn.text)) for turn in prompt.turns), 0, 0, 0)
            yield Progress(usage)
            await asyncio.sleep(completion.first_token_s)

            async def token(done: int, left: int) -> None:
                await self._fault(completion, done)
                if left:
                    await asyncio.sleep(completion.token_s)

            script = Script(completion.answer, completion.reasoning, completion.confidence_logprob)
            async with aclosing(spoken(script, prompt, limits.of(prompt), usage, token)) as events:
                async for event in events:
                    yield event
        finally:
            self.running -= 1

    async def _fault(self, completion: Says, index: int) -> None:
        if index == (completion.after_tokens or 0) and completion.error is not None:
            raise completion.error
        if index == (completion.after_tokens or 0) and completion.hangs:
            await asyncio.sleep(1e9)

    async def warm(self, prompt: Prompt) -> Usage:
        if not self.abilities.prefix_sessions:
            raise Unsupported(f"{self.name} keeps no prefixes")
        self.warmed.append(prompt)
        return Usage(len(words(prompt.opening)), 0, 0, 0)

    async def score(self, prompt: Prompt, answer: str) -> float:
        if self._scores is None:
            raise Unsupported(f"{self.name} cannot score")
        return self._scores(answer)

    def forget(self) -> None:
        """Nothing is held."""

    async def aclose(self) -> None:
        """Nothing is held."""


def _in_order(name: str, script: Iterable[Says]) -> Callable[[Prompt], Says]:
    lines = iter(script)

    def following(prompt: Prompt) -> Says:
        try:
            return next(lines)
        except StopIteration:
            raise ModelError(f"the script of {name} has no line left for a {prompt.mode} call") from None

    return following
