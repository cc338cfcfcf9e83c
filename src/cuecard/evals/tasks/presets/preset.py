"""Presets, and helpers to read the cells of their rows.

Options are separate from the text; the closing instruction is part of each mode's prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cuecard.domain.question import AnswerKind, letter
from cuecard.evals.item import Aggregate
from cuecard.evals.tasks.rows import Fault, QuestionRow, Unusable, filled, listed

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Preset:
    """One benchmark: its data set, the conversion of rows into questions, its scorer and aggregate."""

    about: str
    dataset: str
    config: str | None
    """Several configurations, joined by `+`, are read one after the other."""
    split: str
    kinds: str
    scorer: str
    """Several scorers, joined by a comma, if it depends on the question."""
    read: Callable[[Row, str], QuestionRow]
    """(row, its number) -> question. Raises Unusable."""
    columns: tuple[str, ...]
    """Required columns; `a|b`: one of the two."""
    aggregate: Aggregate = "mean"
    vlmevalkit: str | None = None
    """VLMEvalKit's name of the data set; a `.tsv` file is read by the rules of that name."""
    note: str | None = None
    """A note for users about the scoring of its answers."""
    mark: str = ""
    """Suffix of the task's revision: the digest of a mapping, which determines the questions besides the rows."""


def asked(row: Row, id: str, kind: AnswerKind, scorer: str, golds: tuple[str, ...], **more: Any) -> QuestionRow:
    """The question of a row with the usual columns; `more`: fields not from `question`, `image` and `category`."""
    if "text" not in more:
        more["text"] = question_of(row)
    if "images" not in more:
        more["images"] = images_of(row, "image")
    return QuestionRow(id=id, kind=kind, scorer=scorer, golds=golds, **{"category": filled(row, "category"), **more})


def question_of(row: Row, *names: str) -> str:
    """The text of the first of these columns that is not empty, by default `question`. Raises Unusable."""
    question = filled(row, *(names or ("question",)))
    if question is None:
        raise Unusable(Fault.MALFORMED, "the question is empty", "is this the right data set?")
    return question


def images_of(row: Row, *names: str) -> tuple[Any, ...]:
    """The images in the first of these columns that is not empty. Raises Unusable (dropped) if there is none."""
    for name in names:
        value = row.get(name)
        if value is not None and value != "" and value != []:
            return tuple(value) if isinstance(value, list) else (value,)
    raise Unusable(Fault.DROPPED, "there is no image", "rows without an image are left out")


def numbered_images(row: Row, numbers: range) -> dict[int, Any]:
    """The images in the columns `image_1`, `image_2`, …, by number, without empty ones."""
    columns = {number: row.get(f"image_{number}") for number in numbers}
    return {number: image for number, image in columns.items() if image is not None and image != ""}


def texts_of(row: Row, name: str) -> tuple[str, ...]:
    """The members of a column with a list, or with a list written as text. Raises Unusable."""
    value = row.get(name)
    members = listed(value) if isinstance(value, str) else value
    if not isinstance(members, list | tuple):
        raise Unusable(Fault.MALFORMED, f"{name!r} is not a list", "is this the right data set?")
    return tuple(map(str, members))


def golds_of(row: Row, *names: str) -> tuple[str, ...]:
    """The right answers, from the first of these columns that is filled; () if not published."""
    value = next((row[name] for name in names if row.get(name) is not None), None)
    members = value if isinstance(value, list | tuple) else [value]
    return tuple(str(each) for each in members if each is not None and str(each).strip())


def bare_letter(row: Row, name: str = "answer") -> tuple[str, ...]:
    """The letter of a right answer written as "(B)"; () if not published."""
    answer = (filled(row, name) or "").strip("() ")
    return (answer,) if len(answer) == 1 and answer.isalpha() else ()


def placed(answer: str | None, options: tuple[str, ...], first: int = 0) -> tuple[str, ...]:
    """The letter of an answer that is given as the index of an option; () if unknown. Raises Unusable."""
    if answer is None:
        return ()
    if not answer.isdecimal() or not 0 <= int(answer) - first < len(options):
        what = f"the answer {answer[:40]!r} is no place among {len(options)} options"
        raise Unusable(Fault.UNSCORABLE, what, f"places are counted from {first}")
    return (letter(int(answer) - first),)
