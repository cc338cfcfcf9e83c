"""The team of one request: models in their roles. Every call is recorded, and none outlives the request."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, cast

from cuecard.answers import UNPARSED, Answer, extract_soon
from cuecard.answers.readers.json_value import is_whole
from cuecard.domain.call import REASONING_CUT, AnswerToken, Call, FinishReason, Mode, Usage
from cuecard.domain.errors import BadInput, ModelError, ModelTimeout
from cuecard.domain.question import AnswerKind, Question
from cuecard.models import prompt as layouts
from cuecard.models.base import (
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
from cuecard.models.prompt import BRIEF_KINDS, CardFormat, Prompt
from cuecard.strategies import card_selection
from cuecard.strategies.card_selection import Weighed
from cuecard.strategies.policy import Policy, Schedule

LAST_RESORT = "third"
"""The role of a model that answers alone when the others have failed, and does nothing else."""


@dataclass(frozen=True)
class Reply:
    """What one call answered."""

    role: str
    text: str
    answer: Answer
    reasoning: str
    confidence: float | None
    """Probability of the answer (of JSON: the geometric mean over its tokens), None where it is not observed."""
    truncated: bool = False
    """It was cut by its limit: `answer` is unparseable, so that it never agrees with another one."""
    tokens: tuple[AnswerToken, ...] = ()
    """The answer's tokens, where they are wanted and observed."""
    reasoning_cut: FinishReason | None = None
    """Why its reasoning was closed before its end."""


@dataclass(frozen=True)
class Heard:
    """A piece of text as it comes from a model: what a person may watch while they wait."""

    role: str
    mode: Mode
    text: str
    is_reasoning: bool
    call: int = 0
    """Pieces of one call have the same number."""


class Thought:
    """A reasoning under way: watch it grow, await its end (`closed`), or await it for the whole reply."""

    def __init__(self, role: str) -> None:
        self.role, self.text = role, ""
        self.ended = False
        """The reasoning is closed; the answer may still be under way."""
        self.grown = asyncio.Event()
        """Set at each new piece of reasoning, and at its end."""
        self.task: asyncio.Task[Reply] | None = None

    @property
    def running(self) -> asyncio.Task[Reply]:
        assert self.task is not None
        return self.task

    @property
    def is_over(self) -> bool:
        """No more reasoning will come."""
        return self.ended or self.running.done()

    def grow(self, piece: str) -> None:
        self.text += piece
        self.grown.set()

    def end(self) -> None:
        self.ended = True
        self.grown.set()

    def __await__(self) -> Any:
        return self.running.__await__()

    async def more(self, team: Team) -> None:
        """Wait for the next piece of reasoning, or its end."""
        self.grown.clear()
        if not self.is_over:
            grown = team.start(self.grown.wait())
            await asyncio.wait([grown, self.running], return_when=asyncio.FIRST_COMPLETED)
            grown.cancel()

    async def closed(self, team: Team) -> str:
        """The whole reasoning, as soon as it is closed. Raises ModelError when its call fails before.

        Where the model answers without reasoning, its answer.
        """
        while not self.is_over:
            await self.more(team)
        if self.ended and self.text.strip():
            return self.text
        written = await self.running
        return written.reasoning or written.text

    async def dismiss(self) -> None:
        """Stop it; its call ends, and its tokens are counted, before this returns."""
        await cancelled(self.running)


@dataclass
class _Received:
    """What a call has received so far."""

    reasoning: str = ""
    answer: str = ""
    first_s: float | None = None
    reasoning_end_s: float | None = None
    usage: Usage = field(default_factory=Usage)
    finish: FinishReason = FinishReason.CANCELLED
    logprob: float | None = None
    tokens: tuple[AnswerToken, ...] = ()
    error: str | None = None


