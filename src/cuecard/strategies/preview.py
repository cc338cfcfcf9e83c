"""Which route a question would take, told without the expensive calls: nobody reasons, nobody reads."""

from __future__ import annotations

from collections.abc import Mapping

from cuecard.domain.call import Call
from cuecard.domain.outcome import Route
from cuecard.domain.question import Question
from cuecard.models.base import Model
from cuecard.strategies.acceptance import accepted, may_agree
from cuecard.strategies.baselines import difficulty, sure
from cuecard.strategies.policy import Policy
from cuecard.strategies.team import Team

CERTAIN = {
    "short": Route.DIRECT,
    "reason": Route.DIRECT,
    "transfer": Route.TRANSFERRED,
    "vote": Route.VOTED,
    "verdict": Route.JUDGED,
}


async def preview(
    question: Question, models: Mapping[str, Model], strategy: str, policy: Policy, calls: list[Call] | None = None
) -> tuple[Route, str, tuple[Call, ...]]:
    """The route, why, and the calls that it took to tell. Raises ModelError, BadInput.

    `calls`: as in `run.answer`.

    Of `mutual` it is told whether the short answers are accepted; what is not may still turn out `confirmed`.
    """
    plain = strategy.partition(":")[0]
    if plain in CERTAIN:
        return CERTAIN[plain], f"{plain} always takes this route", ()
    if plain == "route":
        hard = difficulty(question)
        easy = hard < policy.route_difficulty
        return (Route.DIRECT if easy else Route.ESCALATED), f"difficulty {hard:.2f} from the wording", ()
    async with Team(models, policy, calls=calls) as team:
        if plain == "cascade":
            enough, sureness = sure(await team.small.short(question), policy.cascade_confidence)
            route, why = (Route.DIRECT if enough else Route.ESCALATED), f"the small model {sureness}"
        elif not may_agree(question, team):
            route, why = Route.TRANSFERRED, "nobody could tell whether two such answers are the same"
        else:
            small, large = await team.short_of(question, team.small, team.large)
            agreed = await accepted(question, team, policy.accept, small, large)
            route = Route.AGREED if agreed else Route.TRANSFERRED
            why = agreed or "the short answers settle nothing: the small model would reason and the large one read"
    return route, why, tuple(team.calls)
