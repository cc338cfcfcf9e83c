"""Early stop: while the small model reasons, the reader is probed for its answer; once it stands, reasoning ends.

    every N words of the reasoning: the reader answers from what is written (a probe)
    the same answer K times in a row: the reasoning is stopped, and that answer is given

One probe at a time, beside the reasoning. What is written meanwhile is in the next one.
"""

from __future__ import annotations

import asyncio
import re

from cuecard.answers import same_answer
from cuecard.domain.errors import ModelError
from cuecard.domain.outcome import Route
from cuecard.domain.question import Question
from cuecard.strategies.acceptance import Verdict
from cuecard.strategies.policy import EarlyStop
from cuecard.strategies.team import Reply, Team, Thought, cancelled

_WHOLE_WORD = re.compile(r"(?<!\S)\S++(?=\s)")


async def settled(question: Question, team: Team, thought: Thought) -> Verdict | None:
    """The answer that stood while the reasoning was written, which is stopped then; None where none did.

    A probe that fails ends the probing, not the request. Without `early_stop` nothing is probed.
    """
    stop = team.policy.early_stop
    if stop is None:
        return None
    replies: list[Reply] = []
    ends: list[int] = []
    read = 0
    while count := await _written(team, thought, ends, read, stop.every):
        read = count
        probe = team.start(team.large.probe(question, thought.text[: ends[read - 1]]))
        over = team.start(thought.closed(team))
        await asyncio.wait([probe, over], return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        if thought.is_over:  # all is written: the reader gets the whole card instead
            await cancelled(probe)
            return None
        if isinstance(probe.exception(), ModelError):
            return None
        replies.append(probe.result())
        last = replies[-stop.times :]
        if len(last) == stop.times and await _stands(last, question, stop):
            await thought.dismiss()
            why = f"the large model's answer was the same {stop.times} times, the last time at word {read} of the card"
            return Verdict(last[-1], Route.STOPPED, why)
    return None


async def _stands(last: list[Reply], question: Question, stop: EarlyStop) -> bool:
    """Whether these replies all give the last one's answer, sure enough of it."""
    for one in last:
        unsure = stop.confidence is not None and one.confidence is not None and one.confidence < stop.confidence
        if unsure or not await same_answer(one.answer, last[-1].answer, question):
            return False
    return True


async def _written(team: Team, thought: Thought, ends: list[int], read: int, every: int) -> int:
    """The next multiple of `every` words that is written, as soon as it is; 0 when the reasoning is over.

    Multiples, however fast it is written meanwhile, so that the same reasoning has the same probes. `ends`: where each
    word ends, grown here by what is new.
    """
    while not thought.is_over:
        ends += [match.end() for match in _WHOLE_WORD.finditer(thought.text, ends[-1] if ends else 0)]
        count = len(ends) // every * every
        if count > read:
            return count
        await thought.more(team)
    return 0
