"""What to measure, in which order, and for how long: a grid, and rounds until intervals are narrow.

A round measures every point of every model once; the next round reverses the order (A B, B A), so that drift of the
machine affects all points alike. `drifts` reports the remaining drift.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean, median, stdev
from typing import Any, Generic, TypeVar

from cuecard.latency import readings
from cuecard.latency.readings import Point, Reading, Readings

FUSED, COMPILED, USUAL = "fused", "compiled", "usual"
"""Ways to decode, in place of an attention backend: the fused decoder of local models; the same, compiled; and the
default of local models, which is fused in float32 if possible, else sdpa."""
LEAST_ROUNDS = 5
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
"""The 97.5% quantile of Student's t for 1, 2, … degrees of freedom; the last one is used beyond."""
DRIFT = 0.05
"""Maximum relative difference between the last and the first third of a model's rounds."""


@dataclass(frozen=True)
class Grid:
    """Factors with their values; a point combines one value of each."""

    output_tokens: tuple[int, ...]
    image_px: tuple[int | None, ...]
    """None: no image."""
    text_tokens: tuple[int, ...] = (48,)
    """After the image."""
    cached_text_tokens: tuple[int | None, ...] = (None,)
    """Cached tokens between the image and the text, cached with the image; None: no cached prefix."""
    batch: tuple[int, ...] = (1,)
    attention: tuple[str, ...] = (USUAL,)

    def as_dict(self) -> dict[str, Any]:
        """Values for `profile.json`."""
        return {name: list(values) for name, values in vars(self).items()}


@dataclass(frozen=True)
class Workload:
    """One point of a grid, before the number of visual tokens is known."""

    image_px: int | None
    text_tokens: int
    cached_text_tokens: int | None
    batch: int
    attention: str
    compiled: bool
    output_tokens: int

    def point(self, visual: int, head: int, **more: Any) -> Point:
        """The point of a profile. `visual`: tokens of the image; `head`: tokens up to its end, with its marks."""
        cached = None if self.cached_text_tokens is None else head + self.cached_text_tokens
        prompt = head + (self.cached_text_tokens or 0) + self.text_tokens
        return Point(
            batch=self.batch, image_px=self.image_px, visual_tokens=visual, prompt_tokens=prompt, cached_tokens=cached,
            output_tokens=self.output_tokens, context_tokens=prompt, attention=self.attention, compiled=self.compiled,
            **more,
        )  # fmt: skip


def workloads(grid: Grid) -> list[Workload]:
    """All points of a grid."""
    ways = [(FUSED, True) if each == COMPILED else (each, False) for each in grid.attention]
    each = product(grid.image_px, grid.text_tokens, grid.cached_text_tokens, grid.batch, ways, grid.output_tokens)
    return [Workload(px, text, cached, batch, *way, output) for px, text, cached, batch, way, output in each]


# --- rounds -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RoundLimits:
    """Limits of a profile: maximum rounds, relative half-width of the interval of every mean, maximum seconds."""

    repeats: int = 12
    precision: float = 0.03
    max_s: float | None = None


@dataclass(frozen=True)
class ProfileProgress:
    """Progress of a profile, in readings (with a server: requests)."""

    done: int
    left: int
    """Upper limit; precise points end earlier."""
    left_s: float
    now: str


