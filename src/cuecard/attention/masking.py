"""Whether the key tokens matter: an answer is computed again while some tokens of the card are hidden from it.

Which tokens are hidden: those that the answer attends to most (`key`), as many of the others by chance (`other`), those
it attends to least (`least`), the last ones (`last`). Nothing is hidden from the card's own tokens, so that what they
have already gathered of each other stays: this tells what the answer reads, not what was written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from cuecard.attention.capture import borrowed, capture, said
from cuecard.attention.run import Asked
from cuecard.domain.errors import BadInput
from cuecard.models.base import Limits, Model
from cuecard.models.local.attention_hook import Rows
from cuecard.models.local.token_spans import Span, Spans
from cuecard.models.prompt import Prompt, reason
from cuecard.stats.bootstrap import Array, band

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
CHOICES = ("key", "other", "least", "last")
WAYS = ("hidden", "alone")
"""The chosen tokens are hidden, or all of the card but them."""
FIGURES = ("unchanged", "logprob")
"""Whether each token of the answer is still the likeliest; the log of the answer's probability."""


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
    """One answer behind a card: (shares, choices, ways, figures) as lists, and what holds with nothing hidden."""
    whole = await capture(model, prompt, answer, _mass)
    places = whole.spans.of(Span.REASONING)
    if not places:
        raise BadInput("no reasoning to look at: the card is empty", "does its writer reason at all?")
    mass = np.mean([layer.numpy() for layer in whole.layers], axis=0)
    ids = whole.ids[len(whole.ids) - whole.queries + 1 :]

    async def seen(hidden: Iterable[int]) -> list[float]:
        captured = await capture(model, prompt, answer, lambda rows, spans: None, [places[place] for place in hidden])
        return _figures(captured.logits, ids)

    figures: list[list[list[list[float]]]] = []
    for share in SHARES:
        sets = chosen(mass, share, seed)
        rest = {name: np.setdiff1d(np.arange(len(mass)), kept) for name, kept in sets.items()}
        figures.append([[await seen(sets[name]), await seen(rest[name])] for name in CHOICES])
    return {"whole": _figures(whole.logits, ids), "nothing": await seen(range(len(mass))), "masked": figures}


def _mass(rows: Rows, spans: Spans) -> torch.Tensor:
    """(tokens of the card,) mean over heads and queries."""
    return rows.weights[..., spans.of(Span.REASONING)].mean((0, 1)).cpu()


def _figures(logits: torch.Tensor, ids: Sequence[int]) -> list[float]:
    wanted = torch.tensor(ids, device=logits.device)
    predicted = logits[: len(ids)].float()
    logprob = torch.log_softmax(predicted, -1).gather(-1, wanted[:, None]).sum()
    return [float((predicted.argmax(-1) == wanted).all()), float(logprob)]


async def run(
    asked: Iterable[Asked],
    models: Mapping[str, Model],
    path: Path,
    limits: Limits,
    listen: Callable[[int], None] = lambda count: None,
) -> None:
    """Questions that the file does not have yet, a line each; those without reasoning are stored as skipped."""
    done = {record["id"] for record in read(path)}
    small, large = models["small"], models["large"]
    for count, each in enumerate(asked, start=1):
        if each.id not in done:
            thought, _ = await said(small, reason(each.question, small.abilities.style), limits)
            about = {"id": each.id, "cluster": each.cluster, "category": each.category}
            try:
                form, style = large.abilities.card_formats[0], large.abilities.style
                prompt = borrowed(each.question, style, thought, form)
                answer = (await said(large, prompt, limits))[1]
                figures = await masked(large, prompt, answer, each.id)
                record = about | {"answer": answer, "right": each.right(answer)} | figures
            except BadInput as error:
                record = about | {"skipped": error.message}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        listen(count)


def read(path: Path) -> list[dict[str, Any]]:
    """Records of a file; an incomplete last line is left out, and computed again."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[-1]:
        path.write_text("\n".join([*lines[:-1], ""]), encoding="utf-8")
    return [json.loads(line) for line in lines[:-1]]


def table(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each share, choice and way: answers unchanged and loss of log probability, with 95% intervals."""
    kept = [record for record in records if "masked" in record]
    clusters = [record["cluster"] for record in kept]
    whole = np.array([record["whole"] for record in kept])
    rows = [_row("none of it", 1.0, "hidden", np.array([each["nothing"] for each in kept]), whole, clusters)]
    figures = np.array([record["masked"] for record in kept])
    for place, share in enumerate(SHARES):
        for which, choice in enumerate(CHOICES):
            for way, name in enumerate(WAYS):
                rows.append(_row(choice, share, name, figures[:, place, which, way], whole, clusters))
    return rows


def _row(choice: str, share: float, way: str, figures: Array, whole: Array, clusters: Sequence[str]) -> dict[str, Any]:
    unchanged, lost = band(figures[:, 0], clusters), band(whole[:, 1] - figures[:, 1], clusters)
    return {
        "tokens": choice,
        "share": share,
        "way": way,
        "questions": len(figures),
        "unchanged": round(float(unchanged.mean), 4),
        "unchanged_low": round(float(unchanged.low), 4),
        "unchanged_high": round(float(unchanged.high), 4),
        "nats_lost": round(float(lost.mean), 4),
        "nats_lost_low": round(float(lost.low), 4),
        "nats_lost_high": round(float(lost.high), 4),
    }
