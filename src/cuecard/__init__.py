"""Cuecard: a small model writes the cue card, a large model speaks the line."""

from cuecard.domain.call import Heard
from cuecard.domain.errors import CuecardError
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.models.base import Limits
from cuecard.models.prompt import CardFormat
from cuecard.pair import Pair
from cuecard.strategies.policy import Acceptance, Policy, Schedule

__all__ = [
    "Acceptance",
    "AnswerKind",
    "CardFormat",
    "CuecardError",
    "Heard",
    "Image",
    "Limits",
    "Outcome",
    "Pair",
    "Policy",
    "Question",
    "Route",
    "Schedule",
]
__version__ = "0.1.0"
