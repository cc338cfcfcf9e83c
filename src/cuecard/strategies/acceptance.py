"""Which answers are accepted: short ones that agree, one that is stable during the reasoning, JSON that fits."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cuecard.answers import json_replies, misfit_of, same_answer
from cuecard.answers.schemas import Misfit
from cuecard.domain.call import Mode, Reply
from cuecard.domain.errors import InvalidAnswer, ModelError, Unsupported
from cuecard.domain.outcome import Route
from cuecard.domain.question import AnswerKind, Calling, Question
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.strategies.policy import BOTH_KEYS, Acceptance, Calibrated, EarlyStop, Schedule, SingleRule, single_rules
from cuecard.strategies.team import Player, Team, Thought, cancelled

AGREE = "the short answers agree"


@dataclass(frozen=True)
class Verdict:
    """The reply to return, its route, and the reason."""

    reply: Reply
    route: Route
    reason: str


def can_compare(question: Question, team: Team) -> bool:
    """Whether two answers can be compared: free text needs a large model that scores it."""
    return question.kind is not AnswerKind.FREE_TEXT or team.large.model.abilities.scoring


def may_agree(question: Question, team: Team) -> bool:
    """Whether short answers could be accepted at all; if not, generating them is useless."""
    compares = any(not isinstance(rule, Acceptance) or rule.agreement for rule in single_rules(team.accept))
    return not compares or can_compare(question, team)


def comparable(question: Question, team: Team, large: Reply) -> bool:
    """Whether this short answer can be compared with a reasoned one."""
    if question.kind is AnswerKind.FREE_TEXT:
        return bool(large.text) and not large.truncated and can_compare(question, team)
    return large.answer.parsed


async def same(question: Question, team: Team, small: Reply, large: Reply) -> bool:
    """Whether two replies have the same answer; for free text, whether the large model finds `small` no less likely."""
    alike = await same_answer(small.answer, large.answer, question)
    if alike or question.kind is not AnswerKind.FREE_TEXT:
        return alike
    if not small.text or small.truncated or not comparable(question, team, large):
        return False
    try:
        own, other = [await team.large.score(question, text) for text in (large.text, small.text)]
    except Unsupported:
        return False
    return other >= own - 0.1  # nats a token: no less likely, up to noise


async def accepted_short(question: Question, team: Team) -> tuple[Reply, str | None]:
    """The large model's short answer, and the reason to accept it; None if it is not accepted.

    The small model's short answer is used only if it can change the decision, or if the large model fails. On the
    thrifty schedule it is generated only then; on the others it runs concurrently with the large model's, and is
    cancelled once it cannot matter.
    """
    beside = None if team.schedule is Schedule.THRIFTY else team.start(team.small.short(question))
    try:
        large = await team.large.short(question)
    except ModelError:
        await asyncio.wait([beside or team.start(team.small.short(question))])  # a fallback
        raise
    rules = _rules(question, team)
    why = _accepted(question, team, rules, large)
    if why is None and _is_open(question, team, rules, large):
        small = await (beside or team.small.short(question))
        return large, _accepted(question, team, rules, large, small, await same(question, team, small, large))
    if beside is not None:
        await cancelled(beside)
        team.small.failures.pop(Mode.SHORT, None)  # of a call that did not count
    return large, why


def _rules(question: Question, team: Team) -> tuple[SingleRule, ...]:
    """The single rules, of which one is enough."""
    by_default = team.policy.accept is None and question.kind is AnswerKind.JSON
    return (BOTH_KEYS,) if by_default else single_rules(team.accept)


def _is_open(question: Question, team: Team, rules: Sequence[SingleRule], large: Reply) -> bool:
    """Whether any short answer of the small model could get the large model's accepted."""
    sure = large.confidence
    if not large.answer.parsed:
        return question.kind is AnswerKind.JSON  # the small model's JSON may fit, as a fallback
    if sure is None:
        return True
    return any(
        rule.agreement and (rule.confidence is None or sure >= rule.confidence)
        if isinstance(rule, Acceptance)
        else _table(team).most(question.kind, sure) >= rule.least
        for rule in rules
    )


def _accepted(
    question: Question,
    team: Team,
    rules: Sequence[SingleRule],
    large: Reply,
    small: Reply | None = None,
    alike: bool | None = None,
) -> str | None:
    """The reason to accept the large model's short answer, alone or given the small model's; None for no reason.

    `alike`: whether the two are the same answer.
    """
    sure = large.confidence
    if not large.answer.parsed:
        return None
    if sure is None:  # only the agreement is known
        known = team.accept == Acceptance(agreement=True, confidence=None)
        why = AGREE if known else f"{AGREE}; the large model gives no probabilities, so agreement alone decided"
        return why if alike else None
    for rule in rules:
        match rule:
            case Acceptance(agreement, least) if (alike if agreement else least is not None) and (
                least is None or sure >= least
            ):
                is_sure = f"the large model is sure of its own ({sure:.2f}, at least {least or 0:g} wanted)"
                return " and ".join([AGREE] * agreement + [is_sure] * (least is not None))
            case Calibrated(least):
                table, kind = _table(team), question.kind
                if small is None or alike is None:
                    chance = table.alone(kind, sure)
                else:
                    chance = table.probability(kind, alike, sure, small.confidence)
                if chance >= least:
                    shown = math.floor(1000 * chance) / 1000  # never 1.000
                    by_table = f"with probability {shown:.3f} by the table (at least {least:g} wanted)"
                    return f"the large model's answer is right {by_table}"
            case _:
                pass
    return None


