"""Which answers are accepted: short ones that agree, one that is stable during the reasoning, JSON that fits."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cuecard.answers import misfit_of, same_answer
from cuecard.answers.readers import json_replies
from cuecard.answers.schemas import Misfit
from cuecard.domain.call import Mode
from cuecard.domain.errors import InvalidAnswer, ModelError, Unsupported
from cuecard.domain.outcome import Route
from cuecard.domain.question import AnswerKind, Calling, Question
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.strategies.acceptance_rules import BOTH_KEYS, Acceptance, Calibrated, SingleRule
from cuecard.strategies.policy import EarlyStop, Schedule
from cuecard.strategies.reply import Reply
from cuecard.strategies.team import Player, Team, Thought, cancelled

AGREE = "the short answers agree"


@dataclass(frozen=True)
class Verdict:
    """The reply that is given, its route, and the reason."""

    reply: Reply
    route: Route
    reason: str


def can_compare(question: Question, team: Team) -> bool:
    """Whether two answers can be compared: free text needs a large model that scores it."""
    return question.kind is not AnswerKind.FREE_TEXT or team.large.model.abilities.scoring


def may_agree(question: Question, team: Team) -> bool:
    """Whether short answers could be accepted: if not, they would be written for nothing."""
    return not team.accept.compares or can_compare(question, team)


def comparable(question: Question, team: Team, large: Reply) -> bool:
    """Whether a reasoned answer could be the same as this short one."""
    if question.kind is AnswerKind.FREE_TEXT:
        return bool(large.text) and not large.truncated and can_compare(question, team)
    return large.answer.parsed


async def same(question: Question, team: Team, small: Reply, large: Reply) -> bool:
    """Whether two replies are the same answer. For free text: whether the large model finds both equally likely."""
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

    The small model's short answer counts only where it can decide, or where the large model fails. On the thrifty
    schedule it is not made elsewhere; on the others it is made beside the large one's, and cancelled as soon as it is
    known not to count.
    """
    beside = None if team.schedule is Schedule.THRIFTY else team.start(team.small.short(question))
    try:
        large = await team.large.short(question)
    except ModelError:
        await asyncio.wait([beside or team.start(team.small.short(question))])  # an answer to fall back on
        raise
    rules = _rules(question, team)
    why = _accepted_alone(question, team, rules, large)
    if why is None and _is_open(question, team, rules, large):
        return large, await _accepted(question, team, rules, await (beside or team.small.short(question)), large)
    if beside is not None:
        await cancelled(beside)
        team.small.failures.pop(Mode.SHORT, None)  # of a call that did not count
    return large, why


def _rules(question: Question, team: Team) -> tuple[SingleRule, ...]:
    """The rules of which one is enough."""
    by_default = team.policy.accept is None and question.kind is AnswerKind.JSON
    return (BOTH_KEYS,) if by_default else team.accept.rules


def _accepted_alone(question: Question, team: Team, rules: Sequence[SingleRule], large: Reply) -> str | None:
    """The reason to accept the large model's short answer whatever the small one's is."""
    sure = large.confidence
    if not large.answer.parsed or sure is None:
        return None
    for rule in rules:
        match rule:
            case Acceptance(False, float(least)) if sure >= least:
                return _is_sure(sure, least)
            case Calibrated(least) if (chance := _table(team).alone(question.kind, sure)) >= least:
                return _is_likely(chance, least)
            case _:
                pass
    return None


def _is_open(question: Question, team: Team, rules: Sequence[SingleRule], large: Reply) -> bool:
    """Whether some short answer of the small model would make the large one's accepted."""
    sure = large.confidence
    if not large.answer.parsed:
        return question.kind is AnswerKind.JSON  # the other's JSON may fit, and is an answer to fall back on
    if sure is None:
        return True

    def is_open(rule: SingleRule) -> bool:
        match rule:
            case Acceptance(agreement, least):
                return agreement and (least is None or sure >= least)
            case Calibrated(least):
                return _table(team).most(question.kind, sure) >= least

    return any(map(is_open, rules))


async def _accepted(
    question: Question, team: Team, rules: Sequence[SingleRule], small: Reply, large: Reply
) -> str | None:
    """The reason to accept the large model's short answer, the small model's known."""
    alike, sure = await same(question, team, small, large), large.confidence
    if sure is None:  # agreement is the only key left
        known = team.accept == Acceptance(agreement=True, confidence=None)
        why = AGREE if known else f"{AGREE}; the large model gives no probabilities, so agreement alone decided"
        return why if alike else None
    for rule in rules:
        match rule:
            case Acceptance(True, least) if alike and (least is None or sure >= least):
                return AGREE if least is None else f"{AGREE} and {_is_sure(sure, least)}"
            case Calibrated(least):
                chance = _table(team).probability(question.kind, alike, sure, small.confidence)
                if chance >= least:
                    return _is_likely(chance, least)
            case _:
                pass
    return None


def _is_sure(sure: float, least: float) -> str:
    return f"the large model is sure of its own ({sure:.2f}, at least {least:g} wanted)"


def _is_likely(chance: float, least: float) -> str:
    shown = math.floor(1000 * chance) / 1000  # never 1.000
    return f"the large model's answer is right with probability {shown:.3f} by the table (at least {least:g} wanted)"


def _table(team: Team) -> AcceptanceTable:
    assert team.table is not None  # the team has checked it
    return team.table


# --- an answer that is stable during the reasoning -------------------------------------------------------------------


_WHOLE_WORD = re.compile(r"(?<!\S)\S++(?=\s)")


async def settled(question: Question, team: Team, thought: Thought) -> Verdict | None:
    """The answer that is stable during the reasoning, which is then stopped; None if there is none.

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


# --- answers in JSON --------------------------------------------------------------------------------------------------


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
    may_be_cut = question.calling is Calling.AUTO or json_replies.begun(verdict.reply.text)
    if question.calling is not None and verdict.reply.truncated and may_be_cut:
        return verdict  # a text is given as far as it goes, and a call that is cut is none
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
    return None if chosen is None or (team.policy.strict and _replaces_large(chosen, team, strategy)) else chosen


def _replaces_large(player: Player, team: Team, strategy: str) -> bool:
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


def _hint(reply: Reply, wrong: Misfit) -> str | None:
    if not wrong.repairable:
        return SIMPLER
    return MORE_TOKENS if reply.truncated else None
