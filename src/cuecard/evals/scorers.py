"""Extractors and scorers: extract the answer from a reply, and score it by the rule of the benchmark's authors.

An extractor is a function (reply, question) -> the text that a scorer compares, or None if it finds no answer: a letter
for a choice, "yes" or "no", else the words as written. Scores of one reply by several extractors show how much the
result depends on the parser. A scorer is a function (extracted text, item) -> [0, 1]. It compares and never extracts. A
scorer with its authors' own reading of replies (`READINGS`) gets the result of that reading, whatever the extractor.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from inspect import getfile
from pathlib import Path
from typing import Any

from cuecard import answers
from cuecard.answers import Answer, anls, extract, normalise
from cuecard.answers import score as closeness
from cuecard.answers.choice import wants_several
from cuecard.answers.comparison import same_text
from cuecard.answers.kinds import KINDS
from cuecard.answers.number import tidy, whole
from cuecard.domain.errors import required
from cuecard.domain.question import AnswerKind, Question, letter
from cuecard.evals import published
from cuecard.evals.database import AnswerRow, Record, Store
from cuecard.evals.item import Item

NOT_KNOWN = "not known"
"""Scorer version of answers that were stored before scorers had versions."""
Extractor = Callable[[str, Question], str | None]
Scorer = Callable[[str, Item], float]

_LETTER_ALONE = re.compile(r"[(\[]?([A-Z])[)\].:]{0,2}")
_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_STATED = re.compile(r"(?:correct )?answer is:?\s*[(\"'*]{0,3}([A-D])", re.IGNORECASE)
_MOST_WORDS = 15
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LETTERS = re.compile(r"[A-Z](?:(?:\s?[,;&]\s?|\s(?:and\s)?)?[A-Z])+")
_LIST = re.compile(r"-?\d+(?:\.\d+)?")


# --- the answer in a reply --------------------------------------------------------------------------------------------


def strict(reply: str, question: Question) -> str | None:
    """The reply, if it is an answer and nothing else: a letter or an option's words, yes or no, a number, a line."""
    text = reply.strip()
    match question.kind:
        case AnswerKind.CHOICE:
            alone = _LETTER_ALONE.fullmatch(text)
            if alone and ord(alone[1]) - ord("A") < len(question.options):
                return alone[1]
            words = [option.strip().rstrip(".").lower() for option in question.options]
            return letter(words.index(text.rstrip(".").lower())) if words.count(text.rstrip(".").lower()) == 1 else None
        case AnswerKind.YES_NO:
            word = text.rstrip(".!").lower()
            return word if word in ("yes", "no") else None
        case AnswerKind.NUMBER:
            return text.rstrip(".") if whole(text.rstrip(".")) is not None else None
        case AnswerKind.SHORT_TEXT:
            return text.rstrip(".") if text and "\n" not in text and len(text.split()) <= _MOST_WORDS else None
        case _:
            return text or None


def ours(reply: str, question: Question) -> str | None:
    """The result of `answers.extract`; None for unfinished reasoning, refusals, several or withdrawn answers."""
    found = extract(reply, question)
    if found.value is None:
        return None
    return str(found.value) if KINDS[question.kind].canonical else found.text


def vlmevalkit(reply: str, question: Question) -> str | None:
    """Extraction as in VLMEvalKit without a judge, after its matching utilities of 2026, including their errors.

    A choice: the only option letter in the reply, if it is among the last four words; else the letter A to D after the
    first "answer is", in any case and without a word boundary ("clearly" gives C); else the only option with its words
    in the reply, if the reply is at most twice as long as the options. Yes or no: the word that occurs without the
    other. Other kinds: the reply itself.
    """
    match question.kind:
        case AnswerKind.CHOICE:
            return _inferred_option(reply, question.options)
        case AnswerKind.YES_NO:
            words = set(re.findall(r"[a-z]+", reply.lower())) & {"yes", "no"}
            return words.pop() if len(words) == 1 else None
        case _:
            return reply.strip() or None


