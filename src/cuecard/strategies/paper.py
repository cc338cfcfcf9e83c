"""The paper's strategies: who speaks when."""

from __future__ import annotations

from cuecard.domain.outcome import Route
from cuecard.domain.question import Question
from cuecard.strategies.early import settled
from cuecard.strategies.policy import Schedule
from cuecard.strategies.team import Team
from cuecard.strategies.verdicts import Verdict, accepted, same


async def short(question: Question, team: Team, role: str = "large") -> Verdict:
    """One model answers at once."""
    return Verdict(await team[role].short(question), Route.DIRECT, f"the {role} model answered at once")


async def reason(question: Question, team: Team, role: str = "large") -> Verdict:
    """One model reasons, then answers."""
    return Verdict(await team[role].think(question), Route.DIRECT, f"the {role} model reasoned")


async def transfer(question: Question, team: Team) -> Verdict:
    """The small model writes the reasoning, the large model reads it and answers at once."""
    thought = team.small.think(question)
    if team.policy.schedule is not Schedule.THRIFTY:
        team.large.follow(question, thought)
    if stands := await settled(question, team, thought):
        return stands
    written = await thought
    return Verdict(
        await team.large.read(question, await team.card(question, written)),
        Route.TRANSFERRED,
        "the large model read the small one's reasoning",
    )


async def mutual(question: Question, team: Team) -> Verdict:
    """Both answer at once; only if that settles nothing, the small model reasons and the large model reads."""
    thought = team.small.think(question) if team.policy.schedule is Schedule.EAGER else None
    small, large = await team.short_of(question, team.small, team.large)
    if why := await accepted(question, team, team.policy.accept, small, large):
        if thought is not None:
            await thought.dismiss()
        return Verdict(large, Route.AGREED, why)

    thought = thought or team.small.think(question)
    if team.policy.schedule is not Schedule.THRIFTY:
        team.large.follow(question, thought)
    if stands := await settled(question, team, thought):
        return stands
    written = await thought
    if await same(question, team, written, large):
        return Verdict(large, Route.CONFIRMED, "the small model's reasoning ends in the large model's short answer")
    return Verdict(
        await team.large.read(question, await team.card(question, written)),
        Route.TRANSFERRED,
        "the large model read the small one's reasoning",
    )
