"""Six questions about pets, and files of two models' answers in the formats of other tools."""

from __future__ import annotations

import asyncio
import csv
import json
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import openpyxl
from files import b64, tsv

from cuecard.cli.evals.exchange import FORMATS
from cuecard.domain.call import Mode
from cuecard.evals.analysis.summary import summary as summary_of
from cuecard.evals.database import Record
from cuecard.evals.interop import places, source
from cuecard.evals.interop.imports import CardReader, Import, ImportResult, fill
from cuecard.evals.run_folder import RunFolder
from cuecard.evals.tasks.registry import open_task

GOLDS = "ABCABC"
COLOURS = ("red", "blue", "green", "black", "white", "grey")
SMALL_SHORT = ["A", "A", "C", "B", "The answer is B.", "A"]
LARGE_SHORT = ["A", "B", "B", "A", "B", "B"]
SMALL_REASON = [
    "<think>fur</think>A",
    "<think>it barks</think>\n\nB",
    "<think>it moos</think>C",
    "<think>hm</think>C",
    "B",
    "<think>it is",
]
# agreed: 0 and 4, confirmed: 1; no file has the large model's answers to the reasoning about 2, 3 and 5
RESOLVED = {"0": "agreed", "4": "agreed", "1": "confirmed"}
FILES = {("small", Mode.SHORT): SMALL_SHORT, ("large", Mode.SHORT): LARGE_SHORT, ("small", Mode.REASON): SMALL_REASON}


def pets(folder: Path, **changes: Any) -> Path:
    rows = [
        {"index": index, "question": f"Which pet is number {index}?", "A": "a cat", "B": "a dog", "C": "a cow",
         "answer": gold, "category": "even" if index % 2 == 0 else "odd", "image": b64(COLOURS[index])} | changes
        for index, gold in enumerate(GOLDS)
    ]  # fmt: skip
    return tsv(folder / "Pets.tsv", rows)


def rows(message: Sequence[Any], **columns: Any) -> list[dict[str, Any]]:
    """Rows in VLMEvalKit's format: the data's columns without the image, and the prediction; None: no such row."""
    return [
        {"index": index, "question": f"Which pet is number {index}?", "A": "a cat", "B": "a dog", "C": "a cow",
         "answer": GOLDS[index], "prediction": text} | columns
        for index, text in enumerate(message)
        if text is not None
    ]  # fmt: skip


