"""VLMEvalKit's TSV files, as its Development.md and image_base.py describe them, read row by row.

A first pass records the byte offset of each row and hashes the file. If the `image` of a row is the index of another
row (earlier or later), one seek finds that row. Memory grows with the number of rows, not with their images.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from cuecard.answers import guess_kind
from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind, Image
from cuecard.evals.item import Aggregate
from cuecard.evals.tasks.presets import PLACE, PRESETS, hallusion_set, mathvista, without_spaces
from cuecard.evals.tasks.rows import (
    Fault,
    QuestionRow,
    RowsTask,
    Unusable,
    base_of,
    decoded,
    filled,
    found,
    index_of,
    lettered,
    listed,
    reading,
)

POINTER_CHARS = 64
"""An image value with at most this many characters is the index of another row."""
MOST_FIELD_BYTES = 256 * 2**20
CIRCULAR_SETS = ("mmbench", "ccbench", "circular", "mmcr")
Row = dict[str, str]


@dataclass(frozen=True)
class Known:
    """Rules of a known data set: answer kind of questions without options, scorer, aggregate."""

    kind: AnswerKind = AnswerKind.SHORT_TEXT
    scorer: str = "exact"
    aggregate: Aggregate = "mean"
    more: Callable[[Row], Mapping[str, Any]] = lambda row: {}
    """Further fields of a row's QuestionRow."""


def _hallusion(row: Row) -> Mapping[str, Any]:
    """The index ends with the numbers of the set, the figure and the question: `…_VD_chart_0_1_0`."""
    head, *place = (filled(row, "index") or "").rsplit("_", 3)
    return hallusion_set(head, list(place), shown=True) if len(place) == len(PLACE) else {}


def _ocrbench(row: Row) -> Mapping[str, Any]:
    return {"extra": without_spaces(filled(row, "category") == "Handwritten Mathematical Expression Recognition")}


def _mathverse(row: Row) -> Mapping[str, Any]:
    """Options are parsed from the text, as in the data set."""
    read = PRESETS["mathverse"].read({**row, "image": "there"}, "")
    return {name: getattr(read, name) for name in ("text", "kind", "golds", "scorer", "options")}


SETS = {
    "*pope*": Known(AnswerKind.YES_NO, "exact", "pope"),
    # the group is the pair of questions about an image: `image_path`, or `question_id` as in the data set
    "mme": Known(AnswerKind.YES_NO, "exact", "mme", lambda row: {"group": filled(row, "image_path", "question_id")}),
    "*hallusion*": Known(AnswerKind.YES_NO, "exact", "hallusion", _hallusion),
    "*chartqa*": Known(scorer="relaxed"),
    "*infovqa*": Known(scorer="anls"),
    "*docvqa*": Known(scorer="anls"),
    "*textvqa*": Known(scorer="vqa"),
    "ocrbench": Known(scorer="ocrbench", aggregate="ocrbench", more=_ocrbench),
    "ocrbench_mini": Known(scorer="ocrbench", aggregate="ocrbench", more=_ocrbench),
    "mmmu_*": Known(scorer="mmmu", aggregate="mmmu"),
    "blink": Known(aggregate="blink"),
    "cv-bench*": Known(aggregate="cv-bench", more=lambda row: {"extra": json.dumps({"source": filled(row, "source")})}),
    "vmcbench*": Known(aggregate="vmcbench"),
    "mmvet*": Known(AnswerKind.FREE_TEXT, "judged"),
    "mathverse*": Known(AnswerKind.MATHS, "maths", more=_mathverse),
}
"""Rules by a pattern of the file's name, in lower case and without suffix."""


@dataclass(frozen=True)
class Scan:
    """The result of the first pass. `offsets`: the byte offset of each row, by index."""

    columns: tuple[str, ...]
    offsets: Mapping[str, int]
    rows: int
    rotations: bool
    sha256: str


