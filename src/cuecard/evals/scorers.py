"""Extractors and scorers: the answer in a reply, and how right it is by the rule that a benchmark's authors published.

An extractor is a function (reply, question) -> the text that a scorer compares, or None where it finds none: a letter
for a choice, "yes" or "no", else words as they were written. Scores of one reply by several of them show how much the
parser decides. A scorer is a function (extracted text, item) -> [0, 1]. It compares and never extracts. A scorer by its
authors' own reading of whole replies (`READINGS`) gets what that reading finds, by whichever extractor.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from cuecard import answers
from cuecard.answers import Answer, anls, extract, normalise
from cuecard.answers import score as closeness
from cuecard.answers.kinds import KINDS, same_text
from cuecard.answers.readers.choice import wants_several
from cuecard.answers.readers.maths import tidy
from cuecard.answers.readers.number import whole
from cuecard.domain.errors import required
from cuecard.domain.question import AnswerKind, Question, letter
from cuecard.evals import published
from cuecard.evals.database import AnswerRow, Record, Store
from cuecard.evals.item import Item

NOT_KNOWN = "not known"
"""The version of scorers of an answer that was stored before they had one."""
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
    """The reply, where it is an answer and nothing else: a letter or an option's words, yes or no, a number, a line."""
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
    """What `answers.extract` finds; None for unfinished thinking, refusals, several answers, answers taken back."""
    found = extract(reply, question)
    if found.value is None:
        return None
    return str(found.value) if KINDS[question.kind].canonical else found.text


def vlmevalkit(reply: str, question: Question) -> str | None:
    """As VLMEvalKit extracts without a judge, described from its matching utilities, 2026: its slips included.

    A choice: the only option letter in the reply, if among its last four words; else what follows the first "answer
    is", A to D, in any case and without a word boundary ("clearly" gives C); else the only option whose words are
    contained, in a reply of at most twice the options' length. Yes or no: whichever word occurs without the other. All
    else: the reply as it is.
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
"""By the name under which their scores are stored."""


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
    """1 for the same option, the same of yes and no, the same words, number or date; else 0. MMBench, MMStar, …"""
    question = item.question
    if question.kind is AnswerKind.CHOICE:
        return float(answer in {option_meant(gold, question) for gold in item.golds})
    if KINDS[question.kind].canonical:
        golds = [extract(gold, question) for gold in item.golds]
        return float(answer.strip().lower() in {str(gold.value).lower() for gold in golds if gold.parsed})
    return float(any(normalise(answer) == normalise(gold) or same_text(answer, gold) for gold in item.golds))


def relaxed(answer: str, item: Item) -> float:
    """1 within 5% of a gold that is a number, or for the same words; else 0. Masry et al., "ChartQA", 2022, 5.1.

    As in the code that everybody uses, "45%" is 0.45, and "0" has to be written alike. Other than there, a number may
    have separators of thousands and a currency sign: $1,250 is 1250.
    """
    return float(any(_within(answer.strip(), gold.strip(), 0.05) for gold in item.golds))


def relaxed_years(answer: str, item: Item) -> float:
    """As `relaxed`, but 1 only for the very year where the question asks for one: within 5% of 2010 lie 1910 and 2110.

    As the authors score years that are marked, in "ChartQAPro" (Masry et al., 2025); here `published.asks_for_year`.
    """
    years = [gold for gold in item.golds if published.asks_for_year(item.question.text, gold)]
    if not years:
        return relaxed(answer, item)
    return float(any(_as_float(answer.strip().rstrip(".")) == float(gold) for gold in years))


def nearest(answer: str, item: Item) -> float:
    """ANLS of the nearest gold, 0 once the distance reaches 0.5. Mathew et al., "InfographicVQA", 2022."""
    return anls(answer, item.golds)


def maths(answer: str, item: Item) -> float:
    """1 for an equal expression by math-verify, in a process of its own; else 0. Raises MissingExtra."""
    given = Answer(answer, whole(answer) if whole(answer) is not None else tidy(answer) or None)
    return closeness(given, item.golds, Question(item.question.text, kind=AnswerKind.MATHS))


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


def vqa(answer: str, item: Item) -> float:
    """The share of ten people who gave this answer, by threes. TextVQA: `published.vqa_accuracy`."""
    return published.vqa_accuracy(answer, item.golds)


def ocrbench(answer: str, item: Item) -> float:
    """1 where a right answer is within the reply, else 0. OCRBench: `published.contained`."""
    return float(published.contained(answer, item.golds, bool(_extra(item).get("without_spaces"))))


def mmmu(answer: str, item: Item) -> float:
    """A choice as `exact`; an open answer by `published.mmmu_open`. Yue et al., "MMMU", 2024."""
    if item.question.kind is AnswerKind.CHOICE:
        return exact(answer, item)
    return float(published.mmmu_open(answer, item.golds))


JUDGED = "judged"
"""The scorer of items that a judge model grades (`judging`): their answers have no score."""
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
"""By the name that an item carries."""


READINGS: dict[str, Extractor] = {
    "pope": lambda reply, _: published.pope_reading(reply),
    "mme": lambda reply, _: published.mme_reading(reply),
    "mmmu": lambda reply, asked: (
        published.mmmu_letter(reply, asked.options) if asked.options else reply.strip() or None
    ),
    "ocrbench": lambda reply, _: reply.strip() or None,
}
"""By the name of a scorer: how its authors' script reads replies, instead of an extractor."""


