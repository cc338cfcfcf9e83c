"""Ablations of a card: hide some of its tokens from the answer, or cut the card to some of its words.

Masking: the answer is computed again with some tokens of the card masked: those with the most attention (`key`), as
many others at random (`other`), those with the least attention (`least`), or the last ones (`last`). Only the answer's
queries are masked. The card's tokens still attend to each other, so this measures what the answer reads directly.

Cuts: a model reads shorter cards; the tables show which answers stay right, and which stay the same. The reasonings,
the attention to each of their tokens, and the answers without reasoning come from a run of `cuecard attention`. Besides
the shares, a card can lack its last sentence, or every word that states its answer: both show whether the answer comes
from the conclusion or from the steps before it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from cuecard.answers import extract
from cuecard.attention import store
from cuecard.attention.api import Asked, borrowed, capture, decode
from cuecard.attention.results import band
from cuecard.attention.store import LARGE_OWN, NONE, QUERIES, Array, Record
from cuecard.domain.errors import BadInput
from cuecard.domain.question import Question
from cuecard.models import prompt as layouts
from cuecard.models.base import Limits, Model
from cuecard.models.local.attention_hook import Rows
from cuecard.models.local.network import Span, Spans
from cuecard.models.prompt import CardFormat, Prompt, reason
from cuecard.stats import compare, wilson_bounds
from cuecard.strategies.card_selection import CardCut, Ending, Weighed, words

MASKED_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
CHOICES = ("key", "other", "least", "last")
WAYS = ("hidden", "alone")
"""`hidden`: the chosen tokens are masked. `alone`: all other tokens of the card are masked."""
CUT_SHARES = (0.1, 0.2, 0.3, 0.5, 0.7)
SELECTORS = ("attention", "last", "random", "first")
"""The order of the cards. Those after `first` begin with the same words, so their common prefix is cached."""
WHOLE, NOTHING, WITHOUT_END, WITHOUT_ANSWER = "whole", "none", "last sentence removed", "answer struck out"
LAST = 0.3
"""The share of a card's end that `ends` searches for the answer; also kept by two cards without the last sentence."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


async def append_missing(
    asked: Iterable[Asked],
    path: Path,
    record: Callable[[Asked], Awaitable[dict[str, Any]]],
    listen: Callable[[int], None],
) -> None:
    """Append a line for each question that is not in the file yet, as soon as its record is computed."""
    done = {stored["id"] for stored in read(path)}
    for count, each in enumerate(asked, start=1):
        if each.id not in done:
            line = json.dumps(await record(each), ensure_ascii=False)
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        listen(count)


def read(path: Path) -> list[dict[str, Any]]:
    """Records of a file, [] if it does not exist; an incomplete last line is removed, and later computed again."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[-1]:
        path.write_text("\n".join([*lines[:-1], ""]), encoding="utf-8")
    return [json.loads(line) for line in lines[:-1]]


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Floats to four places."""
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


# --- masking ----------------------------------------------------------------------------------------------------------


def chosen(mass: Array, share: float, seed: str) -> Mapping[str, Array]:
    """(tokens,) attention -> as many token positions for each choice; fewer `other` if too few tokens are left."""
    count = max(1, round(share * len(mass)))
    order = np.argsort(-mass, kind="stable")
    others = Random(seed).sample(order[count:].tolist(), min(count, len(mass) - count))
    return {
        "key": order[:count],
        "other": np.array(sorted(others), dtype=int),
        "least": order[len(mass) - count :],
        "last": np.arange(len(mass) - count, len(mass)),
    }


