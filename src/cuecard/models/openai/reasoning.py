"""Telling reasoning from answer in what a server sends, piece by piece.

Servers put reasoning into a field of its own, between tags in the content, behind a tag that stood in the prompt and is
not seen, or, with models that do not think by themselves, into prose that ends in a line "Answer:". What cannot be told
yet is held back, never shown as an answer first and taken back later.
"""

from __future__ import annotations

from collections.abc import Iterator

from cuecard.models.base import AnswerDelta, ReasoningDelta
from cuecard.models.openai.marks import Prose, Start, Tags
from cuecard.models.prompt import Style

Delta = ReasoningDelta | AnswerDelta


class Hearing:
    """One reply as it is heard: deltas come out, and what they add up to is kept.

    `reasons`: it was asked to. `may_think`: it may do so unasked, so that untagged text that is cut is no answer.
    """

    def __init__(self, style: Style, start: Start, *, reasons: bool, may_think: bool = False) -> None:
        self.reasoning = self.answer = ""
        self.field_text = self.content_text = ""
        self.misfiled = False
        """The answer was found in the reasoning field."""
        self._reasons, self._may_think = reasons, reasons or may_think
        self._style = style
        self._tags = Tags(style, start)
        self._prose = Prose() if reasons and not style.opening else None
        self._held_field = ""
        self._space = ""

    @property
    def answering(self) -> bool:
        """The answer has begun."""
        return bool(self.answer)

    @property
    def stray(self) -> bool:
        """Reasoning ended in the content that was not seen to begin."""
        return self._tags.stray

    @property
    def betrayed(self) -> bool:
        """What was shown as answer turned out to be reasoning."""
        return self._tags.betrayed and self._prose is None

    def field(self, text: str) -> Iterator[Delta]:
        """A piece of the reasoning field."""
        self.field_text += text
        if self._reasons:
            yield from self._say(ReasoningDelta, text)
        else:  # a short answer may have been put here by mistake: `end` tells
            self._held_field += text

    def content(self, text: str) -> Iterator[Delta]:
        """A piece of the content."""
        if self.field_text and text.strip() and not self.content_text.strip():
            self._tags.leave()
            yield from self._release_field()
        self.content_text += text
        yield from self._sort(self._tags.feed(text))

    def end(self, *, whole: bool) -> Iterator[Delta]:
        """No more will come. `whole`: the model ended by itself, it was not cut short."""
        yield from self._sort(self._tags.end(unsure_is_inside=self._may_think and not whole))
        if self._prose is not None:
            yield from self._say(ReasoningDelta, self._prose.end())
        if self._held_field and whole and not self.answer:
            self.misfiled = True
            answer = self._held_field.rpartition(self._style.closing.strip() or "</think>")[2]
            self._held_field = ""
            yield from self._say(AnswerDelta, answer.replace(self._style.opening.strip() or "<think>", ""))
        yield from self._release_field()

    def _release_field(self) -> Iterator[Delta]:
        text, self._held_field = self._held_field, ""
        yield from self._say(ReasoningDelta, text)

    def _sort(self, pieces: list[tuple[bool, str]]) -> Iterator[Delta]:
        for inside, text in pieces:
            if inside:
                yield from self._say(ReasoningDelta, text)
            elif self._prose is None:
                yield from self._say(AnswerDelta, text)
            else:
                thought, answer = self._prose.feed(text)
                yield from self._say(ReasoningDelta, thought)
                yield from self._say(AnswerDelta, answer)

    def _say(self, kind: type[Delta], text: str) -> Iterator[Delta]:
        """The delta, without white space at the outer ends of the reasoning and of the answer."""
        said = self.answer if kind is AnswerDelta else self.reasoning
        if not text or (kind is ReasoningDelta and self.answer):  # thinking again after the answer: not the card's
            return
        if kind is AnswerDelta and not said:
            self._space = ""
        text = self._space + text if said else text.lstrip()
        shown = text.rstrip()
        self._space = text[len(shown) :] if shown or said else ""
        if not shown:
            return
        if kind is AnswerDelta:
            self.answer += shown
        else:
            self.reasoning += shown
        yield kind(shown)
