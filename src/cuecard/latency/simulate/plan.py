"""What pairs of models would cost, on paper: latency, tokens and money of each strategy, from fits or public figures.

Every number is estimated. A model is either a fit (`cuecard fit`) or figures that somebody published, named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from cuecard import settings
from cuecard.domain.call import Call
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.suggestions import did_you_mean
from cuecard.latency.analysis.latency_model import plainest, read_all
from cuecard.latency.simulate.simulation import Chances, RequestSize, Way, outcomes
from cuecard.models.simulated import Profile
from cuecard.strategies.policy import Schedule

TABLES = ("questions", "workload", "models", "pairs")
"""Of the file."""


@dataclass(frozen=True)
class Member:
    """One model: a fit, or public figures; and its prices, in any one currency."""

    name: str
    fit: str | None = None
    first_token_s: float | None = None
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    source: str | None = None
    """Where public figures come from; needed with them."""
    prompt_price: float | None = None
    """Per million tokens, as the other two."""
    cached_price: float | None = None
    completion_price: float | None = None
    price_per_hour: float | None = None
    """Of the device that it runs on, while it works: what it costs where no price of tokens is set."""

    def __post_init__(self) -> None:
        if (self.fit is None) == (self.decode_tokens_per_s is None):
            raise BadInput(f"{self.name} needs a fit or decode_tokens_per_s, one of both")
        if self.decode_tokens_per_s is not None and not self.source:
            raise BadInput(f"{self.name} does not say where its figures come from", 'write source = "…"')
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int | float) and (value < 0 or (value == 0 and each.name.endswith("per_s"))):
                raise BadInput(f"{each.name} of {self.name} is {value:g}")


@dataclass(frozen=True)
class Speed:
    """How fast a model is taken to be, and where that comes from."""

    profile: Profile
    origin: str


@dataclass(frozen=True)
class Load:
    """What the questions are like."""

    text_tokens: int
    reasoning_tokens: int
    """Of the small model."""
    visual_tokens: int = 0
    answer_tokens: int = 4
    large_reasoning_tokens: int | None = None
    """As many as the small one's where it is left out."""
    agree: float = 0.0
    confirm: float = 0.0

    @property
    def workload(self) -> RequestSize:
        return RequestSize(self.visual_tokens, self.visual_tokens + self.text_tokens, self.answer_tokens)


@dataclass(frozen=True)
class Line:
    """One way of answering: means a question. The cost is None where a price is not set."""

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
    """All ways of one pair. Latencies and costs are estimated."""

    small: str
    large: str
    load: Load
    origins: Mapping[str, str]
    lines: tuple[Line, ...]


def plans(path: Path) -> tuple[int, list[PairPlan]]:
    """The number of questions that costs are given for, and each pair of the file. Raises BadInput."""
    data = settings.read(path)
    if unknown := sorted(set(data) - {*TABLES}):
        raise BadInput(f"{path}: unknown key {unknown[0]}", did_you_mean(unknown[0], TABLES))
    members = {
        name: settings.build(Member, {"name": name, **_table(table)}, f"{name}.")
        for name, table in _of(data, "models").items()
    }
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
    asked = settings.build(Load, {**load, **own}, "workload.")
    profiles = {role: speeds[name].profile for role, name in roles.items()}
    priced = {role: members[name] for role, name in roles.items()}
    lines = tuple(_line(profiles, priced, asked, strategy, schedule) for strategy, schedule in _KINDS)
    return PairPlan(
        roles["small"], roles["large"], asked, {name: speeds[name].origin for name in roles.values()}, lines
    )


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
    wide = load.reasoning_tokens if load.large_reasoning_tokens is None else load.large_reasoning_tokens
    length = wide if strategy == "reason:large" else load.reasoning_tokens
    shares = Chances(load.agree, load.confirm).routes if strategy == "mutual" else {Route.TRANSFERRED: 1.0}
    ways = [Way(strategy, schedule or Schedule.OVERLAP, length, route) for route in shares]
    ran = list(zip(shares.values(), outcomes(profiles, load.workload, ways), strict=True))

    def mean(name: str) -> dict[str, float]:
        return {role: sum(share * _tokens(each, role, name) for share, each in ran) for role in profiles}

    prompt, cached, written = (mean(name) for name in ("prompt_tokens", "cached_tokens", "completion_tokens"))
    busy = {role: sum(share * _busy_s(each, role) for share, each in ran) for role in profiles}
    worked = [role for role in profiles if busy[role] > 0]
    return Line(
        strategy,
        schedule,
        sum(share * each.total_s for share, each in ran),
        prompt,
        cached,
        written,
        busy,
        _sum([_cost(members[role], prompt[role], cached[role], written[role], busy[role]) for role in worked]),
    )


def _tokens(outcome: Outcome, role: str, name: str) -> int:
    return sum(getattr(call.usage, name) or 0 for call in _calls(outcome, role))


def _busy_s(outcome: Outcome, role: str) -> float:
    """Seconds in which at least one call of the model ran."""
    return replace(outcome, calls=_calls(outcome, role)).busy_s


def _calls(outcome: Outcome, role: str) -> tuple[Call, ...]:
    return tuple(call for call in outcome.calls if call.role == role)


def _cost(member: Member, prompt: float, cached: float, written: float, busy_s: float) -> float | None:
    """By the tokens, else by the device's time."""
    if member.prompt_price is not None and member.completion_price is not None:
        cheap = member.prompt_price if member.cached_price is None else member.cached_price
        return ((prompt - cached) * member.prompt_price + cached * cheap + written * member.completion_price) / 1e6
    return None if member.price_per_hour is None else busy_s * member.price_per_hour / 3600


def _sum(costs: Sequence[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


# --- the file ---------------------------------------------------------------------------------------------------------


def _speed(member: Member, folder: Path) -> Speed:
    """By its fit, or by figures: what is not given of prefill costs nothing beyond the first token's time."""
    if member.fit is not None:
        fits = read_all(folder / member.fit)
        fit = fits[0] if len(fits) == 1 else plainest(fits, member.name)
        where = fit.measured.get("machine") or {}
        on = where.get("accelerator") or where.get("processor") or "an unnamed machine"
        return Speed(fit.profile, f"fit of {fit.described}, measured on {on}, {where.get('date', 'no date')}")
    assert member.decode_tokens_per_s is not None
    profile = Profile(
        fixed_s=member.first_token_s or 0.0,
        prefill_s_per_token=1 / member.prefill_tokens_per_s if member.prefill_tokens_per_s else 0.0,
        decode_s_per_token=1 / member.decode_tokens_per_s,
        first_with_prefill=True,
    )
    return Speed(profile, f"public figures: {member.source}")


def _of(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not (found := _table(data.get(name) or {})):
        raise BadInput(f"the file has no [{name}.NAME] table", "one table a model")
    return found


def _table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadInput(f"{value!r} is not a table")
    return value
