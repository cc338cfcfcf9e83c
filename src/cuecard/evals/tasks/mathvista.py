"""MathVista's rows: asked in its authors' words, scored by the type of answer that they give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cuecard.domain.question import AnswerKind, letter
from cuecard.evals.tasks.rows import Asked, Fault, Unusable, filled, listed

KINDS = {"integer": AnswerKind.NUMBER, "float": AnswerKind.NUMBER, "list": AnswerKind.SHORT_TEXT}


def asked(row: Mapping[str, Any], row_id: str, images: tuple[Any, ...]) -> Asked:
    """A row of `AI4Math/MathVista`, or of VLMEvalKit's copy of it. Raises Unusable.

    `query` holds the authors' hint, the question, its unit, and for a choice the options, which are cut off here
    because every prompt layout writes them itself. Gold answers of choices are the option's words.
    """
    query = filled(row, "query", "question")
    if query is None:
        raise Unusable(Fault.MALFORMED, "neither `query` nor `question` is filled", "is this MathVista?")
    chooses = filled(row, "question_type") == "multi_choice"
    text, _, _ = query.partition("\nChoices:")
    gold, options = filled(row, "answer"), _choices(row) if chooses else ()
    if gold in options:
        gold = letter(options.index(gold))
    elif chooses:
        gold = filled(row, "answer_option") or gold
    answer_type = filled(row, "answer_type") or "text"
    about = row.get("metadata") if isinstance(row.get("metadata"), dict) else row
    return Asked(
        id=filled(row, "pid", "index") or row_id,
        text=text,
        kind=AnswerKind.CHOICE if chooses else KINDS.get(answer_type, AnswerKind.SHORT_TEXT),
        golds=() if gold is None else (gold,),
        scorer="mathvista",
        options=options,
        images=images,
        category=filled(about or {}, "task", "category"),
        split=filled(about or {}, "split"),
        extra=json.dumps({"answer_type": answer_type, "precision": _precision(row)}),
    )


def _choices(row: Mapping[str, Any]) -> tuple[str, ...]:
    value = row.get("choices")
    if isinstance(value, list | tuple):
        return tuple(map(str, value))
    return tuple(listed(str(value)) or ())


def _precision(row: Mapping[str, Any]) -> int:
    """How many decimal places count; 0 where the row does not say."""
    text = filled(row, "precision") or "0"
    try:
        return int(float(text))
    except (ValueError, OverflowError) as error:
        raise Unusable(Fault.UNSCORABLE, f"the precision {text[:40]!r} is no number", "write 1, 2, …") from error
