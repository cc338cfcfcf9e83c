"""Presets, helpers to read the cells of their rows, and presets from a TOML file that maps any data set's columns.

Options are separate from the text; the closing instruction is part of each mode's prompt. The file:

kind = "choice"       # of all questions; by default guessed from the question
first = 0             # answers are indices of options, counted from this number

[columns]
question = "problem"
options = ["A", "B"]  # one column per option, or one column with a list
answer = "solution"
images = ["image_1", "image_2"]
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cuecard import disk
from cuecard.answers import guess_kind
from cuecard.domain.errors import BadInput, did_you_mean
from cuecard.domain.question import AnswerKind, kind_named, letter
from cuecard.evals.item import Aggregate
from cuecard.evals.scorers import SCORERS
from cuecard.evals.tasks.rows import Fault, QuestionRow, Unusable, filled, lettered, listed, reading

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


def bare_letter(row: Row) -> tuple[str, ...]:
    """The letter of a right answer written as "(B)"; () if not published."""
    answer = (filled(row, "answer") or "").strip("() ")
    return (answer,) if len(answer) == 1 and answer.isalpha() else ()


def placed(answer: str | None, options: tuple[str, ...], first: int = 0) -> tuple[str, ...]:
    """The letter of an answer that is given as the index of an option; () if unknown. Raises Unusable."""
    if answer is None:
        return ()
    if not answer.isdecimal() or not 0 <= int(answer) - first < len(options):
        what = f"the answer {answer[:40]!r} is no place among {len(options)} options"
        raise Unusable(Fault.UNSCORABLE, what, f"places are counted from {first}")
    return (letter(int(answer) - first),)


COLUMNS = (
    "question", "hint", "options", "answer", "image", "images", "id", "category", "group", "split", "kind", "scorer",
)  # fmt: skip
"""Parts of a question that can be mapped. `options`, `image` and `images` may name several columns."""
_SEVERAL = ("options", "image", "images")


@dataclass(frozen=True)
class OfAllRows:
    """Settings for all rows. `first`: the index of the first option, if answers are indices."""

    kind: str | None = None
    scorer: str | None = None
    config: str | None = None
    split: str = "test"
    first: int | None = None


@dataclass(frozen=True)
class ColumnMap:
    """The content of a mapping file: settings for all rows, and the columns of each part of a question."""

    of_all: OfAllRows
    columns: Mapping[str, Any]

    def names(self, *parts: str) -> tuple[str, ...]:
        """The columns of the first of these parts that the file maps; () if it maps none."""
        found = next((self.columns[part] for part in parts if part in self.columns), ())
        return (found,) if isinstance(found, str) else tuple(found)

    def cell(self, row: Row, part: str) -> str | None:
        return filled(row, *self.names(part))


def mapped(dataset: str, path: Path) -> Preset:
    """The preset of a data set with the columns mapped by a file. Raises BadInput with the file and the key."""
    with reading(path):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    with disk.in_file(path):
        wanted = _read(path)
    return Preset(
        about=dataset,
        dataset=dataset,
        config=wanted.of_all.config,
        split=wanted.of_all.split,
        kinds=wanted.of_all.kind or "",
        scorer=wanted.of_all.scorer or "",
        read=partial(_asked, wanted),
        columns=tuple(name for part in wanted.columns for name in wanted.names(part)),
        aggregate="circular" if "group" in wanted.columns else "mean",
        mark=f"+map:{digest}",
    )


def _read(path: Path) -> ColumnMap:
    table = disk.read_toml(path)
    columns = table.pop("columns", {})
    disk.check_kind("columns", columns, dict)
    of_all = disk.build(OfAllRows, table)
    for part, value in columns.items():
        if part not in COLUMNS:
            raise BadInput(f"unknown key columns.{part}"[:200], did_you_mean(part, COLUMNS))
        disk.check_kind(f"columns.{part}", value, list if isinstance(value, list) and part in _SEVERAL else str)
    if "question" not in columns:
        raise BadInput("columns.question is missing", 'write question = "COLUMN" under [columns]')
    if of_all.kind is not None:
        kind_named(of_all.kind)
    if of_all.scorer is not None and of_all.scorer not in SCORERS:
        raise BadInput(f"there is no scorer {of_all.scorer[:40]!r}", did_you_mean(of_all.scorer, SCORERS))
    return ColumnMap(of_all, columns)


def _asked(wanted: ColumnMap, row: Row, number: str) -> QuestionRow:
    """The question of a row, from the columns of a mapping. Raises Unusable."""
    question, hint = question_of(row, *wanted.names("question")), wanted.cell(row, "hint")
    options = _options(wanted, row)
    texts = tuple(options.values())
    kind = _kind(wanted.cell(row, "kind") or wanted.of_all.kind) or guess_kind(question, texts)
    return QuestionRow(
        id=wanted.cell(row, "id") or number,
        text=f"{hint}\n{question}" if hint else question,
        kind=kind,
        golds=_golds(wanted, row, options),
        scorer=wanted.cell(row, "scorer") or wanted.of_all.scorer or ("maths" if kind is AnswerKind.MATHS else "exact"),
        options=texts if kind is AnswerKind.CHOICE else (),
        images=_images(wanted.names("images", "image"), row),
        group=wanted.cell(row, "group"),
        category=wanted.cell(row, "category"),
        split=wanted.cell(row, "split"),
    )


def _kind(name: str | None) -> AnswerKind | None:
    try:
        return None if name is None else kind_named(name)
    except BadInput as error:
        raise Unusable(Fault.MALFORMED, error.message, error.hint or "") from error


def _options(wanted: ColumnMap, row: Row) -> dict[str, str]:
    """The options by letter: from a list in one column, or from the non-empty cells of several columns."""
    names = wanted.names("options")
    if len(names) == 1:
        members: Iterable[str | None] = () if filled(row, names[0]) is None else texts_of(row, names[0])
    else:
        members = (filled(row, name) for name in names)
    return {letter(place): text for place, text in enumerate(members) if text is not None}


def _golds(wanted: ColumnMap, row: Row, options: Mapping[str, str]) -> tuple[str, ...]:
    """The right answers; for a choice given as letters, as words, or as indices if the file sets `first`."""
    value = next((row.get(name) for name in wanted.names("answer")), None)
    members = value if isinstance(value, list | tuple) else [value]
    texts = [{True: "yes", False: "no"}[each] if isinstance(each, bool) else filled({"": each}, "") for each in members]
    known = [text for text in texts if text is not None]
    if not options:
        return tuple(known)
    if wanted.of_all.first is not None:
        return tuple(each for text in known for each in placed(text, tuple(options.values()), wanted.of_all.first))
    bare = (text[1:-1] if len(text) == 3 and text[0] == "(" and text[2] == ")" else text for text in known)
    return tuple(each for text in bare for each in lettered(text, list(options)))


def _images(names: tuple[str, ...], row: Row) -> tuple[Any, ...]:
    """All images in these columns, including lists of images. Raises Unusable (dropped) if the row has none."""
    cells = [row.get(name) for name in names]
    lists = [cell if isinstance(cell, list | tuple) else [cell] for cell in cells]
    images = tuple(each for members in lists for each in members if each is not None and each != "")
    if names and not images:
        raise Unusable(Fault.DROPPED, "there is no image", "rows without an image are left out")
    return images
