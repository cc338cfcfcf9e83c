"""Capture the attention of an answer's tokens, per layer and head, behind reasoning, a card, or neither.

The decode runs as always; one pass over the answer's tokens then computes their rows, and a reducer keeps of each
layer what it needs (`models.local.attention_hook`). The prompt is not computed again where the model holds prefixes.
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

    The queries are the prompt's last token, which predicts the answer's first, and the answer's tokens.
    """

    layers: tuple[T, ...]
    spans: Spans
    logits: torch.Tensor
    ids: tuple[int, ...]
    queries: int
    as_decoded: bool
    """The keys before the queries, less the last, were an earlier call's; False also where a model holds none."""


async def capture(
    model: Model, prompt: Prompt, answer: str, reduce: Callable[[Rows, Spans], T], hidden: Sequence[int] = ()
) -> Captured[T]:
    """The attention of each layer while `answer` follows the prompt, reduced layer by layer; `spans` names the keys.

    No query sees the `hidden` keys. Raises BadInput for an empty answer or where the prompt's reasoning
    is not found, Unsupported for a model without a hook, ModelError where one layer's rows do not fit into memory.
    """
    local = in_process(model)
    ids, answered = await local.tokens(prompt, answer)
    places = spans(prompt, ids, answered, local.tokenizer, local.image_token)
    seen = await local.attend(prompt, answer, lambda rows: reduce(rows, places), hidden)
    as_decoded = seen.reused >= len(seen.ids) - seen.queries - 1
    return Captured(seen.layers, places, seen.logits, seen.ids, seen.queries, as_decoded)


def own(question: Question, style: Style, reasoning: str) -> Prompt:
    """The prompt of an answer behind the model's own reasoning. Raises BadInput where there is none."""
    if not reasoning.strip():
        raise BadInput("no reasoning to look at: the model gave none", "does it reason at all?")
    return reason(question, style).closed_after(reasoning)


def borrowed(question: Question, style: Style, card: str, form: CardFormat) -> Prompt:
    """The prompt of an answer behind another model's reasoning. Raises BadInput where there is none."""
    if not card.strip():
        raise BadInput("no reasoning to look at: the card is empty", "does its writer reason at all?")
    return read(question, card, form, style)


async def decode(model: Model, prompt: Prompt, limits: Limits) -> tuple[str, str]:
    """Decode a prompt as always: the reasoning, and the answer."""
    reasoning, answer = "", ""
    async for event in model.stream(prompt, limits):
        match event:
            case ReasoningDelta(text):
                reasoning += text
            case AnswerDelta(text):
                answer += text
    return reasoning, answer


def in_process(model: Model) -> LocalModel:
    """Raises Unsupported for a model that does not run in this process, as its attention cannot be read."""
    if not isinstance(model, LocalModel):
        raise Unsupported(
            f"{model.name} does not run in this process: its attention cannot be seen",
            "give a checkpoint: a directory, hf:ORG/NAME, demo-small or demo-large",
        )
    return model