EXTRACTORS: dict[str, Extractor] = {"strict": strict, "ours": ours, "vlmevalkit": vlmevalkit}
"""Extractors by the name under which their scores are stored."""


def _inferred_option(reply: str, options: Sequence[str]) -> str | None:
    words = reply.translate(_PUNCTUATION).split()
    letters = [letter(index) for index in range(len(options))]
    there = [each for each in letters if each in words]
    if len(there) == 1 and words.index(there[0]) >= len(words) - 4:
        return there[0]
    stated = _STATED.search(reply)
    if stated and stated[1].upper() in letters:
        return stated[1].upper()
    if len(reply) > 2 * sum(map(len, options)):
        return None
    contained = [each for each, option in zip(letters, options, strict=True) if option.lower() in reply.lower()]
    return contained[0] if len(contained) == 1 else None


# --- one answer -------------------------------------------------------------------------------------------------------


def exact(answer: str, item: Item) -> float:
    """1 for the same option, the same yes or no, the same words, number or date; else 0. MMBench, MMStar, …"""
    question = item.question
    if question.kind is AnswerKind.CHOICE:
        return float(answer in {option_meant(gold, question) for gold in item.golds})
    if KINDS[question.kind].canonical:
        golds = [extract(gold, question) for gold in item.golds]
        return float(answer.strip().lower() in {str(gold.value).lower() for gold in golds if gold.parsed})
    return float(any(normalise(answer) == normalise(gold) or same_text(answer, gold) for gold in item.golds))


def relaxed(answer: str, item: Item) -> float:
    """1 within 5% of a gold that is a number, or for the same words; else 0. Masry et al., "ChartQA", 2022, 5.1.

    As in the common implementation, "45%" is 0.45, and for a gold of 0 the texts must be equal. In addition, a number
    may have thousands separators and a currency sign: $1,250 is 1250.
    """
    return float(any(_within(answer.strip(), gold.strip(), 0.05) for gold in item.golds))


def relaxed_years(answer: str, item: Item) -> float:
    """As `relaxed`, but if the question asks for a year, 1 only for the exact year (1910 is within 5% of 2010).

    "ChartQAPro" (Masry et al., 2025) scores marked years so; here `published.asks_for_year` finds these questions.
    """
    years = [gold for gold in item.golds if published.asks_for_year(item.question.text, gold)]
    if not years:
        return relaxed(answer, item)
    return float(any(_as_float(answer.strip().rstrip(".")) == float(gold) for gold in years))


def nearest(answer: str, item: Item) -> float:
    """ANLS of the nearest gold; 0 if the distance is 0.5 or more. Mathew et al., "InfographicVQA", 2022."""
    return anls(answer, item.golds)


def maths(answer: str, item: Item) -> float:
    """1 for an equal expression by math-verify, in a separate process; else 0. Raises MissingExtra."""
    given = Answer(answer, whole(answer) if whole(answer) is not None else tidy(answer) or None)
    return closeness(given, item.golds, Question(item.question.text, kind=AnswerKind.MATHS))


def mathvista(answer: str, item: Item) -> float:
    """By `answer_type`: the option; the integer part; equal after rounding to `precision` places; a list in order.

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
    """The score of reasoning-gym's own verifier, in [0, 1]; some tasks give a small score for a well-formed answer."""
    extra = _extra(item)
    if item.question.kind is AnswerKind.YES_NO:  # the extracted answer is in lower case, and verifiers compare case
        answer = next((gold for gold in item.golds if gold.lower() == answer), answer)
    data = puzzles(extra["name"], extra["seed"], extra["count"])
    return float(data.score_answer(answer, data[extra["index"]]))


def vqa(answer: str, item: Item) -> float:
    """VQA accuracy against ten annotators: full score if three gave this answer. TextVQA: `published.vqa_accuracy`."""
    return published.vqa_accuracy(answer, item.golds)


