"""Perception benchmarks: abilities, hallucination, space, several images. Columns as in the data cards, 2026."""

from __future__ import annotations

import json
import re

from cuecard.answers import guess_kind, options_in
from cuecard.domain.question import AnswerKind
from cuecard.evals.tasks.mapping import (
    Preset,
    Row,
    asked,
    bare_letter,
    golds_of,
    images_of,
    numbered_images,
    question_of,
    texts_of,
)
from cuecard.evals.tasks.rows import Fault, QuestionRow, Unusable, base_of, filled, lettered

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
PRESETS: dict[str, Preset] = {
    "mmbench": Preset(
        "abilities, with rotated options (CircularEval)", "lmms-lab/MMBench", "en", "dev", _CHOICE, "exact", _mmbench,
        ("index", "question", "A", "B", "image"), "circular",
        vlmevalkit="MMBench_DEV_EN",
    ),
    "mmstar": Preset(
        "questions that need the image", "Lin-Chen/MMStar", None, "val", _CHOICE, "exact", _mmstar,
        ("index", "question", "answer", "image"),
        vlmevalkit="MMStar",
    ),
    "pope": Preset(
        "objects that are there, or not", "lmms-lab/POPE", None, "test", _YES_NO, "exact", _pope,
        ("question", "answer", "image"), "pope",
        vlmevalkit="POPE",
    ),
    "realworldqa": Preset(
        "pictures from the road and elsewhere", "lmms-lab/RealWorldQA", None, "test", "choice, number, …", "exact",
        _realworldqa, ("question", "answer", "image"),
        vlmevalkit="RealWorldQA",
    ),
    "mme": Preset(
        "perception and cognition, two questions an image", "lmms-lab/MME", None, "test", _YES_NO, "exact", _mme,
        ("question_id", "question", "answer", "category", "image"), "mme",
        vlmevalkit="MME",
    ),
    "hallusionbench": Preset(
        "figures and illusions, edited or not", "lmms-lab/HallusionBench", None, "image", _YES_NO, "exact",
        _hallusionbench, ("category", "subcategory", *PLACE, "question", "gt_answer", "image"), "hallusion",
        vlmevalkit="HallusionBench",
    ),
    "blink": Preset(
        "fourteen tasks of seeing, with several images", "BLINK-Benchmark/BLINK", "+".join(_BLINK.split()), "val",
        _CHOICE, "exact", _blink, ("prompt|question", "choices", "answer", "image_1"), "blink",
        vlmevalkit="BLINK",
    ),
    "cv-bench": Preset(
        "counts, relations, depth and distance", "nyu-visionx/CV-Bench", "default", "test", _CHOICE, "exact",
        _cv_bench, ("question", "choices", "answer", "source", "image"), "cv-bench",
        vlmevalkit="CV-Bench",
    ),
    "vmcbench": Preset(
        "questions of twenty sets, made choices", "suyc21/VMCBench", None, "dev", _CHOICE, "exact", _vmcbench,
        ("question", "A", "B", "C", "D", "category", "image"), "vmcbench",
        vlmevalkit="VMCBench_DEV",
    ),
    "mmvet": Preset(
        "open questions, graded by a judge", "lmms-lab/MMVet", None, "test", "free_text", "judged", _mmvet,
        ("question", "answer", "capability", "image"), note=_JUDGED,
        vlmevalkit="MMVet",
    ),
}  # fmt: skip
