"""What the report of an evaluation is made of: findings, single questions, and facts about the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cuecard.domain.question import Image
from cuecard.evals.analysis.examples import Case, Gallery, Request
from cuecard.evals.analysis.results import Findings

Picture = Callable[[str], Image | None]
"""By its digest."""


@dataclass(frozen=True)
class Evaluation:
    """What a report is made of. `questions`: those shown one by one; `answers`: every answer, for the tables."""

    name: str
    found: Findings
    summary: Mapping[str, Any]
    requests: Sequence[Request]
    galleries: Sequence[Gallery]
    questions: Mapping[str, Sequence[Case]]
    answers: Sequence[Mapping[str, Any]]
    picture: Picture
    about: Sequence[tuple[str, str]]
