"""The latency of strategies by two profiles: the real strategies, run with simulated models in virtual time.

Each model has a device of its own, caches prefixes, and serves this one request alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from random import Random

from cuecard import virtual_time
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.models import prompt as layouts
from cuecard.models.base import Limits
from cuecard.models.prompt import TAGS, Prompt
from cuecard.models.simulated import Profile, Script, ScriptFor, SimulatedModel, words
from cuecard.strategies.acceptance_rules import Acceptance
from cuecard.strategies.policy import Policy, Schedule
from cuecard.strategies.run import answer

_IMAGE = Image(b"an image")
_WORD = " abc"  # a token is about four characters, by which the reader of a growing card counts
_ADDED = (
    len(words(layouts.short(Question("?", kind=AnswerKind.SHORT_TEXT), TAGS).turns[0].text)) - 1 + len(words(TAGS.none))
)
"""Tokens that the layout adds to a question."""
LEAST_TEXT = _ADDED + 1
"""Minimum tokens of a prompt besides its image."""


@dataclass(frozen=True)
class RequestSize:
    """A question in tokens: its image (0: none), the whole prompt of a short answer, and the short answer."""

    visual: int
    prompt: int
    answer: int = 4

    def __post_init__(self) -> None:
        if self.visual < 0 or self.answer < 1 or self.prompt < self.visual + LEAST_TEXT:
            least = self.visual + LEAST_TEXT
            raise BadInput(
                f"a prompt of {self.prompt} tokens with {self.visual} visual ones and an answer of {self.answer}",
                f"the prompt needs at least {least} tokens, the answer 1",
            )

    @property
    def question(self) -> Question:
        text = (_WORD * (self.prompt - self.visual - _ADDED)).strip()
        return Question(text, (_IMAGE,) if self.visual else (), kind=AnswerKind.SHORT_TEXT)


@dataclass(frozen=True)
class Way:
    """A strategy on a schedule, its route, and the number of reasoning tokens of a model in reasoning mode."""

    strategy: str
    schedule: Schedule = Schedule.OVERLAP
    reasoning: int = 0
    route: Route = Route.TRANSFERRED
    """For `mutual`: agreed, confirmed or transferred. Other strategies have only one route."""


Profiles = Mapping[str, Profile]
"""By role: `small`, `large`."""


def outcomes(profiles: Profiles, workload: RequestSize, ways: Iterable[Way]) -> list[Outcome]:
    """Simulate each way of answering, with cold caches."""

    async def in_turn() -> list[Outcome]:
        return [await _outcome(profiles, workload, way) for way in ways]

    return virtual_time.run(in_turn())


async def _outcome(profiles: Profiles, workload: RequestSize, way: Way) -> Outcome:
    models = {
        role: SimulatedModel(
            role, replace(profile, image_tokens=workload.visual), _script(role, workload, way), Random(0)
        )
        for role, profile in profiles.items()
    }
    limits = Limits(answer_tokens=workload.answer, reasoning_tokens=max(1, way.reasoning), timeout_s=None)
    policy = Policy(schedule=way.schedule, accept=Acceptance(True, None), limits=limits, strict=True)
    return await answer(workload.question, models, way.strategy, policy)


def _script(role: str, workload: RequestSize, way: Way) -> ScriptFor:
    """Answers that lead the strategy to the wanted route."""
    reasoning = (_WORD * way.reasoning).strip()
    shorts = {"small": "red" if way.route is Route.AGREED else "blue", "large": "red"}

    def script(prompt: Prompt) -> Script:
        if prompt.mode is Mode.REASON:
            reasoned = "red" if way.route is Route.CONFIRMED else "green"
            return Script(_long(reasoned, workload.answer), reasoning)
        return Script(_long(shorts[role] if prompt.mode is Mode.SHORT else "green", workload.answer))

    return script


def _long(word: str, tokens: int) -> str:
    return " ".join([word] * tokens)


@dataclass(frozen=True)
class Chances:
    """Acceptance rate of short answers, and the rate at which reasoning confirms a large model's rejected one."""

    agree: float
    confirm: float = 0.0

    def __post_init__(self) -> None:
        for name, share in (("agreement", self.agree), ("confirmation", self.confirm)):
            if not 0 <= share <= 1:
                raise BadInput(f"a rate of {name} of {share:g} is not between 0 and 1")

    @property
    def routes(self) -> Mapping[Route, float]:
        """Shares of the routes of `mutual` that occur, summing to 1."""
        rest = 1 - self.agree
        shares = {
            Route.AGREED: self.agree,
            Route.CONFIRMED: rest * self.confirm,
            Route.TRANSFERRED: rest * (1 - self.confirm),
        }
        return {route: share for route, share in shares.items() if share > 0}
