"""Answers: find the final one in a reply, compare two, and score one. Knows no prompts, no models."""

from cuecard.answers.agreement import agree, same_answer
from cuecard.answers.answer import UNPARSED, Answer
from cuecard.answers.extraction import extract, extract_soon, misfit_of, shape_of
from cuecard.answers.kinds import asked_form, asks_for_json, guess_kind
from cuecard.answers.options import listed_in, options_in
from cuecard.answers.scoring import score
from cuecard.answers.text.similarity import anls, normalise

__all__ = [
    "UNPARSED",
    "Answer",
    "agree",
    "anls",
    "asked_form",
    "asks_for_json",
    "extract",
    "extract_soon",
    "guess_kind",
    "listed_in",
    "misfit_of",
    "normalise",
    "options_in",
    "same_answer",
    "score",
    "shape_of",
]
