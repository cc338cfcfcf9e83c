"""The Model protocol: a prompt goes in, typed events come out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from cuecard.domain.call import AnswerToken, FinishReason, Usage
from cuecard.domain.question import AnswerKind
from cuecard.models.extras import Extras
from cuecard.models.prompt import CardFormat, Prompt, Style
from cuecard.models.scope import Scope


@dataclass(frozen=True)
class Limits:
    """How much a call may generate, and how it chooses tokens. Temperature 0 is greedy."""

    answer_tokens: int | None = None
    """None: by the kind of answer, as in `ANSWER_TOKENS`."""
    reasoning_tokens: int = 2048
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    timeout_s: float | None = 120.0
    extras: Extras = field(default_factory=Extras)
    """What a client's request adds."""

    def of_answer(self, kind: AnswerKind | None) -> int:
        """Most tokens of an answer of this kind."""
        return ANSWER_TOKENS[kind or AnswerKind.SHORT_TEXT] if self.answer_tokens is None else self.answer_tokens

    def of(self, prompt: Prompt) -> CallLimits:
        """The limits of one call, the answer's tokens by the kind of its question where nothing else is set."""
        tokens = self.of_answer(None if prompt.question is None else prompt.question.kind)
        return CallLimits(
            tokens, self.reasoning_tokens, self.temperature, self.top_p, self.seed, self.timeout_s, self.extras
        )

    def as_object(self) -> dict[str, Any]:
        """The limits as plain data; extras only where there are any, so that the keys of other calls stay."""
        plain = asdict(self)
        if self.extras == Extras():
            del plain["extras"]
        return plain


@dataclass(frozen=True)
class CallLimits(Limits):
    """Limits whose `answer_tokens` is a number."""

    answer_tokens: int = 64


ANSWER_TOKENS = {
    AnswerKind.CHOICE: 24,
    AnswerKind.YES_NO: 16,
    AnswerKind.NUMBER: 24,
    AnswerKind.SHORT_TEXT: 64,
    AnswerKind.MATHS: 64,
    AnswerKind.FREE_TEXT: 1024,
    AnswerKind.JSON: 1024,
}
"""Most tokens of an answer. What needs more of a brief kind is an explanation, not an answer."""


@dataclass(frozen=True)
class Started:
    """The model has accepted the prompt."""


@dataclass(frozen=True)
class ReasoningDelta:
    """A piece of reasoning."""

    text: str


@dataclass(frozen=True)
class ReasoningEnded:
    """The reasoning is closed; what follows is the answer.

    Once in each finished REASON call, before the first AnswerDelta. A second block of reasoning directly behind the
    first one is reasoning too, and comes after it.
    """


@dataclass(frozen=True)
class AnswerDelta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Progress:
    """What a call has used so far, so that a call that is cancelled or breaks off still knows its cost."""

    usage: Usage


@dataclass(frozen=True)
class Finished:
    """The end of a call. `answer_logprob`: log of the probability of the answer's tokens, None if not observed.

    `tokens`: those of the answer, where `Extras.top_logprobs` asks for them and all are observed.
    """

    usage: Usage
    finish_reason: FinishReason
    answer_logprob: float | None = None
    tokens: tuple[AnswerToken, ...] = ()


Event = Started | ReasoningDelta | ReasoningEnded | AnswerDelta | Progress | Finished


class Weighing(StrEnum):
    """By what the pieces of a reasoning are weighed."""

    ATTENTION = "attention"
    """The attention that the answer's tokens pay to it, mean over layers, heads and queries."""
    SURPRISE = "surprise"
    """How little the model expected it: -log of its probability, in nats (self-information, Selective Context)."""


@dataclass(frozen=True)
class Abilities:
    """What a model can do. None: not known yet (not probed)."""

    images: bool | None
    logprobs: bool | None
    scoring: bool
    prefix_sessions: bool
    """Prompts computed by `warm` are not computed again."""
    card_formats: tuple[CardFormat, ...]
    """Ways to give this model a card, the best first."""
    style: Style
    weighing: bool = False
    """It has `weigh`."""
    place: str | None = None
    """Where it computes, if that is known: models of one place slow each other down when they run at once."""
    notes: tuple[str, ...] = ()
    """What falls back, and why, in words for a person."""
    scope: Scope | None = None
    """What it was trained on, where that is less than anything a person may ask."""
    honours: frozenset[str] = frozenset()
    """Names of `extras.NAMES` that calls take into account."""


class Model(Protocol):
    """Something that answers prompts: in this process, behind HTTP, recorded, or simulated."""

    @property
    def name(self) -> str: ...

    @property
    def abilities(self) -> Abilities: ...

    def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        """Started, then deltas, then Finished, exactly once each at the ends; in REASON mode ReasoningEnded between
        reasoning and answer. Closing the generator cancels the call.

        A call that reasons yields ReasoningEnded once, before the first AnswerDelta.

        A REASON prompt that spends `reasoning_tokens` without closing its reasoning is closed, and the answer decoded
        in a second stage: finish reason `budget`.

        Raises ModelError when the model fails, BadInput when the prompt cannot be computed (too long, a broken image).
        """
        ...

    async def warm(self, prompt: Prompt) -> Usage:
        """Compute this prompt, so that a later prompt that begins alike need not. Raises Unsupported if it cannot."""
        ...

    async def score(self, prompt: Prompt, answer: str) -> float:
        """Log of the probability that the prompt is followed by this answer, per token. Raises Unsupported."""
        ...

    def forget(self) -> None:
        """Drop what was computed before, so that the next call costs what a first one does. Not while calls run.

        What a server or a recording holds is not ours to drop: there nothing happens.
        """
        ...

    async def aclose(self) -> None:
        """Free what the model holds; calls under way are cancelled."""
        ...


class Weigher(Protocol):
    """A model that weighs the pieces of a card; `Abilities.weighing` shows whether one does."""

    async def weigh(self, prompt: Prompt, answer: str, by: Weighing) -> tuple[tuple[tuple[str, float], ...], Usage]:
        """The pieces of the prompt's card in order, the weight of each, and what finding it out has cost.

        Raises ModelError, BadInput where the card is not found in the prompt or the answer is empty.
        """
        ...