def ocrbench(answer: str, item: Item) -> float:
    """1 if the reply contains a right answer, else 0. OCRBench: `published.contained`."""
    return float(published.contained(answer, item.golds, bool(_extra(item).get("without_spaces"))))


def mmmu(answer: str, item: Item) -> float:
    """Choices as `exact`; open answers by `published.mmmu_open`. Yue et al., "MMMU", 2024."""
    if item.question.kind is AnswerKind.CHOICE:
        return exact(answer, item)
    return float(published.mmmu_open(answer, item.golds))


JUDGED = "judged"
"""Scorer name of items that a judge model grades (`judging`): their answers have no score."""
SCORERS: dict[str, Scorer] = {
    "exact": exact,
    "relaxed": relaxed,
    "relaxed_years": relaxed_years,
    "anls": nearest,
    "vqa": vqa,
    "ocrbench": ocrbench,
    "mmmu": mmmu,
    "pope": exact,
    "mme": exact,
    "maths": maths,
    "mathvista": mathvista,
    "gym": gym,
    JUDGED: exact,
}
"""Scorers by the name in an item."""


READINGS: dict[str, Extractor] = {
    "pope": lambda reply, _: published.pope_reading(reply),
    "mme": lambda reply, _: published.mme_reading(reply),
    "mmmu": lambda reply, asked: (
        published.mmmu_letter(reply, asked.options) if asked.options else reply.strip() or None
    ),
    "ocrbench": lambda reply, _: reply.strip() or None,
}
"""Readings of replies by benchmarks' own scripts, by scorer name; they replace the extractor."""


def read(reply: str, item: Item, extractor: str = "ours") -> str | None:
    """The text that a scorer compares: by the reading of the item's scorer if it has one, else by the extractor."""
    return READINGS.get(item.scorer, EXTRACTORS[extractor])(reply, item.question)


def scorable(golds: Sequence[str], scorer: str | None) -> bool:
    """Whether answers to an item have scores: a right answer is known, and no judge is needed."""
    return bool(golds) and scorer != JUDGED


def score(answer: str | None, item: Item) -> float | None:
    """The score of an extracted answer: 0 if nothing was extracted, None if the item is not `scorable`."""
    if not scorable(item.golds, item.scorer):
        return None
    return 0.0 if answer is None else SCORERS[item.scorer](answer, item)


def scores(reply: str, item: Item) -> dict[str, float | None]:
    """The scores of a reply by every extractor."""
    return {name: score(read(reply, item, name), item) for name in EXTRACTORS}


def scored(reply: str, item: Item) -> dict[str, Any]:
    """The fields of an answer's record: the reply, its score by our extractor, and the scores by every extractor."""
    by = scores(reply, item)
    parsed = extract(reply, item.question).parsed
    return {"reply": reply, "parsed": parsed, "score": by.get("ours"), "scores": by, "scorer": version()}


@cache
def version() -> str:
    """Hash of the files that scores depend on, 12 hex digits: the scorers and the package `answers` with its tables."""
    found = [path for path in Path(answers.__file__).parent.rglob("*.*") if path.suffix in (".py", ".toml")]
    files = [Path(__file__), Path(published.__file__), Path(getfile(Question)), *sorted(found)]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\n{file.read_text(encoding='utf-8')}".encode())
    return digest.hexdigest()[:12]


def option_meant(gold: str, question: Question) -> str | None:
    """The letter of a gold that is a letter or an option's words; None if it is neither. Letters take precedence.

    If the question asks for all options that apply, a gold with several letters ("A, C") gives all of them ("AC").
    """
    text, letters = gold.strip(), [letter(index) for index in range(len(question.options))]
    if wants_several(question) and _LETTERS.fullmatch(text):
        several = sorted(set(re.findall(r"[A-Z]", text)))
        return "".join(several) if set(several) <= set(letters) else None
    if text.upper() in letters and len(text) == 1:
        return text.upper()
    return next(
        (each for each, option in zip(letters, question.options, strict=True) if normalise(option) == normalise(text)),
        None,
    )


