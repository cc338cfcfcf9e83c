"""What a client sees of the work on its request: pieces as they come, and at last the outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cuecard.answers import asked_form, extract
from cuecard.domain.call import Mode, spelling
from cuecard.domain.errors import BrokenStream, NoAnswer
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.gateway.wire.chat import Asked
from cuecard.gateway.wire.stop_texts import StopCutter
from cuecard.gateway.wire.tools import tools
from cuecard.gateway.wire.tools.tools import ToolCall
from cuecard.strategies.team import Heard


@dataclass(frozen=True)
class Said:
    """A piece of text for the client."""

    text: str
    is_reasoning: bool


@dataclass(frozen=True)
class Called:
    """Calls of tools that the client is to make."""

    calls: tuple[ToolCall, ...]


Hear = Callable[[Said | Called], None]


class Visible:
    """Passes on the pieces of a request's calls that its client may see.

    Reasoning is that of the first call that reasons. Of the answer nothing is passed on that might be replaced: a
    free-form one as the last call writes it, any other whole, at the end.
    """

    def __init__(self, asked: Asked, strategy: str, hear: Hear, *, strict: bool) -> None:
        self._asked, self._hear, self._strict = asked, hear, strict
        self._alone = strategy.startswith(("short", "reason"))
        self._free = asked.question.kind is AnswerKind.FREE_TEXT
        self._thinker: int | None = None
        self._written, self._cutter = "", StopCutter(asked.parameters.stop)

    def heard(self, piece: Heard) -> None:
        """A piece of a call's text."""
        if piece.is_reasoning:
            if self._thinker in (None, piece.call):
                self._thinker = piece.call
                self._hear(Said(piece.text, True))
        elif self._free and (self._alone or piece.mode is Mode.READ):
            self._written += piece.text
            self._say(self._cutter.feed(piece.text))

    def ended(self, outcome: Outcome) -> Outcome:
        """The rest of the answer is passed on; the outcome as the client sees it. Raises BrokenStream, NoAnswer."""
        asked, written = self._asked, self._written
        if not written and not stopped_at_once(asked, outcome):
            outcome = never_empty(asked.question, outcome, strict=self._strict)
        if written and written.strip() != outcome.answer.strip():
            raise BrokenStream(f"the answer broke off: {outcome.reason}")
        if asked.tools is not None:
            return self._with_tools(outcome)
        answer = written or in_the_clients_form(asked.question, outcome)
        self._say(("" if written else self._cutter.feed(answer)) + self._cutter.end())
        return cut(outcome, answer, self._cutter.stopped_by)

    def _with_tools(self, outcome: Outcome) -> Outcome:
        if (calls := tools.calls_of(self._asked, outcome)) is not None:
            self._hear(Called(calls))
            return outcome
        shown = self._cutter.feed(tools.text_of(self._asked, outcome)) + self._cutter.end()
        for piece in tools.pieces(shown):
            self._say(piece)
        return tools.cut(outcome, shown, self._cutter.stopped_by)

    def _say(self, text: str) -> None:
        if text:
            self._hear(Said(text, False))


def stopped_at_once(asked: Asked, outcome: Outcome) -> bool:
    """Whether an empty answer is one that a server has ended at a stop text with which it began."""
    whole = not outcome.truncated and outcome.route is not Route.DEGRADED
    stops = bool(asked.parameters.stop) and asked.question.kind is AnswerKind.FREE_TEXT
    return stops and whole and not outcome.answer.strip()


def cut(outcome: Outcome, answer: str, stop: str | None) -> Outcome:
    """The outcome with the answer as it is shown: up to the stop text, if it has one."""
    if stop is None and answer == outcome.answer and not outcome.tokens:
        return outcome
    if stop is not None:
        answer = answer.partition(stop)[0]
    truncated = outcome.truncated and stop is None
    tokens = spelling(outcome.tokens, answer)
    return replace(outcome, answer=answer, truncated=truncated, tokens=tokens, stopped_by=stop)


def in_the_clients_form(question: Question, outcome: Outcome) -> str:
    """The answer in the form that the question wants; else as its options have it: of numbered ones, with the text."""
    numbered = outcome.answer_text if question.labels else None
    bare = outcome.kind in (AnswerKind.FREE_TEXT, AnswerKind.JSON) or outcome.truncated
    form = None if bare else asked_form(f"{question.system or ''}\n{question.text}")
    if form is None or not extract(outcome.answer, question).parsed:
        return numbered or outcome.answer
    before, behind = form
    return before + (numbered.partition(".")[0] if numbered else outcome.answer) + behind


def never_empty(question: Question, outcome: Outcome, *, strict: bool) -> Outcome:
    """The outcome, or what another call has said instead of nothing: reasoned before short, the large model's first.

    Raises NoAnswer when there is nothing, or nobody else is to answer.
    """
    if outcome.answer.strip():
        return outcome
    spoken = [call for call in outcome.calls if call.answer and not (call.cancelled or call.error)]
    if strict or not spoken or question.kind is AnswerKind.JSON:
        raise NoAnswer(f"the answer came back empty: {outcome.reason}", "allow more tokens")
    best = max(spoken, key=lambda call: (call.mode is not Mode.SHORT, call.role == "large"))
    found = extract(best.answer or "", question)
    reason = f"the answer came back empty; what the {best.role} model has said stands"
    text = found.text if found.parsed else best.answer or ""
    whole = replace(outcome, answer=text, confidence=None, truncated=False, tokens=())
    return replace(whole, route=Route.DEGRADED, reason=reason)
