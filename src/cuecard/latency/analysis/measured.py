"""What a profile's readings say by themselves: medians by point, and how far each component is from the device's limit.

Slices of a model count as one estimated reading of all its layers; warm-up and failed requests are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from cuecard.domain.errors import BadInput
from cuecard.latency import readings
from cuecard.latency.analysis import roofline
from cuecard.latency.analysis.roofline import Device
from cuecard.latency.dimensions import Dimensions, Text, Vision
from cuecard.latency.grid import whole
from cuecard.latency.readings import Point, Reading

SETTING = ("batch", "dtype", "attention", "compiled", "layers_timed", "layers_total", "concurrency", "rate")
"""Factors that a fit does not vary: each combination is looked at by itself."""


@dataclass(frozen=True)
class Found:
    """The readings of one point: medians, and the least and the most. `parts_s` are medians of their own."""

    model: str
    source: str
    setting: Mapping[str, Any]
    visual: int
    prompt: int
    cached: int
    output: int
    readings: int
    parts_s: Mapping[str, float]
    total_s: float
    least_s: float
    most_s: float
    kind: Literal["measured", "estimated"]
    """Estimated: from slices of the layers."""


@dataclass(frozen=True)
class Roof:
    """One component of one point beside the least that it can take: by the device as measured, and by its datasheet."""

    model: str
    component: str
    point: Point
    flops: float
    bytes: float
    measured_s: float
    least_s: float
    datasheet_s: float | None
    bound: str

    @property
    def times(self) -> float:
        """1 is at the limit."""
        return self.measured_s / self.least_s


def usable(path: Path) -> list[Reading]:
    """Readings of whole models that count. Raises BadInput where there are none."""
    models = readings.about(path)["config"].get("models") or {}
    seeing = {name: sizes.vision.layers for name, data in models.items() if (sizes := _sizes(data)) and sizes.vision}
    found = [each for each in whole(readings.read(path), seeing) if not each.warmup and each.error is None]
    if not found:
        raise BadInput(f"{path} holds no readings but warm-up", "let the profile run first")
    return found


def setting_of(point: Point) -> dict[str, Any]:
    """What of a point is not varied by a fit, where it is known."""
    return {name: value for name in SETTING if (value := getattr(point, name)) is not None}


def points(path: Path) -> list[Found]:
    """Every point of every model, in the order in which they were measured first. Raises BadInput."""
    groups: dict[tuple[str, Point], list[Reading]] = {}
    for reading in usable(path):
        groups.setdefault((reading.model, reading.point), []).append(reading)
    return [_found(group) for group in groups.values() if group[0].seen.prompt_tokens is not None]


def _found(group: Sequence[Reading]) -> Found:
    first, names = group[0], dict.fromkeys(name for reading in group for name in reading.parts_s)
    totals = sorted(reading.total_s - reading.parts_s.get("queue", 0.0) for reading in group)
    return Found(
        model=first.model,
        source=first.source,
        setting=setting_of(first.seen),
        visual=round(median(reading.seen.visual_tokens or 0 for reading in group)),
        prompt=round(median(reading.seen.prompt_tokens or 0 for reading in group)),
        cached=round(median(reading.seen.cached_tokens or 0 for reading in group)),
        output=round(median(reading.seen.output_tokens or 0 for reading in group)),
        readings=len(group),
        parts_s={name: median(reading.parts_s.get(name, 0.0) for reading in group) for name in names},
        total_s=median(totals),
        least_s=totals[0],
        most_s=totals[-1],
        kind="measured" if first.point.layers_timed is None else "estimated",
    )


def devices(path: Path) -> dict[str, dict[str, Device]]:
    """By dtype, the device as `measured` and, where it is known, on its `datasheet`. Raises BadInput."""
    return roofline.devices(readings.about(path).get("probe") or {})


def roofs(path: Path) -> list[Roof]:
    """Components of every point whose model's dimensions and device are known. Raises BadInput."""
    models, known = readings.about(path)["config"].get("models") or {}, devices(path)
    groups: dict[tuple[str, Point], list[Reading]] = {}
    for reading in usable(path):
        groups.setdefault((reading.model, reading.point), []).append(reading)
    found = []
    for (model, _), group in groups.items():
        sizes, by_kind = _sizes(models.get(model) or {}), known.get(group[0].point.dtype or "")
        if sizes is not None and by_kind:
            found += _roofs(group, sizes, by_kind)
    return found


def _roofs(group: Sequence[Reading], sizes: Dimensions, by_kind: Mapping[str, Device]) -> list[Roof]:
    seen, model = group[0].seen, group[0].model
    if seen.prompt_tokens is None or not seen.output_tokens or seen.dtype is None:
        return []
    least = roofline.works(
        sizes,
        seen.dtype,
        batch=seen.batch or 1,
        visual=seen.visual_tokens or 0,
        prompt=seen.prompt_tokens,
        output=seen.output_tokens,
        cached=seen.cached_tokens or 0,
    )
    found = []
    for name, work in least.items():
        took = median(reading.parts_s.get(name, 0.0) for reading in group)
        device, sheet = by_kind["measured"], by_kind.get("datasheet")
        bound_s, sheet_s = work.seconds(device), None if sheet is None else work.seconds(sheet)
        bound = "overhead" if took > roofline.FAR * bound_s else work.bound(device)
        if took > 0:
            found.append(Roof(model, name, seen, work.flops, work.bytes, took, bound_s, sheet_s, bound))
    return found


def _sizes(data: Mapping[str, Any]) -> Dimensions | None:
    """A model's dimensions as its profile tells them; None where it does not."""
    sizes = data.get("dimensions")
    if not sizes:
        return None
    return Dimensions(Text(**sizes["text"]), Vision(**sizes["vision"]) if sizes.get("vision") else None)
