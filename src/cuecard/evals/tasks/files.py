"""Questions from files and from the Hugging Face hub: presets of benchmarks, and JSONL for custom data sets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from cuecard.answers import guess_kind
from cuecard.domain.errors import BadInput, did_you_mean, required
from cuecard.domain.question import AnswerKind, Image
from cuecard.evals.item import Aggregate
from cuecard.evals.tasks.presets import Preset, Row
from cuecard.evals.tasks.rows import (
    Fault,
    QuestionRow,
    RowsTask,
    Unusable,
    checked,
    decoded,
    found,
    json_lines,
    reading,
)

READ_AHEAD = 16
"""Rows of a parquet or arrow file that are decoded at a time."""
KEYS = {
    "id": "text or number; the line's number if there is none",
    "question": "text",
    "hint": "text that goes before the question",
    "image": "a path, or a list of paths",
    "images": "the same",
    "options": "a list of texts",
    "answer": "text or number, or a list of those that are right; none: not scored",
    "kind": "choice, yes_no, number, short_text, maths or free_text; by the question's words if there is none",
    "scorer": "exact, relaxed, anls, maths, …",
    "group": "text that rotations of one question share",
    "category": "text",
    "split": "text",
    "metadata": "anything: it is not looked at",
}
MOST_LINE_BYTES = 64 * 2**20


# --- a preset's rows --------------------------------------------------------------------------------------------------


class PresetTask(RowsTask):
    """The questions of a preset; subclasses provide the rows."""

    def __init__(self, name: str, where: str, preset: Preset) -> None:
        super().__init__(name, where)
        self.preset = preset

    @property
    def aggregate(self) -> Aggregate:
        return self.preset.aggregate

    def rows(self) -> Iterator[Row]:
        """All rows, from the first at every call. Raises BadInput."""
        raise NotImplementedError

    def questions(self) -> Iterator[tuple[int, QuestionRow | Unusable]]:
        for number, row in enumerate(self.rows(), 1):
            try:
                if number == 1:
                    self._expect(row)
                yield number, self.preset.read(row, str(number))
            except Unusable as problem:
                yield number, problem

    def image(self, source: Any) -> Image:
        """An image as stored in data sets: bytes, a path, or (in JSONL) base64. Raises Unusable."""
        if isinstance(source, dict):
            data, path = source.get("bytes"), source.get("path")
            if data:
                return checked(data) if isinstance(data, bytes) else decoded(str(data))
            source = path or ""
        if isinstance(source, bytes):
            return checked(source)
        where = Path(self.where)
        folder = where if where.is_dir() else where.parent
        if isinstance(source, str) and (len(source) > 1024 or source.startswith("data:")):
            return decoded(source)
        return found(str(source), [folder])

    def _expect(self, row: Row) -> None:
        """Raises BadInput if a column that the preset needs is missing."""
        missing = [column for column in self.preset.columns if not set(column.split("|")) & set(row)]
        if missing:
            wanted = missing[0].replace("|", "` or `")
            otherwise = f"{self.name.split(':')[0]} has the columns of {self.preset.dataset}"
            raise BadInput(
                f"{self.where} has no column `{wanted}` (it has: {', '.join(row)[:200]})",
                did_you_mean(missing[0], row, otherwise, form="`{}`"),
            )


class HubTask(PresetTask):
    """A data set of the hub, downloaded to `HF_HOME` by the package `datasets`; or a folder that it can load."""

    def __init__(
        self,
        name: str,
        preset: Preset,
        *,
        dataset: str | None = None,
        config: str | None = None,
        split: str | None = None,
        revision: str | None = None,
    ) -> None:
        super().__init__(name, dataset or preset.dataset, preset)
        self._config, self._split = config or (preset.config if dataset is None else None), split or preset.split
        self._commit = revision

    @cached_property
    def _tables(self) -> list[Any]:
        """One table per configuration, with images as encoded bytes. Raises BadInput."""
        datasets = required("datasets", self.name)
        tables = []
        for config in (self._config or "").split("+"):
            try:
                table = datasets.load_dataset(self.where, config or None, split=self._split, revision=self._commit)
            except Exception as error:  # errors of the network, the hub and formats have no common base class
                reason = " ".join(str(error).split())[:300]
                raise BadInput(
                    f"{self.where} ({self._split}) cannot be loaded: {reason}",
                    "is the network there, and HF_HOME right? a local file: path=FILE",
                ) from error
            encoded = datasets.Image(decode=False)
            for column, feature in table.features.items():
                if isinstance(feature, datasets.Image):
                    table = table.cast_column(column, encoded)
                elif isinstance(getattr(feature, "feature", None), datasets.Image):  # a list of images
                    table = table.cast_column(column, type(feature)(encoded))
            tables.append(table)
        return tables

    @property
    def revision(self) -> str:
        prints = [table._fingerprint for table in self._tables] if not self._commit else []
        one = prints[0] if len(prints) == 1 else hashlib.sha256("\n".join(prints).encode()).hexdigest()[:16]
        at = self._commit or f"fingerprint:{one}"
        return f"{self.where}/{self._config or 'default'}/{self._split}@{at}{self.preset.mark}"

    @property
    def count(self) -> int | None:
        return sum(map(len, self._tables))

    def rows(self) -> Iterator[Row]:
        for table in self._tables:
            yield from table


class FileTask(PresetTask):
    """A parquet, arrow or JSONL file with the columns of a preset's data set, read a few rows at a time."""

    def __init__(self, name: str, preset: Preset, path: Path) -> None:
        super().__init__(name, str(path), preset)
        self.path = path

    @cached_property
    def revision(self) -> str:
        with reading(self.path), self.path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}{self.preset.mark}"

    def rows(self) -> Iterator[Row]:
        read = {".parquet": _parquet, ".arrow": _arrow, ".jsonl": _jsonl}.get(self.path.suffix)
        if read is None:
            raise BadInput(f"{self.path} is not .parquet, .arrow, .jsonl or .tsv", "name one of those")
        try:
            with reading(self.path):
                yield from read(self.path)
        except ValueError as error:  # includes pyarrow's and JSON's errors about contents
            raise BadInput(f"{self.path} cannot be read: {' '.join(str(error).split())[:300]}") from error


