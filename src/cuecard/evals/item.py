"""An item: a question, its right answers and its scorer. A task: items in a fixed order, from a named data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from cuecard.domain.question import Question

Aggregate = Literal["mean", "circular", "pope", "mme", "hallusion", "blink", "cv-bench", "mmmu", "ocrbench", "vmcbench"]
"""A task's score: the mean over items, or the share of groups with all answers right (`circular`); with the other names
the mean, and additionally the figures of `analysis.scores`."""


@dataclass(frozen=True)
class Item:
    """One question of a task, with everything needed to score its answer; the same each time the task is opened."""

    id: str
    """Unique in its task."""
    question: Question
    golds: tuple[str, ...]
    """The right answers, any of which counts; empty if unknown: then answers have no score."""
    scorer: str
    """A name in `scorers.SCORERS`."""
    cluster: str
    """Items with correlated errors share it: items of one image (its digest), or of one circular group."""
    group: str | None = None
    """Items that belong together share it: rotations of a question (circular evaluation), an image's pair, a set."""
    category: str | None = None
    split: str | None = None
    extra: str | None = None
    """Further data for the scorer, as a JSON object: a puzzle's entry, a number's precision."""


class Task(Protocol):
    """Items in a fixed order, read one at a time: a task may be larger than memory."""

    @property
    def name(self) -> str:
        """The specification as given: `boards`, `mmstar`, `tsv:FILE`."""

    @property
    def revision(self) -> str:
        """Identity of the data: a hash of the files, or the generator's version, split and seed."""

    @property
    def count(self) -> int | None:
        """The number of items; None if it is known only after reading all of them."""

    @property
    def aggregate(self) -> Aggregate:
        """How the task's score is computed from the items' scores."""

    def items(self) -> Iterator[Item]:
        """All items, from the first at every call. Raises BadInput with the row and a hint."""
