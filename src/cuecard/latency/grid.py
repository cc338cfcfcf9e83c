"""What is measured, in which order, and for how long: a grid, rounds that turn, readings until they are narrow.

A round takes every point of every model once; the next round takes them in the opposite order (A B, B A), so that a
drift of the machine falls on all alike. `drifts` reports what is left of it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean, median, stdev
from typing import Any

from cuecard.latency.readings import Point, Reading

FUSED, COMPILED, USUAL = "fused", "compiled", "usual"
"""Instead of an attention backend, by which Transformers' layers decode: the decoder that local models have; the same,
compiled; and whatever local models do by themselves, which is fused in float32 where it can be, else sdpa."""
LEAST_ROUNDS = 5
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
"""The 97.5% quantile of Student's t, of 1, 2, … degrees of freedom; 2.09 is enough beyond."""
DRIFT = 0.05
"""By so much the last third of a model's rounds may differ from the first third."""


@dataclass(frozen=True)
class Grid:
    """Factors, each with the values that it takes; a point is one of each."""

    output_tokens: tuple[int, ...]
    image_px: tuple[int | None, ...]
    """None: no image."""
    text_tokens: tuple[int, ...] = (48,)
    """Behind the image."""
    cached_text_tokens: tuple[int | None, ...] = (None,)
    """Tokens between the image and the text that lie in the cache already, the image with them; None: nothing does."""
    batch: tuple[int, ...] = (1,)
    attention: tuple[str, ...] = (USUAL,)

    def as_dict(self) -> dict[str, Any]:
        """For `profile.json`."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Workload:
    """One point of a grid, before it is known how many tokens its image is."""

    image_px: int | None
    text_tokens: int
    cached_text_tokens: int | None
    batch: int
    attention: str
    compiled: bool
    output_tokens: int

    def point(self, visual: int, head: int, **more: Any) -> Point:
        """The point of a profile, once the image's tokens, and those with its marks, are counted."""
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
    each = product(
        grid.image_px, grid.text_tokens, grid.cached_text_tokens, grid.batch, ways, grid.output_tokens
    )  # fmt: skip
    return [Workload(px, text, cached, batch, *way, output) for px, text, cached, batch, way, output in each]


def turned(order: Sequence[Any], round: int) -> list[Any]:
    """The order of a round: there, and back."""
    return list(order) if round % 2 == 0 else list(order)[::-1]


def is_narrow(totals_s: Sequence[float], precision: float) -> bool:
    """Whether the mean's 95% interval is within that share of it, to each side; never of fewer than five."""
    if len(totals_s) < LEAST_ROUNDS:
        return False
    quantile = _STUDENT[min(len(totals_s) - 2, len(_STUDENT) - 1)]
    return quantile * stdev(totals_s) / math.sqrt(len(totals_s)) <= precision * fmean(totals_s)


def drifts(made: Iterable[Reading]) -> dict[str, float]:
    """By model: the last third of the rounds over the first third, median over points; 1.0 is no drift."""
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
    ordered = [each.total_s for each in sorted(made, key=lambda each: each.round)]
    third = len(ordered) // 3
    return median(ordered[-third:]) / median(ordered[:third])


def drifted(drift: Mapping[str, float]) -> list[str]:
    """The models whose speed changed by more than is allowed."""
    return [model for model, ratio in drift.items() if abs(ratio - 1) > DRIFT]


# --- slices of a model ------------------------------------------------------------------------------------------------


def whole(made: Iterable[Reading], vision_layers: Mapping[str, int]) -> list[Reading]:
    """Readings of whole models; two slices of a model become one estimated reading of all its layers.

    Linear in the layers: what is timed twice, at half and at the full slice, gives a layer's cost and the rest.
    `vision_layers` are those of each model's whole encoder. An estimate keeps `layers_timed`, by which it is known.
    """
    found, slices = [], dict[tuple[Any, ...], dict[int, Reading]]()
    for reading in made:
        timed = reading.point.layers_timed
        if timed is None:
            found.append(reading)
            continue
        key = (reading.model, replace(reading.point, layers_timed=None), reading.round, reading.warmup)
        slices.setdefault(key, {})[timed] = reading
    found += [_grown(pair, vision_layers) for pair in slices.values() if len(pair) == 2]
    return sorted(found, key=lambda each: each.position)


def _grown(pair: Mapping[int, Reading], vision_layers: Mapping[str, int]) -> Reading:
    thin, thick = sorted(pair)
    less, more = pair[thin], pair[thick]
    total = more.point.layers_total or thick
    seeing = vision_layers.get(more.model, thick)
    depths = {"prefill": (thin, thick, total), "decode": (thin, thick, total)}
    depths["vision"] = (min(thin, seeing), min(thick, seeing), seeing)
    parts = dict(more.parts_s)
    for name, (few, many, all_) in depths.items():
        if name in parts and many > few:
            each = (more.parts_s[name] - less.parts_s.get(name, 0.0)) / (many - few)
            parts[name] = max(parts[name], parts[name] + each * (all_ - many))
    return replace(more, parts_s=parts, total_s=sum(parts.values()), token_times_s=None)
