"""Benchmarks of school and college subjects, of mathematics in images, and of reading (charts, documents, text in
scenes). Columns as in the data cards, 2026."""

from __future__ import annotations

import json
import re
from typing import Any

from cuecard.answers import options_in
from cuecard.domain.question import AnswerKind, letter
from cuecard.evals.tasks.mapping import (
    Preset,
    Row,
    asked,
    golds_of,
    images_of,
    numbered_images,
    placed,
    question_of,
    texts_of,
)
from cuecard.evals.tasks.rows import Fault, QuestionRow, Unusable, filled, listed

_IMAGE = re.compile(r"<image (\d)>")
_KINDS = {"integer": AnswerKind.NUMBER, "float": AnswerKind.NUMBER, "list": AnswerKind.SHORT_TEXT}
_IN_THE_IMAGE = tuple(f"{each} in the image" for each in "ABCD")


def _scienceqa(row: Row, number: str) -> QuestionRow:
    """Lu et al., 2022: context, question, two to five choices; the answer is a choice's index, from 0."""
    hint, choices, text = filled(row, "hint"), texts_of(row, "choices"), question_of(row)
    more = {"options": choices, "category": filled(row, "subject")}
    text = f"Context: {hint}\n{text}" if hint else text
    golds = placed(filled(row, "answer"), choices)
    return asked(row, number, AnswerKind.CHOICE, "exact", golds, text=text, **more)


def _mmmu(row: Row, number: str) -> QuestionRow:
    """Yue et al., "MMMU", 2024, and "MMMU-Pro", 2025: `<image 2>` in the question or an option is column `image_2`.

    Images precede the text in the order of their numbers, and placeholders are renumbered so that `<image k>` is the
    k-th image. An open question has one right answer, or a list of them written as text.
    """
    id, text, open_ended = filled(row, "id") or number, question_of(row), filled(row, "question_type") == "open"
    options = () if open_ended else texts_of(row, "options")
    text, options, images = _interleaved(text, options, numbered_images(row, range(1, 8)))
    answer = filled(row, "answer")
    answer = None if answer == "?" else answer  # answers of the test split are not published
    golds = () if answer is None else tuple((listed(answer) if open_ended else None) or [answer])
    subject = re.match(r"[^_]+_(.+)_\d+$", id)
    return asked(
        row,
        id,
        AnswerKind.SHORT_TEXT if open_ended else AnswerKind.CHOICE,
        "mmmu" if open_ended else "exact",
        golds,
        text=text,
        options=options,
        images=images,
        category=filled(row, "subject") or (subject[1] if subject else None),
    )


def _interleaved(
    text: str, options: tuple[str, ...], images: dict[int, Any]
) -> tuple[str, tuple[str, ...], tuple[Any, ...]]:
    """(question, options, images with a placeholder, in order); all images if there are no placeholders.

    Placeholders are renumbered. Raises Unusable if an image is missing.
    """
    wanted = sorted({int(number) for part in (text, *options) for number in _IMAGE.findall(part)}) or list(images)
    if missing := [number for number in wanted if number not in images]:
        what = f"`<image {missing[0]}>` is asked about, and `image_{missing[0]}` is empty"
        raise Unusable(Fault.MISSING_IMAGE, what, "fill the column, or take the placeholder out")
    place = {str(number): at for at, number in enumerate(wanted, 1)}

    def counted_anew(part: str) -> str:
        return _IMAGE.sub(lambda found: f"<image {place[found[1]]}>", part)

    shown = tuple(images[number] for number in wanted)
    return counted_anew(text), tuple(counted_anew(each) for each in options), shown


def _mathverse(row: Row, number: str) -> QuestionRow:
    """Zhang et al., 2024: each problem in versions with more or less of it in the image; options are in the text.

    In the version `Vision Only`, the question and its options are in the image. The authors use a judge model to
    compare answers; here choices are compared as choices, and other answers as expressions.
    """
    chooses = filled(row, "question_type") == "multi-choice"
    text, options = options_in(question_of(row, "question", "query_wo")) if chooses else (None, ())
    return asked(
        row,
        filled(row, "sample_index") or number,
        AnswerKind.CHOICE if chooses else AnswerKind.MATHS,
        "exact" if chooses else "maths",
        golds_of(row, "answer"),
        text=text or question_of(row, "question", "query_wo"),
        options=(options or _IN_THE_IMAGE) if chooses else (),
        category=filled(row, "problem_version"),
    )


