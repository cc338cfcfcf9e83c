"""Cuecard: a small model writes the cue card, a large model speaks the line."""

from cuecard.domain.errors import CuecardError
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.pair import Pair
from cuecard.strategies.policy import Policy, Schedule

__all__ = ["AnswerKind", "CuecardError", "Image", "Outcome", "Pair", "Policy", "Question", "Route", "Schedule"]
__version__ = "0.1.0"
