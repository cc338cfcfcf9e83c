"""A run's directory and the axes of its arrays.

The directory holds `run.json`, a compressed file a question, images of the questions that the page shows, and raw rows
on request. A question's file is written whole or not at all; one that cannot be read is computed again.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from cuecard import disk
from cuecard.attention.token_classes import TokenClass
from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image
from cuecard.models.local.token_spans import Span

QUERIES = ("first", "all")
"""The query that predicts the answer's first token; the mean over it and the answer's own tokens."""
SPANS = tuple(Span)
CLASSES = tuple(TokenClass)
BINS = 20
TOP = 0.2
"""The share of a reasoning's tokens that readers are compared by: those with the most mass."""
READINGS = ("card", "row")
"""Of the corollary: weights on the reasoning alone, normalised to sum to 1; or the whole row."""
BOUND = ("kept", "tight", "tight_plain", "bound", "moved")
"""Mass m that is kept; ||o - o_S|| as a share of its bound, renormalised and not; the renormalised bound, and
||o - o_S||, as shares of ||o||."""

OWN, CARD, NONE = "own reasoning", "small's card", "no reasoning"
LARGE_OWN, LARGE_CARD, SMALL_OWN = f"large: {OWN}", f"large: {CARD}", f"small: {OWN}"


VERSION, KIND = 1, "attention"


@dataclass(frozen=True)
class Record:
    """One question: what it is, the facts of each condition (or why it was skipped), arrays `CONDITION|NAME`."""

    meta: Mapping[str, Any]
    conditions: Mapping[str, Any]
    arrays: Mapping[str, Any]

    def array(self, condition: str, name: str) -> Any:
        """None where it is not stored."""
        return self.arrays.get(f"{condition}|{name}")


class Folder:
    """A run's directory, held by this process. Raises BadInput (held, another run), CannotStore."""

    def __init__(self, path: Path, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        self.path, self._lock = path, disk.locked(path)
        try:
            if (path / "run.json").exists():
                disk.same(about(path)["config"], config, path)
            else:
                disk.save(path / "run.json", {"version": VERSION, "kind": KIND, "config": config, **facts})
            for name in ("questions", "images", "raw"):
                (path / name).mkdir(exist_ok=True)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def read(self, index: int, id: str) -> Record | None:
        """The record of a question; None where there is none, or another question's, or a damaged one."""
        record = _load(_place(self.path, index))
        return record if record is not None and record.meta["id"] == id else None

    def write(self, index: int, record: Record, images: Sequence[Image]) -> None:
        for place, image in enumerate(images):
            (self.path / "images" / f"{index:06d}-{place}").write_bytes(image.data)
        text = json.dumps({"meta": record.meta, "conditions": record.conditions}, ensure_ascii=False)
        _save(_place(self.path, index), {**record.arrays, "told": np.array(text)})

    def write_raw(self, index: int, arrays: Mapping[str, Any]) -> None:
        """(layers, heads, queries, keys) of each condition, as fp32."""
        _save(self.path / "raw" / f"{index:06d}.npz", arrays)


def is_attention(path: Path) -> bool:
    """Whether a directory holds such a run."""
    try:
        return json.loads((path / "run.json").read_text(encoding="utf-8")).get("kind") == KIND
    except (OSError, ValueError, AttributeError):
        return False


def about(path: Path) -> dict[str, Any]:
    """The contents of `run.json`. Raises BadInput."""
    if not is_attention(path):
        raise BadInput(f"{path} is not the directory of an attention run", "`cuecard attention --out` makes one")
    facts: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
    if facts.get("version") != VERSION:
        raise BadInput(f"{path} is of version {facts.get('version')}, this cuecard reads {VERSION}")
    return facts


def records(path: Path) -> Iterator[tuple[int, Record]]:
    """Every question that is stored, in order."""
    for file in sorted((path / "questions").glob("*.npz")):
        if (record := _load(file)) is not None:
            yield int(file.stem), record


def images(path: Path, index: int) -> list[Image]:
    """The images that were kept of a question."""
    return [Image(file.read_bytes()) for file in sorted((path / "images").glob(f"{index:06d}-*"))]


def _place(path: Path, index: int) -> Path:
    return path / "questions" / f"{index:06d}.npz"


def _load(path: Path) -> Record | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = json.loads(str(file["told"]))
            return Record(
                stored["meta"], stored["conditions"], {name: file[name] for name in file.files if name != "told"}
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    with disk.replacing(path) as file:
        np.savez_compressed(file, **arrays)
