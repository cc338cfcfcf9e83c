"""The verdict of a strategy, and the rules by which two short answers are accepted as one."""

from __future__ import annotations

from dataclasses import dataclass

from cuecard.answers import same_answer
from cuecard.domain.errors import Unsupported
from cuecard.domain.outcome import Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.strategies.policy import Acceptance
from cuecard.strategies.team import Reply, Team


@dataclass(frozen=True)
class Verdict:
    """The reply that stands, and how it came about."""

    reply: Reply
    route: Route
    reason: str


def can_compare(question: Question, team: Team) -> bool:
    """Whether two answers can be compared: free text needs a large model that scores it."""
    return question.kind is not AnswerKind.FREE_TEXT or team.large.model.abilities.scoring


def may_agree(question: Question, team: Team) -> bool:
    """Whether short answers could be accepted: if not, they would be written for nothing."""
    return not team.policy.accept.agreement or can_compare(question, team)


def comparable(question: Question, team: Team, large: Reply) -> bool:
    """Whether a reasoned answer could be the same as this short one."""
    if question.kind is AnswerKind.FREE_TEXT:
        return bool(large.text) and not large.truncated and can_compare(question, team)
    return large.answer.parsed


async def same(question: Question, team: Team, small: Reply, large: Reply) -> bool:
    """Do two replies say the same? Free text is judged by the large model: is the other answer as likely as its own?"""
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


async def accepted(question: Question, team: Team, rule: Acceptance, small: Reply, large: Reply) -> str | None:
    """Why two short answers make reasoning unnecessary; None if they do not."""
    sure, unseen = large.confidence, rule.confidence is not None and large.confidence is None
    if rule.confidence is not None and sure is not None and sure < rule.confidence:
        return None
    if not large.answer.parsed:
        return None
    # an engine that gives no probabilities leaves agreement as the only key
    if (rule.agreement or unseen) and not await same(question, team, small, large):
        return None
    if unseen:
        return "the short answers agree; the large model gives no probabilities, so agreement alone decided"
    reasons = ["the short answers agree"] if rule.agreement else []
    if rule.confidence is not None:
        reasons.append(f"the large model is sure of its own ({sure:.2f}, at least {rule.confidence:g} wanted)")
    return " and ".join(reasons)