def table(path: Path, given: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as .xlsx, .tsv or .json."""
    columns = list(dict.fromkeys(name for row in given for name in row))
    if path.suffix == ".json":
        path.write_text(json.dumps(list(given)), encoding="utf-8")
    elif path.suffix == ".tsv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, delimiter="\t", quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(given)
    else:
        book = openpyxl.Workbook()
        for row in [columns, *([row.get(name) for name in columns] for row in given)]:
            book.active.append(row)
        book.save(path)
    return path


def samples(path: Path, message: Sequence[Any], **columns: Any) -> Path:
    """Write samples in lmms-eval's format: the filtered reply, and the raw one if it differs."""
    lines = []
    for doc, text in enumerate(message):
        if text is not None:
            shown = text.rpartition("</think>")[2].strip()
            raw = {} if shown == text else {"resps": text}
            sample = {
                "doc_id": doc,
                "target": GOLDS[doc],
                **raw,
                "filtered_resps": shown,
                "input": f"Which pet is number {doc}?",
            }
            lines.append(json.dumps(sample | columns))
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def harness(path: Path, message: Sequence[Any], filters: Sequence[str] = ("none",), **columns: Any) -> Path:
    """Write samples in lm-evaluation-harness' format: a line per filter and reply."""
    lines = [
        {"doc_id": doc, "doc": {"question": f"Which pet is number {doc}?"}, "target": GOLDS[doc],
         "arguments": {"gen_args_0": {"arg_0": f"Question: pet {doc}", "arg_1": {"until": ["\n\n"]}}},
         "resps": [[text]], "filtered_resps": [text[-1:]], "filter": name, "metrics": ["exact_match"]} | columns
        for name in filters
        for doc, text in enumerate(message)
        if text is not None
    ]  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def log_samples(message: Sequence[Any], **fields: Any) -> list[dict[str, Any]]:
    """Samples in inspect_ai's format: none for None, and reasoning as a part of the message's content."""
    found = []
    for id, text in enumerate(message):
        if text is None:
            continue
        inside, closed, shown = text.rpartition("</think>")
        thought = [{"type": "reasoning", "reasoning": inside.removeprefix("<think>")}] if closed else []
        content = [*thought, {"type": "text", "text": shown.strip()}] if thought else text
        asked = {"role": "user", "content": f"Which pet is number {id}?", "source": "input"}
        reply = {"role": "assistant", "content": content, "source": "generate"}
        found.append(
            {"id": id, "epoch": 1, "input": asked["content"], "choices": ["a cat", "a dog", "a cow"],
             "target": GOLDS[id], "messages": [asked, reply], "scores": {},
             "output": {"model": "m", "choices": [{"message": reply, "stop_reason": "unknown"}]}} | fields
        )  # fmt: skip
    return found


def inspect_log(path: Path, given: Sequence[Mapping[str, Any]], model: str = "mockllm/model") -> Path:
    """Write samples as an inspect_ai log, .json or .eval."""
    header = {"version": 2, "status": "success", "eval": {"task": "pets", "model": model}}
    if path.suffix == ".json":
        path.write_text(json.dumps({**header, "samples": list(given)}), encoding="utf-8")
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as log:
        log.writestr("_journal/start.json", json.dumps(header))
        for sample in given:
            log.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))
        log.writestr("summaries.json", "[]")
        log.writestr("header.json", json.dumps(header))
    return path


def written(folder: Path, form: str = "vlmevalkit", suffix: str = ".tsv") -> dict[tuple[str, Mode], Path]:
    """Write the three files that `mutual` needs."""
    found = {}
    for (role, mode), message in FILES.items():
        name = f"{role}-{mode}"
        if form == "vlmevalkit":
            found[role, mode] = table(folder / f"{name}_Pets{suffix}", rows(message))
        elif form == "inspect":
            found[role, mode] = inspect_log(folder / f"{name}{suffix}", log_samples(message), f"mockllm/{name}")
        elif form == "lm-eval":
            found[role, mode] = harness(folder / name / "samples_pets_2026-11-25T10-10-10.jsonl", message)
        else:
            found[role, mode] = samples(folder / name / "20261125_101010_samples_pets.jsonl", message)
    return found


def imported(
    folder: Path,
    files: Mapping[tuple[str, Mode], Path | Sequence[Path]],
    form: str = "vlmevalkit",
    reader: CardReader | None = None,
) -> tuple[ImportResult, Record]:
    """Import these files as a run in `folder/run`; returns the import's result and the run's summary."""
    task = open_task(f"tsv:{folder / 'Pets.tsv'}")
    known = places(task)
    paths = {kind: [given] if isinstance(given, Path) else given for kind, given in files.items()}
    sources = [source(*kind, path, FORMATS[form].read, known) for kind, each in paths.items() for path in each]
    roles = {role for role, _ in files} | ({"large"} if reader else set())
    names = {role: name for role, name in (("small", "tiny"), ("large", "big")) if role in roles}
    made = Import(form, task, known, sources, names, reader)
    with RunFolder(folder / "run", made.config, {}) as held:
        filled = asyncio.run(fill(made, held.store))
        return filled, summary_of(json.loads(json.dumps(made.config)), held.store)


def only(summary: Record) -> Record:
    """The summaries of the arms of the only task."""
    (task,) = summary["tasks"].values()
    arms: Record = task["arms"]
    return arms


def unresolved(filled: ImportResult) -> dict[str, dict[str, int]]:
    """By arm: the number of unresolved questions for each missing call."""
    return {arm: dict(Counter(each.values())) for arm, each in filled.unresolved.items() if each}
