"""JSONL with a folder of images: one JSON object a line, for question sets of one's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from cuecard.answers import guess_kind
from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind, Image
from cuecard.domain.suggestions import did_you_mean
from cuecard.evals.item import Aggregate
from cuecard.evals.tasks.rows import Fault, QuestionRow, RowsTask, Unusable, found, reading

KEYS = {
    "id": "text or number; the line's number if there is none",
    "question": "text",
    "hint": "text that goes before the question",
    "image": "a path, or a list of paths",
    "images": "the same",
    "options": "a list of texts",
    "answer": "text or number, or a list of those that are right; none: not scored",
    "kind": "choice, yes_no, number, short_text, maths or free_text; by the question's words if there is none",
    "scorer": "exact, relaxed, anls, maths",
    "group": "text that rotations of one question share",
    "category": "text",
    "split": "text",
    "metadata": "anything: it is not looked at",
}
MOST_LINE_BYTES = 64 * 2**20


class JsonlTask(RowsTask):
    """The questions of one JSONL file; paths are relative to its folder, or to the one that is named."""

    def __init__(self, name: str, path: Path, *, images: Path | None = None, split: str | None = None) -> None:
        super().__init__(name, str(path))
        self.path, self._folder, self._split = path, images or path.parent, split

    @cached_property
    def _scan(self) -> tuple[str, bool]:
        """The file's hash, and whether its rows form groups."""
        digest, groups = hashlib.sha256(), False
        for _, line in _lines(self.path):
            digest.update(line)
            with suppress(Unusable):
                groups = groups or (b'"group"' in line and bool(_object(line).get("group")))
        return digest.hexdigest(), groups

    @property
    def revision(self) -> str:
        return f"sha256:{self._scan[0]}"

    @property
    def count(self) -> int | None:
        return None

    @property
    def aggregate(self) -> Aggregate:
        return "circular" if self._scan[1] else "mean"

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
