"""Telling reasoning from answer in text that comes in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cuecard.domain.call import Mode
from cuecard.models.prompt import Prompt


@dataclass(frozen=True)
class Piece:
    """A stretch of generated text."""

    text: str
    is_reasoning: bool


class Splitter:
    """Feed it generated text; it gives back pieces, and never a part of a mark.

    `open` and `close` are the marks of the prompt's style: `<think>` and `</think>`, or nothing and `Answer:`.
    """

    def __init__(self, prompt: Prompt) -> None:
        style = prompt.style
        self._open, self._close = style.opening.strip(), style.closing.strip()
        self.is_reasoning = prompt.mode is Mode.REASON
        self.closed = not self.is_reasoning
        self._held, self._bare = "", True
        self._leading = not self.is_reasoning  # white space that comes next belongs to a mark, not to the text

    def feed(self, text: str) -> Iterator[Piece]:
        """What can be told apart by now."""
        self._held += text
        while self._held:
            mark = self._close if self.is_reasoning else self._open
            if self._bare and self._open:  # a model may open the think block itself, first thing
                start = self._held.lstrip()
                if self._open.startswith(start) and len(start) < len(self._open):
                    return
                if start.startswith(self._open):
                    self._held, self.is_reasoning, self.closed = start[len(self._open) :], True, False
                    self._bare, self._leading = False, True
                    continue
            self._bare = False
            if self._leading:
                self._held = self._held.lstrip()
                self._leading = not self._held
            at = self._held.find(mark) if mark and self.is_reasoning else -1
            if at >= 0:
                before, self._held = self._held[:at], self._held[at + len(mark) :]
                if before.rstrip():
                    yield Piece(before.rstrip(), True)
                self.is_reasoning, self.closed, self._leading = False, True, True
                continue
            keep = _overlap(self._held, mark) if self.is_reasoning else 0
            ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
            if ready:
                yield Piece(ready, self.is_reasoning)
            return

    def rest(self) -> Iterator[Piece]:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        if self.is_reasoning:
            held = held.rstrip()
        if self._leading:
            held = held.lstrip()
        if held:
            yield Piece(held, self.is_reasoning)


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end may be white space before, or the beginning of, the mark."""
    for size in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:size]):
            return len(text) - len(text[: len(text) - size].rstrip())
    return len(text) - len(text.rstrip())
