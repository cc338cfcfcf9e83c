"""What strategies cost by two profiles at any length of reasoning, from a few runs of the real ones in virtual time.

What a strategy takes beyond the small model reasoning by itself is run at a few lengths, closest around the one where
the reader has caught up with what is written, and lies on straight lines between them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cuecard.domain.outcome import Route
from cuecard.latency.simulate.simulation import Chances, Profiles, RequestSize, Way, outcomes
from cuecard.strategies.policy import Policy, Schedule

TRANSFER = (Schedule.THRIFTY, Schedule.OVERLAP)
"""Schedules of `transfer`: on the third one it does what it does on the second."""
FOLLOWED = round(Policy().follow_chars / 4)
"""Tokens of reasoning that the reader of a growing card waits for, at about four characters each."""
MOST_RUN = 400
"""Tokens of reasoning, at most, that the reader is given to catch up in."""
MOST = 1_000_000
"""A break-even beyond this many tokens is none."""


Key = tuple[str, Schedule, Route]
Line = tuple[tuple[int, ...], tuple[float, ...]]
"""Tokens of reasoning, and seconds at each."""


@dataclass(frozen=True)
class Costs:
    """What strategies take by two profiles: `extra_s` beyond the small model reasoning by itself."""

    profiles: Profiles
    workload: RequestSize
    agreed_s: Mapping[Schedule, float]
    extra_s: Mapping[Key, Line]

    @classmethod
    def of(cls, profiles: Profiles, workload: RequestSize, confirmed: bool = True) -> Costs:
        """From runs in virtual time, on all routes, or all but `confirmed`."""
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
        """Mean seconds where the small model writes so many tokens of reasoning."""
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
        """Tokens of reasoning at which it takes as long as the large model that writes `output` tokens by itself."""
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
    """The small model reasoning and answering by itself."""
    profile, prompt = profiles["small"], workload.prompt
    tokens = reasoning + workload.answer
    return profile.call_s(workload.visual, prompt, 1) + profile.decode_s(tokens, prompt)


def _lengths(profiles: Profiles, workload: RequestSize, key: Key) -> tuple[int, ...]:
    """Where a strategy is run: closest around the length at which the reader has caught up with what is written."""
    _, schedule, route = key
    first_s = profiles["large"].call_s(workload.visual, workload.prompt, 1)
    step_s = profiles["small"].step_s(workload.prompt)
    caught_up = FOLLOWED + (min(MOST_RUN, math.ceil(first_s / step_s)) if step_s > 0 else MOST_RUN)
    last = max(256, 2 * caught_up)
    if schedule is Schedule.THRIFTY or route is Route.CONFIRMED:  # no prefill ahead of the read
        return 16, last // 2, last
    around = (round(share * caught_up) for share in (0.85, 1, 1.25, 1.6))
    return tuple(sorted({16, 64, *around, last}))


def _on_line(line: Line, at: float) -> float:
    """Straight lines between the values, straight on before them and behind them, there without falling."""
    places, values = line
    place = next((each for each in range(1, len(places) - 1) if at <= places[each]), len(places) - 1)
    slope = (values[place] - values[place - 1]) / (places[place] - places[place - 1])
    return values[place] + (max(slope, 0.0) if at > places[-1] else slope) * (at - places[place])
