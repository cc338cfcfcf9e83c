"""Answers: find the final one in a reply, tell whether two are the same, and score it. Knows no prompts, no models."""

from cuecard.answers.agreement import agree, same_answer
from cuecard.answers.answer import UNPARSED, Answer
from cuecard.answers.extraction import extract
from cuecard.answers.kinds import guess_kind
from cuecard.answers.options import listed_in, options_in
from cuecard.answers.scoring import score
from cuecard.answers.similarity import anls, normalise

__all__ = [
    "UNPARSED",
    "Answer",
    "agree",
    "anls",
    "extract",
    "guess_kind",
    "listed_in",
    "normalise",
    "options_in",
    "same_answer",
    "score",
]
