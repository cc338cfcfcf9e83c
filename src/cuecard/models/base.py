"""The Model protocol: a prompt goes in, typed events come out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Protocol

from cuecard.answers.kinds import KINDS
from cuecard.domain.call import AnswerToken, Call, FinishReason, Mode, Usage
from cuecard.domain.errors import CuecardError
from cuecard.domain.keywords import suggests_keywords
from cuecard.domain.question import AnswerKind
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.models.prompt import CardFormat, Prompt, Style
from cuecard.models.scope import Scope

SAMPLING = ("top_k", "min_p")
PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")
TEMPLATE, PASSED = "chat_template_kwargs", "passed"
NAMES = frozenset({*SAMPLING, *PENALTIES, "stop", "logit_bias", TEMPLATE, "logprobs", "top_logprobs", PASSED})
"""Fields of a client's request that a model may honour; `passed` stands for fields that are not known here."""

Numbers = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Extras:
    """Fields that a client's request adds: by name, or objects as JSON, so that limits can be hashed and stored."""

    sampling: Numbers = ()
    """Of all calls; names of SAMPLING."""
    penalties: Numbers = ()
    """Of calls that reason or write free text: a brief answer has to repeat words of its question."""
    stop: tuple[str, ...] = ()
    """Texts at which an answer in free text may end, as what follows is not shown."""
    stop_is_named: bool = False
    """Whether the text that ends an answer has to be known. Servers do not report it, so they get no stop texts."""
    logit_bias: Numbers = ()
    """By token id. Of the large model's calls alone, as ids are those of one tokenizer."""
    template: str | None = None
    """A JSON object for the chat template; what switches thinking has the last word over it."""
    top_logprobs: int | None = None
    """Alternatives of each token of the answer; None: the answer's tokens are not wanted."""
    passed: str | None = None
    """A JSON object of further fields for every body; whatever else sets one of them has the last word."""

    def __repr__(self) -> str:
        given = [
            (each.name, getattr(self, each.name)) for each in fields(self) if getattr(self, each.name) != each.default
        ]
        return f"Extras({', '.join(f'{name}={value!r}' for name, value in given)})"

    @property
    def passed_fields(self) -> dict[str, Any]:
        return dict(json.loads(self.passed or "{}"))

    @property
    def template_fields(self) -> dict[str, Any]:
        return dict(json.loads(self.template or "{}"))


@suggests_keywords
@dataclass(frozen=True)
class Limits:
    """How much a call may generate, and how it chooses tokens. Temperature 0 is greedy."""

    answer_tokens: int | None = None
    """None: by the kind of answer, as in `answers.kinds.KINDS`."""
    reasoning_tokens: int = 2048
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    timeout_s: float | None = 120.0
    extras: Extras = field(default_factory=Extras)
    """What a client's request adds."""

    def of_answer(self, kind: AnswerKind | None) -> int:
        """Most tokens of an answer of this kind."""
        return KINDS[kind or AnswerKind.SHORT_TEXT].tokens if self.answer_tokens is None else self.answer_tokens

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
    resumes: bool = False
    """It goes on with a reasoning that its turn begins with; else it is asked to, in a turn of the user's."""
    place: str | None = None
    """Where it computes, if that is known: models of one place slow each other down when they run at once."""
    notes: tuple[str, ...] = ()
    """What falls back, and why, in words for a person."""
    scope: Scope | None = None
    """What it was trained on, where that is less than anything a person may ask."""
    acceptance: AcceptanceTable | None = None
    """How likely its short answers are right, beside those of the small model that the table names."""
    honours: frozenset[str] = frozenset()
    """Members of `NAMES` that calls take into account."""


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


@dataclass
class CallRecorder:
    """Builds a `Call` from its events; times are seconds since the arm began, or since the call did."""

    role: str
    model: str
    mode: Mode
    start_s: float
    key: str | None = None
    retries: int = 0
    usage: Usage = field(default_factory=Usage)
    finish_reason: FinishReason = FinishReason.CANCELLED
    error: str | None = None
    end_s: float = 0.0

    def __post_init__(self) -> None:
        self.first_token_s: float | None = None
        self.reasoning_end_s: float | None = None
        self._logprob: float | None = None
        self._reasoning, self._answer = list[str](), list[str]()

    def take(self, event: Event, now_s: float) -> None:
        """Update the call by an event of its stream."""
        match event:
            case ReasoningDelta(text):
                self._reasoning.append(text)
            case ReasoningEnded():
                self.reasoning_end_s = now_s
            case AnswerDelta(text):
                self._answer.append(text)
            case Progress(usage):
                self.usage = usage
            case Finished(usage, reason, logprob):
                self.usage, self.finish_reason, self._logprob = usage, reason, logprob
        if isinstance(event, ReasoningDelta | AnswerDelta) and self.first_token_s is None:
            self.first_token_s = now_s

    @contextmanager
    def until_it_ends(self) -> Iterator[None]:
        """Records when the call ends on the event loop's clock, and the error that ends it."""
        try:
            yield
        except CuecardError as failure:
            self.finish_reason, self.error = FinishReason.ERROR, str(failure)
            raise
        finally:
            self.end_s = asyncio.get_running_loop().time()

    @property
    def call(self) -> Call:
        """The call, once it has ended."""
        return Call(
            self.role,
            self.model,
            self.mode,
            self.start_s,
            self.first_token_s,
            self.end_s,
            self.usage,
            self.finish_reason,
            "".join(self._reasoning) or None,
            "".join(self._answer) or None,
            self._logprob,
            self.error,
            self.reasoning_end_s,
            self.key,
            self.retries,
        )