def mathvista(row: Row, row_id: str, images: tuple[Any, ...]) -> QuestionRow:
    """A row of `AI4Math/MathVista`, or of VLMEvalKit's copy of it. Raises Unusable.

    `query` contains the authors' hint, the question, its unit, and for a choice the options. The options are removed,
    because every prompt layout adds them. Gold answers of choices are the option's words.
    """
    query = filled(row, "query", "question")
    if query is None:
        raise Unusable(Fault.MALFORMED, "neither `query` nor `question` is filled", "is this MathVista?")
    chooses = filled(row, "question_type") == "multi_choice"
    text, _, _ = query.partition("\nChoices:")
    gold, choices = filled(row, "answer"), row.get("choices") if chooses else ()
    options = tuple(map(str, choices if isinstance(choices, list | tuple) else listed(str(choices)) or ()))
    if gold in options:
        gold = letter(options.index(gold))
    elif chooses:
        gold = filled(row, "answer_option") or gold
    answer_type = filled(row, "answer_type") or "text"
    about = row.get("metadata") if isinstance(row.get("metadata"), dict) else row
    return QuestionRow(
        id=filled(row, "pid", "index") or row_id,
        text=text,
        kind=AnswerKind.CHOICE if chooses else _KINDS.get(answer_type, AnswerKind.SHORT_TEXT),
        golds=() if gold is None else (gold,),
        scorer="mathvista",
        options=options,
        images=images,
        category=filled(about or {}, "task", "category"),
        split=filled(about or {}, "split"),
        extra=json.dumps({"answer_type": answer_type, "precision": _precision(row)}),
    )


def _precision(row: Row) -> int:
    """The number of decimal places; 0 if the row does not give it. Raises Unusable."""
    text = filled(row, "precision") or "0"
    try:
        return int(float(text))
    except (ValueError, OverflowError) as error:
        raise Unusable(Fault.UNSCORABLE, f"the precision {text[:40]!r} is no number", "write 1, 2, …") from error


PRESETS: dict[str, Preset] = {
    "mmmu": Preset(
        "college subjects, images within the text", "lmms-lab/MMMU", None, "validation", "choice, short_text",
        "exact, mmmu", _mmmu, ("id", "question", "options", "answer", "question_type", "image_1"), "mmmu",
        vlmevalkit="MMMU_DEV_VAL",
    ),
    "mmmu-pro": Preset(
        "the same with ten options", "MMMU/MMMU_Pro", "standard (10 options)", "test", "choice", "exact", _mmmu,
        ("id", "question", "options", "answer", "subject", "image_1"), "mmmu",
        vlmevalkit="MMMU_Pro_10c",
    ),
    "mathvista": Preset(
        "mathematics in pictures", "AI4Math/MathVista", None, "testmini", "choice, number, list", "mathvista",
        lambda row, number: mathvista(row, number, images_of(row, "decoded_image", "image")),
        ("query|question", "answer", "question_type", "answer_type", "decoded_image|image"),
        vlmevalkit="MathVista_MINI",
    ),
    "mathverse": Preset(
        "geometry and functions, in five versions", "AI4Math/MathVerse", "testmini", "testmini", "choice, maths",
        "exact, maths", _mathverse, ("question", "answer", "question_type", "problem_version", "image"),
        vlmevalkit="MathVerse_MINI",
    ),
    "scienceqa": Preset(
        "school science, questions with an image", "lmms-lab/ScienceQA", "ScienceQA-IMG", "test", "choice", "exact",
        _scienceqa, ("question", "choices", "answer", "image"),
        vlmevalkit="ScienceQA_TEST",
    ),
}  # fmt: skip


# --- reading ----------------------------------------------------------------------------------------------------------

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
DOCUMENTS: dict[str, Preset] = {
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
