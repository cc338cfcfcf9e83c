"""Reasoning in a stream: the parser's pieces as events of a call, and detection of reasoning that repeats itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cuecard.answers.reasoning_parser import Piece, ReasoningParser
from cuecard.answers.reasoning_tags import TagTable, tag_table
from cuecard.models.base import AnswerDelta, ReasoningDelta, ReasoningEnded
from cuecard.models.prompt import Style

ParserEvent = ReasoningDelta | ReasoningEnded | AnswerDelta


def tags_of(style: Style, more: tuple[str, str] | None = None) -> TagTable:
    """The known tags, those of the style, and configured ones (opening, closing)."""
    own = (style.opening.strip(), style.closing.strip())
    known = tag_table().family
    return tag_table(*([more] if more else []), *([own] if style.opening and own[1].lower() not in known else []))


class ReasoningEvents:
    """A parser's pieces as events, and ReasoningEnded once where reasoning was asked for."""

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
        """The reasoning is over, whatever has ended it."""
        if self._awaits_end:
            self._awaits_end = False
            yield ReasoningEnded()


LONGEST_PERIOD = 1_000
"""Characters of the longest text whose repetition is found."""
COPIES, SHORTEST = 3, 600
"""Copies behind the first one, and characters that they have together: lists, tables and sums repeat less than this."""
_PROBE = 48
"""Characters whose last occurrence gives the period."""
_TAIL = LONGEST_PERIOD * (COPIES + 1) + SHORTEST


class RepetitionDetector:
    """Watches a text that grows: `found` is true for good as soon as its end is one passage, again and again."""

    def __init__(self) -> None:
        self.found = False
        self._tail = ""
        self._fresh = 0

    def feed(self, piece: str) -> None:
        """The next piece of the text. Amortized time is linear in the text."""
        self._tail += piece
        self._fresh += len(piece)
        if self.found or self._fresh < _PROBE:
            return
        self._fresh, self._tail = 0, self._tail[-_TAIL:]
        self.found = repeats(self._tail)


def repeats(text: str) -> bool:
    """Whether a text ends in the same passage, word for word, so often that it is a loop."""
    before = text.rfind(text[-_PROBE:], 0, len(text) - 1)
    period = len(text) - _PROBE - before
    span = max(SHORTEST, COPIES * period)
    if before < 0 or period > LONGEST_PERIOD or len(text) < span + period:
        return False
    return text[-span:] == text[-span - period : -period]
