"""The Model protocol: a prompt goes in, typed events come out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Protocol, cast

from cuecard.answers.kinds import KINDS
from cuecard.domain.call import AnswerToken, Call, FinishReason, Mode, Usage
from cuecard.domain.errors import CuecardError, suggests_keywords
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.models.prompt import CardFormat, Prompt, Style
from cuecard.models.scope import Scope

SAMPLING = ("top_k", "min_p")
PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")
TEMPLATE, PASSED = "chat_template_kwargs", "passed"
NAMES = frozenset({*SAMPLING, *PENALTIES, "stop", "logit_bias", TEMPLATE, "logprobs", "top_logprobs", PASSED})
"""Fields of a client's request that a model may honour; `passed` stands for all fields that Cuecard does not know."""

Numbers = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Extras:
    """Fields that a client's request adds, as (name, number) pairs or JSON text, so that limits are hashable."""

    sampling: Numbers = ()
    """For all calls; names from SAMPLING."""
    penalties: Numbers = ()
    """For calls that reason or write free text; not for brief answers, which have to repeat words of the question."""
    stop: tuple[str, ...] = ()
    """Stop texts of an answer in free text, which may end there because the client does not see the rest."""
    stop_is_named: bool = False
    """Whether the client needs the stop text that ended the answer. Servers do not report it, so none are sent."""
    logit_bias: Numbers = ()
    """By token id. Only for the large model's calls, because ids depend on the tokenizer."""
    template: str | None = None
    """A JSON object for the chat template; the fields that switch thinking override it."""
    top_logprobs: int | None = None
    """Number of alternatives for each token of the answer; None: the answer's tokens are not requested."""
    passed: str | None = None
    """A JSON object of further fields for every request body; any other source of a field overrides it."""

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
    """None: depends on the kind of answer, as in `answers.kinds.KINDS`."""
    reasoning_tokens: int = 2048
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    timeout_s: float | None = 120.0
    extras: Extras = field(default_factory=Extras)
    """Fields that a client's request adds."""

    def of_answer(self, kind: AnswerKind | None) -> int:
        """Maximum tokens of an answer of this kind."""
        return KINDS[kind or AnswerKind.SHORT_TEXT].tokens if self.answer_tokens is None else self.answer_tokens

    def of(self, prompt: Prompt) -> CallLimits:
        """The limits of one call; `answer_tokens`, if None, depends on the kind of the prompt's question."""
        tokens = self.of_answer(None if prompt.question is None else prompt.question.kind)
        return CallLimits(**{**vars(self), "answer_tokens": tokens})

    def as_object(self) -> dict[str, Any]:
        """The limits as plain data. Empty extras are left out, so that the cache keys of such calls do not change."""
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
    """The reasoning is closed; the answer follows.

    Occurs once in each finished REASON call, before the first AnswerDelta. If a second block of reasoning directly
    follows the first one, its ReasoningDelta events come after this event.
    """


@dataclass(frozen=True)
class AnswerDelta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Progress:
    """Usage of a call so far, so that the cost of a cancelled or failed call is known."""

    usage: Usage


@dataclass(frozen=True)
class Finished:
    """The end of a call. `answer_logprob`: log of the probability of the answer's tokens, None if not observed.

    `tokens`: the tokens of the answer, if `Extras.top_logprobs` requests them and all are observed; else empty.
    """

    usage: Usage
    finish_reason: FinishReason
    answer_logprob: float | None = None
    tokens: tuple[AnswerToken, ...] = ()


Event = Started | ReasoningDelta | ReasoningEnded | AnswerDelta | Progress | Finished


class Weighing(StrEnum):
    """How the pieces of a reasoning are weighed."""

    ATTENTION = "attention"
    """Attention of the answer's tokens to the piece, mean over layers, heads and queries."""
    SURPRISE = "surprise"
    """-log of the piece's probability, in nats (self-information, Selective Context)."""


Weighed = tuple[tuple[str, float], ...]
"""The pieces of a card in order, each with its weight."""


@dataclass(frozen=True)
class Abilities:
    """What a model can do. None: not known yet (not probed)."""

    images: bool | None
    logprobs: bool | None
    scoring: bool
    prefix_sessions: bool
    """Prompts computed by `warm` are not computed again."""
    card_formats: tuple[CardFormat, ...]
    """Card formats that this model can read, best first."""
    style: Style
    weighing: bool = False
    """The model is a `Weigher`."""
    resumes: bool = False
    """The model continues a reasoning at the beginning of its own turn; otherwise a user turn asks it to continue."""
    place: str | None = None
    """Where the model computes; None if unknown. Models in one place slow each other down when they run at once."""
    notes: tuple[str, ...] = ()
    """Fallbacks and their reasons, in plain English."""
    scope: Scope | None = None
    """The questions that the model was trained on; None for a general model."""
    acceptance: AcceptanceTable | None = None
    """The probability that its short answers are right, given those of the small model that the table names."""
    honours: frozenset[str] = frozenset()
    """Members of `NAMES` that calls take into account."""


