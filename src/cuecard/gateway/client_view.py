"""The text that a client sees of its request's calls: pieces as they arrive, and the outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from cuecard.answers import asked_form, extract
from cuecard.answers.readers.json_replies import ANSWER
from cuecard.domain.call import Mode, spelling
from cuecard.domain.errors import BrokenStream, NoAnswer
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.gateway.wire.chat import calls_of, text_of
from cuecard.gateway.wire.request import ParsedRequest
from cuecard.gateway.wire.tools import as_json, pieces
from cuecard.strategies.reply import Heard

Kind = Literal["reasoning", "content", "calls"]
"""The kind of a piece for the client: two are texts, `calls` is a tuple of `ToolCall`s for the client to run."""
OnPiece = Callable[[Kind, Any], None]


class ClientView:
    """Shows the pieces of a request's calls that its client may see.

    Reasoning is shown from the first call that reasons. No text is shown that might be replaced: a free-form answer is
    streamed from the last call, any other answer is shown whole at the end.
    """

    def __init__(self, parsed: ParsedRequest, strategy: str, show: OnPiece, *, strict: bool) -> None:
        self._parsed, self._show, self._strict = parsed, show, strict
        self._alone = strategy.startswith(("short", "reason"))
        self._free = parsed.question.kind is AnswerKind.FREE_TEXT
        self._thinker: int | None = None
        self._written, self._cutter = "", StopCutter(parsed.parameters.stop)

    def piece(self, piece: Heard) -> None:
        """A piece of a call's text."""
        if piece.is_reasoning:
            if self._thinker in (None, piece.call):
                self._thinker = piece.call
                self._show("reasoning", piece.text)
        elif self._free and (self._alone or piece.mode is Mode.READ):
            self._written += piece.text
            self._show_text(self._cutter.feed(piece.text))

    def finish(self, outcome: Outcome) -> Outcome:
        """Show the rest of the answer, and return the outcome as the client sees it. Raises BrokenStream, NoAnswer."""
        parsed, written = self._parsed, self._written
        if not written and not stopped_at_once(parsed, outcome):
            outcome = never_empty(parsed.question, outcome, strict=self._strict)
        if written and written.strip() != outcome.answer.strip():
            raise BrokenStream(f"the answer broke off: {outcome.reason}")
        if parsed.tools is not None:
            return self._with_tools(outcome)
        answer = written or in_the_clients_form(parsed.question, outcome)
        self._show_text(("" if written else self._cutter.feed(answer)) + self._cutter.end())
        return cut(outcome, answer, self._cutter.stopped_by)

    def _with_tools(self, outcome: Outcome) -> Outcome:
        if (calls := calls_of(self._parsed, outcome)) is not None:
            self._show("calls", calls)
            return outcome
        shown = self._cutter.feed(text_of(self._parsed, outcome)) + self._cutter.end()
        for piece in pieces(shown):
            self._show_text(piece)
        if (stop := self._cutter.stopped_by) is None:
            return outcome
        return replace(outcome, answer=as_json({ANSWER: shown}), truncated=False, stopped_by=stop)

    def _show_text(self, text: str) -> None:
        if text:
            self._show("content", text)


def stopped_at_once(parsed: ParsedRequest, outcome: Outcome) -> bool:
    """Whether an answer is empty because it began with a stop text, at which the server ended it."""
    whole = not outcome.truncated and outcome.route is not Route.DEGRADED
    stops = bool(parsed.parameters.stop) and parsed.question.kind is AnswerKind.FREE_TEXT
    return stops and whole and not outcome.answer.strip()


def cut(outcome: Outcome, answer: str, stop: str | None) -> Outcome:
    """The outcome with the answer as shown: up to the stop text, if it contains one."""
    if stop is None and answer == outcome.answer and not outcome.tokens:
        return outcome
    if stop is not None:
        answer = answer.partition(stop)[0]
    truncated = outcome.truncated and stop is None
    tokens = spelling(outcome.tokens, answer)
    return replace(outcome, answer=answer, truncated=truncated, tokens=tokens, stopped_by=stop)


def in_the_clients_form(question: Question, outcome: Outcome) -> str:
    """The answer in the form that the question requests; else as the question's numbered option; else unchanged."""
    numbered = outcome.answer_text if question.labels else None
    bare = outcome.kind in (AnswerKind.FREE_TEXT, AnswerKind.JSON) or outcome.truncated
    form = None if bare else asked_form(f"{question.system or ''}\n{question.text}")
    if form is None or not extract(outcome.answer, question).parsed:
        return numbered or outcome.answer
    before, behind = form
    return before + (numbered.partition(".")[0] if numbered else outcome.answer) + behind


def never_empty(question: Question, outcome: Outcome, *, strict: bool) -> Outcome:
    """The outcome; if its answer is empty, with another call's answer: reasoned ones first, then the large model's.

    Raises NoAnswer if no call has an answer, or `strict` allows no other.
    """
    if outcome.answer.strip():
        return outcome
    answered = [call for call in outcome.calls if call.answer and not (call.cancelled or call.error)]
    if strict or not answered or question.kind is AnswerKind.JSON:
        raise NoAnswer(f"the answer came back empty: {outcome.reason}", "allow more tokens")
    best = max(answered, key=lambda call: (call.mode is not Mode.SHORT, call.role == "large"))
    found = extract(best.answer or "", question)
    reason = f"the answer came back empty; the {best.role} model's answer stands"
    text = found.text if found.parsed else best.answer or ""
    whole = replace(outcome, answer=text, confidence=None, truncated=False, tokens=())
    return replace(whole, route=Route.DEGRADED, reason=reason)


# --- stop texts -------------------------------------------------------------------------------------------------------


class StopCutter:
    """Cuts a streamed text before the first complete stop text.

    Of two that end at the same place, the longer one counts. Only text that may begin a stop text is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = stops, ""
        self.stopped_by: str | None = None
        """The stop text at which it was cut."""

    def feed(self, piece: str) -> str:
        """Add a piece; the new text that can be shown now."""
        if self.stopped_by is not None:
            return ""
        text = self._held + piece
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.stopped_by = min(found)
            self._held = ""
            return text[:at]
        held = max((_begun(text, stop) for stop in self._stops), default=0)
        shown = len(text) - held
        self._held = text[shown:]
        return text[:shown]

    def end(self) -> str:
        """The text that was held back, when no more pieces come."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, stop: str) -> int:
    """The most characters at the end of the text that are the beginning of this stop text."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