@dataclass(frozen=True)
class ProfileEnd:
    """How a profile ended."""

    readings: int
    wide: int
    """Points whose mean is less precise than wanted."""
    out_of_time: bool
    drift: dict[str, float]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One point of one model, ready to be measured."""

    key: tuple[str, Point]
    """Model and point, as requested."""
    described: str
    """For progress."""


C = TypeVar("C", bound=Case)


class Rounds(Generic[C]):
    """Iterates over the (case, round) still to measure; call `add` with each result before the next step.

    A point has one latency per round: the mean of its `requests` readings, which share one load.
    """

    def __init__(
        self,
        cases: Sequence[C],
        store: Readings,
        limits: RoundLimits,
        report: Callable[[ProfileProgress], None],
        requests: int = 1,
    ) -> None:
        self._cases, self._store, self._limits, self._report, self._requests = cases, store, limits, report, requests
        self._start_s, self._stored = time.monotonic(), store.count()
        self._late = False
        self._cost_s: dict[tuple[str, Point], float] = {}
        loads: dict[tuple[str, Point, int], list[float]] = defaultdict(list)
        for reading in readings.read(store.path):
            if not reading.warmup and reading.error is None:
                loads[reading.model, reading.point, reading.round].append(reading.latency_s)
        self._latencies_s: dict[tuple[str, Point], list[float]] = defaultdict(list)
        for (model, point, _), latencies in loads.items():
            self._latencies_s[model, point].append(fmean(latencies))

    def __iter__(self) -> Iterator[tuple[C, int]]:
        """Iterate over rounds in alternating order, over the points that are not precise yet."""
        for round in range(self._limits.repeats):
            for case in turned(self._cases, round):
                model, point = case.key
                if self._is_narrow(case) or self._store.done(model, point, round, self._requests):
                    continue
                if self._left_s() <= 0:
                    self._late = True
                    return
                self._report(self._progress(case, round))
                yield case, round

    def is_cold(self, case: C) -> bool:
        """Whether this process has not measured the case yet and a warm-up is due."""
        return case.key not in self._cost_s

    def add(self, case: C, latency_s: float, cost_s: float) -> None:
        """Add the latency of a round, and the time that its measurement took."""
        self._latencies_s[case.key].append(latency_s)
        self._cost_s[case.key] = cost_s

    def end(self, notes: Iterable[str] = ()) -> ProfileEnd:
        """The result of the profile, with the drift over all its readings."""
        wide = sum(not self._is_narrow(case) for case in self._cases)
        drift = drifts(readings.read(self._store.path))
        return ProfileEnd(self._made, wide, self._late, drift, (*self._store.notes, *notes))

    @property
    def _made(self) -> int:
        return self._store.count() - self._stored

    def _left_s(self) -> float:
        return math.inf if self._limits.max_s is None else self._start_s + self._limits.max_s - time.monotonic()

    def _is_narrow(self, case: C) -> bool:
        return is_narrow(self._latencies_s[case.key], self._limits.precision)

    def _progress(self, case: C, round: int) -> ProfileProgress:
        """Upper limit of what remains: the rounds of imprecise points, each as long as its last round."""
        rounds = {
            each.key: max(0, self._limits.repeats - len(self._latencies_s[each.key]))
            for each in self._cases
            if not self._is_narrow(each)
        }
        usual = fmean(self._cost_s.values()) if self._cost_s else 0.0
        seconds = sum(count * self._cost_s.get(key, usual) for key, count in rounds.items())
        left, now = self._requests * sum(rounds.values()), f"round {round + 1}: {case.described}"
        return ProfileProgress(self._made, left, min(seconds, self._left_s()), now)


def turned(order: Sequence[Any], round: int) -> list[Any]:
    """The order of a round: forward, then backward."""
    return list(order) if round % 2 == 0 else list(order)[::-1]


def is_narrow(totals_s: Sequence[float], precision: float) -> bool:
    """Whether the half-width of the mean's 95% interval is at most `precision` of it; False below five rounds."""
    if len(totals_s) < LEAST_ROUNDS:
        return False
    quantile = _STUDENT[min(len(totals_s) - 2, len(_STUDENT) - 1)]
    return quantile * stdev(totals_s) / math.sqrt(len(totals_s)) <= precision * fmean(totals_s)


def drifts(made: Iterable[Reading]) -> dict[str, float]:
    """By model: last third of the rounds / first third, median over points; 1.0 is no drift."""
    found: dict[str, dict[Point, list[Reading]]] = defaultdict(lambda: defaultdict(list))
    for reading in made:
        if not reading.warmup and reading.error is None:
            found[reading.model][reading.point].append(reading)
    return {
        model: median(ratios)
        for model, points in found.items()
        if (ratios := [_ratio(each) for each in points.values() if len(each) >= 3])
    }


def _ratio(made: Sequence[Reading]) -> float:
    ordered = [each.latency_s for each in sorted(made, key=lambda each: each.round)]
    third = len(ordered) // 3
    return median(ordered[-third:]) / median(ordered[:third])


def drifted(drift: Mapping[str, float]) -> list[str]:
    """The models with more drift than allowed."""
    return [model for model, ratio in drift.items() if abs(ratio - 1) > DRIFT]
