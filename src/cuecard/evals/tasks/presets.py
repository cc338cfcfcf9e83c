"""Presets: benchmarks from their data sets on the Hugging Face hub, with their authors' questions and scores.

Each preset names the data set and its columns, and converts rows into questions. Columns as in the data cards, 2026.
"""

from __future__ import annotations

import json
import re
from typing import Any

from cuecard.answers import guess_kind, options_in
from cuecard.domain.question import AnswerKind, letter
from cuecard.evals.tasks.mapping import (
    Preset,
    Row,
    asked,
    bare_letter,
    golds_of,
    images_of,
    numbered_images,
    placed,
    question_of,
    texts_of,
)
from cuecard.evals.tasks.rows import Fault, QuestionRow, Unusable, base_of, filled, lettered, listed

# --- perception: abilities, hallucination, space, several images ------------------------------------------------------

_CLOSING = re.compile(r"\s*Please answer (?:directly with [^\n]*|yes or no)\.\s*$", re.IGNORECASE)
_SELECT = re.compile(r"\s*(?:(?:Select|Choose)\b[^\n]*)?\s*$")
_TRUTH = {"1": ("yes",), "0": ("no",)}


def _mmbench(row: Row, number: str) -> QuestionRow:
    """Liu et al., 2024: hint, question, up to five options; rotations of a question count as one (CircularEval)."""
    index, hint, text = filled(row, "index") or number, filled(row, "hint"), question_of(row)
    options = {name: option for name in "ABCDE" if (option := filled(row, name)) is not None}
    return asked(
        row,
        index,
        AnswerKind.CHOICE,
        "exact",
        lettered(filled(row, "answer"), list(options)),
        text=f"{hint}\n{text}" if hint else text,
        options=tuple(options.values()),
        group=base_of(index),
        split=filled(row, "split"),
    )


def _mmstar(row: Row, number: str) -> QuestionRow:
    """Chen et al., 2024: the options are in the question's text ("Options: A: …, B: …")."""
    text, options = options_in(question_of(row))
    index, golds = filled(row, "index") or number, golds_of(row, "answer")
    return asked(row, index, AnswerKind.CHOICE, "exact", golds, text=text, options=options)


def _pope(row: Row, number: str) -> QuestionRow:
    """Li et al., 2023: whether an object is in the image; the text is unchanged. Figures also per category (three)."""
    return asked(row, number, AnswerKind.YES_NO, "exact", golds_of(row, "answer"))


def _realworldqa(row: Row, number: str) -> QuestionRow:
    """xAI, 2024: options, if any, are in the text. Its closing instruction is removed: the prompt adds its own."""
    text, options = options_in(question_of(row))
    text = _CLOSING.sub("", text)
    kind = AnswerKind.CHOICE if options else guess_kind(text)
    kind = AnswerKind.SHORT_TEXT if kind is AnswerKind.FREE_TEXT else kind
    return asked(row, number, kind, "exact", golds_of(row, "answer"), text=text, options=options)


def _mme(row: Row, number: str) -> QuestionRow:
    """Fu et al., 2023: two questions per image. The closing instruction is removed: the prompt adds its own."""
    text, golds = _CLOSING.sub("", question_of(row)), golds_of(row, "answer")
    return asked(row, number, AnswerKind.YES_NO, "exact", golds, text=text, group=filled(row, "question_id"))


def _hallusionbench(row: Row, number: str) -> QuestionRow:
    """Guan et al., 2024: questions about the figures of a set; questions without a figure have no image.

    fAcc is computed per figure over its questions, qAcc per question over all figures of its set.
    """
    kind, field, *place = (filled(row, name) for name in ("category", "subcategory", *PLACE))
    truth = filled(row, "gt_answer") or ""
    if truth and truth not in _TRUTH:
        raise Unusable(Fault.UNSCORABLE, f"the answer {truth[:40]!r} is not 0 or 1", "is this HallusionBench?")
    shown = row.get("image") is not None and row.get("image") != ""
    about = hallusion_set(f"{kind}_{field}", place, shown)
    return asked(
        row,
        f"{kind}_{field}_{'_'.join(str(each) for each in place)}",
        AnswerKind.YES_NO,
        "exact",
        _TRUTH.get(truth, ()),
        images=images_of(row, "image") if shown else (),
        category=f"{kind}_{field}",
        **about,
    )