def _parquet(path: Path) -> Iterator[Row]:
    parquet = required("pyarrow.parquet", "this file")
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=READ_AHEAD):
            yield from batch.to_pylist()


def _arrow(path: Path) -> Iterator[Row]:
    """Rows of an arrow stream, as `datasets` writes it, or of an arrow file with an index at its end."""
    ipc = required("pyarrow.ipc", "this file")
    with path.open("rb") as file:
        indexed = file.read(6) == b"ARROW1"
        file.seek(0)
        reader = ipc.open_file(file) if indexed else ipc.open_stream(file)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if indexed else iter(reader)
        for batch in batches:
            for at in range(0, batch.num_rows, READ_AHEAD):
                yield from batch.slice(at, READ_AHEAD).to_pylist()


def _jsonl(path: Path) -> Iterator[Row]:
    return (row for _, row in json_lines(path, "one JSON object a line"))


# --- JSONL: one JSON object per line, with paths of images ------------------------------------------------------------


class JsonlTask(RowsTask):
    """The questions of one JSONL file; image paths are relative to its folder, or to `images`."""

    def __init__(self, name: str, path: Path, *, images: Path | None = None, split: str | None = None) -> None:
        super().__init__(name, str(path))
        self.path, self._folder, self._split = path, images or path.parent, split

    @cached_property
    def _scan(self) -> tuple[str, bool, int]:
        """(SHA-256 of the file, whether its rows form groups, number of rows including malformed ones)."""
        digest, groups, count = hashlib.sha256(), False, 0
        for _, line in _lines(self.path):
            digest.update(line)
            row: dict[str, Any] = {}
            if b'"group"' in line or self._split is not None:
                with suppress(Unusable):
                    row = _object(line)
            groups = groups or bool(row.get("group"))
            count += bool(line.strip()) and (self._split is None or row.get("split", self._split) == self._split)
        return digest.hexdigest(), groups, count

    @property
    def revision(self) -> str:
        return f"sha256:{self._scan[0]}"

    @property
    def aggregate(self) -> Aggregate:
        return "circular" if self._scan[1] else "mean"

    @property
    def count(self) -> int | None:
        return self._scan[2]

    def questions(self) -> Iterator[tuple[int, QuestionRow | Unusable]]:
        for number, line in _lines(self.path):
            if not line.strip():
                continue
            try:
                asked = _asked(_object(line), number)
            except Unusable as problem:
                yield number, problem
                continue
            if self._split is None or asked.split == self._split:
                yield number, asked

    def image(self, source: Any) -> Image:
        return found(source, [self._folder])


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    with reading(path), path.open("rb") as file:
        while line := file.readline(MOST_LINE_BYTES + 1):
            number += 1
            if len(line) > MOST_LINE_BYTES:
                raise BadInput(f"{path}, row {number}: over {MOST_LINE_BYTES >> 20} MiB", "one object a line")
            yield number, line


def _object(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise Unusable(Fault.MALFORMED, f"it is not JSON: {error}", "write one JSON object a line") from error
    if not isinstance(row, dict):
        raise Unusable(Fault.MALFORMED, "it is not a JSON object", "write one JSON object a line")
    if unknown := sorted(set(row) - set(KEYS)):
        hint = did_you_mean(unknown[0], KEYS, form="{!r}")
        raise Unusable(Fault.MALFORMED, f"unknown key {unknown[0]!r}", hint)
    return row


def _asked(row: dict[str, Any], number: int) -> QuestionRow:
    question, hint = _text(row, "question"), _text(row, "hint")
    if question is None:
        raise Unusable(Fault.MALFORMED, "there is no question", 'write "question": "…"')
    options = tuple(_texts(row, "options"))
    given = _text(row, "kind")
    if given is not None and given not in set(AnswerKind) - {AnswerKind.JSON}:
        raise Unusable(Fault.MALFORMED, f"unknown kind {given!r}", f"it is {KEYS['kind']}")
    kind = AnswerKind(given) if given else guess_kind(question, options)
    return QuestionRow(
        id=_text(row, "id") or str(number),
        text=f"{hint}\n{question}" if hint else question,
        kind=kind,
        golds=tuple(_texts(row, "answer")),
        scorer=_text(row, "scorer") or ("maths" if kind is AnswerKind.MATHS else "exact"),
        options=options,
        images=tuple(_texts(row, "images" if "images" in row else "image")),
        group=_text(row, "group"),
        category=_text(row, "category"),
        split=_text(row, "split"),
    )


def _text(row: dict[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unusable(Fault.MALFORMED, f"{key!r} is not a text", f"it is {KEYS[key]}")
    return str(value)


def _texts(row: dict[str, Any], key: str) -> list[str]:
    value = row.get(key)
    members = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(each, bool) or not isinstance(each, str | int | float) for each in members):
        raise Unusable(Fault.MALFORMED, f"{key!r} is not {KEYS[key]}", "write texts")
    return [str(each) for each in members]
