"""The answer in a text, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

Value = str | Fraction


@dataclass(frozen=True)
class Answer:
    """A final answer: `text` as it was written, `value` as it is compared. A value of None is unparseable."""

    text: str
    value: Value | None

    @property
    def parsed(self) -> bool:
        """Whether there is an answer at all."""
        return self.value is not None


UNPARSED = Answer("", None)


class Blank(Enum):
    """Why a piece of text gives no answer. UNCLEAR is final; with NOTHING another piece may hold the answer."""

    NOTHING = "nothing is stated"
    UNCLEAR = "several answers, a refusal, or one taken back"


Reading = Answer | Blank


def one_of(readings: list[Reading]) -> Reading:
    """The answer that all readings share; UNCLEAR if they differ, NOTHING if there is none."""
    stated = [reading for reading in readings if reading is not Blank.NOTHING]
    answers = [reading for reading in stated if isinstance(reading, Answer)]
    if len(answers) < len(stated) or len({answer.value for answer in answers}) > 1:
        return Blank.UNCLEAR
    return answers[0] if answers else Blank.NOTHING
