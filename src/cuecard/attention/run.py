"""A run: measures the attention of each model's answers and stores it by question, so that a run can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cuecard.attention.capture import borrowed, capture, decode, own
from cuecard.attention.measure import Measure
from cuecard.attention.store import CARD, LARGE_CARD, LARGE_OWN, NONE, OWN, SMALL_OWN, Folder, Record
from cuecard.domain.errors import BadInput, CuecardError
from cuecard.domain.question import Question
from cuecard.models.base import Limits, Model
from cuecard.models.prompt import Prompt, reason, short


@dataclass(frozen=True)
class Asked:
    """One question; `right` scores an answer, None if the right answer is unknown."""

    id: str
    question: Question
    cluster: str
    category: str | None
    gold: str
    right: Callable[[str], float | None]
    reasoning: str | None = None
    """A recorded reasoning of the large model: it then answers behind this text and generates no reasoning."""


@dataclass(frozen=True)
class Settings:
    """The settings of a run. For the first `kept` questions the mass of each token is stored, for the page."""

    delta: float = 0.8
    limits: Limits = field(default_factory=Limits)
    kept: int = 40
    raw: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise BadInput(f"--delta {self.delta:g} is not between 0 and 1", "the paper's is 0.8")


def conditions(models: Mapping[str, Model]) -> list[str]:
    """Names of the conditions, `role: source of the reasoning`: of the large model, and of the small one if given."""
    small = "small" in models
    return [LARGE_OWN, *[LARGE_CARD] * small, f"large: {NONE}", *[SMALL_OWN] * small]


async def run(
    asked: Iterable[Asked],
    models: Mapping[str, Model],
    folder: Folder,
    settings: Settings,
    listen: Callable[[int], None] = lambda count: None,
) -> None:
    """Measure the questions that are not stored yet. Raises BadInput if no question has reasoning."""
    looked, skipped = 0, ""
    for index, each in enumerate(asked):
        record = folder.read(index, each.id)
        if record is None:
            record = await _one(index, each, models, folder, settings)
            folder.write(index, record, each.question.images if index < settings.kept else ())
        with_reasoning = [facts for name, facts in record.conditions.items() if not name.endswith(NONE)]
        looked += any("skipped" not in facts for facts in with_reasoning)
        skipped = next((facts["skipped"] for facts in with_reasoning if "skipped" in facts), skipped)
        listen(index + 1)
    if not looked:
        raise BadInput(f"no question had reasoning to look at: {skipped or 'there are none'}", "does the model reason?")


async def _one(index: int, asked: Asked, models: Mapping[str, Model], folder: Folder, settings: Settings) -> Record:
    facts: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    cards: dict[str, str] = {}
    for role in sorted(models, reverse=True):  # the small one first: its reasoning is the card
        for condition in (name for name in conditions(models) if name.startswith(role)):
            try:
                prompt, answer = await _answered(condition, role, asked, models, cards, settings.limits)
                facts[condition], figures = await _seen(models[role], prompt, answer, asked, index, settings)
                if condition == LARGE_OWN and asked.reasoning is not None:
                    facts[condition]["as_decoded"] = False  # a recording has the text, not the tokens
                arrays |= {f"{condition}|{name}": value for name, value in figures.items()}
            except BadInput as error:  # this answer has no reasoning; others may have
                facts[condition] = {"skipped": error.message}
    kept = {name: value for name, value in arrays.items() if not name.endswith("|raw")}
    if settings.raw:
        folder.write_raw(index, {name: value for name, value in arrays.items() if name.endswith("|raw")})
    question = asked.question
    meta = {
        "id": asked.id,
        "kind": str(question.kind),
        "category": asked.category,
        "cluster": asked.cluster,
        "gold": asked.gold,
        "text": question.text,
        "options": list(question.options),
    }
    return Record(meta, facts, kept)


async def _answered(
    condition: str, role: str, asked: Asked, models: Mapping[str, Model], cards: dict[str, str], limits: Limits
) -> tuple[Prompt, str]:
    """The prompt of the answer, and the answer, decoded normally. Raises BadInput without reasoning."""
    model, style, question = models[role], models[role].abilities.style, asked.question
    if condition == LARGE_OWN and asked.reasoning is not None:
        prompt = own(question, style, asked.reasoning)
        return prompt, (await decode(model, prompt, limits))[1]
    if condition.endswith(OWN):
        thought, answer = await decode(model, reason(question, style), limits)
        cards[role] = thought
        return own(question, style, thought), answer
    if condition.endswith(CARD):
        prompt = borrowed(question, style, cards.get("small", ""), model.abilities.card_formats[0])
    else:
        prompt = short(question, style)
    return prompt, (await decode(model, prompt, limits))[1]


async def _seen(
    model: Model, prompt: Prompt, answer: str, asked: Asked, index: int, settings: Settings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts about one answer, and its figures as arrays (layers, …)."""
    measure = Measure(settings.delta, answer, asked.question.text, settings.raw)
    seen = await capture(model, prompt, answer, measure)
    arrays: dict[str, Any] = {name: np.stack([layer[name] for layer in seen.layers]) for name in seen.layers[0]}
    if not np.allclose(arrays["mass"].sum(-1) + arrays["learned"], 1, atol=1e-3):
        raise CuecardError(f"the attention of {model.name} does not sum to 1: spans or sinks are misread")
    arrays["keys_mean"] = arrays["keys"].mean((0, 2))  # (sets, tokens)
    if index >= settings.kept:
        del arrays["keys"]
    facts = {
        "answer": answer,
        "right": asked.right(answer),
        "tokens": len(seen.ids),
        "queries": seen.queries,
        "as_decoded": seen.as_decoded,
        "pieces": measure.pieces,
        "classes": measure.class_counts,
    }
    return facts, {name: value.astype(np.float16 if name == "keys" else np.float32) for name, value in arrays.items()}
