"""The paper's strategies: which model is called, in which mode, and which answer is given."""

from __future__ import annotations

from cuecard.domain.call import REASONING_CUT, Reply
from cuecard.domain.errors import ModelError
from cuecard.domain.outcome import Route
from cuecard.domain.question import Question
from cuecard.strategies.acceptance import Verdict, accepted_short, comparable, may_agree, same, settled
from cuecard.strategies.policy import Schedule
from cuecard.strategies.team import Team, Thought, cancelled


async def short(question: Question, team: Team, role: str = "large") -> Verdict:
    """One model answers directly, without reasoning."""
    return Verdict(await team[role].short(question), Route.DIRECT, f"the {role} model answered at once")


async def reason(question: Question, team: Team, role: str = "large") -> Verdict:
    """One model reasons, then answers."""
    return Verdict(await team[role].think(question), Route.DIRECT, f"the {role} model reasoned")


async def transfer(question: Question, team: Team) -> Verdict:
    """The small model writes the reasoning; once it is closed, the large model reads it and answers directly."""
    thought = team.small.think(question)
    team.large.follow(question, thought)
    if stands := await settled(question, team, thought):
        return stands
    card = await team.card(question, thought)
    await thought.dismiss()  # the small model's own answer is not needed
    return _transferred(await team.large.read(question, card))


async def mutual(question: Question, team: Team) -> Verdict:
    """Both models answer directly; only if this is not accepted, the small model reasons and the large model reads.

    The small model's short answer is skipped if it cannot change the decision. If the acceptance rule needs agreement
    and the answers cannot be compared, this is `transfer`.
    """
    if not may_agree(question, team):
        return await transfer(question, team)
    thought = team.small.think(question) if team.schedule is Schedule.EAGER else None
    large, why = await accepted_short(question, team)
    if why is not None:
        if thought is not None:
            await thought.dismiss()
        return Verdict(large, Route.AGREED, why)

    thought = thought or team.small.think(question)
    team.large.follow(question, thought)
    if stands := await settled(question, team, thought):
        return stands
    card = await team.card(question, thought)
    if not comparable(question, team, large):
        await thought.dismiss()
        return _transferred(await team.large.read(question, card))

    # the small model's answer may confirm the large one's; unless the schedule is thrifty, the reader starts meanwhile
    reading = None if team.schedule is Schedule.THRIFTY else team.start(team.large.read(question, card))
    if await confirms(question, team, thought, large):
        if reading is not None:
            await cancelled(reading)
        cut = (await thought).reasoning_cut
        caveat = f", though it {REASONING_CUT[cut]}" if cut is not None else ""
        return Verdict(
            large, Route.CONFIRMED, f"the small model's reasoning ends in the large model's short answer{caveat}"
        )
    return _transferred(await (reading or team.large.read(question, card)))


async def confirms(question: Question, team: Team, thought: Thought, large: Reply) -> bool:
    """Whether a reasoning ends in the large model's short answer; False if the small model's call fails."""
    try:
        return await same(question, team, await thought, large)
    except ModelError:
        return False


def _transferred(reply: Reply) -> Verdict:
    return Verdict(reply, Route.TRANSFERRED, "the large model read the small one's reasoning")
