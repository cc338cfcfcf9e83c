"""Ablations of a card: some of its tokens hidden from the answer, and cards cut to some of their words.

Masking: an answer is computed again while it does not see the tokens that it attends to most (`key`), as many of the
others by chance (`other`), those that it attends to least (`least`), or the last ones (`last`). Nothing is hidden from
the card's own tokens, so what they have gathered of each other stays: this measures what the answer reads of the card.

Cuts: a model reads shorter cards; which answers stay right, and which stay the same? The reasonings, the attention to
each of their tokens, and the answers without reasoning are those of a run of `cuecard attention`. Beside the shares, a
card can lack its last sentence, or every word that states its answer: both show whether the answer comes from the
conclusion or from the steps before it.
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
from cuecard.attention.capture import borrowed, capture, decode
from cuecard.attention.run import Asked
from cuecard.attention.store import LARGE_OWN, NONE, QUERIES, Record
from cuecard.domain.errors import BadInput
from cuecard.domain.question import Question
from cuecard.models import prompt as layouts
from cuecard.models.base import Limits, Model
from cuecard.models.local.attention_hook import Rows
from cuecard.models.local.inputs import Span, Spans
from cuecard.models.prompt import CardFormat, Prompt, reason
from cuecard.stats.bootstrap import Array, band
from cuecard.stats.inference import compare, wilson_bounds
from cuecard.strategies.card_selection import CardCut, Ending, Weighed, words

MASKED_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
CHOICES = ("key", "other", "least", "last")
WAYS = ("hidden", "alone")
"""The chosen tokens are hidden, or all of the card but them."""
CUT_SHARES = (0.1, 0.2, 0.3, 0.5, 0.7)
SELECTORS = ("attention", "last", "random", "first")
"""In the order in which cards are read: what follows `first` begins as it does, and is not computed again."""
WHOLE, NOTHING, WITHOUT_END, WITHOUT_ANSWER = "whole", "none", "last sentence removed", "answer struck out"
LAST = 0.3
"""The share at the end that is looked at for the answer, and that is also kept without the last sentence."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


async def append_missing(
    asked: Iterable[Asked],
    path: Path,
    record: Callable[[Asked], Awaitable[dict[str, Any]]],
    listen: Callable[[int], None],
) -> None:
    """Append the records of questions that the file does not have yet, a line each, stored at once."""
    done = {stored["id"] for stored in read(path)}
    for count, each in enumerate(asked, start=1):
        if each.id not in done:
            line = json.dumps(await record(each), ensure_ascii=False)
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        listen(count)


def read(path: Path) -> list[dict[str, Any]]:
    """Records of a file; an incomplete last line is left out, and computed again."""
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
    """(tokens,) attention -> places of each choice, all of one size; fewer `other` where there are not so many."""
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
    """(shares, choices, ways, 2) figures of an answer as lists, and with nothing (`whole`) or all of the card hidden.

    The figures: whether each token of the answer is still the likeliest, and the log of the answer's probability.
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
    """(tokens of the card,) mean over heads and queries."""
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
    """Questions that the file does not have yet, a line each; those without reasoning are stored as skipped."""
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
    """A row for each share, choice and way: answers unchanged and loss of log probability, with 95% intervals."""
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
    """Questions of the attention run `looked` that the file `path` does not have yet, a line each.

    `at_once`: most cards that are read at once, of one question.
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
    return [rounded(row) for row in rows]


def cut_differences(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Paired on the same questions: each card against the whole one, attention against as many others.

    Interval and two-sided p, not adjusted, are those of one test, which `compare` chooses.
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
