"""Shared by all file formats: each row becomes an item, or a flaw with the row's number and a hint."""

from __future__ import annotations

import ast
import base64
import binascii
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind, Image, Question, letter
from cuecard.evals.item import Aggregate, Item
from cuecard.evals.scorers import SCORERS, option_meant
from cuecard.models.images import images as pictures

MOST_NAME_CHARS = 4096
ROTATION = 1_000_000
"""Rotation k of a question has the index base + k * 1,000,000."""


class Fault(StrEnum):
    """The types of flaws of a row."""

    MISSING_IMAGE = "missing image"
    BROKEN_IMAGE = "broken image"
    DUPLICATE = "duplicate id"
    UNSCORABLE = "cannot be scored"
    MALFORMED = "malformed"
    DROPPED = "dropped: no image"


@dataclass(frozen=True)
class Flaw:
    """A row that is not an item: its number, the fault and a hint. Rows are DROPPED if the format requires it."""

    row: int
    fault: Fault
    what: str
    hint: str

    @property
    def stops(self) -> bool:
        """Whether the flaw makes the file unusable for a run."""
        return self.fault is not Fault.DROPPED


class Unusable(Exception):
    """Raised while a row is read; `RowsTask.read` converts it into a flaw."""

    def __init__(self, fault: Fault, what: str, hint: str) -> None:
        super().__init__(what)
        self.fault, self.what, self.hint = fault, what, hint


@dataclass(frozen=True)
class QuestionRow:
    """The question of a row, before its images are loaded."""

    id: str
    text: str
    kind: AnswerKind
    golds: tuple[str, ...]
    scorer: str
    options: tuple[str, ...] = ()
    images: tuple[Any, ...] = ()
    """Encoded bytes, base64 text, or paths."""
    group: str | None = None
    category: str | None = None
    split: str | None = None
    extra: str | None = None


class RowsTask(ABC):
    """A task with the rows of a file or a table as items. `where`: its name in messages."""

    def __init__(self, name: str, where: str) -> None:
        self.name, self.where = name, where

    @property
    @abstractmethod
    def revision(self) -> str:
        """Identity of the data: a hash of the file, or the name and revision of the table."""

    @property
    def count(self) -> int | None:
        """The number of items; None if known only after reading all rows, because rows without an image are dropped."""
        return None

    @property
    def aggregate(self) -> Aggregate:
        """How the task's score is computed from the items' scores."""
        return "mean"

    @abstractmethod
    def questions(self) -> Iterator[tuple[int, QuestionRow | Unusable]]:
        """(number, question) of every row; rows count from 1, without a header."""

    @abstractmethod
    def image(self, source: Any) -> Image:
        """Load one image of a row. Raises Unusable."""

    def read(self) -> Iterator[Item | Flaw]:
        """All rows, each as an item or a flaw."""
        seen: dict[str, int] = {}
        for row, asked in self.questions():
            try:
                if isinstance(asked, Unusable):
                    raise asked
                if asked.id in seen:
                    what = f"the id {asked.id[:80]!r} stands in row {seen[asked.id]} too"
                    raise Unusable(Fault.DUPLICATE, what, "give every row an id of its own")
                seen[asked.id] = row
                yield item(asked, tuple(self.image(source) for source in asked.images))
            except Unusable as problem:
                yield Flaw(row, problem.fault, problem.what, problem.hint)

    def items(self) -> Iterator[Item]:
        """All items, from the first at every call. Raises BadInput with the row and a hint."""
        for found in self.read():
            if isinstance(found, Item):
                yield found
            elif found.stops:
                raise BadInput(f"{self.where}, row {found.row}: {found.what}", found.hint)


def item(asked: QuestionRow, images: tuple[Image, ...]) -> Item:
    """The item of a row and its images. Raises Unusable if it is malformed or cannot be scored."""
    if not asked.text.strip():
        raise Unusable(Fault.MALFORMED, "the question is empty", "give every row a question")
    if asked.scorer not in SCORERS:
        raise Unusable(Fault.UNSCORABLE, f"there is no scorer {asked.scorer!r}", f"there are: {', '.join(SCORERS)}")
    if asked.kind is AnswerKind.CHOICE and not 2 <= len(asked.options) <= 26:
        raise Unusable(
            Fault.UNSCORABLE, f"a choice with {len(asked.options)} options", "give 2 to 26, in columns A, B, C, …"
        )
    try:
        "".join((asked.id, asked.text, *asked.options, *asked.golds)).encode()
    except UnicodeEncodeError as error:
        raise Unusable(Fault.MALFORMED, "half a character stands in the text", "write the text as UTF-8") from error
    question = Question(asked.text, images, asked.options, asked.kind)
    digests = [image.digest for image in images]
    one = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    cluster = one if digests else asked.group or asked.id
    return Item(
        id=asked.id,
        question=question,
        golds=_meant(asked.golds, question),
        scorer=asked.scorer,
        cluster=cluster,
        group=asked.group,
        category=asked.category,
        split=asked.split,
        extra=asked.extra,
    )