class TsvTask(RowsTask):
    """The questions of one TSV file."""

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        kind: AnswerKind | None = None,
        scorer: str | None = None,
        split: str | None = None,
        images: Path | None = None,
        circular: bool | None = None,
        known_as: str | None = None,
    ) -> None:
        """`known_as`: the data set with the rules to apply; by default the file's name."""
        super().__init__(name, str(path))
        self.path = path
        self.kind, self.scorer, self.split = kind, scorer, split
        self._circular = circular
        stem = (known_as or path.stem).lower()
        self._known = next((known for pattern, known in SETS.items() if fnmatchcase(stem, pattern)), None)
        home = os.environ.get("LMUData")  # noqa: SIM112, VLMEvalKit spells it so
        below = Path(home or Path.home() / "LMUData") / "images" / path.stem
        self._folders = [images] if images else [path.parent, below]

    @cached_property
    def scan(self) -> Scan:
        """The result of the first pass, which runs on first use. Raises BadInput."""
        return _scanned(self.path)

    @property
    def revision(self) -> str:
        return f"sha256:{self.scan.sha256}"

    @property
    def aggregate(self) -> Aggregate:
        if self.circular:
            return "circular"
        return self._known.aggregate if self._known and not self.kind else "mean"

    @property
    def circular(self) -> bool:
        """Whether rotations of a question count as one: as set, else by the file's name or if the file has some."""
        if self._circular is not None:
            return self._circular
        return any(part in self.path.stem.lower() for part in CIRCULAR_SETS) or self.scan.rotations

    def questions(self) -> Iterator[tuple[int, QuestionRow | Unusable]]:
        shows_images = bool({"image", "image_path"} & set(self.scan.columns))
        for number, _, cells in islice(records(self.path), 1, None):
            try:
                row = named(cells, self.scan.columns)
                if self.split and filled(row, "split") != self.split:
                    continue
                sources = self._sources(row)
                if shows_images and not sources:
                    raise Unusable(Fault.DROPPED, "there is no image", "VLMEvalKit leaves such rows out too")
                yield number, self._scored(row, self._asked(row, number, sources))
            except Unusable as problem:
                yield number, problem

    def image(self, source: Any) -> Image:
        where, value = source
        return found(value, self._folders) if where == "image_path" else decoded(value)

    def _scored(self, row: Row, asked: QuestionRow) -> QuestionRow:
        """The question with the data set's further fields, and with the scorer that was set."""
        more = self._known.more(row) if self._known and not self.kind else {}
        return replace(asked, **{**more, **({"scorer": self.scorer} if self.scorer else {})})

    def _asked(self, row: Row, number: int, images: tuple[Any, ...]) -> QuestionRow:
        """The question of a row, worded as in VLMEvalKit; the closing instruction is part of each mode's prompt."""
        if filled(row, "question_type") and filled(row, "answer_type"):
            return mathvista(row, str(number), images)
        question, hint = filled(row, "question"), filled(row, "hint")
        if question is None:
            raise Unusable(Fault.MALFORMED, "the question is empty", "fill the column `question`")
        index = index_of(filled(row, "index") or str(number))
        letters = [name for name in self.scan.columns if len(name) == 1 and name.isascii() and name.isupper()]
        options = {name: text for name in letters if (text := filled(row, name)) is not None}
        lead, answer = f"Hint: {hint}\n" if hint else "", filled(row, "answer")
        golds = lettered(answer, list(options)) if options else tuple(listed(answer or "") or filter(None, [answer]))
        if options:
            kind, scorer, text = AnswerKind.CHOICE, "exact", f"{lead}Question: {question}\nOptions:"
        else:
            kind, scorer = self._wanted(question)
            text = lead + question
        return QuestionRow(
            id=index,
            text=text,
            kind=kind,
            golds=golds,
            scorer=scorer,
            options=tuple(options.values()),
            images=images,
            group=base_of(index) if self.circular else None,
            category=filled(row, "category"),
            split=filled(row, "split"),
        )

    def _wanted(self, question: str) -> tuple[AnswerKind, str]:
        """Kind and scorer of a question without options: as set, else by the file's name, else by its words."""
        if self.kind is None and self._known:
            return self._known.kind, self._known.scorer
        guessed = guess_kind(question)
        kind = self.kind or (guessed if guessed in (AnswerKind.YES_NO, AnswerKind.NUMBER) else AnswerKind.SHORT_TEXT)
        return kind, "maths" if kind is AnswerKind.MATHS else "exact"

    def _sources(self, row: Row) -> tuple[tuple[str, str], ...]:
        """(column, value) of the row's images, with pointers followed; `image` has precedence over `image_path`."""
        image, path = row.get("image", "").strip(), filled(row, "image_path")
        if image and image.lower() != "nan":
            if len(image) <= POINTER_CHARS and not image.startswith("["):
                image = self._pointed(image)
            members = [self._pointed(each) if len(each) <= POINTER_CHARS else each for each in listed(image) or [image]]
            return tuple(("image", each) for member in members for each in listed(member) or [member])
        return tuple(("image_path", each) for each in (listed(path) or [path])) if path else ()

    def _pointed(self, pointer: str) -> str:
        """The image value of the row that a pointer names. Raises Unusable."""
        at = self.scan.offsets.get(index_of(pointer))
        if at is None:
            what = f"`image` is {pointer!r}, but no row has that index"
            raise Unusable(Fault.MISSING_IMAGE, what, "write base64, or the index of a row that holds the image")
        with self.path.open("rb") as file:
            file.seek(at)
            image = named(next(_parsed(file))[1], self.scan.columns).get("image", "").strip()
        if len(image) <= POINTER_CHARS:
            what = f"`image` names row {pointer!r}, which holds no image itself"
            raise Unusable(Fault.MISSING_IMAGE, what, "name a row that holds the image")
        return image