def _table(team: Team) -> AcceptanceTable:
    assert team.table is not None  # the team has checked it
    return team.table


# --- an answer that is stable during the reasoning -------------------------------------------------------------------


_WHOLE_WORD = re.compile(r"(?<!\S)\S++(?=\s)")


async def settled(question: Question, team: Team, thought: Thought) -> Verdict | None:
    """The answer that is stable during the reasoning, which is then stopped; None if there is none.

    A failed probe ends the probing, not the request. Without `early_stop` there are no probes.
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
        if thought.is_over:  # the reasoning is complete: the reader gets the whole card instead
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
    """Whether all of these replies give the answer of the last one, with enough confidence."""
    for one in last:
        unsure = stop.confidence is not None and one.confidence is not None and one.confidence < stop.confidence
        if unsure or not await same_answer(one.answer, last[-1].answer, question):
            return False
    return True


async def _written(team: Team, thought: Thought, ends: list[int], read: int, every: int) -> int:
    """Wait for further words; the largest multiple of `every` that is written, 0 when the reasoning is over.

    Only multiples, so that the places of probes depend less on the speed of generation. `ends`: the end of each word,
    extended here by the new words.
    """
    while not thought.is_over:
        ends += [match.end() for match in _WHOLE_WORD.finditer(thought.text, ends[-1] if ends else 0)]
        count = len(ends) // every * every
        if count > read:
            return count
        await thought.more(team)
    return 0


# --- answers in JSON --------------------------------------------------------------------------------------------------


async def fitting(question: Question, team: Team, verdict: Verdict, strategy: str) -> Verdict:
    """The verdict if its answer fits, else with the answer repaired by a model, else with another call's answer.

    The large model repairs, or another one if it has failed; if the strategy names one model (`short:small`), only that
    one. No repair starts after the deadline. Raises InvalidAnswer.
    """
    if question.kind is not AnswerKind.JSON or verdict.reply.answer.parsed:
        return verdict
    may_be_cut = question.calling is Calling.AUTO or json_replies.begun(verdict.reply.text)
    if question.calling is not None and verdict.reply.truncated and may_be_cut:
        return verdict  # a cut text is given as far as it goes; a cut call is no call
    wrong = await _wrong(verdict.reply, question)
    failed, player = "", _repairer(team, strategy)
    if wrong.repairable and player is not None:
        repaired, failed = await _repaired(question, team, player, verdict.reply, wrong)
        if repaired is not None:
            reason = f"{verdict.reason}; its answer did not do ({wrong.why}), and the {player.role} model repaired it"
            return Verdict(
                repaired, Route.DEGRADED if _replaces_large(player, team, strategy) else verdict.route, reason
            )
    if not team.policy.strict and (other := team.best()) is not None and other[1].answer.parsed:
        mode, reply = other
        why = f"the answer did not do ({wrong.why}); that of the {reply.role} model's {mode} call fits, and stands"
        return Verdict(reply, Route.DEGRADED, why)
    asked = "the JSON that was asked for" if question.schema is None else "JSON that fits the schema"
    hint = "allow more tokens for the answer (max_tokens, answer_tokens), or ask for less"
    if not wrong.repairable:
        hint = "simplify the schema: patterns, uniqueItems and combinators can take very long"
    wanted = hint if verdict.reply.truncated or not wrong.repairable else None
    raise InvalidAnswer(f"the answer is not {asked}: {wrong.why}{failed}", wanted)


def check_writers(question: Question, team: Team) -> None:
    """Raises Unsupported if JSON is requested and no model of the team can write it; used before any call."""
    if question.kind is AnswerKind.JSON and not any(map(_writes_json, team.players.values())):
        names = " and ".join(player.model.name for player in team.players.values())
        what = "call tools" if question.calling is not None else "write JSON"
        raise Unsupported(f"{names} do not {what}", "use models that write JSON: `cuecard serve --small` and `--large`")


async def _wrong(reply: Reply, question: Question) -> Misfit:
    if reply.truncated:
        return Misfit("it was cut at its limit of tokens")
    return await misfit_of(reply.text, question) or Misfit("it could not be checked in time")


def _repairer(team: Team, strategy: str) -> Player | None:
    """The player that repairs; None if none is able, or allowed, to."""
    only = strategy.partition(":")[2]
    able = [player for player in team.survivors if _writes_json(player) and only in ("", player.role)]
    chosen = min(able, key=lambda player: player.role != "large", default=None)
    return None if chosen is None or (team.policy.strict and _replaces_large(chosen, team, strategy)) else chosen


def _replaces_large(player: Player, team: Team, strategy: str) -> bool:
    """Whether a model repairs in place of the large one, which has failed or cannot write JSON."""
    return player.role != "large" and "large" in team.players and ":" not in strategy


def _writes_json(player: Player) -> bool:
    """Whether a model can write JSON: one with a scope has only learned a few short answers."""
    return player.model.abilities.scope is None


async def _repaired(
    question: Question, team: Team, player: Player, reply: Reply, wrong: Misfit
) -> tuple[Reply | None, str]:
    """The repaired reply and "", or None and the reason of the failure."""
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
