"""reasoning-gym: puzzles in text, made from a seed, and judged by the package's own verifiers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from typing import Any

from cuecard.answers.readers.number import whole
from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind, Question
from cuecard.domain.suggestions import did_you_mean
from cuecard.evals.item import Aggregate, Item
from cuecard.evals.scoring.scorers import puzzles

LOOKED_AT, SHORT_WORDS = 20, 4
ANY = "(any that the verifier takes)"


class GymTask:
    """`count` puzzles of one of reasoning-gym's generators, the same for the same seed and version."""

    aggregate: Aggregate = "mean"

    def __init__(
        self, name: str, puzzle: str, *, seed: int = 0, count: int = 100, kind: AnswerKind | None = None
    ) -> None:
        self.name, self.puzzle, self.seed, self._count, self._kind = name, puzzle, seed, count, kind

    @property
    def count(self) -> int | None:
        return self._count

    @property
    def revision(self) -> str:
        return f"reasoning-gym {version('reasoning-gym')} {self.puzzle} seed={self.seed} count={self._count}"

    def items(self) -> Iterator[Item]:
        """All puzzles. Raises BadInput for an unknown generator, MissingExtra."""
        for index in range(self._count):
            entry = self._puzzles[index]
            answer = entry.get("answer")
            yield Item(
                id=str(index),
                question=Question(entry["question"], kind=self.kind),
                golds=(ANY if answer is None else str(answer),),
                scorer="gym",
                cluster=str(index),
                category=self.puzzle,
                extra=json.dumps({"name": self.puzzle, "seed": self.seed, "count": self._count, "index": index}),
            )

    @cached_property
    def kind(self) -> AnswerKind:
        """The kind that all answers share, as far as the first twenty show: numbers, yes or no, a few words, any."""
        if self._kind is not None:
            return self._kind
        answers = [str(entry.get("answer")) for entry in islice(self._puzzles, min(LOOKED_AT, self._count))]
        if all(whole(answer) is not None for answer in answers):
            return AnswerKind.NUMBER
        if {answer.lower() for answer in answers} == {"yes", "no"}:
            return AnswerKind.YES_NO
        short = all("\n" not in answer and len(answer.split()) <= SHORT_WORDS for answer in answers)
        return AnswerKind.SHORT_TEXT if short else AnswerKind.FREE_TEXT

    @cached_property
    def _puzzles(self) -> Any:
        try:
            return puzzles(self.puzzle, self.seed, self._count)
        except (ValueError, AssertionError) as error:
            from reasoning_gym.factory import DATASETS

            every = f"there are {len(DATASETS)}: gym:{', '.join(DATASETS)}"
            hint = did_you_mean(self.puzzle, DATASETS, every, form="gym:{}")
            raise BadInput(f"reasoning-gym has no {self.puzzle!r}, or not so ({error})", hint[:2000]) from error
