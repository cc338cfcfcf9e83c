"""A report as files: the page, its figures as SVG and PNG, its tables as CSV and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuecard.domain.errors import BadInput
from cuecard.report.page.canvas import Drawing

Row = Mapping[str, Any]
Rows = Sequence[Row]


@dataclass(frozen=True)
class Report:
    """A page and the files beside it: figures as SVG and PNG, tables as CSV, `answers` as Parquet too."""

    page: str
    figures: Sequence[Drawing]
    tables: Mapping[str, Rows]

    def save(self, path: Path) -> list[Path]:
        """Write the page, and `figures/` and `tables/` beside it; return page and tables. Raises BadInput."""
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.page, encoding="utf-8")
        return [path, *save_files(self.figures, self.tables, path.parent)[len(self.figures) :]]


def save_files(figures: Sequence[Drawing], tables: Mapping[str, Rows], folder: Path) -> list[Path]:
    """Write `figures/` with captions, and `tables/`; return the SVG files, then the tables. Raises BadInput."""
    written = []
    with _writing(folder):
        for name in ("figures", "tables"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for each in figures:
            path = folder / "figures" / each.name
            path.with_suffix(".png").write_bytes(each.png)
            path.with_suffix(".svg").write_text(each.svg, encoding="utf-8")
            written.append(path.with_suffix(".svg"))
        captions = "\n\n".join(f"{each.name}: {each.caption}" for each in figures)
        (folder / "figures" / "captions.txt").write_text(captions + "\n", encoding="utf-8")
        for name, rows in tables.items():
            write_csv(path := folder / "tables" / f"{name}.csv", rows)
            written.append(path)
        if write_parquet(path := folder / "tables" / "answers.parquet", tables.get("answers", ())):
            written.append(path)
    return written


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(f"cannot write {error.filename or path}: {error.strerror}", "give another --out") from error


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write all columns that occur in any row. A quote precedes a text that a spreadsheet would read as a formula."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        written = csv.DictWriter(file, columns, restval="")
        written.writeheader()
        written.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)


def _harmless(value: Any) -> Any:
    if not isinstance(value, str) or not value or value[0] not in "=+-@\t\r":
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def write_parquet(path: Path, rows: Sequence[Row]) -> bool:
    """Write rows as Parquet; False without pyarrow or without rows."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return False
    if rows:
        parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    return bool(rows)
