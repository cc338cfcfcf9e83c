"""Scorers: how right an extracted answer is, by the rule that a benchmark's authors published; what scores add up to.

A scorer is a function (extracted text, item) -> [0, 1]. It compares and never extracts: what counts as the answer is
the extractor's decision, so that a result shows the two apart.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from cuecard import answers
from cuecard.answers import Answer, anls, extract, normalise
from cuecard.answers import score as closeness
from cuecard.answers.agreement import same_text
from cuecard.answers.readers.maths import tidy
from cuecard.answers.readers.number import whole
from cuecard.domain.errors import MissingExtra
from cuecard.domain.question import AnswerKind, Question, letter
from cuecard.evals.item import Item
from cuecard.evals.scoring import extractors
from cuecard.evals.scoring.extractors import EXTRACTORS
from cuecard.stats.inference import share

Scorer = Callable[[str, Item], float]

_LIST = re.compile(r"-?\d+(?:\.\d+)?")


# --- one answer -------------------------------------------------------------------------------------------------------


def exact(answer: str, item: Item) -> float:
    """1 for the same option, the same of yes and no, the same words, number or date; else 0. MMBench, MMStar, …"""
    question = item.question
    if question.kind is AnswerKind.CHOICE:
        return float(answer in {option_meant(gold, question) for gold in item.golds})
    if question.kind is AnswerKind.YES_NO:
        return float(answer.strip().lower() in {gold.strip().lower() for gold in item.golds})
    return float(any(normalise(answer) == normalise(gold) or same_text(answer, gold) for gold in item.golds))


def relaxed(answer: str, item: Item) -> float:
    """1 within 5% of a gold that is a number, or for the same words; else 0. Masry et al., "ChartQA", 2022, 5.1.

    As in the code that everybody uses: "45%" is 0.45, numbers are what `float` reads, and "0" has to be written alike.
    """
    return float(any(_within(answer.strip(), gold.strip(), 0.05) for gold in item.golds))


def nearest(answer: str, item: Item) -> float:
    """ANLS of the nearest gold, 0 once the distance reaches 0.5. Mathew et al., "InfographicVQA", 2022."""
    return anls(answer, item.golds)


def maths(answer: str, item: Item) -> float:
    """1 for an equal expression by math-verify, in a process of its own; else 0. Raises MissingExtra."""
    given = Answer(answer, whole(answer) if whole(answer) is not None else tidy(answer) or None)
    return closeness(given, item.golds, _as_maths(item.question))


def mathvista(answer: str, item: Item) -> float:
    """By `answer_type`: the option; the integer part; equal once rounded to `precision` places; a list, each in order.

    Lu et al., "MathVista", 2024. Numbers are compared as numbers: 1.40 is 1.4.
    """
    extra = _extra(item)
    match extra.get("answer_type"):
        case "integer":
            return float(any(_rounded(answer, None) == _rounded(gold, None) is not None for gold in item.golds))
        case "float":
            places = int(extra.get("precision") or 0)
            return float(any(_rounded(answer, places) == _rounded(gold, places) is not None for gold in item.golds))
        case "list":
            given = [float(number) for number in _LIST.findall(answer)]
            return float(any(given == [float(number) for number in _LIST.findall(gold)] for gold in item.golds))
        case _:
            return exact(answer, item)


def gym(answer: str, item: Item) -> float:
    """What reasoning-gym's own verifier gives, in [0, 1]; some of its tasks give a little for a well-formed answer."""
    extra = _extra(item)
    if item.question.kind is AnswerKind.YES_NO:  # found in lower case, and verifiers compare letter by letter
        answer = next((gold for gold in item.golds if gold.lower() == answer), answer)
    data = puzzles(extra["name"], extra["seed"], extra["count"])
    return float(data.score_answer(answer, data[extra["index"]]))


SCORERS: dict[str, Scorer] = {
    "exact": exact,
    "relaxed": relaxed,
    "anls": nearest,
    "maths": maths,
    "mathvista": mathvista,
    "gym": gym,
}
"""By the name that an item carries."""


def score(answer: str | None, item: Item) -> float | None:
    """The score of an extracted answer: 0 where nothing was found, None where no right answer is known."""
    if not item.golds:
        return None
    return 0.0 if answer is None else SCORERS[item.scorer](answer, item)


def scores(reply: str, item: Item) -> dict[str, float | None]:
    """The scores of a reply by every extractor."""
    return {name: score(find(reply, item.question), item) for name, find in EXTRACTORS.items()}


