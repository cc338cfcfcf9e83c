"""What the reasoning parser tells apart, as the events of a call."""

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
        """The reasoning is over, whoever has ended it."""
        if self._awaits_end:
            self._awaits_end = False
            yield ReasoningEnded()
