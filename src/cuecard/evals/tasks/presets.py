"""Presets: benchmarks as their data sets on the Hugging Face hub hold them, asked and scored as their authors do.

Each says which data set, which columns (looked up in the data sets' cards, 2026) and how a row is asked. Options are
handed over apart from the text, and the closing instruction is the prompt's: each mode has its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cuecard.answers import guess_kind, options_in
from cuecard.domain.question import AnswerKind
from cuecard.evals.item import Aggregate
from cuecard.evals.tasks import mathvista
from cuecard.evals.tasks.rows import Asked, Fault, Unusable, base_of, filled, lettered

Row = Mapping[str, Any]
_CLOSING = re.compile(r"\s*Please answer directly with [^\n]*\.\s*$")


@dataclass(frozen=True)
class Preset:
    """One benchmark: where it lies, how a row is asked, how answers are scored and added up."""

    about: str
    dataset: str
    config: str | None
    split: str
    kinds: str
    scorer: str
    read: Callable[[Row, str], Asked]
    """(row, its number) -> what it asks. Raises Unusable."""
    columns: tuple[str, ...]
    """Columns that must be there; a|b: one of the two."""
    aggregate: Aggregate = "mean"


def _mmbench(row: Row, number: str) -> Asked:
    """Liu et al., 2024: hint, question, up to five options; rotations of one question count as one (CircularEval)."""
    index, hint = filled(row, "index") or number, filled(row, "hint")
    options = {name: text for name in "ABCDE" if (text := filled(row, name)) is not None}
    answer = filled(row, "answer")
    return Asked(
        id=index,
        text=f"{hint}\n{_question(row)}" if hint else _question(row),
        kind=AnswerKind.CHOICE,
        golds=lettered(answer, list(options)),
        scorer="exact",
        options=tuple(options.values()),
        images=_images(row, "image"),
        group=base_of(index),
        category=filled(row, "category"),
        split=filled(row, "split"),
    )


def _mmstar(row: Row, number: str) -> Asked:
    """Chen et al., 2024: the options stand in the question's text ("Options: A: …, B: …")."""
    text, options = options_in(_question(row))
    return Asked(
        id=filled(row, "index") or number,
        text=text,
        kind=AnswerKind.CHOICE,
        golds=_golds(row, "answer"),
        scorer="exact",
        options=options,
        images=_images(row, "image"),
        category=filled(row, "category"),
    )


def _pope(row: Row, number: str) -> Asked:
    """Li et al., 2023: is there such an object in the image? Asked as it is. The three categories count anew."""
    return Asked(
        id=number,
        text=_question(row),
        kind=AnswerKind.YES_NO,
        golds=_golds(row, "answer"),
        scorer="exact",
        images=_images(row, "image"),
        category=filled(row, "category"),
    )


def _chartqa(row: Row, number: str) -> Asked:
    """Masry et al., 2022: human and augmented questions, answered with a word or a number."""
    origin = row.get("human_or_machine")
    named = {0: "human", 1: "machine"}.get(origin) if isinstance(origin, int) else None
    return Asked(
        id=number,
        text=_question(row, "question", "query"),
        kind=AnswerKind.SHORT_TEXT,
        golds=_golds(row, "answer", "label"),
        scorer="relaxed",
        images=_images(row, "image"),
        category=named or filled(row, "type", "human_or_machine"),
    )


def _realworldqa(row: Row, number: str) -> Asked:
    """xAI, 2024: options, if any, stand in the text, which closes with how to answer; the prompt says that itself."""
    text, options = options_in(_question(row))
    text = _CLOSING.sub("", text)
    kind = AnswerKind.CHOICE if options else guess_kind(text)
    return Asked(
        id=number,
        text=text,
        kind=AnswerKind.SHORT_TEXT if kind is AnswerKind.FREE_TEXT else kind,
        golds=_golds(row, "answer"),
        scorer="exact",
        options=options,
        images=_images(row, "image"),
    )


def _infovqa(row: Row, number: str) -> Asked:
    """Mathew et al., 2022: several answers may be right; the nearest counts."""
    return Asked(
        id=filled(row, "questionId") or number,
        text=_question(row),
        kind=AnswerKind.SHORT_TEXT,
        golds=_golds(row, "answers"),
        scorer="anls",
        images=_images(row, "image"),
        category=_first(row, "answer_type"),
        split=filled(row, "data_split"),
    )


def _scienceqa(row: Row, number: str) -> Asked:
    """Lu et al., 2022: context, question, two to five choices; the answer is a choice's place, from 0."""
    hint, choices = filled(row, "hint"), _texts(row, "choices")
    return Asked(
        id=number,
        text=f"Context: {hint}\n{_question(row)}" if hint else _question(row),
        kind=AnswerKind.CHOICE,
        golds=_placed(row, choices),
        scorer="exact",
        options=choices,
        images=_images(row, "image"),
        category=filled(row, "subject"),
    )


