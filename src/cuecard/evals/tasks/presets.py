"""Presets: benchmarks as their data sets on the Hugging Face hub hold them, with their authors' questions and scores.

Each says which data set, which columns (looked up in the data sets' cards, 2026) and how a row is asked. Options are
handed over apart from the text, and the closing instruction is the prompt's: each mode has its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cuecard.answers import guess_kind, options_in
from cuecard.domain.question import AnswerKind, letter
from cuecard.evals.item import Aggregate
from cuecard.evals.tasks.rows import Fault, QuestionRow, Unusable, base_of, filled, lettered, listed

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
    read: Callable[[Row, str], QuestionRow]
    """(row, its number) -> its question. Raises Unusable."""
    columns: tuple[str, ...]
    """Columns that must be there; a|b: one of the two."""
    aggregate: Aggregate = "mean"


def _asked(row: Row, id: str, kind: AnswerKind, scorer: str, golds: tuple[str, ...], **more: Any) -> QuestionRow:
    """A row as most data sets have it; `more`: what is not in the columns `question`, `image` and `category`."""
    if "text" not in more:
        more["text"] = _question(row)
    given = {"images": _images(row, "image"), "category": filled(row, "category"), **more}
    return QuestionRow(id=id, kind=kind, scorer=scorer, golds=golds, **given)


def _mmbench(row: Row, number: str) -> QuestionRow:
    """Liu et al., 2024: hint, question, up to five options; rotations of one question count as one (CircularEval)."""
    index, hint, text = filled(row, "index") or number, filled(row, "hint"), _question(row)
    options = {name: option for name in "ABCDE" if (option := filled(row, name)) is not None}
    return _asked(
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
    """Chen et al., 2024: the options stand in the question's text ("Options: A: …, B: …")."""
    text, options = options_in(_question(row))
    index, golds = filled(row, "index") or number, _golds(row, "answer")
    return _asked(row, index, AnswerKind.CHOICE, "exact", golds, text=text, options=options)


def _pope(row: Row, number: str) -> QuestionRow:
    """Li et al., 2023: is there such an object in the image? The text as it is. The three categories count anew."""
    return _asked(row, number, AnswerKind.YES_NO, "exact", _golds(row, "answer"))


def _chartqa(row: Row, number: str) -> QuestionRow:
    """Masry et al., 2022: human and augmented questions, answered with a word or a number."""
    origin, text = row.get("human_or_machine"), _question(row, "question", "query")
    named = {0: "human", 1: "machine"}.get(origin) if isinstance(origin, int) else None
    category = named or filled(row, "type", "human_or_machine")
    golds = _golds(row, "answer", "label")
    return _asked(row, number, AnswerKind.SHORT_TEXT, "relaxed", golds, text=text, category=category)


def _realworldqa(row: Row, number: str) -> QuestionRow:
    """xAI, 2024: options, if any, stand in the text, which closes with how to answer; the prompt says that itself."""
    text, options = options_in(_question(row))
    text = _CLOSING.sub("", text)
    kind = AnswerKind.CHOICE if options else guess_kind(text)
    kind = AnswerKind.SHORT_TEXT if kind is AnswerKind.FREE_TEXT else kind
    return _asked(row, number, kind, "exact", _golds(row, "answer"), text=text, options=options)


def _infovqa(row: Row, number: str) -> QuestionRow:
    """Mathew et al., 2022: several answers may be right; the nearest counts."""
    id, types = filled(row, "questionId") or number, row.get("answer_type")
    first = types[0] if isinstance(types, list | tuple) and types else types or None
    more = {"category": None if first is None else str(first), "split": filled(row, "data_split")}
    return _asked(row, id, AnswerKind.SHORT_TEXT, "anls", _golds(row, "answers"), **more)


def _scienceqa(row: Row, number: str) -> QuestionRow:
    """Lu et al., 2022: context, question, two to five choices; the answer is a choice's place, from 0."""
    hint, choices, text = filled(row, "hint"), _texts(row, "choices"), _question(row)
    more = {"options": choices, "category": filled(row, "subject")}
    text = f"Context: {hint}\n{text}" if hint else text
    return _asked(row, number, AnswerKind.CHOICE, "exact", _placed(row, choices), text=text, **more)


def _ai2d(row: Row, number: str) -> QuestionRow:
    """Kembhavi et al., 2016: a diagram, a question, four options; the answer is an option's place, from 0."""
    options = _texts(row, "options")
    return _asked(row, number, AnswerKind.CHOICE, "exact", _placed(row, options), options=options)


_MATHVISTA_KINDS = {"integer": AnswerKind.NUMBER, "float": AnswerKind.NUMBER, "list": AnswerKind.SHORT_TEXT}


def mathvista(row: Row, row_id: str, images: tuple[Any, ...]) -> QuestionRow:
    """A row of `AI4Math/MathVista`, or of VLMEvalKit's copy of it. Raises Unusable.

    `query` holds the authors' hint, the question, its unit, and for a choice the options, which are cut off here
    because every prompt layout writes them itself. Gold answers of choices are the option's words.
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
        kind=AnswerKind.CHOICE if chooses else _MATHVISTA_KINDS.get(answer_type, AnswerKind.SHORT_TEXT),
        golds=() if gold is None else (gold,),
        scorer="mathvista",
        options=options,
        images=images,
        category=filled(about or {}, "task", "category"),
        split=filled(about or {}, "split"),
        extra=json.dumps({"answer_type": answer_type, "precision": _precision(row)}),
    )


def _precision(row: Row) -> int:
    """How many decimal places count; 0 where the row does not say."""
    text = filled(row, "precision") or "0"
    try:
        return int(float(text))
    except (ValueError, OverflowError) as error:
        raise Unusable(Fault.UNSCORABLE, f"the precision {text[:40]!r} is no number", "write 1, 2, …") from error


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
        lambda row, number: mathvista(row, number, _images(row, "decoded_image", "image")),
        ("query|question", "answer", "question_type", "answer_type", "decoded_image|image"),
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
    """The right answers; () where they are not published."""
    value = next((row[name] for name in names if row.get(name) is not None), None)
    members = value if isinstance(value, list | tuple) else [value]
    return tuple(str(each) for each in members if each is not None and str(each).strip())


def _placed(row: Row, options: tuple[str, ...]) -> tuple[str, ...]:
    """The letter of an answer that is given as its place, from 0."""
    answer = filled(row, "answer")
    if answer is None:
        return ()
    if not answer.isdecimal() or int(answer) >= len(options):
        what = f"the answer {answer[:40]!r} is no place among {len(options)} options"
        raise Unusable(Fault.UNSCORABLE, what, "places are counted from 0")
    return (letter(int(answer)),)
