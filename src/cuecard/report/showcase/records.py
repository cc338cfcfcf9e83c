"""The records of a demo run: frozen, and checked when they are created."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cuecard.domain.call import Call, Mode
from cuecard.domain.errors import CuecardError
from cuecard.domain.outcome import LatencyKind, Outcome, Route
from cuecard.domain.question import Image, Question

NEITHER = "neither"
"""The part of a latency in which no model worked."""


@dataclass(frozen=True)
class StrategyRow:
    """One strategy over all questions. `low` and `high` bound its accuracy (95%); tokens are means a question, by role.

    `parts_s` splits the mean latency by the roles at work: a role, several joined by " + ", or `NEITHER`.
    """

    strategy: str
    schedule: str | None
    questions: int
    right: int
    low: float
    high: float
    tokens: Mapping[str, float]
    mean_s: float
    parts_s: Mapping[str, float]
    speed_up: float
    """Mean latency of the large model's own reasoning, over this row's."""
    routes: Mapping[Route, int]
    latency: LatencyKind

    def __post_init__(self) -> None:
        if sum(self.routes.values()) != self.questions:
            raise CuecardError(
                f"the routes of {self.name} sum to {sum(self.routes.values())}, not to its {self.questions} questions"
            )
        if not 0 <= self.right <= self.questions:
            raise CuecardError(f"{self.name} cannot be right {self.right} times in {self.questions} questions")
        if sum(self.parts_s.values()) > self.mean_s * (1 + 1e-6):
            raise CuecardError(f"the parts of the latency of {self.name} exceed it")

    @property
    def name(self) -> str:
        return f"{self.strategy}, {self.schedule}" if self.schedule else self.strategy

    @property
    def accuracy(self) -> float:
        return self.right / self.questions

    @property
    def all_tokens(self) -> float:
        return sum(self.tokens.values())


def roles_of(rows: Iterable[StrategyRow]) -> list[str]:
    """Every role that generated tokens: the small model first, the large one last."""
    roles = dict.fromkeys(role for row in rows for role in row.tokens)
    return sorted(roles, key=lambda role: (role == "large", role != "small"))


@dataclass(frozen=True)
class StrategyAnswer:
    """One question answered by one strategy, in short. `asked` counts the questions from 0."""

    asked: int
    source: str
    strategy: str
    answer: str
    truth: str
    right: bool
    route: Route
    total_s: float
    tokens: Mapping[str, int]


@dataclass(frozen=True)
class Sample:
    """One question answered by several strategies, for their time lines. Names as in `Row.name`."""

    question: Question
    truth: str
    outcomes: Mapping[str, Outcome]


@dataclass(frozen=True)
class Exhibit:
    """One question of the gallery, and how a strategy came to its answer."""

    question: Question
    source: str
    truth: str
    right: bool
    outcome: Outcome
    large_reasoning_s: float
    """What the large model's own reasoning took for the same question."""

    def call(self, role: str, mode: Mode) -> Call | None:
        """The last call of this role in this mode; None if there was none."""
        return next((c for c in reversed(self.outcome.calls) if (c.role, c.mode) == (role, mode)), None)

    def short(self, role: str) -> str:
        """The role's short answer; empty where there is none."""
        call = self.call(role, Mode.SHORT)
        return (call.answer or "").strip() if call else ""


@dataclass(frozen=True)
class Showcase:
    """A whole run. `headline` is the name of the row to speak of; `about` are facts about the run, for its foot."""

    questions: int
    rows: tuple[StrategyRow, ...]
    headline: str
    sample: Sample | None
    gallery: tuple[Exhibit, ...]
    answers: tuple[StrategyAnswer, ...]
    about: tuple[tuple[str, str], ...] = ()

    def row(self, name: str) -> StrategyRow:
        return next(row for row in self.rows if row.name == name)

    def json(self) -> str:
        """Everything but the images, which are named by their digests."""
        return json.dumps(asdict(self), indent=2, default=_named, ensure_ascii=False)


def _named(value: Any) -> str:
    return f"sha256:{Image(value).digest}" if isinstance(value, bytes) else str(value)
