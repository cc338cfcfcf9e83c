"""The latency of strategies by two profiles, and plans for pairs: latency, tokens and cost of each strategy.

The real strategies run with simulated models in virtual time: each model has a device of its own, caches prefixes, and
serves this one request alone. Every number is estimated. A model of a plan is a fit (`cuecard fit`) or published
figures with their source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from random import Random
from typing import Any

from cuecard import disk, virtual_time
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput, did_you_mean
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.latency.latency_model import Fit, plainest, read_all
from cuecard.models import prompt as layouts
from cuecard.models.base import Limits
from cuecard.models.prompt import TAGS, Prompt
from cuecard.models.simulated import Profile, Script, ScriptFor, SimulatedModel, words
from cuecard.strategies.policy import Acceptance, Policy, Schedule
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


# --- plans ------------------------------------------------------------------------------------------------------------

TABLES = ("questions", "workload", "models", "pairs")
"""Tables of the file."""


@dataclass(frozen=True)
class Member:
    """One model: a fit or public figures, and prices in any one currency."""

    name: str
    fit: str | None = None
    first_token_s: float | None = None
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    source: str | None = None
    """Source of public figures; required with them."""
    prompt_price: float | None = None
    """Per million tokens, as the other two prices."""
    cached_price: float | None = None
    completion_price: float | None = None
    price_per_hour: float | None = None
    """Price of the model's device while it is busy: the cost if no token price is set."""

    def __post_init__(self) -> None:
        if (self.fit is None) == (self.decode_tokens_per_s is None):
            raise BadInput(f"{self.name} needs a fit or decode_tokens_per_s, one of both")
        if self.decode_tokens_per_s is not None and not self.source:
            raise BadInput(f"{self.name} does not say where its figures come from", 'write source = "…"')
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int | float) and (value < 0 or (value == 0 and each.name.endswith("per_s"))):
                raise BadInput(f"{each.name} of {self.name} is {value:g}")


Speed = tuple[Profile, str, Fit | None]
"""A model's latencies, their source in words, and the fit, if they are from one."""


@dataclass(frozen=True)
class Load:
    """The questions: lengths in tokens, and agreement rates."""

    text_tokens: int
    reasoning_tokens: int
    """Reasoning tokens of the small model."""
    visual_tokens: int = 0
    answer_tokens: int = 4
    large_reasoning_tokens: int | None = None
    """Default: as many as the small model's."""
    agree: float = 0.0
    confirm: float = 0.0

    @property
    def workload(self) -> RequestSize:
        return RequestSize(self.visual_tokens, self.visual_tokens + self.text_tokens, self.answer_tokens)

    @property
    def large_reasoning(self) -> int:
        """Tokens of the large model's own reasoning."""
        return self.reasoning_tokens if self.large_reasoning_tokens is None else self.large_reasoning_tokens

    def lengths(self, role: str) -> dict[str, tuple[int, ...]]:
        """Tokens of a role's calls, by the names of the measured ranges of a fit."""
        own, prompt = self.workload, self.workload.prompt
        reasoned = self.large_reasoning if role == "large" else self.reasoning_tokens
        prompts = (prompt, prompt + self.reasoning_tokens) if role == "large" else (prompt,)
        outputs = (own.answer, reasoned + own.answer)
        return {"visual_tokens": (own.visual,), "prompt_tokens": prompts, "output_tokens": outputs}


@dataclass(frozen=True)
class Line:
    """One way of answering: means per question. The cost is None if a price is missing."""

    strategy: str
    schedule: Schedule | None
    mean_s: float
    prompt_tokens: Mapping[str, float]
    cached_tokens: Mapping[str, float]
    completion_tokens: Mapping[str, float]
    busy_s: Mapping[str, float]
    """By role, like the tokens."""
    cost: float | None


@dataclass(frozen=True)
class PairPlan:
    """All ways of answering of one pair. Latencies and costs are estimated."""

    small: str
    large: str
    load: Load
    origins: Mapping[str, str]
    lines: tuple[Line, ...]
    extrapolated: tuple[str, ...]
    """Values of the questions outside the measured ranges of a fit."""


def plans(path: Path) -> tuple[int, list[PairPlan]]:
    """The number of questions that costs are for, and the plan of each pair in the file. Raises BadInput."""
    data = disk.read_toml(path)
    if unknown := sorted(set(data) - {*TABLES}):
        raise BadInput(f"{path}: unknown key {unknown[0]}", did_you_mean(unknown[0], TABLES))
    tables = _table(data.get("models") or {})
    if not tables:
        raise BadInput("the file has no [models.NAME] table", "one table a model")
    members = {name: disk.build(Member, {"name": name, **_table(table)}, f"{name}.") for name, table in tables.items()}
    speeds = {name: _speed(member, path.parent) for name, member in members.items()}
    load = _table(data.get("workload") or {})
    pairs = data.get("pairs") or []
    if not pairs:
        raise BadInput(f"{path} names no pairs", 'write [[pairs]] with small = "…" and large = "…"')
    questions = data.get("questions", 1000)
    if not isinstance(questions, int) or questions < 1:
        raise BadInput("questions is not a whole number above 0")
    return questions, [_plan(_table(pair), load, members, speeds) for pair in pairs]


