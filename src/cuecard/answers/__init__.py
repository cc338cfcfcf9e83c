"""Answers: find the final one in a reply, compare two, and score one. Independent of prompts and models."""

from cuecard.answers.kinds import agree, extract, extract_soon, misfit_of, same_answer, score, shape_of
from cuecard.answers.text.markup import anls, normalise
from cuecard.answers.wording import asked_form, asks_for_json, guess_kind, listed_in, options_in
from cuecard.domain.question import UNPARSED, Answer

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
