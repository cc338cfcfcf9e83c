"""A run's directory, the axes of its arrays, and the classes of tokens.

The directory holds `run.json`, a compressed file per question, images of the questions on the page, and raw rows on
request. Files of questions are written atomically; an unreadable one is computed again.
"""

from __future__ import annotations

import json
import re
import zipfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from cuecard import disk
from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image
from cuecard.models.local.network import Span

Array = np.ndarray[Any, Any]


class TokenClass(StrEnum):
    """Classes of reasoning tokens. A token is in exactly one: that of the word it begins in or is a part of."""

    ANSWER = "answer"
    """A word of the answer, at any position."""
    NUMBER = "number"
    POSITION = "position"
    """Names a place: `cell`, `row`, `left`, and a number after such a word."""
    NAME = "name"
    """Colours, capitalised words inside a sentence, and names from the question."""
    CONNECTIVE = "connective"
    FUNCTION = "function word"
    WORD = "other word"
    MARK = "punctuation"


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


NUMBERED = _set("cell cells row rows column columns col place position positions")
PLACES = NUMBERED | _set(
    """top bottom left right above below under over middle center centre corner edge side up down forward back north
    south east west inside outside"""
)
COLOURS = _set("red green blue yellow orange purple pink black white grey gray brown teal cyan magenta")
CONNECTIVES = _set(
    """so now then therefore thus hence because since but however although though while if when first second third next
    finally also let and or not wait again instead otherwise step"""
)
FUNCTIONS = _set(
    """a an the of to at in on by for from with as is are was were be been it its this that these those there here we us
    i you he she they them our my your which who what where how do does did has have had can will would should"""
)
# a number with its separators and per cent sign, a word, or any other mark
_WORD = re.compile(r"\d+(?:[.,:/]\d+)*%?|[^\W\d_]+(?:['’][^\W\d_]+)?|[^\w\s]|_")


def classes(pieces: Sequence[str], answer: str, question: str) -> list[TokenClass]:
    """The class of each reasoning token."""
    text = "".join(pieces)
    words = list(_WORD.finditer(text))
    word_classes, starts = _classes(words, answer, question), [word.start() for word in words]
    token_classes, end = [], 0
    for piece in pieces:
        at = end + len(piece) - len(piece.lstrip())
        end += len(piece)
        place = bisect_right(starts, at) - 1
        token_classes.append(word_classes[place] if place >= 0 and piece.strip() else TokenClass.MARK)
    return token_classes


def _classes(words: Sequence[re.Match[str]], answer: str, question: str) -> list[TokenClass]:
    answer_words = {each.casefold() for each in _WORD.findall(answer)}
    named = {each for each in _WORD.findall(question)[1:] if each[0].isupper()}
    previous = [".", *(word.group() for word in words)]
    return [_class(word.group(), before, answer_words, named) for word, before in zip(words, previous, strict=False)]


def _class(word: str, before: str, answer_words: set[str], named: set[str]) -> TokenClass:
    small = word.casefold()
    if word[0].isdigit() and before.casefold() in NUMBERED:
        return TokenClass.POSITION
    if small in answer_words and small not in FUNCTIONS:
        return TokenClass.ANSWER if word[0].isalnum() else TokenClass.MARK
    if word[0].isdigit():
        return TokenClass.NUMBER
    if not word[0].isalpha():
        return TokenClass.MARK
    for members, kind in (
        (PLACES, TokenClass.POSITION),
        (CONNECTIVES, TokenClass.CONNECTIVE),
        (FUNCTIONS, TokenClass.FUNCTION),
    ):
        if small in members:
            return kind
    inner = word[0].isupper() and before not in (".", "!", "?", ":", "\n")
    return TokenClass.NAME if small in COLOURS or inner or word in named else TokenClass.WORD


def conclusion(pieces: Sequence[str]) -> list[bool]:
    """(tokens): whether each token is in the reasoning's last sentence."""
    text = "".join(pieces).rstrip()
    ends = [match.end() for match in re.finditer(r"[.!?。！？](?=\s|$)|\n+", text) if match.end() < len(text)]
    start = ends[-1] if ends else 0
    return [end > start for end in accumulate(map(len, pieces))]


QUERIES = ("first", "all")
"""`first`: the query that predicts the answer's first token; `all`: mean over it and the answer's own tokens."""
SPANS = tuple(Span)
CLASSES = tuple(TokenClass)
BINS = 20
TOP = 0.2
"""Readers are compared by this share of the reasoning's tokens, those with the most mass."""
READINGS = ("card", "row")
"""Readings of the corollary. `card`: weights on the reasoning alone, normalised to sum to 1; `row`: the whole row."""
BOUND = ("kept", "tight", "tight_plain", "bound", "moved")
"""Figures of the bound: mass m that is kept; ||o - o_S|| as a share of its bound, renormalised and not; the
renormalised bound, and ||o - o_S||, as shares of ||o||."""

OWN, CARD, NONE = "own reasoning", "small's card", "no reasoning"
LARGE_OWN, LARGE_CARD, SMALL_OWN = f"large: {OWN}", f"large: {CARD}", f"small: {OWN}"

