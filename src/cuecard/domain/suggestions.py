"""Hints for unknown names: the nearest known one, or what is known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_COMPARED_CHARS = 100


def did_you_mean(name: object, known: Iterable[str], otherwise: str | None = None, *, form: str = "{}") -> str:
    """ "did you mean NAME?" with the most similar known name in `form`; without one `otherwise`, by default a list."""
    names = list(known)
    if near := get_close_matches(str(name)[:_COMPARED_CHARS], names, 1):
        return f"did you mean {form.format(near[0])}?"
    return f"there are: {', '.join(names)}" if otherwise is None else otherwise