@lru_cache(maxsize=32)
def puzzles(name: str, seed: int, count: int) -> Any:
    """A data set of reasoning-gym; its entries are generated on access. Raises MissingExtra, ValueError."""
    return required("reasoning_gym", f"gym:{name}").create_dataset(name, seed=seed, size=count)


def _within(answer: str, gold: str, tolerance: float) -> bool:
    given, true = _as_float(answer), _as_float(gold)
    if given is not None and true:
        return abs(given - true) / abs(true) <= tolerance
    return answer.lower() == gold.lower()


def _as_float(text: str) -> float | None:
    text = _THOUSANDS.sub("", text.strip("$€£¥₹ "))
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _rounded(text: str, places: int | None) -> float | None:
    """A number rounded to this many places, or truncated to an integer if `places` is None; None if not a number."""
    value = whole(text)
    if value is None:
        return None
    return float(int(value)) if places is None else round(float(value), places)


def _extra(item: Item) -> dict[str, Any]:
    extra: dict[str, Any] = json.loads(item.extra or "{}")
    return extra


# --- rescoring stored replies -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Changed:
    """An answer with a changed score: the extracted text and the score, before and after."""

    task: str
    id: str
    arm: str
    reply: str
    answers: tuple[str | None, str | None]
    scores: tuple[float | None, float | None]
    extractors: tuple[str, ...]
    """The extractors with different scores."""


@dataclass(frozen=True)
class Rescored:
    """The result of rescoring a run; routes and calls stay. `earlier`: number of answers by previous scorer version."""

    answers: int
    version: str
    earlier: Mapping[str, int]
    changed: tuple[Changed, ...]


def rescored(store: Store) -> tuple[Rescored, list[AnswerRow]]:
    """The changes, and the new rows of answers with changed scores or another scorer version."""
    items = {(each["task"], each["id"]): item_of(each) for each in store.items()}
    changed, rows, earlier = list[Changed](), list[AnswerRow](), Counter[str]()
    for answer in store.answers():
        earlier[version_of(answer)] += 1
        item, fresh = items[answer["task"], answer["id"]], {**answer, "scorer": version()}
        if answer["reply"] is not None:
            found = extract(answer["reply"], item.question)
            text = found.text if found.parsed else answer["answer"]
            fresh = {**answer, "answer": text, **scored(answer["reply"], item)}
        before, after = answer["scores"], fresh["scores"]
        differing = tuple(name for name in {**before, **after} if before.get(name) != after.get(name))
        if differing or version_of(answer) != version():
            rows.append(AnswerRow(answer["task"], answer["id"], answer["arm"], fresh))
        if differing:
            changed.append(
                Changed(
                    answer["task"],
                    answer["id"],
                    answer["arm"],
                    answer["reply"],
                    (answer["answer"], fresh["answer"]),
                    (answer["score"], fresh["score"]),
                    differing,
                )
            )
    return Rescored(earlier.total(), version(), dict(earlier), tuple(changed)), rows


def version_of(answer: Mapping[str, Any]) -> str:
    return answer.get("scorer") or NOT_KNOWN


def stale(answers: Iterable[Record]) -> dict[str, int]:
    """The number of answers that were scored by each other scorer version."""
    counts = Counter(version_of(answer) for answer in answers)
    return {earlier: count for earlier, count in counts.items() if earlier != version()}


def item_of(stored: Mapping[str, Any]) -> Item:
    """The item of a stored record, without its images, which no scorer needs."""
    asked = Question(stored["text"], (), tuple(stored["options"]), AnswerKind(stored["kind"]), system=stored["system"])
    golds = tuple(stored["golds"])
    return Item(stored["id"], asked, golds, stored["scorer"], stored["cluster"], extra=stored["extra"])
