"""The attention laboratory: capture the attention of an answer's tokens, per layer and head; runs, stored by question.

The answer follows reasoning, a card, or neither. The model decodes as usual; one forward pass over the answer's tokens
then computes their attention rows, and a reducer runs on each layer (`models.local.attention_hook`). The prompt is not
prefilled again if the model caches prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from cuecard.attention.measure import Measure
from cuecard.attention.results import Findings, findings
from cuecard.attention.store import CARD, LARGE_CARD, LARGE_OWN, NONE, OWN, SMALL_OWN, Folder, Record
from cuecard.domain.errors import BadInput, CuecardError, Unsupported
from cuecard.domain.question import Question
from cuecard.models.base import AnswerDelta, Limits, Model, ReasoningDelta
from cuecard.models.local.attention_hook import Rows
from cuecard.models.local.model import LocalModel
from cuecard.models.local.network import Span, Spans, spans
from cuecard.models.prompt import CardFormat, Prompt, Style, read, reason, short

__all__ = [
    "Asked",
    "Findings",
    "Folder",
    "Measure",
    "Settings",
    "Span",
    "Spans",
    "borrowed",
    "capture",
    "decode",
    "findings",
    "in_process",
    "own",
    "run",
]
T = TypeVar("T")


@dataclass(frozen=True)
class Captured(Generic[T]):
    """The reduced value of each layer, the span of each key, and the logits (queries, vocabulary) of the answer.

    Queries are the prompt's last token, which predicts the answer's first token, and the answer's tokens.
    """

    layers: tuple[T, ...]
    spans: Spans
    logits: torch.Tensor
    ids: tuple[int, ...]
    queries: int
    as_decoded: bool
    """The keys before the queries, but the last, were cached by an earlier call; False if the model caches none."""


async def capture(
    model: Model, prompt: Prompt, answer: str, reduce: Callable[[Rows, Spans], T], hidden: Sequence[int] = ()
) -> Captured[T]:
    """Capture the attention while `answer` follows the prompt, reduced layer by layer; `spans` names the keys.

    `hidden` keys are masked for all queries. Raises BadInput for an empty answer or if the prompt's reasoning is not
    found, Unsupported for a model without a hook, ModelError if the rows of one layer do not fit into memory.
    """
    local = in_process(model)
    ids, answered = await local.tokens(prompt, answer)
    places = spans(prompt, ids, answered, local.tokenizer, local.image_token)
    seen = await local.attend(prompt, answer, lambda rows: reduce(rows, places), hidden)
    as_decoded = seen.reused >= len(seen.ids) - seen.queries - 1
    return Captured(seen.layers, places, seen.logits, seen.ids, seen.queries, as_decoded)


def own(question: Question, style: Style, reasoning: str) -> Prompt:
    """The prompt of an answer behind the model's own reasoning. Raises BadInput if the reasoning is empty."""
    if not reasoning.strip():
        raise BadInput("no reasoning to look at: the model gave none", "does it reason at all?")
    return reason(question, style).closed_after(reasoning)


def borrowed(question: Question, style: Style, card: str, form: CardFormat) -> Prompt:
    """The prompt of an answer behind another model's reasoning. Raises BadInput if the card is empty."""
    if not card.strip():
        raise BadInput("no reasoning to look at: the card is empty", "does its writer reason at all?")
    return read(question, card, form, style)


async def decode(model: Model, prompt: Prompt, limits: Limits) -> tuple[str, str]:
    """Decode a prompt as usual: the reasoning, and the answer."""
    reasoning, answer = "", ""
    async for event in model.stream(prompt, limits):
        match event:
            case ReasoningDelta(text):
                reasoning += text
            case AnswerDelta(text):
                answer += text
    return reasoning, answer


def in_process(model: Model) -> LocalModel:
    """The model, if it runs in this process. Raises Unsupported otherwise, as its attention cannot be read."""
    if not isinstance(model, LocalModel):
        raise Unsupported(
            f"{model.name} does not run in this process: its attention cannot be seen",
            "give a checkpoint: a directory, hf:ORG/NAME, demo-small or demo-large",
        )
    return model


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
