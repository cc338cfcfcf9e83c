"""Cutting streamed text where reasoning ends, whatever the borders of its pieces: at think tags, or at "Answer:"."""

from __future__ import annotations

from enum import StrEnum

from cuecard.models.prompt import TAGS, Style


class Start(StrEnum):
    """Where the content begins."""

    INSIDE = "inside"
    """In the reasoning: its opening tag stood in the prompt."""
    OUTSIDE = "outside"
    """Before any reasoning: what is not tagged is answer."""
    UNSURE = "unsure"
    """Not known: text is held back until a tag, a reasoning field or the end tells."""


class Tags:
    """Content cut at think tags: (inside, text), tags left out."""

    def __init__(self, style: Style, start: Start) -> None:
        marked = style if style.opening else TAGS
        self._open, self._close = marked.opening.strip(), marked.closing.strip()
        self._state = start
        self._buffer = ""
        self._shown = False
        self._pieces: list[tuple[bool, str]] = []
        self.stray = False
        """Reasoning ended that was not seen to begin: its opening stood in the prompt."""
        self.betrayed = False
        """Text that had been passed on as outside turned out to be reasoning."""

    @property
    def inside(self) -> bool:
        return self._state is Start.INSIDE

    def leave(self) -> None:
        """The server has taken the reasoning out of the content by itself."""
        self._state = Start.OUTSIDE

    def feed(self, text: str) -> list[tuple[bool, str]]:
        """The pieces that this text completes."""
        self._buffer += text
        moves = {Start.UNSURE: self._guess, Start.INSIDE: self._inside, Start.OUTSIDE: self._outside}
        while self._buffer and moves[self._state]():
            pass
        return self._taken()

    def end(self, *, unsure_is_inside: bool) -> list[tuple[bool, str]]:
        """What was held back."""
        text, self._buffer = self._buffer, ""
        self._put(self._state is Start.INSIDE or (self._state is Start.UNSURE and unsure_is_inside), text)
        return self._taken()

    def _guess(self) -> bool:
        if self._buffer.lstrip().startswith(self._open):
            self._buffer = self._buffer.lstrip().removeprefix(self._open)
            self._state = Start.INSIDE
        elif self._close in self._buffer:
            self.stray = True
            self._state = Start.INSIDE
        return self._state is Start.INSIDE

    def _inside(self) -> bool:
        return self._cut(self._close, inside=True, then=Start.OUTSIDE)

    def _outside(self) -> bool:
        before, closed, after = self._buffer.partition(self._close)
        if not closed or self._open in before:
            return self._cut(self._open, inside=False, then=Start.INSIDE)
        self.stray = True
        self.betrayed = self.betrayed or self._shown
        self._put(True, before)
        self._buffer = after
        return True

    def _cut(self, tag: str, *, inside: bool, then: Start) -> bool:
        before, found, after = self._buffer.partition(tag)
        if found:
            self._state = then
        else:
            keep = max(_begun(before, self._open), _begun(before, self._close))
            before, after = before[: len(before) - keep], before[len(before) - keep :]
        self._put(inside, before)
        self._buffer = after
        return bool(found)

    def _put(self, inside: bool, text: str) -> None:
        if text:
            self._pieces.append((inside, text))
            self._shown = self._shown or (not inside and bool(text.strip()))

    def _taken(self) -> list[tuple[bool, str]]:
        pieces, self._pieces = self._pieces, []
        return pieces


def _begun(text: str, tag: str) -> int:
    """How many characters at the end of the text may be the beginning of the tag."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0)


class Prose:
    """Prose cut at the first line that begins with "Answer:": (reasoning, answer) of each piece."""

    MARKERS = ("answer:", "answer :", "final answer:", "final answer :")

    def __init__(self) -> None:
        self._line = ""
        """What of the present line is held back, because it may become a marker."""
        self._decided = False
        """The present line is no marker."""
        self._found = self._begun = False

    def feed(self, text: str) -> tuple[str, str]:
        """What this text adds to the reasoning, and to the answer."""
        thought = ""
        for index, character in enumerate(text):
            if self._found:
                return thought, self._answer(text[index:])
            self._line += character
            plain = self._line.lower().replace("：", ":").replace("*", "").replace("_", "").lstrip(" \t#>-")
            if not self._decided and plain in self.MARKERS:
                self._found, self._line = True, ""
            elif self._decided or not any(marker.startswith(plain) for marker in self.MARKERS):
                self._decided = character != "\n"
                thought, self._line = thought + self._line, ""
        return thought, ""

    def end(self) -> str:
        """What was held back: reasoning."""
        line, self._line = self._line, ""
        return line

    def _answer(self, text: str) -> str:
        """The text, less the space and the rest of the marker's bold face that it may begin with."""
        if not self._begun:
            text = text.lstrip(" \t\r\n*_")
            self._begun = bool(text)
        return text
