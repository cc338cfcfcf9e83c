"""Tables as VLMEvalKit keeps them, read and written: .xlsx, .tsv, .json. Rows count from 1, without the header."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cuecard.disk import CannotStore
from cuecard.domain.errors import BadInput, MissingExtra
from cuecard.domain.question import letter
from cuecard.evals.interop import exports

Form = Literal["xlsx", "tsv", "json"]
CELL_CHARS = 32_767
"""More than this a cell of an Excel file does not hold."""
MOST_FIELD_CHARS = 256 * 2**20
LETTERS = tuple(map(letter, range(26)))
Row = dict[str, Any]


def rows(path: Path) -> Iterator[tuple[int, Row]]:
    """(number, cells by column) of every row of a file. Raises BadInput, MissingExtra (Excel)."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        pickle = "load it with pandas and save it as .tsv: a pickle may run code"
        hint = pickle if path.suffix == ".pkl" else "give the file that VLMEvalKit wrote"
        raise BadInput(f"{path} is not .xlsx, .tsv or .json", hint)
    if not path.is_file():
        raise BadInput(f"cannot read {path}: there is no such file", "is the path right?")
    return reader(path)


def text_of(value: Any) -> str:
    """A cell as text; nothing for what pandas takes for nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value)


def _named(columns: Sequence[Any]) -> list[str]:
    """Columns as VLMEvalKit compares them: in small letters, but for the options' letters."""
    return [name if name in LETTERS else name.lower() for name in (text_of(each).strip() for each in columns)]


def _of_tsv(path: Path) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(max(csv.field_size_limit(), MOST_FIELD_CHARS))
    number, columns = 0, None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for cells in csv.reader(file, delimiter="\t", strict=True):
                if columns is None:
                    columns = _named(cells)
                elif cells:
                    number += 1
                    if len(cells) != len(columns):
                        what = f"{path}, row {number}: {len(cells)} cells for {len(columns)} columns"
                        raise BadInput(what, "a tab, a line break or a quote inside a cell has to stand in quotes")
                    yield number, dict(zip(columns, cells, strict=True))
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: behind row {number} the text is not UTF-8", "save the file as UTF-8") from error
    except csv.Error as error:
        raise BadInput(f"{path}, row {number + 1} cannot be parsed: {error}", "is a quote left open?") from error


def _of_json(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON: {error}", "give the file as VLMEvalKit wrote it") from error
    if not isinstance(rows, list):
        raise BadInput(f"{path} is not a list of rows", "write [{'index': …, 'prediction': …}, …]")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise BadInput(f"{path}, row {number} is not an object", "write {'index': …, 'prediction': …}")
        yield number, dict(zip(_named(list(row)), row.values(), strict=True))


def _of_xlsx(path: Path) -> Iterator[tuple[int, Row]]:
    openpyxl = excel()
    try:
        book = openpyxl.load_workbook(path, read_only=True)  # what begins with = is text
        rows = list(book.worksheets[0].iter_rows(values_only=True)) if book.worksheets else []
        book.close()
    except Exception as error:  # what a broken file makes it raise is of no one class
        raise BadInput(f"{path} is not an Excel file: {error}", "give it as .xlsx, or PRED_FORMAT=tsv") from error
    columns = _named(rows[0]) if rows else []
    for number, cells in enumerate(rows[1:], 1):
        if any(cell is not None for cell in cells):
            yield number, {name: cell for name, cell in zip(columns, cells, strict=False) if name}


_READERS: Mapping[str, Callable[[Path], Iterator[tuple[int, Row]]]] = {
    ".tsv": _of_tsv,
    ".json": _of_json,
    ".xlsx": _of_xlsx,
}


def excel() -> Any:
    """openpyxl. Raises MissingExtra."""
    try:
        import openpyxl
    except ImportError as error:
        raise MissingExtra(
            "Excel files need openpyxl", "pip install '.[evals]' in a checkout, or PRED_FORMAT=tsv"
        ) from error
    return openpyxl


# --- writing ----------------------------------------------------------------------------------------------------------


def write(path: Path, columns: Sequence[str], table: Sequence[Row], form: Form) -> Path:
    """Write rows, a cell for each column. Raises BadInput where Excel cannot hold a text, MissingExtra, CannotStore."""
    match form:
        case "tsv":
            buffer = io.StringIO(newline="")
            writer = csv.writer(buffer, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([text_of(row.get(name)) for name in columns] for row in table)
            return exports.written(path, buffer.getvalue())
        case "json":
            plain = [{name: row.get(name) for name in columns} for row in table]
            return exports.written(path, json.dumps(plain, indent=4, ensure_ascii=False))
        case "xlsx":
            return _to_xlsx(path, columns, table)


def _to_xlsx(path: Path, columns: Sequence[str], table: Sequence[Row]) -> Path:
    openpyxl = excel()
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    for number, row in enumerate(table, 1):
        for name in columns:
            text, where = text_of(row.get(name)), f"{path.name}, row {number}, column `{name}`"
            if len(text) > CELL_CHARS:
                what = f"{where}: {len(text):,} characters, and Excel holds {CELL_CHARS:,}"
                raise BadInput(what, "give --format tsv or json")
            if ILLEGAL_CHARACTERS_RE.search(text):
                raise BadInput(f"{where}: a control character that Excel does not hold", "give --format tsv or json")
    book = openpyxl.Workbook()
    book.active.append(list(columns))
    for number, row in enumerate(table, 2):
        for place, name in enumerate(columns, 1):
            cell = book.active.cell(number, place, row.get(name))
            if isinstance(row.get(name), str):
                cell.data_type = "s"  # what begins with = is a text all the same
    try:
        book.save(path)
    except OSError as error:
        raise CannotStore(f"cannot write {path}: {error.strerror}") from error
    return path
