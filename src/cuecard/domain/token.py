"""Tokens of an answer, with their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class AnswerToken:
    """One token of an answer and its natural log probability."""

    text: str
    logprob: float
    utf8: tuple[int, ...] | None = None
    """Its bytes, where the server gives them: a character may take several tokens."""
    top: tuple[AnswerToken, ...] = ()
    """The most probable tokens in its place."""

    @property
    def encoded(self) -> bytes:
        return self.text.encode() if self.utf8 is None else bytes(self.utf8)


def spelling(tokens: Sequence[AnswerToken], answer: str) -> tuple[AnswerToken, ...]:
    """The first tokens that together spell the answer, white space around it aside; () if they spell another text."""
    wanted, at = answer.strip().encode(), 0
    for count, token in enumerate(tokens, start=1):
        piece = token.encoded if at else token.encoded.lstrip()
        rest = wanted[at : at + len(piece)]
        if piece == rest:
            at += len(piece)
        elif at + len(rest) == len(wanted) and piece.rstrip() == rest:
            at = len(wanted)
        else:
            return ()
        if at == len(wanted):
            return tuple(tokens[:count]) if at else ()
    return ()
