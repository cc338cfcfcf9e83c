"""VLMEvalKit's prediction files: MODEL_DATASET.xlsx, .tsv or .json, the data's columns and `prediction` (`thinking`).

As its `inference.py` and `smp/file.py` write and read them, 2026: all columns but `image`, one row per question,
strings cut at 32,767 characters (Excel's limit), and a fixed phrase if no answer was obtained.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from cuecard import disk
from cuecard.answers import extract
from cuecard.domain.errors import BadInput, required
from cuecard.domain.question import AnswerKind, Question, letter
from cuecard.evals import interop
from cuecard.evals.interop import ArmExport, ExportedAnswer, LocatedItems, RecordedReply
from cuecard.evals.item import Item
from cuecard.evals.tasks import tsv
from cuecard.evals.tasks.presets import PRESETS
from cuecard.evals.tasks.rows import Unusable, index_of, lettered

Form = Literal["xlsx", "tsv", "json"]
CELL_CHARS = 32_767
"""Maximum characters of a cell in Excel."""
LETTERS = tuple(map(letter, range(26)))
Row = dict[str, Any]
FAILED = "Failed to obtain answer"
"""Prefix of the text that replaces the prediction of a failed request."""


def read(path: Path, known: LocatedItems) -> Iterator[RecordedReply]:
    """All replies of a prediction file. Raises BadInput, MissingExtra (Excel)."""
    for number, row in table_rows(path):
        where = f"row {number}"
        for column in ("index", "prediction"):
            if column not in row:
                there = ", ".join(map(str, row))[:200]
                raise BadInput(f"{path}, {where}: there is no column `{column}` (there are: {there})", _WHICH)
        place, hint = f"{path}, {where}, column", "give the data that VLMEvalKit ran on: --task tsv:FILE"
        item = interop.item_at(f"{place} `index`", text_of(row["index"]), known, hint)
        gold = text_of(row.get("answer")).strip() or None
        if letters := gap(row, item):
            gold = next(iter(lettered(gold, letters)), None)
        interop.check_question(f"{place} `question`", text_of(row.get("question")), item)
        is_cut = path.suffix.lower() == ".xlsx" and len(text_of(row["prediction"])) >= CELL_CHARS
        yield replace(_reply(row, item, where), gold=gold, unused=_CUT if is_cut else None)


def model(path: Path, task: str) -> str:
    """The model's name, from the name of a prediction file without the data set."""
    return path.stem.removesuffix(f"_{SETS.get(task) or interop.dataset_of({'name': task})}") or path.stem


_CUT = "the prediction fills a cell of Excel and is cut off (PRED_FORMAT=tsv)"
_WHICH = "give the prediction file, which has `index` and `prediction`, not the data or a judge's result"


def _reply(row: Row, item: Item, where: str) -> RecordedReply:
    prediction, thinking = text_of(row["prediction"]), text_of(row.get("thinking")).strip()
    if prediction.startswith(FAILED):
        return RecordedReply(item.id, where, "", error=interop.one_line(prediction))
    answer, reasoning, unclosed = interop.parted(prediction, interop.parted(thinking)[1] or thinking)
    return RecordedReply(item.id, where, _closed_up(answer, row, item), reasoning, unclosed)


def gap(row: Mapping[str, Any], item: Item) -> list[str]:
    """The letters of a row's options if some letters are missing (A, B, D); [] if they are the letters shown."""
    if item.question.kind is not AnswerKind.CHOICE:
        return []
    filled = [name for name in LETTERS if text_of(row.get(name)).strip()]
    options = len(item.question.options)
    return filled if len(filled) == options and filled != list(LETTERS[:options]) else []


def _closed_up(reply: str, row: Row, item: Item) -> str:
    """The reply; if the row has missing letters, its letter in our numbering without gaps (A, B, D -> A, B, C)."""
    letters = gap(row, item)
    if not letters:
        return reply
    shown = LETTERS[: LETTERS.index(letters[-1]) + 1]
    texts = dict(zip(letters, item.question.options, strict=True))
    options = tuple(texts.get(name, f"(no option {name})") for name in shown)
    found = extract(reply, Question(item.question.text, (), options, AnswerKind.CHOICE))
    return letter(letters.index(str(found.value))) if found.parsed and found.value in letters else reply


# --- writing ----------------------------------------------------------------------------------------------------------

SETS = {name: preset.vlmevalkit for name, preset in PRESETS.items() if preset.vlmevalkit}
"""VLMEvalKit's names of our presets' data sets."""
_LAST = ("answer", "category", "split", "prediction", "thinking")