async def masked(model: Model, prompt: Prompt, answer: str, seed: str) -> dict[str, Any]:
    """Figures of an answer: `masked` (shares, choices, ways, 2), `whole` (nothing hidden), `nothing` (all hidden).

    The two figures: 1 if every token of the answer is the most likely one, else 0; and the answer's log probability.
    Raises BadInput if the card is empty.
    """
    whole = await capture(model, prompt, answer, _mass)
    places = whole.spans.of(Span.REASONING)
    if not places:
        raise BadInput("no reasoning to look at: the card is empty", "does its writer reason at all?")
    mass = np.mean([layer.numpy() for layer in whole.layers], axis=0)
    ids = whole.ids[len(whole.ids) - whole.queries + 1 :]

    async def seen(hidden: Iterable[int]) -> list[float]:
        captured = await capture(model, prompt, answer, lambda rows, spans: None, [places[place] for place in hidden])
        return _answer_figures(captured.logits, ids)

    figures: list[list[list[list[float]]]] = []
    for share in MASKED_SHARES:
        sets = chosen(mass, share, seed)
        rest = {name: np.setdiff1d(np.arange(len(mass)), kept) for name, kept in sets.items()}
        figures.append([[await seen(sets[name]), await seen(rest[name])] for name in CHOICES])
    return {"whole": _answer_figures(whole.logits, ids), "nothing": await seen(range(len(mass))), "masked": figures}


def _mass(rows: Rows, spans: Spans) -> torch.Tensor:
    """(tokens of the card,): attention, mean over heads and queries."""
    return rows.weights[..., spans.of(Span.REASONING)].mean((0, 1)).cpu()


def _answer_figures(logits: torch.Tensor, ids: Sequence[int]) -> list[float]:
    wanted = torch.tensor(ids, device=logits.device)
    predicted = logits[: len(ids)].float()
    logprob = torch.log_softmax(predicted, -1).gather(-1, wanted[:, None]).sum()
    return [float((predicted.argmax(-1) == wanted).all()), float(logprob)]


async def run_masking(
    asked: Iterable[Asked],
    models: Mapping[str, Model],
    path: Path,
    limits: Limits,
    listen: Callable[[int], None] = lambda count: None,
) -> None:
    """Append masking records of the questions that are not in the file yet; those without reasoning are `skipped`."""
    small, large = models["small"], models["large"]

    async def record(one: Asked) -> dict[str, Any]:
        reasoning, _ = await decode(small, reason(one.question, small.abilities.style), limits)
        about = {"id": one.id, "cluster": one.cluster, "category": one.category}
        try:
            form, style = large.abilities.card_formats[0], large.abilities.style
            prompt = borrowed(one.question, style, reasoning, form)
            answer = (await decode(large, prompt, limits))[1]
            figures = await masked(large, prompt, answer, one.id)
        except BadInput as error:
            return about | {"skipped": error.message}
        return about | {"answer": answer, "right": one.right(answer)} | figures

    await append_missing(asked, path, record, listen)


