"""Break-even: how many tokens the small model may generate before the large model alone is as fast.

The small model alone follows the formula of its profile; strategies run in virtual time. `Costs` stores a few runs: the
time of a strategy beyond the small model's own reasoning is simulated at a few lengths of reasoning, most of them near
the length at which the reader has caught up, and interpolated linearly between them. Every number is estimated, its
interval is from bootstrap draws of both fits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cuecard import disk
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import LatencyKind, Route
from cuecard.latency.latency_model import Fit, bounds
from cuecard.latency.simulation import LEAST_TEXT, Chances, Profiles, RequestSize, Way, outcomes
from cuecard.models.simulated import Profile
from cuecard.strategies.policy import Policy, Schedule

VERSION = 1
FILE = "breakeven.json"
DRAWS = 50
OUTPUTS = (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Tokens that the large model generates by itself."""
USUAL_VISUAL = 196
RATES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
LENGTHS = (16, 64, 256)
"""Tokens of reasoning for which mean seconds are reported."""
TRANSFER = (Schedule.THRIFTY, Schedule.OVERLAP)
"""Schedules of `transfer`: the third one is the same as the second."""
FOLLOWED = round(Policy().follow_chars / 4)
"""Tokens of reasoning that the reader of a growing card waits for, at about four characters each."""
MOST_RUN = 400
"""Maximum tokens of reasoning within which the reader catches up."""
MOST = 1_000_000
"""A break-even above this many tokens counts as infinite."""


@dataclass(frozen=True)
class Crossing:
    """Tokens at which both sides are equally fast. 0: the large model is faster at once; infinite: it never is."""

    tokens: float
    low: float | None
    high: float | None
    """Ends of the 95% interval; None without draws."""


@dataclass(frozen=True)
class Alone:
    """The small model alone against the large model generating `output` tokens by itself."""

    visual: int
    output: int
    crossing: Crossing


@dataclass(frozen=True)
class Together:
    """A strategy with reasoning of the small model, against the large model generating `output` tokens by itself."""

    strategy: str
    schedule: Schedule
    agree: float | None
    """Acceptance rate of short answers; None for `transfer`, which requests none."""
    output: int
    crossing: Crossing


@dataclass(frozen=True)
class MeanTime:
    """Estimated mean seconds of a strategy at a length of reasoning."""

    strategy: str
    schedule: Schedule
    agree: float | None
    reasoning: int
    mean_s: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PairBreakEven:
    """All crossings of one pair of models for one kind of question."""

    small: str
    large: str
    workload: RequestSize
    agree: float | None
    """The acceptance rate of the query."""
    confirm: float
    alone: tuple[Alone, ...]
    together: tuple[Together, ...]
    spent: tuple[MeanTime, ...]
    extrapolated: tuple[str, ...] = ()
    """Values of the query outside the measured ranges, in words."""
    draws: int = 0


@dataclass(frozen=True)
class BreakEvenQuery:
    """The query: the question, rates of agreement and confirmation, lengths."""

    workload: RequestSize
    agree: float | None = None
    confirm: float = 0.0
    outputs: Sequence[int] = OUTPUTS
    draws: int = DRAWS
    visuals: Sequence[int] = ()
    """Further image sizes for the small model alone."""


def usual(fits: Sequence[Fit], visual: int | None = None, prompt: int | None = None, answer: int = 4) -> RequestSize:
    """A question in the measured range of all fits: an image of 448 × 448 (196 visual tokens) or the nearest size."""
    images = [dict(fit.images) for fit in fits]
    if visual is None:
        common = set.intersection(*map(set, images)) or set(images[0])
        visual = min(common, key=lambda each: abs(each - USUAL_VISUAL), default=0)
    if prompt is None:  # the shortest text measured with this image, or with the nearest one
        nearest = [min(own.items(), key=lambda each: abs(each[0] - visual)) for own in images]
        prompt = visual + max(LEAST_TEXT, *(least - size for size, least in nearest))
    return RequestSize(visual, prompt, answer)


def query(fits: Sequence[Fit], workload: RequestSize | None = None, **settings: Any) -> BreakEvenQuery:
    """The default query: a usual question, and the smallest and the largest image for the small model alone."""
    common = sorted(set.intersection(*({visual for visual, _ in fit.images} for fit in fits)))
    return BreakEvenQuery(workload or usual(fits), visuals=[*common[:1], *common[-1:]], **settings)