def scored(reply: str, item: Item) -> dict[str, Any]:
    """A reply and its scores as the store keeps them with an answer: by every extractor, our own's is the answer's."""
    by = scores(reply, item)
    parsed = extract(reply, item.question).parsed
    return {"reply": reply, "parsed": parsed, "score": by.get("ours"), "scores": by, "scorer": version()}


@cache
def version() -> str:
    """Hash of all that scores depend on, 12 hex digits: the sources of scorers, extractors and answers."""
    files = [Path(__file__), Path(extractors.__file__), *sorted(Path(answers.__file__).parent.rglob("*.py"))]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\n{file.read_text(encoding='utf-8')}".encode())
    return digest.hexdigest()[:12]


def option_meant(gold: str, question: Question) -> str | None:
    """The letter of a gold that is a letter or an option's words; None if it is neither. A letter goes first."""
    text, letters = gold.strip(), [letter(index) for index in range(len(question.options))]
    if text.upper() in letters and len(text) == 1:
        return text.upper()
    return next(
        (each for each, option in zip(letters, question.options, strict=True) if normalise(option) == normalise(text)),
        None,
    )


@lru_cache(maxsize=32)
def puzzles(name: str, seed: int, count: int) -> Any:
    """A data set of reasoning-gym, whose entries are generated on access. Raises MissingExtra, ValueError."""
    try:
        import reasoning_gym
    except ImportError as error:
        raise MissingExtra(f"gym:{name} needs {error.name}", "pip install '.[evals]' in a checkout") from error
    return reasoning_gym.create_dataset(name, seed=seed, size=count)


def _within(answer: str, gold: str, tolerance: float) -> bool:
    given, true = _as_float(answer), _as_float(gold)
    if given is not None and true:
        return abs(given - true) / abs(true) <= tolerance
    return answer.lower() == gold.lower()


def _as_float(text: str) -> float | None:
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _rounded(text: str, places: int | None) -> float | None:
    """A number rounded to so many places, or, for None, cut off to an integer; None if it is not a number."""
    value = whole(text)
    if value is None:
        return None
    return float(int(value)) if places is None else round(float(value), places)


def _as_maths(question: Question) -> Question:
    return question if question.kind is AnswerKind.MATHS else Question(question.text, kind=AnswerKind.MATHS)


def _extra(item: Item) -> dict[str, Any]:
    extra: dict[str, Any] = json.loads(item.extra or "{}")
    return extra


# --- what scores add up to --------------------------------------------------------------------------------------------


def circular(scored: Iterable[tuple[str, float]]) -> dict[str, float]:
    """(group, score) of every rotation -> 1 for each group whose rotations are all right, else 0.

    CircularEval of Liu et al., "MMBench", 2024. The task's score is the mean of the values.
    """
    right: dict[str, float] = {}
    for group, value in scored:
        right[group] = min(right.get(group, 1.0), float(value >= 1.0))
    return right


@dataclass(frozen=True)
class Pope:
    """POPE's five figures, yes being positive; None where there is nothing to divide by."""

    accuracy: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    yes_ratio: float | None
    """Of all answers, those that are yes; half of the golds are."""


def pope(answered: Iterable[tuple[str | None, str]]) -> Pope:
    """(answer, gold) of every question -> the figures of Li et al., "Evaluating object hallucination", 2023.

    An answer that cannot be parsed (None) is wrong and counts as neither. POPE's own script
    takes whatever holds no "no" or "not" for a yes.
    """
    pairs = list(answered)
    answered_yes = sum(answer == "yes" for answer, _ in pairs)
    gold_yes = sum(gold == "yes" for _, gold in pairs)
    hits = sum(answer == gold == "yes" for answer, gold in pairs)
    precision, recall = share(hits, answered_yes), share(hits, gold_yes)
    both = (precision or 0.0) + (recall or 0.0)
    return Pope(
        accuracy=share(sum(answer == gold for answer, gold in pairs), len(pairs)),
        precision=precision,
        recall=recall,
        f1=None if precision is None or recall is None else 2 * precision * recall / both if both else 0.0,
        yes_ratio=share(answered_yes, len(pairs)),
    )


@dataclass(frozen=True)
class Sensitivity:
    """The mean score of the same replies by each extractor, and the interval that these means span."""

    by_extractor: Mapping[str, float]
    low: float
    high: float


def sensitivity(scored: Sequence[Mapping[str, float | None]]) -> Sensitivity | None:
    """How much the extractor decides, over replies that all of them scored; None if there is none."""
    known = [each for each in scored if each and None not in each.values()]
    if not known:
        return None
    means = {name: sum(each[name] or 0.0 for each in known) / len(known) for name in known[0]}
    return Sensitivity(means, min(means.values()), max(means.values()))
