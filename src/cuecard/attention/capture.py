"""Capture the attention of an answer's tokens, per layer and head, behind reasoning, a card, or neither.

The model decodes as usual; one forward pass over the answer's tokens then computes their attention rows, and a reducer
runs on each layer (`models.local.attention_hook`). The prompt is not prefilled again if the model caches prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from cuecard.domain.errors import BadInput, Unsupported
from cuecard.domain.question import Question
from cuecard.models.base import AnswerDelta, Limits, Model, ReasoningDelta
from cuecard.models.local.attention_hook import Rows
from cuecard.models.local.inputs import Spans, spans
from cuecard.models.local.model import LocalModel
from cuecard.models.prompt import CardFormat, Prompt, Style, read, reason

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