def write(
    answers: ArmExport, out: Path, form: Form = "xlsx", data: Path | None = None, name: str | None = None
) -> Path:
    """Write MODEL_DATASET.xlsx; with `data` (the set's TSV file), in its columns. Raises BadInput, CannotStore."""
    dataset = name or (data.stem if data else SETS.get(answers.task["name"]) or interop.dataset_of(answers.task))
    there = dict[str, Row]()
    for _, row in table_rows(data) if data else ():
        there[index_of(text_of(row.get("index")))] = {name: row[name] for name in row if name != "image"}
    table = [_row(each, there if data else None, data) for each in answers.rows]
    columns = list(dict.fromkeys(name for row in table for name in row if name not in _LAST))
    columns.sort(key=lambda name: name in LETTERS and LETTERS.index(name) + 1)
    columns = [name for name in columns if name not in LETTERS] + [name for name in columns if name in LETTERS]
    columns += [name for name in _LAST if any(text_of(row.get(name)) for row in table) or name == "prediction"]
    path = interop.into(out) / f"{answers.model}_{interop.named(dataset)}.{form}"
    return write_table(path, columns, table, form)


def _row(each: ExportedAnswer, there: Mapping[str, Row] | None, data: Path | None) -> Row:
    item, answer = each.item, each.answer
    failed = f"{FAILED} via API. {answer['reason']}" if answer["status"] == "error" else None
    texts = {"prediction": failed or answer["reply"] or "", "thinking": each.thinking or ""}
    if there is None:
        question, hint = interop.question_of(item["text"])
        golds = item["golds"]
        return {
            "index": int(item["id"]) if re.fullmatch(r"0|[1-9][0-9]{0,15}", item["id"]) else item["id"],
            **({"hint": hint} if hint else {}),
            "question": question,
            **dict(zip(LETTERS, item["options"], strict=False)),
            "answer": golds[0] if len(golds) == 1 else str(golds) if golds else "",
            "category": item["category"],
            "split": item["split"],
            **texts,
        }
    row = there.get(item["id"])
    if row is None:
        what = f"{data} has no row of the index {item['id'][:80]!r}"
        raise BadInput(what, "give the TSV file that the run was made on, or leave --data out")
    filled = [name for name in LETTERS if text_of(row.get(name)).strip()]
    if answer["parsed"] and len(filled) == len(item["options"]) and filled != list(LETTERS[: len(filled)]):
        # the file has missing letters: convert the answer back to the file's letters
        texts["prediction"] = (
            filled[LETTERS.index(answer["answer"])] if answer["answer"] in LETTERS else texts["prediction"]
        )
    return row | texts


# --- tables: .xlsx, .tsv, .json; rows count from 1, without the header ------------------------------------------------


def table_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """(row number, cells by column) of every row of a file. Raises BadInput, MissingExtra (Excel)."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        pickle = "load it with pandas and save it as .tsv: a pickle may run code"
        hint = pickle if path.suffix == ".pkl" else "give the file that VLMEvalKit wrote"
        raise BadInput(f"{path} is not .xlsx, .tsv or .json", hint)
    if not path.is_file():
        raise BadInput(f"cannot read {path}: there is no such file", "is the path right?")
    return reader(path)


def text_of(value: Any) -> str:
    """A cell as text; empty for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value)


def _named(columns: Sequence[Any]) -> list[str]:
    """Columns as VLMEvalKit compares them: in lower case, except the options' letters."""
    return [name if name in LETTERS else name.lower() for name in (text_of(each).strip() for each in columns)]


def _of_tsv(path: Path) -> Iterator[tuple[int, Row]]:
    columns = list[str]()
    for number, _, cells in tsv.records(path):
        if not number:
            columns = _named([name.removeprefix("\ufeff") for name in cells])
            continue
        try:
            yield number, dict(tsv.named(cells, columns))
        except Unusable as problem:
            raise BadInput(f"{path}, row {number}: {problem.what}", problem.hint) from problem


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
        book = openpyxl.load_workbook(path, read_only=True)  # read cells that start with = as text
        rows = list(book.worksheets[0].iter_rows(values_only=True)) if book.worksheets else []
        book.close()
    except Exception as error:  # openpyxl raises various errors for broken files
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
    """The openpyxl module. Raises MissingExtra."""
    return required("openpyxl", "an Excel file", "pip install '.[evals]' in a checkout, or PRED_FORMAT=tsv")


def write_table(path: Path, columns: Sequence[str], table: Sequence[Row], form: Form) -> Path:
    """Write rows with these columns. Raises BadInput if Excel cannot hold a text, MissingExtra, CannotStore."""
    match form:
        case "tsv":
            buffer = io.StringIO(newline="")
            writer = csv.writer(buffer, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([text_of(row.get(name)) for name in columns] for row in table)
            return interop.written(path, buffer.getvalue())
        case "json":
            plain = [{name: row.get(name) for name in columns} for row in table]
            return interop.written(path, json.dumps(plain, indent=4, ensure_ascii=False))
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
                cell.data_type = "s"  # write cells that start with = as text
    with disk.replacing(path) as file:
        book.save(file)
    return path