def pair(small: Fit, large: Fit, query: BreakEvenQuery) -> PairBreakEven:
    """Break-even points of two fitted models. Raises BadInput."""
    if small.setting.get("batch", 1) != large.setting.get("batch", 1):
        raise BadInput(f"{small.described} and {large.described} are of different batches", "profile both alike")
    drawn = list(zip(small.drawn, large.drawn, strict=False))[: query.draws]
    pairs = [(small.profile, large.profile), *drawn]
    together, spent = _together(pairs, query)
    wanted = {
        "visual_tokens": (query.workload.visual,),
        "prompt_tokens": (query.workload.prompt,),
        "output_tokens": (max(query.outputs), *LENGTHS[-1:]),
    }
    return PairBreakEven(
        small=small.model,
        large=large.model,
        workload=query.workload,
        agree=query.agree,
        confirm=query.confirm,
        alone=tuple(_alone(pairs, query)),
        together=tuple(together),
        spent=tuple(spent),
        extrapolated=(*small.beyond(wanted), *large.beyond(wanted)),
        draws=len(drawn),
    )


# --- the small model alone --------------------------------------------------------------------------------------------


def _alone(pairs: Sequence[tuple[Profile, Profile]], query: BreakEvenQuery) -> Iterator[Alone]:
    text = query.workload.prompt - query.workload.visual
    for visual in sorted({query.workload.visual, *query.visuals}):
        for output in sorted({*query.outputs, query.workload.answer}):
            each = [tokens_alone(small, large, visual, visual + text, output) for small, large in pairs]
            yield Alone(visual, output, Crossing(*_estimate(each)))


def tokens_alone(small: Profile, large: Profile, visual: int, prompt: int, output: int) -> float:
    """Tokens that the small model generates while the large one generates `output`, both with the image prefilled."""
    target = large.call_s(visual, prompt, output)
    read_s = small.call_s(visual, prompt, 1)
    if read_s > target:
        return 0.0
    # n tokens after the first take start + n·a + b·(n·(prompt + 1) + n·(n - 1)/2) seconds
    a, b = small.decode_s_per_token, small.decode_s_per_context_token
    left_s = target - read_s - small.start_s(prompt + 1)
    return 1 + (_root(b / 2, a + b * (prompt + 0.5), -left_s) if left_s > 0 else 0.0)


def _root(a: float, b: float, c: float) -> float:
    """The root n >= 0 of the rising a·n² + b·n + c, for c <= 0; infinite if it exceeds `MOST`."""
    slope = b + math.sqrt(b * b - 4 * a * c)
    n = -2 * c / slope if slope > 0 else math.inf
    return n if n <= MOST else math.inf


# --- strategies -------------------------------------------------------------------------------------------------------


def _together(pairs: Sequence[tuple[Profile, Profile]], query: BreakEvenQuery) -> tuple[list[Together], list[MeanTime]]:
    confirms = query.confirm > 0
    every = [Costs.of({"small": small, "large": large}, query.workload, confirms) for small, large in pairs]
    rates = sorted({*RATES, *([] if query.agree is None else [query.agree])})
    found, spent = [], []
    for strategy, schedule, agree in _kinds(rates):
        chances = None if agree is None else Chances(agree, query.confirm)
        for output in query.outputs:
            each = [costs.crossing(strategy, schedule, chances, output) for costs in every]
            found.append(Together(strategy, schedule, agree, output, Crossing(*_estimate(each))))
        if agree in (None, query.agree):
            for length in LENGTHS:
                each = [costs.mean_s(strategy, schedule, chances, length) for costs in every]
                spent.append(MeanTime(strategy, schedule, agree, length, *_estimate(each)))
    return found, spent


def _kinds(rates: Sequence[float]) -> list[tuple[str, Schedule, float | None]]:
    transfer: list[tuple[str, Schedule, float | None]] = [("transfer", schedule, None) for schedule in TRANSFER]
    return transfer + [("mutual", schedule, rate) for schedule in Schedule for rate in rates]


def _estimate(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The first value, and the interval of the others, which are bootstrap draws."""
    return values[0], *(bounds(values[1:]) or (None, None))


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


# --- the file ---------------------------------------------------------------------------------------------------------


def write(pairs: Sequence[PairBreakEven], path: Path) -> None:
    """Write as JSON, with `never` for infinity. Raises CannotStore."""
    rows = [_replaced(asdict(pair), math.inf, "never") for pair in pairs]
    disk.save(path, {"version": VERSION, "label": LatencyKind.ESTIMATED, "pairs": rows})


def read(path: Path) -> list[PairBreakEven]:
    """Read a file of `write`. Raises BadInput."""

    def pairs(data: Mapping[str, Any]) -> list[PairBreakEven]:
        return [disk.built(PairBreakEven, each) for each in _replaced(data["pairs"], "never", math.inf)]

    return disk.load(path, VERSION, "a file of break-even points", "`cuecard breakeven` writes them", pairs)


def _replaced(data: Any, old: Any, new: Any) -> Any:
    if isinstance(data, dict):
        return {
            name: value if name in ("small", "large") else _replaced(value, old, new) for name, value in data.items()
        }
    if isinstance(data, list | tuple):
        return [_replaced(value, old, new) for value in data]
    return new if data == old else data
