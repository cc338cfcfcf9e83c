"""Answers in JSON: the one that is given fits, or there is none."""

from __future__ import annotations

import asyncio

from cuecard.answers import misfit_of
from cuecard.answers.readers import tool_calls
from cuecard.answers.schemas import Misfit
from cuecard.domain.call import Mode
from cuecard.domain.errors import InvalidAnswer, ModelError, Unsupported
from cuecard.domain.outcome import Route
from cuecard.domain.question import AnswerKind, Calling, Question
from cuecard.strategies.acceptance import Verdict
from cuecard.strategies.team import Player, Reply, Team

MORE_TOKENS = "allow more tokens for the answer (max_tokens, answer_tokens), or ask for less"
SIMPLER = "simplify the schema: patterns, uniqueItems and combinators can take very long"
NO_WRITER = "use models that write JSON: `cuecard serve --small` and `--large`"
_CUT = "it was cut at its limit of tokens"


async def fitting(question: Question, team: Team, verdict: Verdict, strategy: str) -> Verdict:
    """The verdict where its answer fits, else with the answer repaired by a model, else what another call has answered.

    The large model repairs, or another one where it has failed; where a strategy names one model (`short:small`), that
    one. Nothing is repaired after the deadline. Raises InvalidAnswer.
    """
    if question.kind is not AnswerKind.JSON or verdict.reply.answer.parsed:
        return verdict
    may_be_cut = question.calling is Calling.AUTO or tool_calls.begun(verdict.reply.text)
    if question.calling is not None and verdict.reply.truncated and may_be_cut:
        return verdict  # a text is given as far as it goes, and a call that is cut is none
    wrong = await _wrong(verdict.reply, question)
    failed, player = "", _repairer(team, strategy)
    if wrong.repairable and player is not None:
        repaired, failed = await _repaired(question, team, player, verdict.reply, wrong)
        if repaired is not None:
            reason = f"{verdict.reason}; its answer did not do ({wrong.why}), and the {player.role} model repaired it"
            return Verdict(repaired, Route.DEGRADED if _stands_in(player, team, strategy) else verdict.route, reason)
    if not team.policy.strict and (other := _other(team)) is not None:
        mode, reply = other
        why = f"the answer did not do ({wrong.why}); that of the {reply.role} model's {mode} call fits, and stands"
        return Verdict(reply, Route.DEGRADED, why)
    asked = "the JSON that was asked for" if question.schema is None else "JSON that fits the schema"
    raise InvalidAnswer(f"the answer is not {asked}: {wrong.why}{failed}", _hint(verdict.reply, wrong))


def check_writers(question: Question, team: Team) -> None:
    """Before any call: whether a model of the team could write the JSON that is asked for. Raises Unsupported."""
    if question.kind is AnswerKind.JSON and not any(map(_writes_json, team.players.values())):
        names = " and ".join(player.model.name for player in team.players.values())
        what = "call tools" if question.calling is not None else "write JSON"
        raise Unsupported(f"{names} do not {what}", NO_WRITER)


async def _wrong(reply: Reply, question: Question) -> Misfit:
    if reply.truncated:
        return Misfit(_CUT)
    return await misfit_of(reply.text, question) or Misfit("it could not be checked in time")


def _repairer(team: Team, strategy: str) -> Player | None:
    """The player that repairs; None where none is able, or allowed, to."""
    only = strategy.partition(":")[2]
    able = [player for player in team.survivors if _writes_json(player) and only in ("", player.role)]
    chosen = min(able, key=lambda player: player.role != "large", default=None)
    return None if chosen is None or (team.policy.strict and _stands_in(chosen, team, strategy)) else chosen


def _stands_in(player: Player, team: Team, strategy: str) -> bool:
    """Whether a model repairs because the large one cannot."""
    return player.role != "large" and "large" in team.players and ":" not in strategy


def _writes_json(player: Player) -> bool:
    """A model with a scope has learned a few short answers only."""
    return player.model.abilities.scope is None


async def _repaired(
    question: Question, team: Team, player: Player, reply: Reply, wrong: Misfit
) -> tuple[Reply | None, str]:
    """The repaired reply, or none and why it failed."""
    most_s = team.policy.deadline_s
    left_s = None if most_s is None else max(0.0, most_s - team.clock())
    if left_s == 0.0:
        return None, f"; {most_s:g} s were over before it could be repaired"
    try:
        async with asyncio.timeout(left_s) as limit:
            repaired = await player.repair(question, reply.text, wrong.why)
    except TimeoutError:
        if not limit.expired():
            raise
        return None, f"; {most_s:g} s were over while it was repaired"
    except ModelError as failure:
        return None, f"; repairing it failed: {failure.message}"
    if repaired.answer.parsed:
        return repaired, ""
    return None, f"; repaired by the {player.role} model: {(await _wrong(repaired, question)).why}"


def _other(team: Team) -> tuple[Mode, Reply] | None:
    """What another call has answered that fits: reasoned before short, the large model's before another's."""
    found = [(mode, reply) for mode, reply in team.replies if reply.answer.parsed]
    return max(found, key=lambda each: (each[0] is not Mode.SHORT, each[1].role == "large"), default=None)


def _hint(reply: Reply, wrong: Misfit) -> str | None:
    if not wrong.repairable:
        return SIMPLER
    return MORE_TOKENS if reply.truncated else None
