"""Reading benchmarks: charts, documents, infographics, diagrams, text in scenes. Columns as in the data cards, 2026."""

from __future__ import annotations

import json

from cuecard.domain.question import AnswerKind
from cuecard.evals.tasks.presets.preset import Preset, Row, asked, golds_of, placed, question_of, texts_of
from cuecard.evals.tasks.rows import QuestionRow, filled

HANDWRITTEN_MATHS = "HME100k"
"""The data set of OCRBench with answers that are compared without spaces."""


def _chartqa(row: Row, number: str) -> QuestionRow:
    """Masry et al., 2022: human and augmented questions, answered with a word or a number."""
    origin, text = row.get("human_or_machine"), question_of(row, "question", "query")
    named = {0: "human", 1: "machine"}.get(origin) if isinstance(origin, int) else None
    category = named or filled(row, "type", "human_or_machine")
    golds = golds_of(row, "answer", "label")
    return asked(row, number, AnswerKind.SHORT_TEXT, "relaxed", golds, text=text, category=category)


def _docvqa(row: Row, number: str) -> QuestionRow:
    """DocVQA (Mathew et al., 2021), InfographicVQA (2022): there may be several right answers; the nearest counts."""
    id, types = filled(row, "questionId") or number, row.get("answer_type") or row.get("question_types")
    first = types[0] if isinstance(types, list | tuple) and types else types or None
    more = {"category": None if first is None else str(first), "split": filled(row, "data_split")}
    return asked(row, id, AnswerKind.SHORT_TEXT, "anls", golds_of(row, "answers"), **more)


def _textvqa(row: Row, number: str) -> QuestionRow:
    """Singh et al., 2019: ten annotators' answers to each question, including equal and empty ones."""
    answers = tuple(str(each) for each in row.get("answers") or ())
    golds = answers if any(each.strip() for each in answers) else ()
    id, split = filled(row, "question_id") or number, filled(row, "set_name")
    return asked(row, id, AnswerKind.SHORT_TEXT, "vqa", golds, split=split)


def _ocrbench(row: Row, number: str) -> QuestionRow:
    """Liu et al., 2024: five text-reading tasks from 29 data sets; a reply is right if it contains a right answer."""
    extra = without_spaces(filled(row, "dataset") == HANDWRITTEN_MATHS)
    category, golds = filled(row, "question_type"), golds_of(row, "answer")
    return asked(row, number, AnswerKind.SHORT_TEXT, "ocrbench", golds, category=category, extra=extra)


def without_spaces(so: bool) -> str | None:
    """The `extra` for the scorer `ocrbench`; None if spaces count."""
    return json.dumps({"without_spaces": True}) if so else None


def _ai2d(row: Row, number: str) -> QuestionRow:
    """Kembhavi et al., 2016: a diagram, a question, four options; the answer is an option's index, from 0."""
    options = texts_of(row, "options")
    return asked(row, number, AnswerKind.CHOICE, "exact", placed(filled(row, "answer"), options), options=options)


_SHORT = "short_text"
PRESETS: dict[str, Preset] = {
    "chartqa": Preset(
        "charts", "lmms-lab/ChartQA", None, "test", _SHORT, "relaxed", _chartqa,
        ("question|query", "answer|label", "image"),
        vlmevalkit="ChartQA_TEST",
    ),
    "docvqa": Preset(
        "scanned documents", "lmms-lab/DocVQA", "DocVQA", "validation", _SHORT, "anls", _docvqa,
        ("question", "answers", "image"),
        vlmevalkit="DocVQA_VAL",
    ),
    "infovqa": Preset(
        "infographics", "lmms-lab/DocVQA", "InfographicVQA", "validation", _SHORT, "anls", _docvqa,
        ("question", "answers", "image"),
        vlmevalkit="InfoVQA_VAL",
    ),
    "textvqa": Preset(
        "text in photographs", "lmms-lab/textvqa", None, "validation", _SHORT, "vqa", _textvqa,
        ("question", "answers", "image"),
        vlmevalkit="TextVQA_VAL",
    ),
    "ocrbench": Preset(
        "text recognition and reading", "echo840/OCRBench", None, "test", _SHORT, "ocrbench", _ocrbench,
        ("dataset", "question", "question_type", "answer", "image"), "ocrbench",
        vlmevalkit="OCRBench",
    ),
    "ai2d": Preset(
        "diagrams of school books", "lmms-lab/ai2d", None, "test", "choice", "exact", _ai2d,
        ("question", "options", "answer", "image"),
        vlmevalkit="AI2D_TEST",
    ),
}  # fmt: skip
