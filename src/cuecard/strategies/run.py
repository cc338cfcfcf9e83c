"""Answer one question by a strategy, or by the remaining models if one fails; or preview its route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from cuecard.answers import extract, schemas
from cuecard.answers.text.statements import conclusion
from cuecard.domain.call import Call, Heard, Mode, Reply
from cuecard.domain.errors import BadInput, ModelError, ModelTimeout, NoAnswer, did_you_mean
from cuecard.domain.outcome import LatencyKind, Outcome, Route
from cuecard.domain.question import AnswerKind, Question, labelled
from cuecard.models.base import Model, outside
from cuecard.strategies import baselines, paper
from cuecard.strategies.acceptance import Verdict, accepted_short, check_writers, fitting, may_agree
from cuecard.strategies.policy import Policy
from cuecard.strategies.team import LAST_RESORT, Team

Strategy = Callable[..., Coroutine[Any, Any, Verdict]]
"""(question, team) -> verdict."""

STRATEGIES: dict[str, Strategy] = {
    "mutual": paper.mutual,
    "transfer": paper.transfer,
    "short": paper.short,
    "short:small": partial(paper.short, role="small"),
    "short:large": partial(paper.short, role="large"),
    "reason": paper.reason,
    "reason:small": partial(paper.reason, role="small"),
    "reason:large": partial(paper.reason, role="large"),
    "cascade": baselines.cascade,
    "ladder": baselines.ladder,
    "route": baselines.route,
    "vote": baselines.vote,
    "verdict": baselines.verdict,
    "panel": baselines.panel,
    "steps": baselines.steps,
    "force": baselines.force,
    "force:small": partial(baselines.force, role="small"),
    "force:large": partial(baselines.force, role="large"),
}


def register(name: str, strategy: Strategy) -> None:
    """Register a strategy under a name; it replaces an earlier one."""
    STRATEGIES[name] = strategy


def known(strategy: str) -> Strategy:
    """The strategy of this name. Raises BadInput with a suggestion."""
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        raise BadInput(f"unknown strategy {strategy!r}", did_you_mean(strategy, STRATEGIES))
    return STRATEGIES[strategy]


async def answer(
    question: Question,
    models: Mapping[str, Model],
    strategy: str = "mutual",
    policy: Policy | None = None,
    listen: Callable[[Heard], None] | None = None,
    latency_kind: LatencyKind | None = None,
    calls: list[Call] | None = None,
) -> Outcome:
    """Answer one question. `latency_kind`: None for measured latencies, in virtual time for estimated ones.

    `calls`: every call is recorded there, however the request ends.

    Raises BadInput, NoAnswer if no model is left, ModelTimeout if the deadline passes before any answer, ModelError if
    one fails and `strict` is set, Unsupported or InvalidAnswer if JSON is requested and no model writes what fits."""
    decide, policy = known(strategy), policy or Policy()
    if question.schema is not None:
        await schemas.check(question.schema)
    async with Team(models, policy, listen, calls) as team:
        check_writers(question, team)
        try:
            async with asyncio.timeout(policy.deadline_s) as deadline:
                verdict: Verdict = await decide(question, team)
        except TimeoutError as late:
            if not deadline.expired():  # not the deadline's own: a defect, as models raise ModelTimeout
                raise
            verdict = _at_hand(question, team, policy, late)
        except ModelError as failure:
            if policy.strict:
                raise
            verdict = await _rescue(question, team, failure)
        verdict = await fitting(question, team, verdict, strategy)
        ended = team.clock()
    # leaving the team has ended every call, so the trace is complete
    return Outcome(
        answer=verdict.reply.answer.text if verdict.reply.answer.parsed else verdict.reply.text,
        route=verdict.route,
        strategy=strategy,
        calls=tuple(sorted(team.calls, key=lambda call: (call.start_s, call.end_s))),
        total_s=ended,
        reason=verdict.reason,
        schedule=team.schedule,
        confidence=verdict.reply.confidence,
        truncated=verdict.reply.truncated,
        latency_kind=latency_kind or (LatencyKind.ESTIMATED if team.in_virtual_time else LatencyKind.MEASURED),
        kind=question.kind,
        answer_text=labelled(question, verdict.reply.answer.value),
        outside_scope=outside(question, models.values()),
        tokens=verdict.reply.tokens,
    )


async def streamed(
    answering: Callable[[Callable[[Heard], None]], Coroutine[Any, Any, Outcome]],
) -> AsyncGenerator[Heard | Outcome]:
    """Yields the texts that `answering` passes to its listener, then its outcome. Closing cancels it and waits."""
    heard = asyncio.Queue[Heard | None]()

    async def work() -> Outcome:
        try:
            return await answering(heard.put_nowait)
        finally:
            heard.put_nowait(None)

    working = asyncio.create_task(work())
    try:
        while (item := await heard.get()) is not None:
            yield item
        yield await working
    finally:
        if not working.done():
            working.cancel()
            await asyncio.wait([working])


def _at_hand(question: Question, team: Team, policy: Policy, late: TimeoutError) -> Verdict:
    """The best answer so far, at the deadline. Raises ModelTimeout if there is none or `strict` is set."""
    why, best = f"{policy.deadline_s:g} s were over", team.best()
    reply = _concluded(question, team) if best is None else best[1]
    if policy.strict or reply is None:
        raise ModelTimeout(f"{why} before any model had answered", "allow more time") from late
    return Verdict(reply, Route.DEGRADED, f"{why}; the {reply.role} model's answer by then stands")


def _concluded(question: Question, team: Team) -> Reply | None:
    """The conclusion of a reasoning that was cut before its answer, if it can be parsed, else None; None for JSON."""
    if question.kind is AnswerKind.JSON:
        return None
    for player in team.players.values():
        text = None if player.thought is None else conclusion(player.thought.text)
        if player.thought is not None and text is not None and (found := extract(text, question)).parsed:
            return Reply(player.role, text, found, player.thought.text, None)
    return None


async def _rescue(question: Question, team: Team, failure: ModelError) -> Verdict:
    """The answer of a model that has not failed: a reasoned one, else a new one, else the best reply.

    Raises NoAnswer.
    """
    for player in sorted(team.survivors, key=lambda p: (p.role == LAST_RESORT, p.role != "large")):
        why = f"{failure.message}; the {player.role} model answered alone"
        at_hand = [(mode, reply) for mode, reply in team.replies if reply.role == player.role and reply.answer.parsed]
        thorough: Reply | None = next((reply for mode, reply in at_hand if mode is not Mode.SHORT), None)
        if thorough is not None:
            return Verdict(thorough, Route.DEGRADED, why)
        try:
            # the strategy wants short answers of the large model; the small one has to reason to be as good
            shortly = player.role in ("large", LAST_RESORT) and team.policy.rescue is Mode.SHORT
            fresh = at_hand[0][1] if at_hand and shortly else None
            if fresh is None and not shortly and (thought := player.thought) is not None:
                dismissed = thought.running.cancelled()
                fresh = await (player.read(question, thought.text) if dismissed else thought)
            if fresh is None:
                fresh = await (player.short(question) if shortly else player.think(question))
            return Verdict(fresh, Route.DEGRADED, why)
        except ModelError:
            continue
    if (best := team.best()) is not None:
        reply = best[1]
        why = f"{failure.message}; no model is left, the {reply.role} model's last answer stands"
        return Verdict(reply, Route.DEGRADED, why)
    failures = [player.failed for player in team.players.values() if player.failed is not None]
    raise NoAnswer.after(failure, failures) from failure


CERTAIN_ROUTES: Mapping[str, Route] = {
    "short": Route.DIRECT,
    "reason": Route.DIRECT,
    "transfer": Route.TRANSFERRED,
    "force": Route.DIRECT,
    "vote": Route.VOTED,
    "verdict": Route.JUDGED,
    "panel": Route.JUDGED,
    "steps": Route.REVISED,
}


UNWATCHED = frozenset((*CERTAIN_ROUTES, "mutual", "cascade", "ladder", "route")) - {"steps"}
"""Plain names of strategies that read no reasoning before its end, if calls are sequential and without early stop."""


async def preview(
    question: Question, models: Mapping[str, Model], strategy: str, policy: Policy, calls: list[Call] | None = None
) -> tuple[Route, str, tuple[Call, ...]]:
    """Predict the route of a question without reasoning or reading: the route, the reason, and the calls made for it.

    `calls`: as in `answer`. For `mutual` it decides whether the short answers are accepted; if they are not, the route
    may still be `confirmed`. Raises ModelError, BadInput.
    """
    plain = strategy.partition(":")[0]
    if plain in CERTAIN_ROUTES:
        return CERTAIN_ROUTES[plain], f"{plain} always takes this route", ()
    if plain == "route":
        hard = baselines.difficulty(question)
        easy = hard < policy.route_difficulty
        return (Route.DIRECT if easy else Route.ESCALATED), f"difficulty {hard:.2f} from the wording", ()
    async with Team(models, policy, calls=calls) as team:
        if plain in ("cascade", "ladder"):
            enough, sureness = baselines.sure(await team.small.short(question), policy.cascade_confidence)
            route, why = (Route.DIRECT if enough else Route.ESCALATED), f"the small model {sureness}"
        elif not may_agree(question, team):
            route, why = Route.TRANSFERRED, "two such answers cannot be compared"
        else:
            _, agreed = await accepted_short(question, team)
            route = Route.AGREED if agreed else Route.TRANSFERRED
            why = agreed or "the short answers settle nothing: the small model would reason and the large one read"
    return route, why, tuple(team.calls)
