"""Cards of which words are kept, read by a model: which answers stay right, and which stay the same.

The reasonings, the attention to each of their tokens, and the answers without reasoning are those of a run of
`cuecard attention`. Beside the shares, a card can be without its last sentence, or without every word that says its
answer: both tell whether what is read is the conclusion or the way to it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from cuecard.answers import extract
from cuecard.attention import store
from cuecard.attention.capture import said
from cuecard.attention.masking import read
from cuecard.attention.run import Asked
from cuecard.attention.store import LARGE_OWN, NONE, QUERIES, Record
from cuecard.domain.question import Question
from cuecard.models import prompt as layouts
from cuecard.models.base import Limits, Model
from cuecard.models.prompt import CardFormat
from cuecard.stats.bootstrap import Array, band
from cuecard.stats.inference import mcnemar, wilson_bounds
from cuecard.strategies.card_selection import CardCut, Ending, Weighed, words

SHARES = (0.1, 0.2, 0.3, 0.5, 0.7)
SELECTORS = ("attention", "last", "random", "first")
"""In the order in which cards are read: what follows `first` begins as it does, and is not computed again."""
WHOLE, NOTHING, WITHOUT_END, WITHOUT_ANSWER = "whole", "none", "last sentence removed", "answer struck out"
LAST = 0.3
"""The share at the end that is looked at for the answer, and that is also kept without the last sentence."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def cards(reasoning: str, weighed: Weighed, answer: str, shares: Sequence[float] = SHARES) -> Mapping[str, str]:
    """Name -> card; `answer`, a number, is the one that is struck out."""
    cut = {
        f"{select} {share:g}": CardCut(share, select)(reasoning, weighed if select == "attention" else None)
        for select in SELECTORS
        for share in shares
    }
    cut[WITHOUT_END] = CardCut(1, "last", Ending.REMOVED)(reasoning)
    cut[WHOLE] = reasoning
    cut[WITHOUT_ANSWER] = "".join(part for part in words(reasoning) if not says(part, answer)).strip()
    cut[f"last {LAST:g}, {WITHOUT_END}"] = CardCut(LAST, "last", Ending.REMOVED)(reasoning)
    cut[f"attention {LAST:g}, {WITHOUT_END}"] = CardCut(LAST, "attention", Ending.REMOVED)(reasoning, weighed)
    return cut


def says(text: str, number: str) -> bool:
    """Whether a number stands in a text, however its thousands are separated."""
    value = _value(number)
    return value is not None and any(_value(match) == value for match in _NUMBER.findall(text))


def _value(text: str) -> Fraction | None:
    try:
        return Fraction(text.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def ends(reasoning: str, answer: str) -> Mapping[str, bool]:
    """Where a card says its answer: in its last part, before that, and without the last sentence."""
    parts = words(reasoning)
    at = len(parts) - len(words(CardCut(LAST, "last")(reasoning)))
    return {
        "last": says("".join(parts[at:]), answer),
        "before": says("".join(parts[:at]), answer),
        WITHOUT_END: says(CardCut(1, "last", Ending.REMOVED)(reasoning), answer),
    }


async def run(
    asked: Iterable[Asked],
    model: Model,
    looked: Path,
    path: Path,
    limits: Limits,
    shares: Sequence[float] = SHARES,
    at_once: int = 16,
    listen: Callable[[int], None] = lambda count: None,
) -> None:
    """Questions of the attention run `looked` that the file `path` does not have yet, a line each.

    `at_once`: most cards that are read at once, of one question.
    """
    places = asyncio.Semaphore(at_once)
    done = {record["id"] for record in read(path)}
    seen = {record.meta["id"]: record for _, record in store.records(looked)}
    for count, each in enumerate((one for one in asked if one.id in seen), start=1):
        if each.id not in done:
            record = await _one(each, model, seen[each.id], limits, shares, places)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        listen(count)


async def _one(
    asked: Asked, model: Model, seen: Record, limits: Limits, shares: Sequence[float], places: asyncio.Semaphore
) -> dict[str, Any]:
    own = seen.conditions[LARGE_OWN]
    weights = seen.array(LARGE_OWN, "keys_mean")[QUERIES.index("all")].tolist()
    whole, value = "".join(own["pieces"]), _read(own["answer"], asked.question)
    cut = cards(whole, list(zip(own["pieces"], weights, strict=True)), value, shares)

    async def answered(card: str) -> str:
        prompt = layouts.read(asked.question, card, CardFormat.THINKING, model.abilities.style)
        async with places:
            return (await said(model, prompt, limits))[1]

    others = dict(zip(cut, await asyncio.gather(*map(answered, cut.values())), strict=True))
    answers = {**others, NOTHING: seen.conditions[f"large: {NONE}"]["answer"]}
    whole_answer = _read(answers[WHOLE], asked.question)
    return {
        "id": asked.id,
        "cluster": asked.cluster,
        "words": len(words(whole)),
        "answer": whole_answer,
        "gold": asked.gold,
        "kept": {name: len(words(card)) for name, card in cut.items()},
        "answers": answers,
        "right": {name: (asked.right(answer) or 0) >= 1 for name, answer in answers.items()},
        "same": {name: _read(answer, asked.question) == whole_answer for name, answer in answers.items()},
    }


def _read(answer: str, question: Question) -> str:
    return str(extract(answer, question).value)


def table(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each card: right and the same answer as the whole card's (Wilson), and words kept."""
    rows = []
    for name in records[0]["answers"]:
        row: dict[str, Any] = {"card": name, "questions": len(records)}
        for what in ("right", "same"):
            count = sum(record[what][name] for record in records)
            low, high = wilson_bounds(count, len(records))
            row |= {what: count / len(records), f"{what}_low": low, f"{what}_high": high}
        kept = [record["kept"].get(name, record["words"] if name == WHOLE else 0) for record in records]
        rows.append({**row, "words": float(np.mean(kept))})
    return [_rounded(row) for row in rows]


def differences(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Paired on the same questions: each card against the whole one, attention against as many others.

    The interval is a percentile bootstrap over questions, p is McNemar's, exact, two-sided and not adjusted.
    """
    against = [(name, WHOLE) for name in records[0]["answers"] if name != WHOLE]
    shares = [name.removeprefix("first ") for name in records[0]["answers"] if name.startswith("first ")]
    against += [(f"attention {share}", f"{other} {share}") for share in shares for other in SELECTORS[1:]]
    clusters = [record["cluster"] for record in records]
    rows = []
    for name, other in against:
        ones, others = (np.array([record["right"][each] for record in records], float) for each in (name, other))
        better, worse = _count(ones > others), _count(ones < others)
        sides = band(ones - others, clusters)
        row = {"card": name, "against": other, "difference": float(sides.mean), "better": better, "worse": worse}
        row |= {"low": float(sides.low), "high": float(sides.high), "p": mcnemar(better, worse)}
        rows.append(_rounded(row))
    return rows


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def _count(some: Array) -> int:
    return int(some.sum())