class Model(Protocol):
    """A model that answers prompts: in this process, behind HTTP, recorded, or simulated."""

    @property
    def name(self) -> str: ...

    @property
    def abilities(self) -> Abilities: ...

    def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        """Yields Started once, then deltas, then Finished once. Closing the generator cancels the call.

        A call in REASON mode yields ReasoningEnded once, before the first AnswerDelta. If it spends `reasoning_tokens`
        without closing its reasoning, the reasoning is closed and the answer is decoded in a second stage: finish
        reason `budget`.

        Raises ModelError when the model fails, BadInput when the prompt cannot be computed (too long, a broken image).
        """

    async def warm(self, prompt: Prompt) -> Usage:
        """Prefill this prompt, so that later prompts with the same prefix reuse it. Raises Unsupported if it cannot."""

    async def score(self, prompt: Prompt, answer: str) -> float:
        """Log probability per token of this answer after the prompt. Raises Unsupported."""

    def forget(self) -> None:
        """Drop everything computed before, so that the next call costs as much as a first one. Not while calls run.

        Does nothing for a server or a recording.
        """

    async def aclose(self) -> None:
        """Free the model's resources; running calls end with an error."""


def outside(question: Question, models: Iterable[Model]) -> str | None:
    """Why a question is outside the scope of some of the models, with what each scope is about; else None."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for model in models:
        scope = model.abilities.scope
        if scope is not None and (why := scope.outside(question)) is not None:
            reasons.setdefault((scope.about, why), []).append(model.name)
    table = [
        f"outside what {' and '.join(names)} {'were' if len(names) > 1 else 'was'} trained on ({about}): {why}"
        for (about, why), names in reasons.items()
    ]
    return "; ".join(table) or None


class Weigher(Protocol):
    """A model that can weigh the pieces of a card; its `Abilities.weighing` is true."""

    async def weigh(self, prompt: Prompt, answer: str, by: Weighing) -> tuple[Weighed, Usage]:
        """The pieces of the prompt's card in order, each with its weight; and the usage of this computation.

        Raises ModelError; BadInput if the card is not in the prompt or the answer is empty.
        """


class ForwardingModel:
    """A model that forwards its calls to another one: the base of models that change some of them."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def abilities(self) -> Abilities:
        return self.model.abilities

    def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        return self.model.stream(prompt, limits)

    async def warm(self, prompt: Prompt) -> Usage:
        return await self.model.warm(prompt)

    async def score(self, prompt: Prompt, answer: str) -> float:
        return await self.model.score(prompt, answer)

    async def weigh(self, prompt: Prompt, answer: str, by: Weighing) -> tuple[Weighed, Usage]:
        return await cast(Weigher, self.model).weigh(prompt, answer, by)

    def forget(self) -> None:
        self.model.forget()

    async def aclose(self) -> None:
        await self.model.aclose()


@dataclass
class CallRecorder:
    """Builds a `Call` from its events; times are seconds since the start of the arm, or of the call."""

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
    first_token_s: float | None = None
    reasoning_end_s: float | None = None
    reasoning: str = ""
    answer: str = ""
    answer_logprob: float | None = None
    tokens: tuple[AnswerToken, ...] = ()

    def take(self, event: Event, now_s: float) -> None:
        """Update the call with an event of its stream, received at `now_s`."""
        match event:
            case ReasoningDelta(text):
                self.reasoning += text
            case ReasoningEnded():
                self.reasoning_end_s = now_s
            case AnswerDelta(text):
                self.answer += text
            case Progress(usage):
                self.usage = usage
            case Finished(usage, reason, logprob, tokens):
                self.usage, self.finish_reason, self.answer_logprob, self.tokens = usage, reason, logprob, tokens
        if isinstance(event, ReasoningDelta | AnswerDelta) and self.first_token_s is None:
            self.first_token_s = now_s

    def fail(self, error: CuecardError) -> None:
        """Record that the call ends in an error."""
        self.finish_reason, self.error = FinishReason.ERROR, str(error)

    @contextmanager
    def until_it_ends(self) -> Iterator[None]:
        """Record the end of the call, by the event loop's clock, and the error that ended it."""
        try:
            yield
        except CuecardError as failure:
            self.fail(failure)
            raise
        finally:
            self.end_s = asyncio.get_running_loop().time()

    @property
    def call(self) -> Call:
        """The call, once it has ended."""
        own = {each.name: getattr(self, each.name) for each in fields(Call)}
        return Call(**own | {"reasoning": self.reasoning or None, "answer": self.answer or None})
