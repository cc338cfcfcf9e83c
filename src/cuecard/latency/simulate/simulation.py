"""The latency of strategies by two profiles: the real strategies, run with simulated models in virtual time.

Each model has a device of its own, caches prefixes, and serves this one request alone. `Costs` stores a few runs: the
time of a strategy beyond the small model's own reasoning is simulated at a few lengths of reasoning, most of them near
the length at which the reader has caught up, and interpolated linearly between them.
"""

from __future__ import annotations

import math
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
TRANSFER = (Schedule.THRIFTY, Schedule.OVERLAP)
"""Schedules of `transfer`: the third one is the same as the second."""
FOLLOWED = round(Policy().follow_chars / 4)
"""Tokens of reasoning that the reader of a growing card waits for, at about four characters each."""
MOST_RUN = 400
"""Maximum tokens of reasoning within which the reader catches up."""
MOST = 1_000_000
"""A break-even above this many tokens counts as infinite."""


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


# --- costs ------------------------------------------------------------------------------------------------------------

Key = tuple[str, Schedule, Route]
Line = tuple[tuple[int, ...], tuple[float, ...]]
"""Tokens of reasoning, and seconds at each."""


@dataclass(frozen=True)
class Costs:
    """Latency of strategies for two profiles: `extra_s` is the time beyond the small model's own reasoning."""

    profiles: Profiles
    workload: RequestSize
    agreed_s: Mapping[Schedule, float]
    extra_s: Mapping[Key, Line]

    @classmethod
    def of(cls, profiles: Profiles, workload: RequestSize, confirmed: bool = True) -> Costs:
        """Costs from runs in virtual time, on all routes, or all but `confirmed`."""
        routes = (Route.CONFIRMED, Route.TRANSFERRED) if confirmed else (Route.TRANSFERRED,)
        keys = [("transfer", schedule, Route.TRANSFERRED) for schedule in TRANSFER]
        keys += [("mutual", schedule, route) for schedule in Schedule for route in routes]
        lengths = {key: _lengths(profiles, workload, key) for key in keys}
        ways = [Way(key[0], key[1], length, key[2]) for key in keys for length in lengths[key]]
        ways += [Way("mutual", schedule, 1, Route.AGREED) for schedule in Schedule]
        took = iter(outcome.total_s for outcome in outcomes(profiles, workload, ways))
        extra = {
            key: tuple(next(took) - _reasoning_s(profiles, workload, length) for length in lengths[key]) for key in keys
        }
        lines = {key: (lengths[key], extra[key]) for key in keys}
        return cls(profiles, workload, {schedule: next(took) for schedule in Schedule}, lines)

    def mean_s(self, strategy: str, schedule: Schedule, chances: Chances | None, reasoning: float) -> float:
        """Mean seconds if the small model generates this many tokens of reasoning."""
        routes = {Route.TRANSFERRED: 1.0} if chances is None else chances.routes
        alone_s = _reasoning_s(self.profiles, self.workload, reasoning)
        return sum(
            share
            * (
                self.agreed_s[schedule]
                if route is Route.AGREED
                else alone_s + _on_line(self.extra_s[strategy, schedule, route], reasoning)
            )
            for route, share in routes.items()
        )

    def crossing(self, strategy: str, schedule: Schedule, chances: Chances | None, output: int) -> float:
        """Tokens of reasoning at which it is as slow as the large model generating `output` tokens by itself."""
        target = self.profiles["large"].call_s(self.workload.visual, self.workload.prompt, output)
        low, high = 0.0, float(MOST)
        if self.mean_s(strategy, schedule, chances, low) >= target:
            return 0.0
        if self.mean_s(strategy, schedule, chances, high) < target:
            return math.inf
        while high - low > 1e-3:
            middle = (low + high) / 2
            if self.mean_s(strategy, schedule, chances, middle) < target:
                low = middle
            else:
                high = middle
        return low


def _reasoning_s(profiles: Profiles, workload: RequestSize, reasoning: float) -> float:
    """Seconds of the small model that reasons and answers by itself."""
    profile, prompt = profiles["small"], workload.prompt
    tokens = reasoning + workload.answer
    return profile.call_s(workload.visual, prompt, 1) + profile.decode_s(tokens, prompt)


def _lengths(profiles: Profiles, workload: RequestSize, key: Key) -> tuple[int, ...]:
    """Lengths of reasoning to simulate: densest around the length at which the reader has caught up."""
    _, schedule, route = key
    first_s = profiles["large"].call_s(workload.visual, workload.prompt, 1)
    step_s = profiles["small"].step_s(workload.prompt)
    caught_up = FOLLOWED + (min(MOST_RUN, math.ceil(first_s / step_s)) if step_s > 0 else MOST_RUN)
    last = max(256, 2 * caught_up)
    if schedule is Schedule.THRIFTY or route is Route.CONFIRMED:  # no prefill ahead of the card's end
        return 16, last // 2, last
    around = (round(share * caught_up) for share in (0.85, 1, 1.25, 1.6))
    return tuple(sorted({16, 64, *around, last}))


def _on_line(line: Line, at: float) -> float:
    """Linear interpolation, extrapolated on both sides; beyond the last value without falling."""
    places, values = line
    place = next((each for each in range(1, len(places) - 1) if at <= places[each]), len(places) - 1)
    slope = (values[place] - values[place - 1]) / (places[place] - places[place - 1])
    return values[place] + (max(slope, 0.0) if at > places[-1] else slope) * (at - places[place])
