"""Baselines from the literature: cascade, ladder, route, vote, verdict, panel, force, steps."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from cuecard.answers import same_answer
from cuecard.domain.call import Reply
from cuecard.domain.outcome import Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.base import Limits
from cuecard.strategies.acceptance import Verdict
from cuecard.strategies.policy import Schedule
from cuecard.strategies.team import Player, Team, Thought

T = TypeVar("T")


async def cascade(question: Question, team: Team) -> Verdict:
    """The small model answers directly; unless it is confident, the large model starts over and reasons."""
    small = await team.small.short(question)
    enough, why = sure(small, team.policy.cascade_confidence)
    if enough:
        return Verdict(small, Route.DIRECT, f"the small model {why}")
    thorough = await team.large.think(question)
    return Verdict(thorough, Route.ESCALATED, f"the small model {why}; the large one reasoned")


async def ladder(question: Question, team: Team) -> Verdict:
    """Both models answer directly, then both reason, the small one always first: the first confident answer is given.

    The cascade of FrugalGPT, Chen et al. 2023 (arXiv 2305.05176), by confidence instead of a trained scorer. If no
    answer is confident, the last one is given.
    """
    small, large = team.small, team.large
    rungs: list[Callable[[Question], Awaitable[Reply]]] = [small.short, large.short, small.think, large.think]
    replies = list[Reply]()
    for rung in rungs:
        replies.append(await rung(question))
        enough, why = sure(replies[-1], team.policy.cascade_confidence)
        if enough:
            break
    last, route = replies[-1], Route.DIRECT if len(replies) == 1 else Route.ESCALATED
    return Verdict(last, route, f"answer {len(replies)} of {len(rungs)}: the {last.role} model {why}")


def sure(small: Reply, wanted: float) -> tuple[bool, str]:
    """Whether an answer is confident enough to be given alone, and the reason."""
    if not small.answer.parsed:
        return False, "gives no answer that can be read"
    if small.confidence is None:
        return False, "gives no probabilities"
    if small.confidence < wanted:
        return False, f"is not sure ({small.confidence:.2f})"
    return True, f"is sure ({small.confidence:.2f}, at least {wanted:g} wanted)"


async def route(question: Question, team: Team) -> Verdict:
    """Decide before any generation: the large model answers easy questions directly, and reasons about hard ones."""
    hard = difficulty(question)
    if hard < team.policy.route_difficulty:
        return Verdict(await team.large.short(question), Route.DIRECT, f"the question looks easy ({hard:.2f})")
    return Verdict(await team.large.think(question), Route.ESCALATED, f"the question looks hard ({hard:.2f})")


async def vote(question: Question, team: Team) -> Verdict:
    """Self-consistency: the small model reasons several times, the most frequent answer wins (the first of equals).

    With `vote_window`, as in ESC, Li et al. 2024 (arXiv 2401.10480): samples are drawn in windows of this size, and
    sampling stops after the first unanimous window.
    """
    takes, samples = repeated(team.small, team), list[Reply]()
    size = team.policy.vote_window or len(takes)
    for begin in range(0, len(takes), size):
        window = await drafts(question, team, takes[begin : begin + size], reply)
        samples += window
        if [len(group) for group in await grouped(window, question)] == [size]:
            break
    groups = await grouped(samples, question)
    most = max(groups, key=len, default=samples[:1])
    return Verdict(most[0], Route.VOTED, f"{len(most)} of {len(samples)} samples say so")


async def verdict(question: Question, team: Team) -> Verdict:
    """Every drafter reasons, several times if there is only one; the large model reads all drafts and answers."""
    one, *more = team.drafters
    takes = [(drafter, team.policy.limits) for drafter in (one, *more)] if more else repeated(one, team)
    written = await drafts(question, team, takes, partial(reasoning, team))
    return Verdict(
        await team.large.read(question, numbered(written)), Route.JUDGED, f"the large model read {len(written)} drafts"
    )


async def panel(question: Question, team: Team) -> Verdict:
    """Both models draft several times; the large model reads the drafts that give the most frequent answer.

    Speculative Verdict, Liu et al. 2025 (arXiv 2510.20812), with two models as its experts. Its consensus uses the
    likelihood of each other's answers, this one counts equal answers.
    """
    takes = [*repeated(team.small, team), *repeated(team.large, team)]
    replies = await drafts(question, team, takes, reply)
    agreeing = max(await grouped(replies, question), key=len, default=replies)
    card = numbered([each.reasoning or each.text for each in agreeing])
    why = f"the large model read {len(agreeing)} of {len(replies)} drafts, those that agree"
    return Verdict(await team.large.read(question, card), Route.JUDGED, why)


async def force(question: Question, team: Team, role: str = "large") -> Verdict:
    """Budget forcing: one model reasons; if it ends before its budget, it resumes after "Wait", up to `waits` times.

    s1, Muennighoff et al. 2025 (arXiv 2501.19393). A reasoning that reaches its budget is closed, as everywhere.
    """
    player, limits, written, used = team[role], team.policy.limits, "", 0
    for wait in range(team.policy.waits + 1):
        left = replace(limits, reasoning_tokens=limits.reasoning_tokens - used)
        thought = player.think(question, left, after=written)
        new = await thought.closed(team)
        used += len(new.split()) if thought.tokens is None else thought.tokens
        if wait == team.policy.waits or used >= limits.reasoning_tokens or not thought.text.strip():
            break
        await thought.dismiss()
        written = f"{written} {new}\n{WAIT}".lstrip()
    return Verdict(await thought, Route.DIRECT, f"the {role} model reasoned, and went on {wait} times")


WAIT = "Wait,"
"""The text that is appended to a reasoning to prolong it."""


def numbered(written: Sequence[str]) -> str:
    """Several drafts as one card."""
    return "\n\n".join(f"Draft {number}: {draft}" for number, draft in enumerate(written, start=1))


def repeated(player: Player, team: Team) -> list[tuple[Player, Limits]]:
    """One model `samples` times, each with the limits of its own sample."""
    return [(player, team.policy.sampled(index)) for index in range(team.policy.samples)]


async def drafts(
    question: Question,
    team: Team,
    takes: Sequence[tuple[Player, Limits]],
    wanted: Callable[[Thought], Coroutine[Any, Any, T]],
) -> list[T]:
    """The result of `wanted` for each draft, in order; drafts run concurrently, on the thrifty schedule one by one."""
    if team.schedule is Schedule.THRIFTY:
        return [await wanted(player.think(question, limits)) for player, limits in takes]
    thoughts = [player.think(question, limits) for player, limits in takes]
    return [await task for task in [team.start(wanted(thought)) for thought in thoughts]]


async def reply(thought: Thought) -> Reply:
    """The whole reply."""
    return await thought.running


async def reasoning(team: Team, thought: Thought) -> str:
    """The reasoning; the call is cancelled before its answer."""
    written = await thought.closed(team)
    await thought.dismiss()
    return written


async def grouped(replies: Sequence[Reply], question: Question) -> list[list[Reply]]:
    """Replies grouped by equal answers, in order of first appearance; unparseable ones are left out."""
    groups: list[list[Reply]] = []
    for reply in replies:
        if reply.answer.parsed:
            for group in groups:
                if await same_answer(group[0].answer, reply.answer, question):
                    group.append(reply)
                    break
            else:
                groups.append([reply])
    return groups


_STEPS = re.compile(
    r"\b(then|after|before|times|twice|steps?|jump|each|every|total|sum|difference|average|how many|compare|why)\b",
    re.IGNORECASE,
)


def difficulty(question: Question) -> float:
    """0 (easy) to 1 (hard), from the wording: words for several steps, numbers, length, an open-ended kind."""
    words, numbers = len(question.text.split()), len(re.findall(r"\d+", question.text))
    steps = len({found.lower() for found in _STEPS.findall(question.text)})
    kind = 0.3 if question.kind in (AnswerKind.MATHS, AnswerKind.FREE_TEXT) else 0.0
    return min(1.0, 0.25 * steps + 0.1 * max(0, numbers - 1) + 0.01 * max(0, words - 10) + kind)


# --- reasoning in steps -----------------------------------------------------------------------------------------------
# SpecReason, Pan et al. 2025 (arXiv 2504.07891): a step is graded with a single token, and rewritten by the large model
# if its grade is below a threshold.

STEP_WORDS = 8
"""Minimum words of a step, so that a heading or the number of a list item is not a step."""
_BOUNDARY = re.compile(r"(?<=[.!?])\s+|\s*\n\s*")


async def steps(question: Question, team: Team) -> Verdict:
    """The small model reasons step by step; the large one grades each step and rewrites what it does not accept."""
    reasoning, small, large = SharedReasoning(question, team), team.small, team.large
    while not reasoning.is_over:
        writer, step = small, await reasoning.next_step(small)
        if step and await large.grade(question, reasoning.text, step) < team.policy.step_score:
            writer, step = large, await reasoning.next_step(large)
        reasoning.append(step, writer)
    await reasoning.stop()
    own = reasoning.writers.count(small.role)
    why = f"the large model read {own} steps of the small one and {len(reasoning.writers) - own} of its own"
    return Verdict(await large.read(question, reasoning.text), Route.REVISED, why)


class SharedReasoning:
    """A reasoning that several models write in turn, each resuming the text so far, within the budget of one reasoning.

    A call ends when another model takes over; on the thrifty schedule also at the end of each step.
    """

    def __init__(self, question: Question, team: Team) -> None:
        self.text = ""
        self.writers: list[str] = []
        """The role of the writer of each step."""
        self._question, self._team = question, team
        self._thought: Thought | None = None
        self._read = 0
        """Characters of the running thought that are already split into steps."""
        self._left = team.policy.limits.reasoning_tokens
        self._has_ended = False

    @property
    def is_over(self) -> bool:
        return self._has_ended or self._left <= 0

    def append(self, step: str, writer: Player) -> None:
        """Append a step; an empty one, which marks the end of the reasoning, is ignored."""
        if not step.strip():
            return
        apart = bool(self.text) and not (self.text[-1].isspace() or step[:1].isspace())
        self.text += f" {step}" if apart else step
        self.writers.append(writer.role)

    async def next_step(self, writer: Player) -> str:
        """The next step by this model, or all remaining text if its reasoning ends. Raises ModelError."""
        thought = self._thought
        if thought is None or thought.role != writer.role:
            await self.stop()
            limits = replace(self._team.policy.limits, reasoning_tokens=max(1, self._left))
            self._thought = thought = writer.think(self._question, limits, after=self.text)
        while (end := step_end(thought.text, self._read)) is None and not thought.is_over:
            await thought.more(self._team)
        self._has_ended = end is None
        if end is None and not thought.ended:
            await thought  # for its error, if it failed
        if end is None and not thought.text.strip() and not self.text:
            return await thought.closed(self._team)  # it answers without reasoning
        step = thought.text[self._read : end]
        self._read += len(step)
        if self._has_ended or self._team.schedule is Schedule.THRIFTY:
            await self.stop()
        return step

    async def stop(self) -> None:
        """End the running call."""
        if (thought := self._thought) is not None:
            await thought.dismiss()
            self._left -= len(thought.text.split()) if thought.tokens is None else thought.tokens
            self._thought, self._read = None, 0


def step_end(text: str, begin: int) -> int | None:
    """The end of the step at `begin`: a line or sentence of enough words, and the space behind; None if unfinished."""
    for found in _BOUNDARY.finditer(text, begin):
        if found.end() < len(text) and len(text[begin : found.start()].split()) >= STEP_WORDS:
            return found.end()
    return None
