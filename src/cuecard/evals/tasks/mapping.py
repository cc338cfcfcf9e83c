"""A data set with any columns as a preset: a TOML file maps the columns.

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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cuecard import settings
from cuecard.answers import guess_kind
from cuecard.domain.errors import BadInput, did_you_mean
from cuecard.domain.question import AnswerKind, kind_named, letter
from cuecard.evals.scorers import SCORERS
from cuecard.evals.tasks.presets.preset import Preset, Row, placed, question_of, texts_of
from cuecard.evals.tasks.rows import Fault, QuestionRow, Unusable, filled, lettered, reading

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
    with settings.in_file(path):
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
    table = settings.read(path)
    columns = table.pop("columns", {})
    settings.check_kind("columns", columns, dict)
    of_all = settings.build(OfAllRows, table)
    for part, value in columns.items():
        if part not in COLUMNS:
            raise BadInput(f"unknown key columns.{part}"[:200], did_you_mean(part, COLUMNS))
        settings.check_kind(f"columns.{part}", value, list if isinstance(value, list) and part in _SEVERAL else str)
    if "question" not in columns:
        raise BadInput("columns.question is missing", 'write question = "COLUMN" under [columns]')
    if of_all.kind is not None:
        kind_named(of_all.kind)
    if of_all.scorer is not None and of_all.scorer not in SCORERS:
        raise BadInput(f"there is no scorer {of_all.scorer[:40]!r}", did_you_mean(of_all.scorer, SCORERS))
    return ColumnMap(of_all, columns)


def _asked(wanted: ColumnMap, row: Row, number: str) -> QuestionRow:
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