def masking_table(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per share, choice and way: share of unchanged answers and log probability lost, with 95% intervals."""
    kept = [record for record in records if "masked" in record]
    clusters = [record["cluster"] for record in kept]
    whole = np.array([record["whole"] for record in kept])
    rows = [_masking_row("none of it", 1.0, "hidden", np.array([each["nothing"] for each in kept]), whole, clusters)]
    figures = np.array([record["masked"] for record in kept])
    for place, share in enumerate(MASKED_SHARES):
        for which, choice in enumerate(CHOICES):
            for way, name in enumerate(WAYS):
                rows.append(_masking_row(choice, share, name, figures[:, place, which, way], whole, clusters))
    return rows


def _masking_row(
    choice: str, share: float, way: str, figures: Array, whole: Array, clusters: Sequence[str]
) -> dict[str, Any]:
    row: dict[str, Any] = {"tokens": choice, "share": share, "way": way, "questions": len(figures)}
    for name, values in (("unchanged", figures[:, 0]), ("nats_lost", whole[:, 1] - figures[:, 1])):
        of = band(values, clusters)
        row |= {name: float(of.mean), f"{name}_low": float(of.low), f"{name}_high": float(of.high)}
    return rounded(row)


# --- cuts -------------------------------------------------------------------------------------------------------------


def cards(reasoning: str, weighed: Weighed, answer: str, shares: Sequence[float] = CUT_SHARES) -> Mapping[str, str]:
    """Name -> card. `answer` is the number that the card `answer struck out` omits."""
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
    """Whether a text contains a number, with or without thousands separators."""
    value = _value(number)
    return value is not None and any(_value(match) == value for match in _NUMBER.findall(text))


def _value(text: str) -> Fraction | None:
    try:
        return Fraction(text.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def ends(reasoning: str, answer: str) -> Mapping[str, bool]:
    """Whether a card states its answer: in its last part, before that, and without its last sentence."""
    parts = words(reasoning)
    at = len(parts) - len(words(CardCut(LAST, "last")(reasoning)))
    return {
        "last": says("".join(parts[at:]), answer),
        "before": says("".join(parts[:at]), answer),
        WITHOUT_END: says(CardCut(1, "last", Ending.REMOVED)(reasoning), answer),
    }


async def run_cuts(
    asked: Iterable[Asked],
    model: Model,
    looked: Path,
    path: Path,
    limits: Limits,
    shares: Sequence[float] = CUT_SHARES,
    at_once: int = 16,
    listen: Callable[[int], None] = lambda count: None,
) -> None:
    """Append records of the questions of the attention run `looked` that are not in the file `path` yet.

    `at_once`: the most cards of one question that are read concurrently.
    """
    places = asyncio.Semaphore(at_once)
    seen = {record.meta["id"]: record for _, record in store.records(looked)}

    async def record(one: Asked) -> dict[str, Any]:
        return await _cut_record(one, model, seen[one.id], limits, shares, places)

    await append_missing((one for one in asked if one.id in seen), path, record, listen)


async def _cut_record(
    asked: Asked, model: Model, seen: Record, limits: Limits, shares: Sequence[float], places: asyncio.Semaphore
) -> dict[str, Any]:
    own = seen.conditions[LARGE_OWN]
    weights = seen.array(LARGE_OWN, "keys_mean")[QUERIES.index("all")].tolist()
    whole, value = "".join(own["pieces"]), _extracted(own["answer"], asked.question)
    cut = cards(whole, list(zip(own["pieces"], weights, strict=True)), value, shares)

    async def answered(card: str) -> str:
        prompt = layouts.read(asked.question, card, CardFormat.THINKING, model.abilities.style)
        async with places:
            return (await decode(model, prompt, limits))[1]

    others = dict(zip(cut, await asyncio.gather(*map(answered, cut.values())), strict=True))
    answers = {**others, NOTHING: seen.conditions[f"large: {NONE}"]["answer"]}
    whole_answer = _extracted(answers[WHOLE], asked.question)
    return {
        "id": asked.id,
        "cluster": asked.cluster,
        "words": len(words(whole)),
        "answer": whole_answer,
        "gold": asked.gold,
        "kept": {name: len(words(card)) for name, card in cut.items()},
        "answers": answers,
        "right": {name: (asked.right(answer) or 0) >= 1 for name, answer in answers.items()},
        "same": {name: _extracted(answer, asked.question) == whole_answer for name, answer in answers.items()},
    }


def _extracted(answer: str, question: Question) -> str:
    return str(extract(answer, question).value)


def cut_table(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per card: share of right answers, of answers equal to the whole card's (Wilson), and mean words kept."""
    rows = []
    for name in records[0]["answers"]:
        row: dict[str, Any] = {"card": name, "questions": len(records)}
        for what in ("right", "same"):
            count = sum(record[what][name] for record in records)
            low, high = wilson_bounds(count, len(records))
            row |= {what: count / len(records), f"{what}_low": low, f"{what}_high": high}
        kept = [record["kept"].get(name, record["words"] if name == WHOLE else 0) for record in records]
        rows.append({**row, "words": float(np.mean(kept))})
    return [rounded(row) for row in rows]


def cut_differences(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Paired differences on the same questions: each card against the whole one, attention against other selectors.

    Interval and two-sided p, not adjusted, are those of the test that `compare` chooses.
    """
    against = [(name, WHOLE) for name in records[0]["answers"] if name != WHOLE]
    shares = [name.removeprefix("first ") for name in records[0]["answers"] if name.startswith("first ")]
    against += [(f"attention {share}", f"{other} {share}") for share in shares for other in SELECTORS[1:]]
    clusters = [record["cluster"] for record in records]
    rows = []
    for name, other in against:
        ones, others = (np.array([record["right"][each] for record in records], float) for each in (name, other))
        found = compare(list(ones), list(others), clusters)
        sides = found.difference
        row = {"card": name, "against": other, "difference": sides.estimate}
        row |= {"better": found.better, "worse": found.worse, "low": sides.low, "high": sides.high, "p": found.p}
        rows.append(rounded(row))
    return rows