def read(reply: str, item: Item, extractor: str = "ours") -> str | None:
    """What a scorer compares: by the reading of the item's scorer where it has one, else by the extractor."""
    return READINGS.get(item.scorer, EXTRACTORS[extractor])(reply, item.question)


def scorable(golds: Sequence[str], scorer: str | None) -> bool:
    """Whether answers to an item have scores: a right one is known, and no judge is needed."""
    return bool(golds) and scorer != JUDGED


def score(answer: str | None, item: Item) -> float | None:
    """The score of an extracted answer: 0 where nothing was found, None where it has none (`scorable`)."""
    if not scorable(item.golds, item.scorer):
        return None
    return 0.0 if answer is None else SCORERS[item.scorer](answer, item)


def scores(reply: str, item: Item) -> dict[str, float | None]:
    """The scores of a reply by every extractor."""
    return {name: score(read(reply, item, name), item) for name in EXTRACTORS}


def scored(reply: str, item: Item) -> dict[str, Any]:
    """A reply and its scores as the store keeps them with an answer: by every extractor, our own's is the answer's."""
    by = scores(reply, item)
    parsed = extract(reply, item.question).parsed
    return {"reply": reply, "parsed": parsed, "score": by.get("ours"), "scores": by, "scorer": version()}


@cache
def version() -> str:
    """Hash of all that scores depend on, 12 hex digits: the sources of scorers and of the answers."""
    files = [Path(__file__), Path(published.__file__), *sorted(Path(answers.__file__).parent.rglob("*.py"))]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\n{file.read_text(encoding='utf-8')}".encode())
    return digest.hexdigest()[:12]


def option_meant(gold: str, question: Question) -> str | None:
    """The letter of a gold that is a letter or an option's words; None if it is neither. A letter goes first.

    The letters ("AC") of a gold that has several ("A, C"), where the question wants all that apply.
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
    """A data set of reasoning-gym, whose entries are generated on access. Raises MissingExtra, ValueError."""
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
    """A number rounded to this many places, or, for None, cut off to an integer; None if it is not a number."""
    value = whole(text)
    if value is None:
        return None
    return float(int(value)) if places is None else round(float(value), places)


def _extra(item: Item) -> dict[str, Any]:
    extra: dict[str, Any] = json.loads(item.extra or "{}")
    return extra


# --- stored replies scored again --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Changed:
    """An answer whose score changes; the extracted text and the score, before and after."""

    task: str
    id: str
    arm: str
    reply: str
    answers: tuple[str | None, str | None]
    scores: tuple[float | None, float | None]
    extractors: tuple[str, ...]
    """Those whose scores differ."""


@dataclass(frozen=True)
class Rescored:
    """All answers of a run, scored as now; their routes and calls stay. `earlier`: how many each version had scored."""

    answers: int
    version: str
    earlier: Mapping[str, int]
    changed: tuple[Changed, ...]


def rescored(store: Store) -> tuple[Rescored, list[AnswerRow]]:
    """The changes, and the rows that replace the answers which another version has scored."""
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
    """How many answers each other version of the scorers has scored."""
    counts = Counter(version_of(answer) for answer in answers)
    return {earlier: count for earlier, count in counts.items() if earlier != version()}


def item_of(stored: Mapping[str, Any]) -> Item:
    """An item as the store has it, without its images: no scorer looks at them."""
    asked = Question(stored["text"], (), tuple(stored["options"]), AnswerKind(stored["kind"]), system=stored["system"])
    golds = tuple(stored["golds"])
    return Item(stored["id"], asked, golds, stored["scorer"], stored["cluster"], extra=stored["extra"])
