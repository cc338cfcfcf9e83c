"""An item: a question, what is right, how it is scored. A task: items in a fixed order, from data that have a name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from cuecard.domain.question import Question

Aggregate = Literal["mean", "circular", "pope", "mme", "hallusion", "blink", "cv-bench", "mmmu", "ocrbench", "vmcbench"]
"""What a task's score is: the mean over items, or the share of groups that are wholly right (`circular`); by the other
names the mean, and beside it the figures of `analysis.aggregates`."""


@dataclass(frozen=True)
class Item:
    """One question of a task, with what is needed to score its answer; frozen, and the same at every opening."""

    id: str
    """Unique in its task."""
    question: Question
    golds: tuple[str, ...]
    """Any of them is right; none at all: not known, so that answers stay without a score."""
    scorer: str
    """A name in `scorers.SCORERS`."""
    cluster: str
    """Whose errors hang together: items of one image (its digest), or of one circular group."""
    group: str | None = None
    """Items that are asked together share it: rotations of a question (circular evaluation), an image's pair, a set."""
    category: str | None = None
    split: str | None = None
    extra: str | None = None
    """What the scorer needs besides the golds, as a JSON object: a puzzle's entry, a number's precision."""


class Task(Protocol):
    """Items in a fixed order, read one after the other: a task may be larger than memory."""

    @property
    def name(self) -> str:
        """As it was asked for: `boards`, `mmstar`, `tsv:FILE`."""

    @property
    def revision(self) -> str:
        """Identity of the data: a hash of the files, or version, split and seed of what makes them."""

    @property
    def count(self) -> int | None:
        """How many items there are; None where only reading all of them would tell."""

    @property
    def aggregate(self) -> Aggregate:
        """How the items' scores become the task's."""

    def items(self) -> Iterator[Item]:
        """All items from the first, again at each call. Raises BadInput that names the row and what to do."""