def _plan(
    pair: Mapping[str, Any], load: Mapping[str, Any], members: Mapping[str, Member], speeds: Mapping[str, Speed]
) -> PairPlan:
    roles = {role: str(pair.get(role)) for role in ("small", "large")}
    for role, name in roles.items():
        if name not in members:
            raise BadInput(f"the {role} model of a pair, {name!r}, has no table", f"there are: {', '.join(members)}")
    own = {name: value for name, value in pair.items() if name not in roles}
    questions = disk.build(Load, {**load, **own}, "workload.")
    profiles = {role: speeds[name][0] for role, name in roles.items()}
    priced = {role: members[name] for role, name in roles.items()}
    lines = tuple(_line(profiles, priced, questions, strategy, schedule) for strategy, schedule in _KINDS)
    origins = {name: speeds[name][1] for name in roles.values()}
    fits = {role: fit for role, name in roles.items() if (fit := speeds[name][2]) is not None}
    beyond = [line for role, fit in fits.items() for line in fit.beyond(questions.lengths(role))]
    return PairPlan(roles["small"], roles["large"], questions, origins, lines, tuple(beyond))


_KINDS: tuple[tuple[str, Schedule | None], ...] = (
    ("short:small", None),
    ("short:large", None),
    ("reason:small", None),
    ("reason:large", None),
    ("transfer", Schedule.THRIFTY),
    ("transfer", Schedule.OVERLAP),
    ("mutual", Schedule.THRIFTY),
    ("mutual", Schedule.OVERLAP),
    ("mutual", Schedule.EAGER),
)


def _line(
    profiles: Mapping[str, Profile], members: Mapping[str, Member], load: Load, strategy: str, schedule: Schedule | None
) -> Line:
    length = load.large_reasoning if strategy == "reason:large" else load.reasoning_tokens
    shares = Chances(load.agree, load.confirm).routes if strategy == "mutual" else {Route.TRANSFERRED: 1.0}
    ways = [Way(strategy, schedule or Schedule.OVERLAP, length, route) for route in shares]
    ran = list(zip(shares.values(), outcomes(profiles, load.workload, ways), strict=True))

    def mean(amount: Callable[[Outcome], float]) -> dict[str, float]:
        """Means by role; an outcome counts only the role's own calls."""
        return {role: sum(share * amount(_of_role(each, role)) for share, each in ran) for role in profiles}

    prompt = mean(lambda each: sum(call.usage.prompt_tokens or 0 for call in each.calls))
    cached = mean(lambda each: sum(call.usage.cached_tokens or 0 for call in each.calls))
    written = mean(lambda each: sum(call.usage.completion_tokens or 0 for call in each.calls))
    busy = mean(lambda each: each.busy_s)
    total_s = sum(share * each.total_s for share, each in ran)
    worked = [role for role in profiles if busy[role] > 0]
    costs = [_cost(members[role], prompt[role], cached[role], written[role], busy[role]) for role in worked]
    known = [cost for cost in costs if cost is not None]
    cost = sum(known) if len(known) == len(costs) else None
    return Line(strategy, schedule, total_s, prompt, cached, written, busy, cost)


def _of_role(outcome: Outcome, role: str) -> Outcome:
    return replace(outcome, calls=tuple(call for call in outcome.calls if call.role == role))


def _cost(member: Member, prompt: float, cached: float, written: float, busy_s: float) -> float | None:
    """Cost by tokens, else by busy time of the device; None without prices."""
    if member.prompt_price is not None and member.completion_price is not None:
        cheap = member.prompt_price if member.cached_price is None else member.cached_price
        return ((prompt - cached) * member.prompt_price + cached * cheap + written * member.completion_price) / 1e6
    return None if member.price_per_hour is None else busy_s * member.price_per_hour / 3600


def _speed(member: Member, folder: Path) -> Speed:
    """Latencies from a fit or from figures; without prefill figures, prefill adds no time to the first token's."""
    if member.fit is not None:
        fits = read_all(folder / member.fit)
        fit = fits[0] if len(fits) == 1 else plainest(fits, member.name)
        where = fit.measured.get("machine") or {}
        on = where.get("accelerator") or where.get("processor") or "an unnamed machine"
        origin = f"fit of {fit.described}, measured on {on}, {where.get('date', 'no date')}"
        return fit.profile, origin, fit
    assert member.decode_tokens_per_s is not None
    profile = Profile(
        fixed_s=member.first_token_s or 0.0,
        prefill_s_per_token=1 / member.prefill_tokens_per_s if member.prefill_tokens_per_s else 0.0,
        decode_s_per_token=1 / member.decode_tokens_per_s,
        first_with_prefill=True,
    )
    return profile, f"public figures: {member.source}", None


def _table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadInput(f"{value!r} is not a table")
    return value
