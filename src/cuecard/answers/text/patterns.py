"""Regular expressions out of word lists, so that the lists can be read."""

from __future__ import annotations

import re

ANY_CASE = re.IGNORECASE


def any_of(words: str) -> str:
    """A pattern for any one of the words, separated by spaces; `_` is a space within one."""
    return f"(?:{'|'.join(word.replace('_', ' ') for word in words.split())})"


def pattern(*alternatives: str) -> re.Pattern[str]:
    """Any of the patterns, whatever the case."""
    return re.compile("|".join(alternatives), ANY_CASE)