class Player:
    """One model in its role."""

    def __init__(self, role: str, model: Model, team: Team) -> None:
        self.role, self.model, self.team = role, model, team
        self.failed: ModelError | None = None
        self.thought: Thought | None = None
        """The reasoning that it began last."""

    async def short(self, question: Question) -> Reply:
        """Answer at once; once more, strictly, where the first answer runs on."""
        style = self.model.abilities.style
        reply = await self._call(question, layouts.short(question, style))
        if _ran_on(reply, question):
            reply = await self._call(question, layouts.short(question, style, strict=True))
        return reply

    def think(self, question: Question, limits: Limits | None = None) -> Thought:
        """Start to reason."""
        self.thought = thought = Thought(self.role)
        prompt = layouts.reason(question, self.model.abilities.style)
        thought.task = self.team.start(self._call(question, prompt, thought, limits))
        return thought

    async def read(self, question: Question, card: str) -> Reply:
        """Answer at once, another model's reasoning in view; once more, strictly, where the first answer runs on."""
        form, style = self.card_format(question), self.model.abilities.style
        reply = await self._call(question, layouts.read(question, card, form, style))
        if _ran_on(reply, question):
            reply = await self._call(question, layouts.read(question, card, form, style, strict=True))
        return reply

    async def probe(self, question: Question, card: str) -> Reply:
        """Answer at once from a card that is still being written."""
        form, style = self.card_format(question), self.model.abilities.style
        return await self._call(question, layouts.probe(question, card, form, style))

    async def repair(self, question: Question, answer: str, why: str) -> Reply:
        """Answer once more, where an answer is not the JSON that was asked for."""
        return await self._call(question, layouts.repair(question, answer, why, self.model.abilities.style))

    def follow(self, question: Question, thought: Thought) -> None:
        """Compute the card while it is written, if this model keeps what it has computed and no probe does it.

        Nothing on the thrifty schedule, which makes one call after the other.

        Of a card that will be cut only what stands before it is computed: what stays is not known yet.
        """
        if self.team.schedule is Schedule.THRIFTY or self.team.policy.early_stop is not None:
            return
        if self.team.policy.limits.extras.template is not None:
            return  # what is computed ahead is without the client's fields for the template, and may begin otherwise
        if self.model.abilities.prefix_sessions:
            self.team.start(self._ahead(question) if self.team.policy.cut else self._follow(question, thought))

    async def score(self, question: Question, answer: str) -> float:
        """Natural log of this model's probability of an answer, per token."""
        with self._prefill(Mode.SCORE):
            return await self.model.score(layouts.short(question, self.model.abilities.style), answer)

    async def weigh(self, question: Question, card: str, answer: str, by: Weighing, *, wrote: bool) -> Weighed:
        """The pieces of a card and how much each matters to this model's answer. `wrote`: the card is its own."""
        style = self.model.abilities.style
        own = layouts.reason(question, style).closed_after(card)
        prompt = own if wrote else layouts.read(question, card, self.card_format(question), style)
        with self._prefill(Mode.WEIGH) as received:
            weighed, received.usage = await cast(Weigher, self.model).weigh(prompt, answer, by)
        return weighed

    def card_format(self, question: Question) -> CardFormat:
        """The policy's, or the model's best for the question. Raises BadInput where the model cannot take it.

        Notes and turns are plain messages: a policy may set them although a probe found another format better.
        """
        wanted, able = self.team.policy.card, self.model.abilities.card_formats
        if wanted is None:
            return layouts.suited(question, able, self.model.abilities.style)
        if wanted is CardFormat.THINKING and wanted not in able:
            raise BadInput(f"{self.model.name} cannot be given a card as {wanted}", f"it can take: {', '.join(able)}")
        return wanted

    async def _call(
        self, question: Question, prompt: Prompt, thought: Thought | None = None, limits: Limits | None = None
    ) -> Reply:
        limits = self._own(limits or self.team.policy.limits, prompt.mode)
        start, number, received = self.team.clock(), self.team.next_call(), _Received()
        try:
            async with (
                asyncio.timeout(limits.timeout_s) as limit,
                aclosing(self.model.stream(prompt, limits)) as events,
            ):
                async for event in events:
                    self._receive(event, received, thought, prompt.mode, number)
                    if isinstance(event, AnswerDelta) and _is_stopped(received.answer, event.text, question, limits):
                        received.finish = FinishReason.STOP
                        break
        except TimeoutError as late:
            took = f"took longer than {limits.timeout_s:g} s" if limit.expired() else "reports a time-out of its own"
            self.failed = ModelTimeout(f"{self.model.name} {took}")
            received.finish, received.error = FinishReason.ERROR, str(self.failed)
            raise self.failed from late
        except ModelError as failure:
            received.finish, received.error, self.failed = FinishReason.ERROR, str(failure), failure
            raise
        finally:
            self.team.record(self._recorded(received, prompt.mode, start))
        reply = await self._reply(received, question)
        self.team.replies.append((prompt.mode, reply))
        return reply

    def _receive(self, event: Event, received: _Received, thought: Thought | None, mode: Mode, number: int) -> None:
        """Adds an event to what a call has received; the listener and the reasoning under way get each piece."""
        match event:
            case ReasoningDelta(text) | AnswerDelta(text):
                if received.first_s is None:
                    received.first_s = self.team.clock()
                is_reasoning = isinstance(event, ReasoningDelta)
                if is_reasoning:
                    received.reasoning += text
                    if thought is not None:
                        thought.grow(text)
                else:
                    received.answer += text
                self.team.tell(Heard(self.role, mode, text, is_reasoning, number))
            case ReasoningEnded():
                received.reasoning_end_s = self.team.clock()
                if thought is not None:
                    thought.end()
            case Progress():
                received.usage = event.usage
            case Finished():
                received.usage, received.finish, received.tokens = event.usage, event.finish_reason, event.tokens
                received.logprob = event.answer_logprob
            case Started():
                pass

    def _recorded(self, received: _Received, mode: Mode, start_s: float) -> Call:
        return Call(
            self.role,
            self.model.name,
            mode,
            start_s,
            received.first_s,
            self.team.clock(),
            received.usage,
            received.finish,
            received.reasoning or None,
            received.answer or None,
            received.logprob,
            received.error,
            received.reasoning_end_s,
        )

    async def _reply(self, received: _Received, question: Question) -> Reply:
        whole_json = question.kind is AnswerKind.JSON and is_whole(received.answer)
        cut = received.finish is FinishReason.LENGTH and not whole_json
        return Reply(
            self.role,
            received.answer.strip(),
            UNPARSED if cut else await extract_soon(received.answer, question),
            received.reasoning,
            _confidence(question.kind, received.logprob, received.usage, received.reasoning),
            cut,
            received.tokens,
            received.finish if received.finish in REASONING_CUT else None,
        )

    def _own(self, limits: Limits, mode: Mode) -> Limits:
        """The limits, with token ids where they are those of this model, and only where it answers."""
        if not limits.extras.logit_bias or (self.role == "large" and mode is not Mode.PROBE):
            return limits
        return replace(limits, extras=replace(limits.extras, logit_bias=()))

    async def _follow(self, question: Question, thought: Thought) -> None:
        """Warm this model with the card as far as it goes; what comes meanwhile waits for the next turn."""
        form, style, computed = self.card_format(question), self.model.abilities.style, 0
        while not thought.is_over:
            if len(thought.text) - computed < self.team.policy.follow_chars:
                await thought.more(self.team)
                continue
            computed = len(thought.text)
            try:
                await self._warm(layouts.growing(question, thought.text, form, style))
            except ModelError:
                return  # only a head start is lost: the call that reads the card will say what is wrong

    async def _ahead(self, question: Question) -> None:
        """Compute what stands before the card."""
        with suppress(ModelError):  # as above
            await self._warm(layouts.growing(question, "", self.card_format(question), self.model.abilities.style))

    async def _warm(self, prompt: Prompt) -> None:
        with self._prefill(Mode.WARM) as received:
            received.usage = await self.model.warm(prompt)

    @contextmanager
    def _prefill(self, mode: Mode) -> Iterator[_Received]:
        """Records a call that decodes nothing, however it ends."""
        start, received = self.team.clock(), _Received()
        try:
            yield received
            received.finish = FinishReason.STOP
        except TimeoutError as late:
            failure = ModelTimeout(f"{self.model.name} reports a time-out of its own")
            received.finish, received.error = FinishReason.ERROR, str(failure)
            raise failure from late
        except ModelError as failure:
            received.finish, received.error = FinishReason.ERROR, str(failure)
            raise
        finally:
            self.team.record(self._recorded(received, mode, start))


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a call, and wait until it has ended and is accounted for."""
    task.cancel()
    await asyncio.wait([task])


def _confidence(kind: AnswerKind, logprob: float | None, usage: Usage, reasoning: str) -> float | None:
    """The probability of an answer; of JSON per token, as its length says nothing about how sure the model is."""
    if logprob is None or kind is not AnswerKind.JSON:
        return None if logprob is None else math.exp(logprob)
    if not usage.completion_tokens or (reasoning and usage.reasoning_tokens is None):
        return None
    return math.exp(logprob / max(1, usage.completion_tokens - (usage.reasoning_tokens or 0)))


def _is_stopped(answer: str, piece: str, question: Question, limits: Limits) -> bool:
    """Whether a text at which the answer is cut anyway stands in it, its last piece included."""
    stops = limits.extras.stop
    if not stops or question.kind is not AnswerKind.FREE_TEXT:
        return False
    fresh = answer[-(len(piece) + max(map(len, stops))) :]
    return any(stop in fresh for stop in stops)


def _ran_on(reply: Reply, question: Question) -> bool:
    """A brief answer was cut by its limit: it was an explanation."""
    return reply.truncated and question.kind in BRIEF_KINDS


class Team:
    """The players of one request. Leaving the context cancels whatever still runs and waits for it to end."""

    def __init__(
        self,
        models: Mapping[str, Model],
        policy: Policy,
        listen: Callable[[Heard], None] | None = None,
        calls: list[Call] | None = None,
    ) -> None:
        """`calls`: where calls are recorded, for who needs them however the request ends."""
        self.policy, self.schedule = policy, policy.schedule_of(models)
        self.players = {role: Player(role, model, self) for role, model in models.items()}
        if {"small", "large"} <= models.keys():
            card_selection.check(policy.cut, models)  # before any call is made
        self.calls: list[Call] = [] if calls is None else calls
        self.replies: list[tuple[Mode, Reply]] = []
        self._listen = listen
        self._tasks: set[asyncio.Task[Any]] = set()
        self._numbers = itertools.count()
        self._loop = asyncio.get_running_loop()
        # not every loop's own clock is fine enough (uvloop's counts milliseconds)
        self._now = self._loop.time if self.in_virtual_time else time.perf_counter
        self._began = self._now()

    def __getitem__(self, role: str) -> Player:
        try:
            return self.players[role]
        except KeyError:
            raise BadInput(
                f"this strategy needs a model in the role {role!r}", f"there are: {', '.join(self.players)}"
            ) from None

    @property
    def small(self) -> Player:
        return self["small"]

    @property
    def large(self) -> Player:
        return self["large"]

    @property
    def survivors(self) -> list[Player]:
        return [player for player in self.players.values() if player.failed is None]

    @property
    def drafters(self) -> list[Player]:
        """Everybody but the large model and the last resort."""
        return [player for role, player in self.players.items() if role not in ("large", LAST_RESORT)]

    @property
    def in_virtual_time(self) -> bool:
        return getattr(self._loop, "virtual", False)

    def clock(self) -> float:
        """Seconds since the request began, on a monotonic (or the event loop's virtual) clock."""
        return self._now() - self._began

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, as the strategy may have failed before it came to await this one

    async def short_of(self, question: Question, *players: Player) -> list[Reply]:
        """Short answers of several players: at once, or one after the other on the thrifty schedule.

        A failure is raised when all have settled, so that the others' answers are there to fall back on.
        """
        if self.schedule is Schedule.THRIFTY:
            return [await player.short(question) for player in players]
        asked = (self.start(player.short(question)) for player in players)
        settled = await asyncio.gather(*asked, return_exceptions=True)
        for result in settled:
            if isinstance(result, BaseException):
                raise result
        return [result for result in settled if isinstance(result, Reply)]

    async def card(self, question: Question, thought: Thought) -> str:
        """What of a closed reasoning its reader is given: all, or what the policy's cut leaves of it."""
        cut, card = self.policy.cut, await thought.closed(self)
        if cut is None or not card.strip():
            return card
        if cut.asks is None:
            return cut(card)
        who, by = cut.asks
        written = await thought  # its answer is what looks back at the reasoning
        player = self[written.role] if who == "writer" else self.large
        answer = written.answer.text or written.text
        if not answer.strip():
            return card  # no answer that could look back at the reasoning
        return cut(card, await player.weigh(question, card, answer, by, wrote=player.role == written.role))

    def next_call(self) -> int:
        return next(self._numbers)

    def record(self, call: Call) -> None:
        self.calls.append(call)

    def tell(self, heard: Heard) -> None:
        if self._listen is not None:
            self._listen(heard)

    async def __aenter__(self) -> Team:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in (running := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
