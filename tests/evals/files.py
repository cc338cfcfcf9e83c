"""Small files of questions, generated for a test."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image as PilImage

from cuecard.domain.question import AnswerKind, Question
from cuecard.evals.item import Item


def png(colour: str = "red", size: int = 8) -> bytes:
    """A PNG in one colour, which makes a small file."""
    buffer = io.BytesIO()
    PilImage.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def b64(colour: str = "red") -> str:
    return base64.b64encode(png(colour)).decode()


def tsv(path: Path, rows: list[dict[str, Any]], columns: list[str] | None = None) -> Path:
    """Write rows as pandas does: tabs, quotes only if needed, an empty cell for a missing value."""
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def item(
    kind: AnswerKind | str, *golds: str, options: tuple[str, ...] = (), scorer: str = "exact", extra: str | None = None
) -> Item:
    question = Question("What is it?", options=options, kind=AnswerKind(kind))
    return Item("1", question, golds, scorer, cluster="1", extra=extra)