VERSION, KIND, ABOUT = 1, "attention", "run.json"
FACTS = "told"
"""The key of a question's facts, as JSON, in its file of arrays."""


@dataclass(frozen=True)
class Record:
    """One question: metadata, facts of each condition (or why it was skipped), arrays `CONDITION|NAME`."""

    meta: Mapping[str, Any]
    conditions: Mapping[str, Any]
    arrays: Mapping[str, Any]

    def array(self, condition: str, name: str) -> Any:
        """An array of one condition; None if it is not stored."""
        return self.arrays.get(f"{condition}|{name}")


class Folder:
    """A run's directory, locked by this process. Raises BadInput (locked, another run), CannotStore."""

    def __init__(self, path: Path, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        self.path, self._lock = path, disk.locked(path, ABOUT)
        try:
            if (path / ABOUT).exists():
                disk.same(about(path)["config"], config, path)
            else:
                disk.save(path / ABOUT, {"version": VERSION, "kind": KIND, "config": config, **facts})
            for name in ("questions", "images", "raw"):
                (path / name).mkdir(exist_ok=True)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def read(self, index: int, id: str) -> Record | None:
        """The record of a question; None if it is missing, damaged, or of another question."""
        record = _load(_place(self.path, index))
        return record if record is not None and record.meta["id"] == id else None

    def write(self, index: int, record: Record, images: Sequence[Image]) -> None:
        for place, image in enumerate(images):
            (self.path / "images" / f"{index:06d}-{place}").write_bytes(image.data)
        text = json.dumps({"meta": record.meta, "conditions": record.conditions}, ensure_ascii=False)
        _save(_place(self.path, index), {**record.arrays, FACTS: np.array(text)})

    def write_raw(self, index: int, arrays: Mapping[str, Any]) -> None:
        """Store rows (layers, heads, queries, keys) of each condition as fp32."""
        _save(self.path / "raw" / f"{index:06d}.npz", arrays)


def about(path: Path) -> dict[str, Any]:
    """The contents of `run.json`, without its version. Raises BadInput."""
    file, hint = path / ABOUT, "`cuecard attention --out` makes one"
    data = disk.load(file, VERSION, "the file of a run", hint, dict) if disk.is_there(file) else {}
    if data.get("kind") != KIND:
        raise BadInput(f"{path} is not the directory of an attention run", hint)
    return data


def records(path: Path) -> Iterator[tuple[int, Record]]:
    """All stored questions, in order."""
    for file in sorted((path / "questions").glob("*.npz")):
        if (record := _load(file)) is not None:
            yield int(file.stem), record


def images(path: Path, index: int) -> list[Image]:
    """The stored images of a question."""
    return [Image(file.read_bytes()) for file in sorted((path / "images").glob(f"{index:06d}-*"))]


@dataclass(frozen=True)
class Shades:
    """Token masses of one condition. Index 0 of the layers and of the heads is the mean over all."""

    answer: str
    right: float | None
    pieces: Sequence[str]
    rows: Array
    """(sets, 1 + layers, 1 + heads, tokens): shares of the whole row."""
    carrying: Array
    """(sets, 1 + layers, 1 + heads): number of tokens that carry delta of the mass on the reasoning."""


@dataclass(frozen=True)
class ShadedQuestion:
    """One question with its token masses."""

    meta: Mapping[str, Any]
    images: Sequence[Image]
    shades: Mapping[str, Shades]


def shaded_questions(path: Path, delta: float, most: int) -> list[ShadedQuestion]:
    """The first questions of a run with stored token masses, at most `most`."""
    shown: list[ShadedQuestion] = []
    for index, record in records(path):
        shades = {name: made for name in record.conditions if (made := _shades(name, record, delta)) is not None}
        if shades and len(shown) < most:
            shown.append(ShadedQuestion(record.meta, images(path, index), shades))
    return shown


def _shades(name: str, record: Record, delta: float) -> Shades | None:
    keys, condition = record.array(name, "keys"), record.conditions[name]
    if keys is None or not keys.shape[-1]:
        return None
    rows = keys.astype(np.float64).swapaxes(0, 1)  # (sets, layers, heads, tokens)
    for axis in (1, 2):
        rows = np.concatenate((rows.mean(axis, keepdims=True), rows), axis)
    carried = np.cumsum(-np.sort(-rows, -1), -1)
    needed = (carried < delta * rows.sum(-1, keepdims=True) * (1 - 1e-6)).sum(-1) + 1
    carrying = np.minimum(needed, rows.shape[-1])
    return Shades(condition["answer"], condition["right"], condition["pieces"], rows, carrying)


def _place(path: Path, index: int) -> Path:
    return path / "questions" / f"{index:06d}.npz"


def _load(path: Path) -> Record | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = json.loads(str(file[FACTS]))
            arrays = {name: file[name] for name in file.files if name != FACTS}
            return Record(stored["meta"], stored["conditions"], arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    with disk.replacing(path) as file:
        np.savez_compressed(file, **arrays)
