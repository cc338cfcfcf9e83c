"""Reasoning in a stream: the parser's pieces as events of a call, detection of loops, and decoding in two stages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from cuecard.answers.reasoning_parser import Piece, ReasoningParser, Start
from cuecard.answers.text.reasoning_tags import TagTable, tag_table
from cuecard.domain.call import AnswerToken, FinishReason, Mode, Usage
from cuecard.models.base import (
    AnswerDelta,
    CallLimits,
    Event,
    Finished,
    Progress,
    ReasoningDelta,
    ReasoningEnded,
)
from cuecard.models.prompt import Prompt, Style

ParserEvent = ReasoningDelta | ReasoningEnded | AnswerDelta


def tags_of(style: Style, more: tuple[str, str] | None = None) -> TagTable:
    """The known tags, those of the style, and configured ones (opening, closing)."""
    own = (style.opening.strip(), style.closing.strip())
    known = tag_table().family
    return tag_table(*([more] if more else []), *([own] if style.opening and own[1].lower() not in known else []))


class ReasoningEvents:
    """Converts a parser's pieces to events, with ReasoningEnded once if reasoning was requested."""

    def __init__(self, parser: ReasoningParser, *, reasons: bool) -> None:
        self._parser, self._awaits_end = parser, reasons

    def of(self, pieces: Iterable[Piece]) -> Iterator[ParserEvent]:
        for piece in pieces:
            if piece.is_reasoning:
                yield ReasoningDelta(piece.text)
            else:
                yield from self.close()
                yield AnswerDelta(piece.text)
        if self._parser.closed:
            yield from self.close()

    def close(self) -> Iterator[ParserEvent]:
        """Yields ReasoningEnded, unless it was yielded before."""
        if self._awaits_end:
            self._awaits_end = False
            yield ReasoningEnded()


LONGEST_PERIOD = 1_000
"""Maximum characters of a passage that is detected when it repeats."""
COPIES = 3
"""Required copies after the first one."""
SHORTEST, SHORTEST_WITHOUT_WORDS = 1_000, 4_000
"""Minimum characters of all copies; more for a passage without words, as in tables of numbers and rules."""
_WORD = re.compile(r"[^\W\d_]{3}")
_PROBE = 48
"""Characters at the end of a text; the distance to their previous occurrence is the period."""
_TAIL = LONGEST_PERIOD * (COPIES + 1) + SHORTEST_WITHOUT_WORDS


class RepetitionDetector:
    """Watches a growing text: `found` becomes and stays true when the text ends in a repeated passage."""

    def __init__(self) -> None:
        self.found = False
        self._tail = ""
        self._fresh = 0

    def feed(self, piece: str) -> None:
        """The next piece of the text. Amortized time is linear in the text."""
        if self.found:
            return
        self._tail += piece
        self._fresh += len(piece)
        if self._fresh < _PROBE:
            return
        self._fresh, self._tail = 0, self._tail[-_TAIL:]
        self.found = repeats(self._tail)


def repeats(text: str) -> bool:
    """Whether a text ends in enough exact copies of one passage to be a loop."""
    before = text.rfind(text[-_PROBE:], 0, len(text) - 1)
    period = len(text) - _PROBE - before
    if before < 0 or period > LONGEST_PERIOD:
        return False
    has_words = _WORD.search(text[-max(period, _PROBE) :]) is not None
    span = max(SHORTEST if has_words else SHORTEST_WITHOUT_WORDS, COPIES * period)
    if len(text) < span + period:
        return False
    return text[-span:] == text[-span - period : -period]


class TokenDecoder:
    """Decodes tokens to text, once it is certain (a character may take several), and splits reasoning from answer."""

    def __init__(self, tokenizer: Any, prompt: Prompt) -> None:
        style, reasons = prompt.style, prompt.mode is Mode.REASON
        self.parser = ReasoningParser(
            Start.INSIDE if reasons and style.opening else Start.OUTSIDE,
            reasons=reasons,
            prose=reasons and style.in_prose,
            brief=prompt.is_brief,
            readable=prompt.answered_by,
            closing=(style.closing.strip(),) if style.opening else (),
            tags=tags_of(style),
        )
        self.events, self._tokenizer = ReasoningEvents(self.parser, reasons=reasons), tokenizer
        self._repetition = RepetitionDetector() if reasons else None
        self._ids: list[int] = []
        self._shown = 0

    @property
    def repeats(self) -> bool:
        """Whether the reasoning is a loop."""
        return self._repetition is not None and self._repetition.found

    def feed(self, token: int) -> Iterator[Event]:
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if not text.endswith("\ufffd"):
            fresh, self._shown = text[self._shown :], len(text)
            if self._repetition is not None and not self.parser.answering:
                self._repetition.feed(fresh)
            yield from self.events.of(self.parser.feed(fresh))
            # tokens before one that decodes by itself do not change how later tokens decode
            if "\ufffd" not in (alone := self._tokenizer.decode([token])):
                self._ids, self._shown = [token], len(alone)

    def rest(self, *, whole: bool = True) -> Iterator[Event]:
        """The events of text that was held back. `whole`: the model ended its turn by itself."""
        text = self._tokenizer.decode(self._ids)[self._shown :]
        self._shown += len(text)
        yield from self.events.of([*self.parser.feed(text), *self.parser.end(whole=whole)])


