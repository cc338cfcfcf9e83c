"""What a preset is, and how the cells of its rows are read.

Options are handed over apart from the text, and the closing instruction is the prompt's: each mode has its own.
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
    """One benchmark: where it lies, how a row is asked, how answers are scored and added up."""

    about: str
    dataset: str
    config: str | None
    """Several, joined by `+`, are read one after the other."""
    split: str
    kinds: str
    scorer: str
    """Several, joined by a comma: it depends on the question."""
    read: Callable[[Row, str], QuestionRow]
    """(row, its number) -> its question. Raises Unusable."""
    columns: tuple[str, ...]
    """Columns that must be there; a|b: one of the two."""
    aggregate: Aggregate = "mean"
    vlmevalkit: str | None = None
    """What VLMEvalKit calls these data; a `.tsv` file is read by the rules of that name."""
    note: str | None = None
    """What has to be known before its answers are scored."""
    mark: str = ""
    """What else than the rows decides the questions: the digest of a mapping. Part of the task's revision."""


def asked(row: Row, id: str, kind: AnswerKind, scorer: str, golds: tuple[str, ...], **more: Any) -> QuestionRow:
    """A row as most data sets have it; `more`: what is not in the columns `question`, `image` and `category`."""
    if "text" not in more:
        more["text"] = question_of(row)
    if "images" not in more:
        more["images"] = images_of(row, "image")
    return QuestionRow(id=id, kind=kind, scorer=scorer, golds=golds, **{"category": filled(row, "category"), **more})


def question_of(row: Row, *names: str) -> str:
    """The question in the first of these columns that is filled. Raises Unusable."""
    question = filled(row, *(names or ("question",)))
    if question is None:
        raise Unusable(Fault.MALFORMED, "the question is empty", "is this the right data set?")
    return question


def images_of(row: Row, *names: str) -> tuple[Any, ...]:
    """The image of the first column that holds one; a row without an image is left out. Raises Unusable."""
    for name in names:
        value = row.get(name)
        if value is not None and value != "" and value != []:
            return tuple(value) if isinstance(value, list) else (value,)
    raise Unusable(Fault.DROPPED, "there is no image", "rows without an image are left out")


def numbered_images(row: Row, numbers: range) -> dict[int, Any]:
    """What is filled of the columns `image_1`, `image_2`, …, by number."""
    columns = {number: row.get(f"image_{number}") for number in numbers}
    return {number: image for number, image in columns.items() if image is not None and image != ""}


def texts_of(row: Row, name: str) -> tuple[str, ...]:
    """The members of a column that holds a list, or the text of one. Raises Unusable."""
    value = row.get(name)
    members = listed(value) if isinstance(value, str) else value
    if not isinstance(members, list | tuple):
        raise Unusable(Fault.MALFORMED, f"{name!r} is not a list", "is this the right data set?")
    return tuple(map(str, members))


def golds_of(row: Row, *names: str) -> tuple[str, ...]:
    """The right answers; () where they are not published."""
    value = next((row[name] for name in names if row.get(name) is not None), None)
    members = value if isinstance(value, list | tuple) else [value]
    return tuple(str(each) for each in members if each is not None and str(each).strip())


def bare_letter(row: Row, name: str = "answer") -> tuple[str, ...]:
    """A right answer written as "(B)"; () where it is not published."""
    answer = (filled(row, name) or "").strip("() ")
    return (answer,) if len(answer) == 1 and answer.isalpha() else ()


def placed(answer: str | None, options: tuple[str, ...], first: int = 0) -> tuple[str, ...]:
    """The letter of an answer that is given as its place among the options. Raises Unusable."""
    if answer is None:
        return ()
    if not answer.isdecimal() or not 0 <= int(answer) - first < len(options):
        what = f"the answer {answer[:40]!r} is no place among {len(options)} options"
        raise Unusable(Fault.UNSCORABLE, what, f"places are counted from {first}")
    return (letter(int(answer) - first),)