PLACE = ("set_id", "figure_id", "question_id")


def hallusion_set(category: str, place: list[str | None], shown: bool) -> dict[str, str]:
    """`group` and `extra` of a HallusionBench question: its set, and its question and figure (if any) in the set."""
    number, figure, question = (str(each) for each in place)
    at = {"question": f"{category}_{number}_{question}", "figure": f"{category}_{number}_{figure}" if shown else None}
    return {"group": f"{category}_{number}", "extra": json.dumps(at)}


def _blink(row: Row, number: str) -> QuestionRow:
    """Fu et al., 2024: up to four images; `prompt` is the question with its context, followed by the choices."""
    prompt = filled(row, "prompt", "question") or ""
    text = _SELECT.sub("", prompt[:at] if (at := prompt.rfind("(A) ")) >= 0 else prompt)
    images = tuple(numbered_images(row, range(1, 5)).values())
    return asked(
        row,
        filled(row, "idx") or number,
        AnswerKind.CHOICE,
        "exact",
        bare_letter(row),
        text=text or question_of(row),
        options=texts_of(row, "choices"),
        images=images,
        category=filled(row, "sub_task"),
    )


def _cv_bench(row: Row, number: str) -> QuestionRow:
    """Tong et al., "Cambrian-1", 2024: counts and relations in 2D, depth and distance in 3D."""
    return asked(
        row,
        f"{filled(row, 'type') or ''}_{filled(row, 'idx') or number}",
        AnswerKind.CHOICE,
        "exact",
        bare_letter(row),
        options=texts_of(row, "choices"),
        category=filled(row, "task"),
        extra=json.dumps({"source": filled(row, "source")}),
    )


def _vmcbench(row: Row, number: str) -> QuestionRow:
    """Zhang et al., "Automated generation of challenging multiple-choice questions", 2025: four options each."""
    options = {name: option for name in "ABCD" if (option := filled(row, name)) is not None}
    golds = lettered(filled(row, "answer"), list(options))
    index = filled(row, "index") or number
    return asked(row, index, AnswerKind.CHOICE, "exact", golds, options=tuple(options.values()))


def _mmvet(row: Row, number: str) -> QuestionRow:
    """Yu et al., 2024: open questions; the elements of right answers are joined by `<AND>` and `<OR>`, for a judge."""
    id, category = filled(row, "question_id") or number, filled(row, "capability")
    return asked(row, id, AnswerKind.FREE_TEXT, "judged", golds_of(row, "answer"), category=category)


_BLINK = (
    "Art_Style Counting Forensic_Detection Functional_Correspondence IQ_Test Jigsaw Multi-view_Reasoning "
    "Object_Localization Relative_Depth Relative_Reflectance Semantic_Correspondence Spatial_Relation "
    "Visual_Correspondence Visual_Similarity"
)
_JUDGED = "answers have no score: a judge model grades them from 0 to 1, by `cuecard grade RUN --judge MODEL`"
_CHOICE, _YES_NO = "choice", "yes_no"
_PERCEPTION: dict[str, Preset] = {
    "mmbench": Preset(
        "abilities, with rotated options (CircularEval)", "lmms-lab/MMBench", "en", "dev", _CHOICE, "exact", _mmbench,
        ("index", "question", "A", "B", "image"), "circular", vlmevalkit="MMBench_DEV_EN",
    ),
    "mmstar": Preset(
        "questions that need the image", "Lin-Chen/MMStar", None, "val", _CHOICE, "exact", _mmstar,
        ("index", "question", "answer", "image"), vlmevalkit="MMStar",
    ),
    "pope": Preset(
        "objects that are there, or not", "lmms-lab/POPE", None, "test", _YES_NO, "exact", _pope,
        ("question", "answer", "image"), "pope", vlmevalkit="POPE",
    ),
    "realworldqa": Preset(
        "pictures from the road and elsewhere", "lmms-lab/RealWorldQA", None, "test", "choice, number, …", "exact",
        _realworldqa, ("question", "answer", "image"), vlmevalkit="RealWorldQA",
    ),
    "mme": Preset(
        "perception and cognition, two questions an image", "lmms-lab/MME", None, "test", _YES_NO, "exact", _mme,
        ("question_id", "question", "answer", "category", "image"), "mme", vlmevalkit="MME",
    ),
    "hallusionbench": Preset(
        "figures and illusions, edited or not", "lmms-lab/HallusionBench", None, "image", _YES_NO, "exact",
        _hallusionbench, ("category", "subcategory", *PLACE, "question", "gt_answer", "image"), "hallusion",
        vlmevalkit="HallusionBench",
    ),
    "blink": Preset(
        "fourteen tasks of seeing, with several images", "BLINK-Benchmark/BLINK", "+".join(_BLINK.split()), "val",
        _CHOICE, "exact", _blink, ("prompt|question", "choices", "answer", "image_1"), "blink", vlmevalkit="BLINK",
    ),
    "cv-bench": Preset(
        "counts, relations, depth and distance", "nyu-visionx/CV-Bench", "default", "test", _CHOICE, "exact",
        _cv_bench, ("question", "choices", "answer", "source", "image"), "cv-bench", vlmevalkit="CV-Bench",
    ),
    "vmcbench": Preset(
        "questions of twenty sets, made choices", "suyc21/VMCBench", None, "dev", _CHOICE, "exact", _vmcbench,
        ("question", "A", "B", "C", "D", "category", "image"), "vmcbench", vlmevalkit="VMCBench_DEV",
    ),
    "mmvet": Preset(
        "open questions, graded by a judge", "lmms-lab/MMVet", None, "test", "free_text", "judged", _mmvet,
        ("question", "answer", "capability", "image"), note=_JUDGED, vlmevalkit="MMVet",
    ),
}  # fmt: skip