class TwoStages:
    """Decodes a call: the reasoning within its budget, then the answer within its own limit.

    The engine offers each token before it appends it. Afterwards `over` and `closing` state how it goes on.
    """

    def __init__(
        self, tokenizer: Any, prompt: Prompt, limits: CallLimits, most: int, usage: Usage, *, splits: bool = False
    ) -> None:
        """`most`: maximum tokens of the sequence. `usage`: of the prompt. `splits`: an answer is always requested anew,
        after `closing`, because it has to fit a schema."""
        self._tokenizer, self._prompt, self._limits = tokenizer, prompt, limits
        self._prompt_tokens, self._cached = usage.prompt_tokens or 0, usage.cached_tokens
        self._closes: list[int] = tokenizer(prompt.style.closing, add_special_tokens=False).input_ids
        room = most - self._prompt_tokens - len(self._closes) - limits.answer_tokens
        self._budget = min(limits.reasoning_tokens, room)
        self._reasons = prompt.mode is Mode.REASON
        self._splits = splits and self._reasons
        self._decoder = TokenDecoder(tokenizer, prompt)
        self._spent = self._spent_on_reasoning = 0
        self._logprob = 0.0
        self._tokens: list[AnswerToken] = []
        self._finish = FinishReason.LENGTH
        self._cut: FinishReason | None = None
        self.over = False
        """The call ends before the token that was offered."""
        self.closing: list[int] | None = None
        """The tokens that the engine appends in place of the token that was offered; None: it appends that token."""

    def offer(self, token: int, likelihood: float, *, ends: bool, shown: AnswerToken | None = None) -> Iterator[Event]:
        """The events of the next token. `ends`: it ends the turn. `shown`: the token as part of an answer."""
        parser, self.closing = self._decoder.parser, None
        inside, style = parser.inside, self._prompt.style
        if self._reasons and inside and (ends or self._spent_on_reasoning >= self._budget or self._decoder.repeats):
            # the budget is spent, the reasoning repeats itself, or the turn ended: unless it is prose with a
            # conclusion, the reasoning is closed here and the answer decoded after it
            yield from self._decoder.rest(whole=ends and not style.opening)
            yield from self._decoder.events.close()
            if parser.answering and not self._splits:
                self._finish, self.over = FinishReason.STOP, True
                return
            if not ends:
                self._cut = FinishReason.REPETITION if self._decoder.repeats else FinishReason.BUDGET
            self._answer_next(self._closes)
        elif self._splits and not inside:
            yield from self._decoder.events.close()
            self._answer_next([])
        elif ends:
            self._finish, self.over = FinishReason.STOP, True
        elif self._spent - (self._spent_on_reasoning if self._reasons else 0) >= self._limits.answer_tokens:
            self.over = True  # reasoning that was not requested counts towards the answer's limit
        else:
            yield from self._append(token, likelihood, inside, shown)

    def end(self) -> Iterator[Event]:
        """The events of text that was held back, then Finished."""
        yield from self._decoder.rest(whole=self._finish is FinishReason.STOP)
        yield from self._decoder.events.close()
        cut = self._cut if self._finish is FinishReason.STOP else None
        answered = self._spent > self._spent_on_reasoning
        yield Finished(self.usage, cut or self._finish, self._logprob if answered else None, tuple(self._tokens))

    @property
    def usage(self) -> Usage:
        return Usage(self._prompt_tokens, self._cached, self._spent, self._spent_on_reasoning)

    def _append(self, token: int, likelihood: float, inside: bool, shown: AnswerToken | None) -> Iterator[Event]:
        self._spent += 1
        yield from self._decoder.feed(token)
        if inside or self._decoder.parser.inside:
            self._spent_on_reasoning += 1
        else:
            self._logprob += likelihood
            self._tokens += [] if shown is None else [shown]
        yield Progress(self.usage)

    def _answer_next(self, closing: list[int]) -> None:
        """The answer follows the reasoning and these tokens."""
        self.closing, self._splits = closing, False
        self._prompt_tokens += len(closing)
        self._decoder = TokenDecoder(self._tokenizer, replace(self._prompt, mode=Mode.READ))
