"""Detection of reasoning that repeats itself: greedy decoding of a small model may never leave a loop."""

from __future__ import annotations

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
