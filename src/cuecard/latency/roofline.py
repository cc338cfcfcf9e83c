"""Rooflines: each component of a measured point with the lower bound of its time on the device.

A bound is max(FLOP / peak FLOP/s, bytes / bandwidth). FLOP are those of matrix products and attention; bytes are the
weights, once, and the keys and values read and written. Activations, norms and kernel launches are not included: they
account for the distance to the bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from cuecard.latency import readings
from cuecard.latency.dimensions import BYTES, Dimensions, Text, Vision
from cuecard.latency.readings import Point, Reading, by_point, usable
from cuecard.models.simulated import pairs_of

FAR = 3.0
"""A component at this multiple of its bound is limited by overhead, not by the device."""


@dataclass(frozen=True)
class Roof:
    """One component of one point with its lower bounds: from the measured device, and from its datasheet."""

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
        """Measured time / bound; 1 is the limit."""
        return self.measured_s / self.least_s


@dataclass(frozen=True)
class Device:
    """Peak rates of a device in one dtype."""

    name: str
    flops_per_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Work:
    """Minimum work of a component."""

    flops: float
    bytes: float

    def seconds(self, device: Device) -> float:
        return max(self.flops / device.flops_per_s, self.bytes / device.bytes_per_s)

    def bound(self, device: Device) -> Literal["compute", "bandwidth"]:
        return "compute" if self.flops / device.flops_per_s > self.bytes / device.bytes_per_s else "bandwidth"


def works(
    sizes: Dimensions, dtype: str, *, batch: int, visual: int, prompt: int, output: int, cached: int = 0
) -> dict[str, Work]:
    """Work by component; prefill yields the first output token. Cached images are not encoded."""
    found: dict[str, Work] = {}
    if sizes.vision is not None and visual and not cached:
        found |= _vision(sizes, dtype, batch, visual)
    found["prefill"] = _prefill(sizes, dtype, batch, prompt - cached, cached)
    if output > 1:
        found["decode"] = _decode(sizes, dtype, batch, prompt, output - 1)
    return found


def _vision(sizes: Dimensions, dtype: str, batch: int, visual: int) -> dict[str, Work]:
    vision, size = sizes.vision, BYTES[dtype]
    assert vision is not None
    patches = visual * vision.merge**2
    encoder = vision.layers * vision.layer_weights + vision.patch_values * vision.hidden
    looks = 4 * vision.layers * vision.hidden * patches**2
    projected = vision.mergers * vision.merger_weights
    return {
        "vision": Work(batch * (2 * patches * encoder + looks), encoder * size),
        "projector": Work(batch * 2 * visual * projected, projected * size),
    }


def _prefill(sizes: Dimensions, dtype: str, batch: int, computed: int, cached: int) -> Work:
    """Work of a prefill; the LM head runs on the last token only."""
    text, size = sizes.text, BYTES[dtype]
    looks = 4 * text.layers * text.heads * text.head_dim * pairs_of(computed, cached)
    flops = batch * (2 * computed * text.layers * text.active_weights + looks + 2 * text.head_weights)
    moved = batch * (computed + cached) * sizes.kv_bytes(dtype)
    return Work(flops, (text.layers * _read(sizes, batch * computed) + text.head_weights) * size + moved)


def _decode(sizes: Dimensions, dtype: str, batch: int, context: int, steps: int) -> Work:
    text, size = sizes.text, BYTES[dtype]
    seen = steps * context + pairs_of(steps)
    looks = 4 * text.layers * text.heads * text.head_dim * seen
    flops = batch * (2 * steps * (text.layers * text.active_weights + text.head_weights) + looks)
    weights = steps * (text.layers * _read(sizes, batch) + text.head_weights) * size
    return Work(flops, weights + batch * seen * sizes.kv_bytes(dtype))


def _read(sizes: Dimensions, tokens: int) -> float:
    """Weights of a layer that this many tokens read: of experts, the number expected under even routing."""
    text = sizes.text
    if not text.experts:
        return text.layer_weights
    hit = text.experts * (1 - (1 - text.active / text.experts) ** tokens)
    return text.layer_weights - (text.experts - hit) * text.expert_weights


def devices(probe: Mapping[str, Any]) -> dict[str, dict[str, Device]]:
    """From a profile's probe: by dtype, the device as `measured` and, if known, as on its `datasheet`."""
    return {
        dtype: {
            kind: Device(probe["device"], peak["flops_per_s"], peak["bytes_per_s"])
            for kind in ("measured", "datasheet")
            if (peak := data.get(kind))
        }
        for dtype, data in (probe.get("dtypes") or {}).items()
    }


def roofs(path: Path) -> list[Roof]:
    """Components of every point of models with known dimensions and device. Raises BadInput."""
    about, found = readings.about(path), list[Roof]()
    models, known = about["config"].get("models") or {}, devices(about.get("probe") or {})
    for group in by_point(usable(path)):
        sizes, by_kind = _sizes(models.get(group[0].model) or {}), known.get(group[0].point.dtype or "")
        if sizes is not None and by_kind:
            found += _roofs(group, sizes, by_kind)
    return found


def _roofs(group: Sequence[Reading], sizes: Dimensions, by_kind: Mapping[str, Device]) -> list[Roof]:
    seen, model = group[0].seen, group[0].model
    if seen.prompt_tokens is None or not seen.output_tokens or seen.dtype is None:
        return []
    least = works(
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
        bound = "overhead" if took > FAR * bound_s else work.bound(device)
        if took > 0:
            found.append(Roof(model, name, seen, work.flops, work.bytes, took, bound_s, sheet_s, bound))
    return found


def _sizes(data: Mapping[str, Any]) -> Dimensions | None:
    """A model's dimensions as stored in its profile; None if missing."""
    sizes = data.get("dimensions")
    if not sizes:
        return None
    return Dimensions(Text(**sizes["text"]), Vision(**sizes["vision"]) if sizes.get("vision") else None)
