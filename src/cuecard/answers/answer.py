"""The answer in a text, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

Value = str | Fraction


@dataclass(frozen=True)
class Answer:
    """A final answer: `text` as written, `value` for comparison. A value of None is unparseable."""

    text: str
    value: Value | None

    @property
    def parsed(self) -> bool:
        """Whether there is an answer."""
        return self.value is not None


UNPARSED = Answer("", None)


class Blank(Enum):
    """Why a text gives no answer. UNCLEAR is final; after NOTHING another part of the text may hold the answer."""

    NOTHING = "nothing is stated"
    UNCLEAR = "several answers, a refusal, or one taken back"


Reading = Answer | Blank


def one_of(readings: list[Reading]) -> Reading:
    """The answer common to all readings; UNCLEAR if they differ, NOTHING without answers."""
    stated = [reading for reading in readings if reading is not Blank.NOTHING]
    answers = [reading for reading in stated if isinstance(reading, Answer)]
    if len(answers) < len(stated) or len({answer.value for answer in answers}) > 1:
        return Blank.UNCLEAR
    return answers[0] if answers else Blank.NOTHING