# --- subjects of school and college, mathematics in images ------------------------------------------------------------

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


_SUBJECTS: dict[str, Preset] = {
    "mmmu": Preset(
        "college subjects, images within the text", "lmms-lab/MMMU", None, "validation", "choice, short_text",
        "exact, mmmu", _mmmu, ("id", "question", "options", "answer", "question_type", "image_1"), "mmmu",
        vlmevalkit="MMMU_DEV_VAL",
    ),
    "mmmu-pro": Preset(
        "the same with ten options", "MMMU/MMMU_Pro", "standard (10 options)", "test", "choice", "exact", _mmmu,
        ("id", "question", "options", "answer", "subject", "image_1"), "mmmu", vlmevalkit="MMMU_Pro_10c",
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
        _scienceqa, ("question", "choices", "answer", "image"), vlmevalkit="ScienceQA_TEST",
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
_DOCUMENTS: dict[str, Preset] = {
    "chartqa": Preset(
        "charts", "lmms-lab/ChartQA", None, "test", _SHORT, "relaxed", _chartqa,
        ("question|query", "answer|label", "image"), vlmevalkit="ChartQA_TEST",
    ),
    "docvqa": Preset(
        "scanned documents", "lmms-lab/DocVQA", "DocVQA", "validation", _SHORT, "anls", _docvqa,
        ("question", "answers", "image"), vlmevalkit="DocVQA_VAL",
    ),
    "infovqa": Preset(
        "infographics", "lmms-lab/DocVQA", "InfographicVQA", "validation", _SHORT, "anls", _docvqa,
        ("question", "answers", "image"), vlmevalkit="InfoVQA_VAL",
    ),
    "textvqa": Preset(
        "text in photographs", "lmms-lab/textvqa", None, "validation", _SHORT, "vqa", _textvqa,
        ("question", "answers", "image"), vlmevalkit="TextVQA_VAL",
    ),
    "ocrbench": Preset(
        "text recognition and reading", "echo840/OCRBench", None, "test", _SHORT, "ocrbench", _ocrbench,
        ("dataset", "question", "question_type", "answer", "image"), "ocrbench", vlmevalkit="OCRBench",
    ),
    "ai2d": Preset(
        "diagrams of school books", "lmms-lab/ai2d", None, "test", "choice", "exact", _ai2d,
        ("question", "options", "answer", "image"), vlmevalkit="AI2D_TEST",
    ),
}  # fmt: skip

PRESETS: dict[str, Preset] = {**_PERCEPTION, **_DOCUMENTS, **_SUBJECTS}
"""All presets, by name."""

__all__ = ["PRESETS", "Preset", "Row"]
