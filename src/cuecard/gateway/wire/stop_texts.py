"""Stop texts: the visible answer ends where the first of them begins."""

from __future__ import annotations

from collections.abc import Sequence


class StopCutter:
    """Cuts a text that comes in pieces before the stop text that is complete first.

    Of two that end in the same place the longer one counts. Nothing is held back but what may be the beginning of one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = stops, ""
        self.stopped_by: str | None = None
        """The text at which it was cut."""

    def feed(self, piece: str) -> str:
        """What can be shown by now that was not shown before."""
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
        """What was held back, as the text is whole."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, stop: str) -> int:
    """Characters at the end of the text that are the beginning of a stop text, at most."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
