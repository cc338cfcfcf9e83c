"""Benchmarks from the Hugging Face hub, by a preset's name; or from a local file of the same shape."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from cuecard.domain.errors import BadInput, MissingExtra
from cuecard.domain.question import Image
from cuecard.evals.item import Aggregate
from cuecard.evals.tasks.presets import Preset, Row
from cuecard.evals.tasks.rows import QuestionRow, RowsTask, Unusable, checked, decoded, found, reading

READ_AHEAD = 16
"""Rows of a parquet file that are decoded at a time."""


class PresetTask(RowsTask):
    """The questions of a preset, whose rows a subclass gives."""

    def __init__(self, name: str, where: str, preset: Preset) -> None:
        super().__init__(name, where)
        self.preset = preset

    @property
    def aggregate(self) -> Aggregate:
        return self.preset.aggregate

    def rows(self) -> Iterator[Row]:
        """Every row, from the first. Raises BadInput."""
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
        """An image as data sets keep it: its bytes, a path, or (in JSONL) base64."""
        if isinstance(source, dict):
            data, path = source.get("bytes"), source.get("path")
            if data:
                return checked(data) if isinstance(data, bytes) else decoded(str(data))
            source = path or ""
        if isinstance(source, bytes):
            return checked(source)
        folder = Path(self.where).parent
        if isinstance(source, str) and (len(source) > 1024 or source.startswith("data:")):
            return decoded(source)
        return found(str(source), [folder])

    def _expect(self, row: Row) -> None:
        """Raises BadInput where a column that the preset needs is not there."""
        missing = [column for column in self.preset.columns if not set(column.split("|")) & set(row)]
        if missing:
            wanted = missing[0].replace("|", "` or `")
            raise BadInput(
                f"{self.where} has no column `{wanted}` (it has: {', '.join(row)[:200]})",
                f"{self.name.split(':')[0]} has the columns of {self.preset.dataset}",
            )


class HubTask(PresetTask):
    """A data set of the hub, fetched into `HF_HOME` by the package `datasets`; or a folder that it can load."""

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
    def _table(self) -> Any:
        datasets = _imported("datasets", self.name)
        try:
            table = datasets.load_dataset(self.where, self._config, split=self._split, revision=self._commit)
        except Exception as error:  # of the network, the hub, its formats: a wide family without a root of its own
            reason = " ".join(str(error).split())[:300]
            raise BadInput(
                f"{self.where} ({self._split}) cannot be loaded: {reason}",
                "is the network there, and HF_HOME right? a local file: path=FILE",
            ) from error
        for column, feature in table.features.items():
            if isinstance(feature, datasets.Image):
                table = table.cast_column(column, datasets.Image(decode=False))  # the bytes as they are kept
        return table

    @property
    def revision(self) -> str:
        at = self._commit or f"fingerprint:{self._table._fingerprint}"
        return f"{self.where}/{self._config or 'default'}/{self._split}@{at}"

    @property
    def count(self) -> int | None:
        return None if self._table is None else len(self._table)

    def rows(self) -> Iterator[Row]:
        yield from self._table


class FileTask(PresetTask):
    """A parquet, arrow or JSONL file with the columns of a preset's data set, read a few rows at a time."""

    def __init__(self, name: str, preset: Preset, path: Path) -> None:
        super().__init__(name, str(path), preset)
        self.path = path

    @cached_property
    def revision(self) -> str:
        with reading(self.path), self.path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"

    @property
    def count(self) -> int | None:
        return None

    def rows(self) -> Iterator[Row]:
        read = {".parquet": _parquet, ".arrow": _arrow, ".jsonl": _jsonl}.get(self.path.suffix)
        if read is None:
            raise BadInput(f"{self.path} is not .parquet, .arrow, .jsonl or .tsv", "name one of those")
        try:
            with reading(self.path):
                yield from read(self.path)
        except ValueError as error:  # pyarrow's and JSON's errors about contents are among these
            raise BadInput(f"{self.path} cannot be read: {' '.join(str(error).split())[:300]}") from error


def _parquet(path: Path) -> Iterator[Row]:
    parquet = _imported("pyarrow.parquet", "this file")
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=READ_AHEAD):
            yield from batch.to_pylist()


def _arrow(path: Path) -> Iterator[Row]:
    """A stream, as `datasets` writes it, or a file with an index at its end."""
    ipc = _imported("pyarrow.ipc", "this file")
    with path.open("rb") as file:
        indexed = file.read(6) == b"ARROW1"
        file.seek(0)
        reader = ipc.open_file(file) if indexed else ipc.open_stream(file)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if indexed else iter(reader)
        for batch in batches:
            for at in range(0, batch.num_rows, READ_AHEAD):
                yield from batch.slice(at, READ_AHEAD).to_pylist()


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for line in filter(str.strip, file):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("a line is not a JSON object")
            yield row


def _imported(module: str, what: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(f"{what} needs {error.name}", "pip install '.[evals]' in a checkout") from error