def _ai2d(row: Row, number: str) -> Asked:
    """Kembhavi et al., 2016: a diagram, a question, four options; the answer is an option's place, from 0."""
    options = _texts(row, "options")
    return Asked(
        id=number,
        text=_question(row),
        kind=AnswerKind.CHOICE,
        golds=_placed(row, options),
        scorer="exact",
        options=options,
        images=_images(row, "image"),
    )


def _mathvista(row: Row, number: str) -> Asked:
    return mathvista.asked(row, number, _images(row, "decoded_image", "image"))


_CHOICE, _SHORT, _YES_NO = "choice", "short_text", "yes_no"
PRESETS: dict[str, Preset] = {
    "mmbench": Preset(
        "abilities, with rotated options (CircularEval)", "lmms-lab/MMBench", "en", "dev", _CHOICE, "exact", _mmbench,
        ("index", "question", "A", "B", "image"), "circular",
    ),
    "mmstar": Preset(
        "questions that need the image", "Lin-Chen/MMStar", None, "val", _CHOICE, "exact", _mmstar,
        ("index", "question", "answer", "image"),
    ),
    "pope": Preset(
        "objects that are there, or not", "lmms-lab/POPE", None, "test", _YES_NO, "exact", _pope,
        ("question", "answer", "image"), "pope",
    ),
    "chartqa": Preset(
        "charts", "lmms-lab/ChartQA", None, "test", _SHORT, "relaxed", _chartqa,
        ("question|query", "answer|label", "image"),
    ),
    "realworldqa": Preset(
        "pictures from the road and elsewhere", "lmms-lab/RealWorldQA", None, "test", "choice, number, …", "exact",
        _realworldqa, ("question", "answer", "image"),
    ),
    "infovqa": Preset(
        "infographics", "lmms-lab/DocVQA", "InfographicVQA", "validation", _SHORT, "anls", _infovqa,
        ("question", "answers", "image"),
    ),
    "mathvista": Preset(
        "mathematics in pictures", "AI4Math/MathVista", None, "testmini", "choice, number, list", "mathvista",
        _mathvista, ("query|question", "answer", "question_type", "answer_type", "decoded_image|image"),
    ),
    "scienceqa": Preset(
        "school science, questions with an image", "lmms-lab/ScienceQA", "ScienceQA-IMG", "test", _CHOICE, "exact",
        _scienceqa, ("question", "choices", "answer", "image"),
    ),
    "ai2d": Preset(
        "diagrams of school books", "lmms-lab/ai2d", None, "test", _CHOICE, "exact", _ai2d,
        ("question", "options", "answer", "image"),
    ),
}  # fmt: skip


# --- cells ------------------------------------------------------------------------------------------------------------


def _question(row: Row, *names: str) -> str:
    question = filled(row, *(names or ("question",)))
    if question is None:
        raise Unusable(Fault.MALFORMED, "the question is empty", "is this the right data set?")
    return question


def _images(row: Row, *names: str) -> tuple[Any, ...]:
    """The image of the first column that holds one; a row without an image is left out."""
    for name in names:
        value = row.get(name)
        if value is not None and value != "" and value != []:
            return tuple(value) if isinstance(value, list) else (value,)
    raise Unusable(Fault.DROPPED, "there is no image", "rows without an image are left out")


def _texts(row: Row, name: str) -> tuple[str, ...]:
    value = row.get(name)
    if not isinstance(value, list | tuple):
        raise Unusable(Fault.MALFORMED, f"{name!r} is not a list", "is this the right data set?")
    return tuple(map(str, value))


def _golds(row: Row, *names: str) -> tuple[str, ...]:
    """What is right, one or a list; () where it is kept back."""
    value = next((row[name] for name in names if row.get(name) is not None), None)
    members = value if isinstance(value, list | tuple) else [value]
    return tuple(str(each) for each in members if each is not None and str(each).strip())


def _placed(row: Row, options: tuple[str, ...]) -> tuple[str, ...]:
    """The letter of an answer that is told by its place, from 0."""
    answer = filled(row, "answer")
    if answer is None:
        return ()
    if not answer.isdecimal() or int(answer) >= len(options):
        what = f"the answer {answer[:40]!r} is no place among {len(options)} options"
        raise Unusable(Fault.UNSCORABLE, what, "places are counted from 0")
    return (chr(ord("A") + int(answer)),)


def _first(row: Row, name: str) -> str | None:
    value = row.get(name)
    members = value if isinstance(value, list | tuple) else [value]
    return str(members[0]) if members and members[0] is not None else None