# --- bytes ------------------------------------------------------------------------------------------------------------


def _scanned(path: Path) -> Scan:
    columns, digest, offsets, rows, rotations = _header(path), hashlib.sha256(), dict[str, int](), 0, False
    place = columns.index("index") if "index" in columns else None
    for number, at, cells in islice(records(path, digest), 1, None):
        rows = number
        if place is not None and len(cells) > place:
            index = index_of(cells[place])
            offsets.setdefault(index, at)
            rotations = rotations or (base_of(index) != index and base_of(index) in offsets)
    return Scan(columns, offsets, rows, rotations, digest.hexdigest())


def _header(path: Path) -> tuple[str, ...]:
    _, _, first = next(records(path), (0, 0, []))
    columns = tuple(name.strip().removeprefix("\ufeff") for name in first)
    if "question" not in columns:
        header = ", ".join(columns)[:200] or "nothing"
        raise BadInput(
            f"{path} has no column `question` (its header: {header})",
            "is it a VLMEvalKit TSV, with tabs between columns?",
        )
    if twice := {name for name in columns if columns.count(name) > 1}:
        raise BadInput(f"{path} has the column {min(twice)!r} twice", "give every column a name of its own")
    return columns


def records(path: Path, digest: Any = None) -> Iterator[tuple[int, int, list[str]]]:
    """(number, byte offset, cells) of the header (number 0) and of every row that is not empty.

    Raises BadInput.
    """
    number = -1
    try:
        with reading(path), path.open("rb") as file:
            for number, (at, cells) in enumerate(_parsed(file, digest)):
                if cells or not number:
                    yield number, at, cells
    except Unusable as problem:
        where = "the header" if number < 0 else f"row {number + 1}"
        raise BadInput(f"{path}, {where}: {problem.what}", problem.hint) from problem


def _parsed(file: BinaryIO, digest: Any = None) -> Iterator[tuple[int, list[str]]]:
    """(byte offset, cells) of every record from the file's position on. Raises Unusable."""
    at, ended = file.tell(), False

    def lines() -> Iterator[str]:
        nonlocal at, ended
        while line := file.readline(MOST_FIELD_BYTES + 1):
            if len(line) > MOST_FIELD_BYTES:
                raise Unusable(Fault.MALFORMED, f"a line of over {MOST_FIELD_BYTES >> 20} MiB", "is this a TSV file?")
            at += len(line)
            if digest is not None:
                digest.update(line)
            yield line.decode("utf-8")
        ended = True

    csv.field_size_limit(max(csv.field_size_limit(), MOST_FIELD_BYTES))
    reader = csv.reader(lines(), delimiter="\t")
    while True:
        begins = at
        try:
            cells = next(reader)
        except StopIteration:
            return
        except UnicodeDecodeError as error:
            raise Unusable(Fault.MALFORMED, "the text is not UTF-8", "save the file as UTF-8") from error
        except csv.Error as error:
            raise Unusable(Fault.MALFORMED, f"it cannot be parsed: {error}", "is a quote left open?") from error
        if ended:  # the file ended inside the record
            raise Unusable(Fault.MALFORMED, "a quote that begins here is never closed", "close it, or write it twice")
        yield begins, cells


def named(cells: Sequence[str], columns: Sequence[str]) -> Row:
    """Cells by column. Raises Unusable if the numbers of cells and columns differ."""
    if len(cells) != len(columns):
        what = f"{len(cells)} cells for {len(columns)} columns"
        raise Unusable(Fault.MALFORMED, what, "a tab, a line break or a quote inside a cell has to stand in quotes")
    return dict(zip(columns, cells, strict=True))
