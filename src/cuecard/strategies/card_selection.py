"""Cut cards: which words of a reasoning are kept for its reader.

A selector gives each word a weight; the share with the largest weights is kept, in text order. Some selectors use the
text alone, others the attention or the surprise of a model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from random import Random

from cuecard.domain.errors import BadInput, did_you_mean
from cuecard.models.base import Model, Weighing

Weighed = Sequence[tuple[str, float]]
"""Pieces of a text in order, and the weight of each."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_TELLING = re.compile(r"\d|\b[A-Z]")
"""Matches words that carry facts: numbers and names."""


class Ending(StrEnum):
    """How the last sentence, which often holds the answer, is treated."""

    FREE = "free"
    """Its words are chosen like all others."""
    KEPT = "kept"
    """All of it is kept, besides the share of the words before it."""
    REMOVED = "removed"
    """None of it is kept: the card has the reasoning, not the answer."""


def words(text: str) -> list[str]:
    """Words, each with the white space before it."""
    return re.findall(r"\s*\S+", text.rstrip())


def content(parts: Sequence[str]) -> list[float]:
    """Weights that keep numbers and names first, then long words, which carry more than short ones."""
    return [1000.0 * bool(_TELLING.search(part)) + len(part.strip()) for part in parts]


def sentences(parts: Sequence[str]) -> list[float]:
    """Weights that keep whole sentences, those with the largest share of numbers and names first."""
    weights: list[float] = []
    sentence: list[str] = []
    for place, part in enumerate(parts):
        sentence.append(part)
        if part.strip()[-1:] in (".", "!", "?") or place == len(parts) - 1:
            telling = sum(bool(_TELLING.search(each)) for each in sentence) / len(sentence)
            weights += [telling] * len(sentence)
            sentence = []
    return weights


def by_chance(parts: Sequence[str]) -> list[float]:
    """Random weights, the same for the same text."""
    rng = Random("".join(parts))
    return [rng.random() for _ in parts]


TEXT_ONLY: Mapping[str, Callable[[Sequence[str]], list[float]]] = {
    "first": lambda parts: [-float(place) for place in range(len(parts))],
    "last": lambda parts: [float(place) for place in range(len(parts))],
    "content": content,
    "sentences": sentences,
    "random": by_chance,
}
BY_MODEL: Mapping[str, tuple[str, Weighing]] = {
    "attention": ("writer", Weighing.ATTENTION),
    "reader": ("reader", Weighing.ATTENTION),
    "surprise": ("writer", Weighing.SURPRISE),
}
"""Selector -> the model that gives the weights (the card's writer or its reader), and the kind of weights."""
PASSAGE = "-passage"
"""The suffix of a selector that keeps one contiguous passage instead of separate words."""
SELECTORS = (*BY_MODEL, *TEXT_ONLY)


@dataclass(frozen=True)
class CardCut:
    """How a card is cut: the share of words that is kept, their selector, and the last sentence."""

    keep: float = 1.0
    select: str = "attention"
    """One of SELECTORS, with or without the suffix `-passage`."""
    ending: Ending = Ending.FREE

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise BadInput(f"card_keep = {self.keep:g} is no share of a card", "write a number above 0 and at most 1")
        if self.selector not in SELECTORS:
            every = f"there are: {', '.join(SELECTORS)}, each also with {PASSAGE}"
            raise BadInput(f"unknown card_select {self.select!r}", did_you_mean(self.select, SELECTORS, every))

    def __str__(self) -> str:
        ending = "" if self.ending is Ending.FREE else f", its last sentence {self.ending}"
        return f"{self.keep:.0%} of the card by {self.select}{ending}"

    @property
    def selector(self) -> str:
        return self.select.removesuffix(PASSAGE)

    @property
    def asks(self) -> tuple[str, Weighing] | None:
        """The model that gives the weights, and the kind of weights; None if the selector uses the text alone."""
        return BY_MODEL.get(self.selector)

    def __call__(self, card: str, weighed: Weighed | None = None) -> str:
        """The cut card. `weighed`: the pieces of the card with a model's weights, if the selector needs them."""
        parts = words(card)
        weights = TEXT_ONLY[self.selector](parts) if weighed is None else by_word(parts, weighed)
        ending = len(words(_SENTENCE_END.split(card.strip())[-1]))
        body = len(parts) - (0 if self.ending is Ending.FREE else ending)
        kept = self._chosen(weights[:body])
        if self.ending is Ending.KEPT:
            kept |= set(range(body, len(parts)))
        return "".join(part for place, part in enumerate(parts) if place in kept).strip()

    def _chosen(self, weights: Sequence[float]) -> set[int]:
        count = math.ceil(self.keep * len(weights))
        if not self.select.endswith(PASSAGE):
            # of equal weights, the later words: a reasoning leads to its answer
            return set(sorted(range(len(weights)), key=lambda place: (weights[place], place))[len(weights) - count :])
        sums = [0.0, *accumulate(weights)]
        starts = range(len(weights) - count + 1)
        best = max(starts, key=lambda start: (sums[start + count] - sums[start], start), default=0)
        return set(range(best, best + count))


def check(cut: CardCut | None, models: Mapping[str, Model]) -> None:
    """Raises BadInput if the model that gives a cut's weights cannot weigh a card."""
    if cut is None or cut.asks is None:
        return
    asked = models.get("small" if cut.asks[0] == "writer" else "large")
    if asked is not None and not asked.abilities.weighing:
        raise BadInput(
            f"{asked.name} cannot tell what of a card matters to it",
            f"only models in this process can; what looks at the text alone works: {', '.join(TEXT_ONLY)}",
        )


def by_word(parts: Sequence[str], weighed: Weighed) -> list[float]:
    """The weights of a model's pieces, added up by word: each piece counts for the word that it ends in.

    A piece that the prompt has changed (it breaks up control tokens) may be longer or shorter than in the card; the
    pieces after it then count for a neighbouring word.
    """
    weights, place, missing = [0.0] * len(parts), 0, 0
    ends = [0] * len(parts)
    for at, part in enumerate(parts):
        missing += len(part.strip())
        ends[at] = missing
    read = 0
    for piece, weight in weighed:
        read += len("".join(piece.split()))
        while place < len(parts) - 1 and read > ends[place]:
            place += 1
        if parts:
            weights[place] += weight
    return weights
