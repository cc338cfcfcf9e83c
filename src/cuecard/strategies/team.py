"""The team of one request: models in their roles. Every call is recorded, and none outlives the request."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any, cast

from cuecard.answers.json_replies import is_whole
from cuecard.answers.kinds import KINDS, extract_soon
from cuecard.domain.call import REASONING_CUT, Call, FinishReason, Heard, Mode, Reply, confidence_in
from cuecard.domain.errors import BadInput, ModelError, ModelTimeout
from cuecard.domain.question import UNPARSED, AnswerKind, Question
from cuecard.models import prompt as layouts
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.models.base import (
    AnswerDelta,
    CallRecorder,
    Event,
    Limits,
    Model,
    Progress,
    ReasoningDelta,
    ReasoningEnded,
    Weigher,
    Weighing,
)
from cuecard.models.prompt import CardFormat, Prompt, Style
from cuecard.strategies import card_selection
from cuecard.strategies.card_selection import Weighed
from cuecard.strategies.policy import AcceptanceRule, Policy, Schedule

_GRADE_TOKENS = 2
"""A digit, and possibly a space before it."""
_ANYTHING = "."
"""A placeholder answer: the surprise of a card does not depend on it."""
LAST_RESORT = "third"
"""The role of a model that is only called to answer alone, when the others have failed."""


@dataclass
class PartialCall(CallRecorder):
    """What a call has received so far."""

    limit: asyncio.Timeout | None = None
    """The time limit of the call, once it has one."""

    def is_stopped(self, piece: str, question: Question, limits: Limits) -> bool:
        """Whether the answer, with its last piece, contains a stop text, at which it will be cut anyway."""
        stops = limits.extras.stop
        if not stops or question.kind is not AnswerKind.FREE_TEXT:
            return False
        fresh = self.answer[-(len(piece) + max(map(len, stops))) :]
        return any(stop in fresh for stop in stops)

    async def reply(self, question: Question) -> Reply:
        """The reply of the call, which has ended."""
        whole_json = question.kind is AnswerKind.JSON and is_whole(self.answer)
        cut = self.finish_reason is FinishReason.LENGTH and not whole_json
        return Reply(
            self.role,
            self.answer.strip(),
            UNPARSED if cut else await extract_soon(self.answer, question),
            self.reasoning,
            confidence_in(self.answer_logprob, question.kind, self.usage, bool(self.reasoning)),
            cut,
            self.tokens,
            self.finish_reason if self.finish_reason in REASONING_CUT else None,
        )


class Thought:
    """A running reasoning: watch it grow, wait for its end (`closed`), or await it for the whole reply."""

    def __init__(self, role: str) -> None:
        self.role, self.text = role, ""
        self.tokens: int | None = None
        """Tokens generated so far; None if the engine does not report them during generation."""
        self.ended = False
        """The reasoning is closed; the answer may still be running."""
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
        """The whole reasoning, as soon as it is closed. Raises ModelError if its call fails before.

        If the model answers without reasoning, its answer.
        """
        while not self.is_over:
            await self.more(team)
        if self.ended and self.text.strip():
            return self.text
        written = await self.running
        return written.reasoning or written.text

    async def dismiss(self) -> None:
        """Cancel the call; it has ended, and its tokens are counted, when this returns."""
        await cancelled(self.running)


class Player:
    """One model in its role."""

    def __init__(self, role: str, model: Model, team: Team) -> None:
        self.role, self.model, self.team = role, model, team
        self.failures: dict[Mode, ModelError] = {}
        self.thought: Thought | None = None
        """Its latest reasoning."""

    @property
    def failed(self) -> ModelError | None:
        """The first error of a call that counts; None if there is none."""
        return next(iter(self.failures.values()), None)

    async def short(self, question: Question) -> Reply:
        """Answer directly; again with a strict prompt if the first answer is cut at its limit."""
        return await self._brief(question, partial(layouts.short, question, self._style))

    def think(self, question: Question, limits: Limits | None = None, after: str = "") -> Thought:
        """Start a reasoning, or resume one `after` its text so far; the thought then holds only the new text."""
        self.thought = thought = Thought(self.role)
        prompt = self._resumed(question, after) if after.strip() else layouts.reason(question, self._style)
        thought.task = self.team.start(self._call(question, prompt, thought, limits))
        return thought

    async def read(self, question: Question, card: str) -> Reply:
        """Answer directly from another model's reasoning; again with a strict prompt if the first answer is cut."""
        form, style = self.card_format(question), self._style
        return await self._brief(question, partial(layouts.read, question, card, form, style))

    async def probe(self, question: Question, card: str) -> Reply:
        """Answer directly from a card that is still being written."""
        form, style = self.card_format(question), self._style
        return await self._call(question, layouts.probe(question, card, form, style))

    async def repair(self, question: Question, answer: str, why: str) -> Reply:
        """Correct an answer that is not the requested JSON; `why`: what is wrong with it."""
        return await self._call(question, layouts.repair(question, answer, why, self._style))

    def follow(self, question: Question, thought: Thought) -> None:
        """Prefill the card while it is written, if this model has prefix sessions and no probe prefills it.

        Does nothing on the thrifty schedule, which makes one call at a time. For a card that will be cut, only the
        prompt before it is prefilled: the kept words are not known yet.
        """
        if self.team.schedule is Schedule.THRIFTY or self.team.policy.early_stop is not None:
            return
        if self.team.policy.limits.extras.template is not None:
            return  # the warm prompt lacks the client's fields for the chat template, so its prefix may differ
        if self.model.abilities.prefix_sessions:
            self.team.start(self._follow(question, thought))

    async def grade(self, question: Question, written: str, step: str) -> float:
        """This model's grade of the next reasoning step, 0 to 1: the digit that it generates, divided by 9.

        A model with a scope does not understand this prompt: its grade is the geometric mean probability of the step's
        tokens, if it can weigh.
        """
        able = self.model.abilities
        if able.scope is not None and able.weighing:
            prompt = replace(self._resumed(question, f"{written}{step}"), card=step)
            with self._recorded(Mode.WEIGH) as received:
                weigher = cast(Weigher, self.model)
                weighed, received.usage = await weigher.weigh(prompt, _ANYTHING, Weighing.SURPRISE)
            return math.exp(-fmean(surprise for _, surprise in weighed))
        limits = replace(self.team.policy.limits, answer_tokens=_GRADE_TOKENS, temperature=0.0)
        reply = await self._call(question, layouts.grade(question, written, step, self._style), limits=limits)
        digit = re.search(r"\d", reply.text)
        return 0.0 if digit is None else int(digit[0]) / 9

    async def score(self, question: Question, answer: str) -> float:
        """Natural log of this model's probability of an answer, per token."""
        with self._recorded(Mode.SCORE):
            return await self.model.score(layouts.short(question, self._style), answer)

    async def weigh(self, question: Question, card: str, answer: str, by: Weighing, *, wrote: bool) -> Weighed:
        """The pieces of a card, each with its weight for this model's answer. `wrote`: the card is its own."""
        style = self._style
        own = layouts.reason(question, style).closed_after(card)
        prompt = own if wrote else layouts.read(question, card, self.card_format(question), style)
        with self._recorded(Mode.WEIGH) as received:
            weighed, received.usage = await cast(Weigher, self.model).weigh(prompt, answer, by)
        return weighed

    @property
    def _style(self) -> Style:
        return self.model.abilities.style

    def _resumed(self, question: Question, written: str) -> Prompt:
        return layouts.resume(question, written, self._style, continues=self.model.abilities.resumes)

    def card_format(self, question: Question) -> CardFormat:
        """The policy's card format, or the model's best for the question. Raises BadInput if the model cannot take it.

        Notes and turns are plain messages: a policy may set them even if a probe found another format better.
        """
        wanted, able = self.team.policy.card, self.model.abilities.card_formats
        if wanted is None:
            return layouts.suited(question, able, self._style)
        if wanted is CardFormat.THINKING and wanted not in able:
            raise BadInput(f"{self.model.name} cannot be given a card as {wanted}", f"it can take: {', '.join(able)}")
        return wanted

    async def _brief(self, question: Question, layout: Callable[..., Prompt]) -> Reply:
        """Make a call; again with a strict prompt if a brief answer was cut at its limit: it was an explanation."""
        reply = await self._call(question, layout())
        if reply.truncated and KINDS[question.kind].brief:
            reply = await self._call(question, layout(strict=True))
        return reply

    async def _call(
        self, question: Question, prompt: Prompt, thought: Thought | None = None, limits: Limits | None = None
    ) -> Reply:
        limits, number = self._own(limits or self.team.policy.limits, prompt.mode), next(self.team.call_numbers)
        try:
            with self._recorded(prompt.mode, limits.timeout_s) as received:
                async with (
                    asyncio.timeout(limits.timeout_s) as received.limit,
                    aclosing(self.model.stream(prompt, limits)) as events,
                ):
                    async for event in events:
                        self._receive(event, received, thought, prompt.mode, number)
                        if isinstance(event, AnswerDelta) and received.is_stopped(event.text, question, limits):
                            break
        except ModelError as failure:
            self.failures[prompt.mode] = failure
            raise
        reply = await received.reply(question)
        if prompt.mode is not Mode.GRADE:  # a grade answers another question
            self.team.replies.append((prompt.mode, reply))
        return reply

    def _receive(self, event: Event, received: PartialCall, thought: Thought | None, mode: Mode, number: int) -> None:
        """Add an event to a call; the listener and the running reasoning get each piece of text."""
        received.take(event, self.team.clock())
        match event:
            case ReasoningDelta(text) | AnswerDelta(text):
                is_reasoning = isinstance(event, ReasoningDelta)
                if is_reasoning and thought is not None:
                    thought.grow(text)
                self.team.tell(Heard(self.role, mode, text, is_reasoning, number))
            case ReasoningEnded() if thought is not None:
                thought.end()
            case Progress(usage) if thought is not None:
                thought.tokens = usage.completion_tokens
            case _:
                pass

    @contextmanager
    def _recorded(self, mode: Mode, timeout_s: float | None = None) -> Iterator[PartialCall]:
        """Records a call, however it ends. A TimeoutError, perhaps of the model itself, becomes a ModelTimeout."""
        received = PartialCall(self.role, self.model.name, mode, self.team.clock())
        try:
            yield received
            if received.finish_reason is FinishReason.CANCELLED:  # it has ended without telling why
                received.finish_reason = FinishReason.STOP
        except TimeoutError as late:
            expired = received.limit is not None and received.limit.expired()
            took = f"took longer than {timeout_s:g} s" if expired else "reports a time-out of its own"
            failure = ModelTimeout(f"{self.model.name} {took}")
            received.fail(failure)
            raise failure from late
        except ModelError as failure:
            received.fail(failure)
            raise
        finally:
            received.end_s = self.team.clock()
            self.team.calls.append(received.call)

    def _own(self, limits: Limits, mode: Mode) -> Limits:
        """The limits, without `logit_bias` unless the large model answers: token ids are those of its tokenizer."""
        if not limits.extras.logit_bias or (self.role == "large" and mode is not Mode.PROBE):
            return limits
        return replace(limits, extras=replace(limits.extras, logit_bias=()))

    async def _follow(self, question: Question, thought: Thought) -> None:
        """Prefill the growing card, one warm call at a time. After an error only the head start is lost."""
        form, style, computed = self.card_format(question), self._style, 0
        if self.team.policy.cut is not None:
            await self._warm(layouts.growing(question, "", form, style))
            return
        while not thought.is_over:
            if len(thought.text) - computed < self.team.policy.follow_chars:
                await thought.more(self.team)
            else:
                computed = len(thought.text)
                await self._warm(layouts.growing(question, thought.text, form, style))

    async def _warm(self, prompt: Prompt) -> None:
        with self._recorded(Mode.WARM) as received:
            received.usage = await self.model.warm(prompt)


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a call, and wait until it has ended and is recorded."""
    task.cancel()
    await asyncio.wait([task])


class Team:
    """The players of one request. Leaving the context cancels all running calls and waits for their end."""

    def __init__(
        self,
        models: Mapping[str, Model],
        policy: Policy,
        listen: Callable[[Heard], None] | None = None,
        calls: list[Call] | None = None,
    ) -> None:
        """`calls`: the list that calls are recorded in, also if the request fails."""
        self.policy, self.schedule = policy, policy.schedule_of(models)
        self.players = {role: Player(role, model, self) for role, model in models.items()}
        if {"small", "large"} <= models.keys():
            card_selection.check(policy.cut, models)  # before any call is made
        self.accept: AcceptanceRule = policy.accept_of(models)
        self.table: AcceptanceTable | None = policy.table_of(models)
        self.calls: list[Call] = [] if calls is None else calls
        self.replies: list[tuple[Mode, Reply]] = []
        self._listen = listen
        self._tasks: set[asyncio.Task[Any]] = set()
        self.call_numbers = itertools.count()
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
        """All players but the large model and the last resort."""
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
            task.exception()  # retrieved, as the strategy may have failed before it awaited this task

    def best(self) -> tuple[Mode, Reply] | None:
        """The best reply so far: parsed first, reasoned before short, the large model's before another's."""
        replies = [(mode, reply) for mode, reply in self.replies if reply.text]

        def rank(each: tuple[Mode, Reply]) -> tuple[bool, bool, bool]:
            mode, reply = each
            return reply.answer.parsed, mode is not Mode.SHORT, reply.role == "large"

        return max(replies, key=rank, default=None)

    async def card(self, question: Question, thought: Thought) -> str:
        """The reader's card from a closed reasoning: all of it, or the words that the policy's cut keeps."""
        cut, card = self.policy.cut, await thought.closed(self)
        if cut is None or not card.strip():
            return card
        if cut.asks is None:
            return cut(card)
        weigher, by = cut.asks
        written = await thought  # the weights are relative to its answer
        player = self[written.role] if weigher == "writer" else self.large
        answer = written.answer.text or written.text
        if not answer.strip():
            return card  # without an answer there are no weights
        return cut(card, await player.weigh(question, card, answer, by, wrote=player.role == written.role))

    def tell(self, heard: Heard) -> None:
        if self._listen is not None:
            self._listen(heard)

    async def __aenter__(self) -> Team:
        return self

    async def __aexit__(self, *raised: object) -> None:
        for task in (running := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