def _meant(golds: tuple[str, ...], question: Question) -> tuple[str, ...]:
    """The golds as they are compared: letters for a choice, yes or no in lower case. Raises Unusable."""
    if question.kind is AnswerKind.CHOICE:
        letters = [option_meant(gold, question) for gold in golds]
        if None in letters:
            there = ", ".join(letter(index) for index in range(len(question.options)))
            what = f"the answer {golds[letters.index(None)][:80]!r} is none of the options {there}"
            raise Unusable(Fault.UNSCORABLE, what, "write the letter of an option, or its words")
        return tuple(each for each in letters if each)
    if question.kind is AnswerKind.YES_NO:
        lowered = tuple(gold.strip().lower() for gold in golds)
        if wrong := [gold for gold in lowered if gold not in ("yes", "no")]:
            raise Unusable(Fault.UNSCORABLE, f"the answer {wrong[0][:80]!r} is not yes or no", "write yes or no")
        return lowered
    return golds


# --- cells ------------------------------------------------------------------------------------------------------------


def filled(row: Mapping[str, Any], *names: str) -> str | None:
    """The text of the first of these columns that is not empty or NaN; None if there is none."""
    for name in names:
        value = row.get(name)
        if value is None or value != value:  # nan is unequal to itself
            continue
        text = str(value).strip()
        if text and text.lower() != "nan":
            return text
    return None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Context that raises BadInput for an OSError."""
    try:
        yield
    except OSError as error:  # includes pyarrow's errors about files
        raise BadInput(f"cannot read {path}: {error.strerror or error}", "is the path right?") from error


def json_lines(path: Path, hint: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of every line that is not empty. Raises BadInput; `hint`: for malformed lines."""
    number = 0
    try:
        with reading(path), path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise BadInput(f"{path}, line {number} is not an object", hint)
                    yield number, row
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: behind line {number} the text is not UTF-8", "save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}, line {number} is not JSON: {error}", hint) from error


def index_of(text: str) -> str:
    """An index in normal form: "12.0", as pandas writes integers in a column with gaps, becomes "12"."""
    stem, dot, rest = text.strip().partition(".")
    return stem if dot and stem.isdecimal() and not rest.strip("0") else text.strip()


def base_of(index: str) -> str:
    """The index of the question of which this is a rotation; the index itself if it is not a rotation."""
    return str(int(index) % ROTATION) if index.isdecimal() and 7 <= len(index) <= 18 else index


def lettered(answer: str | None, letters: Sequence[str]) -> tuple[str, ...]:
    """The gold of a choice, as the letter with which its option is shown.

    Options A, B and D are shown as A, B and C, so D becomes C. None (unknown) gives (); words stay words. Raises
    Unusable for the letter of a missing option.
    """
    if answer is None:
        return ()
    if (
        len(answer) == 1
        and answer.isalpha()
        and answer.upper() not in letters
        and answer.upper() < max(letters, default="")
    ):
        what = f"the answer is option {answer.upper()}, which is empty"
        raise Unusable(Fault.UNSCORABLE, what, "fill the option, or write the letter of another one")
    return (letter(letters.index(answer.upper())) if answer.upper() in letters else answer,)


def listed(value: str) -> list[str] | None:
    """The members of a list that is written as text ("['a', 'b']"); None if it is not a list."""
    text = value.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            members = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(members, list | tuple):
            return [str(member) for member in members]
    return None


def decoded(text: str) -> Image:
    """The image of a base64 text, with or without the prefix of a data URL. Raises Unusable."""
    body = text.partition(",")[2] if text.startswith("data:") else text
    try:
        data = base64.b64decode("".join(body.split()), validate=True)
    except (ValueError, binascii.Error) as error:
        what = f"the image is neither base64 nor a row's index ({len(text):,} characters)"
        raise Unusable(
            Fault.BROKEN_IMAGE, what, "write base64, a path in image_path, or another row's index"
        ) from error
    return checked(data)


def checked(data: bytes) -> Image:
    """The image of these bytes. Raises Unusable."""
    try:
        return pictures.checked(data, "the image")
    except BadInput as error:
        raise Unusable(Fault.BROKEN_IMAGE, error.message, error.hint) from error


def found(name: str, folders: Sequence[Path]) -> Image:
    """The image at a path: absolute, or relative to the first folder that has it. Raises Unusable."""
    if len(name) > MOST_NAME_CHARS or "\0" in name:
        raise Unusable(Fault.MISSING_IMAGE, "the image's path is no path", "write a path, or base64 in `image`")
    for path in [Path(name)] if os.path.isabs(name) else [folder / name for folder in folders]:
        try:
            if path.is_file():
                return pictures.load(path)
        except OSError:
            continue
        except BadInput as error:
            raise Unusable(Fault.BROKEN_IMAGE, error.message, error.hint) from error
    looked = " and ".join(map(str, folders)) or "the path itself"
    raise Unusable(Fault.MISSING_IMAGE, f"there is no image {name[:200]}", f"looked for below {looked}")
