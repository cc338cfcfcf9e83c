"""Speculative reasoning by steps: the small model writes a step, the large one accepts it or rewrites it.

SpecReason, Pan et al. 2025 (arXiv 2504.07891): a step is graded with a single token, and rewritten by the large model
if its grade is below a threshold.
"""

from __future__ import annotations

import re
from dataclasses import replace

from cuecard.domain.outcome import Route
from cuecard.domain.question import Question
from cuecard.strategies.acceptance import Verdict
from cuecard.strategies.policy import Schedule
from cuecard.strategies.team import Player, Team, Thought

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
