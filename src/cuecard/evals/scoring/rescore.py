"""Stored replies scored again by the scorers as they are now: no model is called, routes and calls stay.

What an arm did with an answer (whether two agreed, which call came next) was decided in the run and is not done again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cuecard.answers import extract
from cuecard.domain.question import AnswerKind, Question
from cuecard.evals.item import Item
from cuecard.evals.scoring import scorers
from cuecard.evals.storage.database import AnswerRow, Record, Store

NOT_KNOWN = "not known"
"""The version of scorers of an answer that was stored before they had one."""


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
    """All answers of a run. `earlier`: how many of them each version had scored."""

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
        fresh = _again(answer, items[answer["task"], answer["id"]])
        differing = _differing(answer, fresh)
        if differing or version_of(answer) != scorers.version():
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
    return Rescored(earlier.total(), scorers.version(), dict(earlier), tuple(changed)), rows


def version_of(answer: Mapping[str, Any]) -> str:
    return answer.get("scorer") or NOT_KNOWN


def stale(answers: Iterable[Record]) -> dict[str, int]:
    """How many answers each other version of the scorers has scored."""
    counts = Counter(version_of(answer) for answer in answers)
    return {version: count for version, count in counts.items() if version != scorers.version()}


def item_of(stored: Mapping[str, Any]) -> Item:
    """An item as the store has it, without its images: no scorer looks at them."""
    asked = Question(stored["text"], (), tuple(stored["options"]), AnswerKind(stored["kind"]), system=stored["system"])
    golds = tuple(stored["golds"])
    return Item(stored["id"], asked, golds, stored["scorer"], stored["cluster"], extra=stored["extra"])


def _again(answer: Record, item: Item) -> Record:
    if answer["reply"] is None:
        return {**answer, "scorer": scorers.version()}
    found = extract(answer["reply"], item.question)
    text = found.text if found.parsed else answer["answer"]
    return {**answer, "answer": text, **scorers.scored(answer["reply"], item)}


def _differing(answer: Record, fresh: Record) -> tuple[str, ...]:
    before, after = answer["scores"], fresh["scores"]
    return tuple(name for name in {**before, **after} if before.get(name) != after.get(name))
