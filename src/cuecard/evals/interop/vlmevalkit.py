"""VLMEvalKit's prediction files: MODEL_DATASET.xlsx, .tsv or .json, the data's columns and `prediction` (`thinking`).

As its `inference.py` and `smp/file.py` write and read them, 2026: any column but `image`, one row a question, strings
that Excel cannot hold cut at 32,767 characters, and a fixed phrase where no answer was obtained.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cuecard.answers import extract
from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind, Question, letter
from cuecard.evals.interop import exports, tables
from cuecard.evals.interop.exports import Answered, Answers
from cuecard.evals.interop.predictions import Agreement, Places, Read, Reply, parted
from cuecard.evals.interop.tables import CELL_CHARS, LETTERS, Form, Row, text_of
from cuecard.evals.item import Item
from cuecard.evals.tasks.rows import lettered

FAILED = "Failed to obtain answer"
"""How a prediction begins that is none."""


def read(path: Path, known: Places) -> Read:
    """Every reply of a prediction file. Raises BadInput, MissingExtra (Excel)."""
    found, answers = Read([]), Agreement(path, "answer")
    for number, row in tables.rows(path):
        where = f"row {number}"
        for column in ("index", "prediction"):
            if column not in row:
                told = ", ".join(map(str, row))[:200]
                raise BadInput(f"{path}, {where}: there is no column `{column}` (there are: {told})", _WHICH)
        item = _item(path, where, row, known)
        answers.see(_gold(row, item), item, where)
        _same_question(path, where, row, item)
        if path.suffix.lower() == ".xlsx" and len(text_of(row["prediction"])) >= CELL_CHARS:
            found.cut += 1
            continue
        found.replies.append(_reply(row, item, where))
    answers.end()
    return found


_WHICH = "give the prediction file, which has `index` and `prediction`, not the data or a judge's result"


def _reply(row: Row, item: Item, where: str) -> Reply:
    said, thinking = text_of(row["prediction"]), text_of(row.get("thinking")).strip()
    if said.startswith(FAILED):
        return Reply(item.id, where, "", error=" ".join(said.split())[:300])
    answer, reasoning, unclosed = parted(said)
    both = "\n".join(part for part in (parted(thinking)[1] or thinking, reasoning) if part)
    return Reply(item.id, where, _closed_up(answer, row, item), both or None, unclosed)


def _item(path: Path, where: str, row: Row, known: Places) -> Item:
    index = _index(row["index"])
    place = known.get(index)
    if place is None:
        first = ", ".join(list(known)[:3])
        what = f"{path}, {where}, column `index`: the task has no question {index[:80]!r} (its first: {first})"
        raise BadInput(what, "give the data that VLMEvalKit ran on: --task tsv:FILE")
    return place.item


def _same_question(path: Path, where: str, row: Row, item: Item) -> None:
    """One text contains the other: hints and options may stand around it. Raises BadInput."""
    there, here = (_plain(text) for text in (text_of(row.get("question")), item.question.text))
    if there and there not in here and here not in there:
        what = f"{path}, {where}, column `question`: {there[:60]!r} is not what question {item.id[:80]!r} asks"
        raise BadInput(what, "is this the task that the file is about?")


def _plain(text: str) -> str:
    return " ".join(text.replace("_x000D_", " ").split())


def _gold(row: Row, item: Item) -> str | None:
    told = text_of(row.get("answer")).strip() or None
    return (lettered(told, gapped) or (None,))[0] if (gapped := gap(row, item)) else told


def gap(row: Mapping[str, Any], item: Item) -> list[str]:
    """The letters of a row whose options leave some out (A, B, D); none where letters are those that are shown."""
    if item.question.kind is not AnswerKind.CHOICE:
        return []
    filled = [name for name in LETTERS if text_of(row.get(name)).strip()]
    options = len(item.question.options)
    return filled if len(filled) == options and filled != list(LETTERS[:options]) else []


def _closed_up(said: str, row: Row, item: Item) -> str:
    """The reply; where letters were left out, the letter that it comes to when they close up."""
    letters = gap(row, item)
    if not letters:
        return said
    shown = LETTERS[: LETTERS.index(letters[-1]) + 1]
    texts = dict(zip(letters, item.question.options, strict=True))
    options = tuple(texts.get(name, f"(no option {name})") for name in shown)
    found = extract(said, Question(item.question.text, (), options, AnswerKind.CHOICE))
    return letter(letters.index(str(found.value))) if found.parsed and found.value in letters else said


def _index(value: Any) -> str:
    """An index as text; 12.0, as pandas writes whole numbers beside gaps, is 12."""
    text = text_of(value).strip()
    stem, dot, rest = text.partition(".")
    return stem if dot and stem.isdecimal() and not rest.strip("0") else text


# --- writing ----------------------------------------------------------------------------------------------------------

SETS = {
    "mmbench": "MMBench_DEV_EN",
    "mmstar": "MMStar",
    "pope": "POPE",
    "chartqa": "ChartQA_TEST",
    "realworldqa": "RealWorldQA",
    "infovqa": "InfoVQA_VAL",
    "mathvista": "MathVista_MINI",
    "scienceqa": "ScienceQA_TEST",
    "ai2d": "AI2D_TEST",
}
"""What VLMEvalKit calls the data of our presets."""
_LAST = ("answer", "category", "split", "prediction", "thinking")


def write(answers: Answers, out: Path, form: Form = "xlsx", data: Path | None = None, name: str | None = None) -> Path:
    """Write MODEL_DATASET.xlsx; with `data`, the TSV file of the set, in its columns. Raises BadInput, CannotStore."""
    dataset = name or (data.stem if data else SETS.get(answers.task["name"]) or exports.dataset_of(answers.task))
    there = {} if data is None else {_index(row.get("index")): _less_image(row) for _, row in tables.rows(data)}
    table = [_row(each, there if data else None, data) for each in answers.rows]
    columns = list(dict.fromkeys(name for row in table for name in row if name not in _LAST))
    columns.sort(key=lambda name: name in LETTERS and LETTERS.index(name) + 1)
    columns = [name for name in columns if name not in LETTERS] + [name for name in columns if name in LETTERS]
    columns += [name for name in _LAST if any(text_of(row.get(name)) for row in table) or name == "prediction"]
    path = exports.into(out) / f"{answers.model}_{exports.named(dataset)}.{form}"
    return tables.write(path, columns, table, form)


def _row(each: Answered, there: Mapping[str, Row] | None, data: Path | None) -> Row:
    item, answer = each.item, each.answer
    failed = f"{FAILED} via API. {answer['reason']}" if answer["status"] == "error" else None
    said = {"prediction": failed or answer["reply"] or "", "thinking": each.thinking or ""}
    if there is None:
        question, hint = exports.question_of(item)
        golds = item["golds"]
        return {
            "index": int(item["id"]) if re.fullmatch(r"0|[1-9][0-9]{0,15}", item["id"]) else item["id"],
            **({"hint": hint} if hint else {}),
            "question": question,
            **dict(zip(LETTERS, item["options"], strict=False)),
            "answer": golds[0] if len(golds) == 1 else str(golds) if golds else "",
            "category": item["category"],
            "split": item["split"],
            **said,
        }
    row = there.get(item["id"])
    if row is None:
        what = f"{data} has no row of the index {item['id'][:80]!r}"
        raise BadInput(what, "give the TSV file that the run was made on, or leave --data out")
    filled = [name for name in LETTERS if text_of(row.get(name)).strip()]
    if answer["parsed"] and len(filled) == len(item["options"]) and filled != list(LETTERS[: len(filled)]):
        # the letters had closed up where the file leaves one out, so the answer is given in the file's letters
        said["prediction"] = (
            filled[LETTERS.index(answer["answer"])] if answer["answer"] in LETTERS else said["prediction"]
        )
    return row | said


def _less_image(row: Row) -> Row:
    """As prediction files have it."""
    return {name: value for name, value in row.items() if name != "image"}
