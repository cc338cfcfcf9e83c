"""The least time that each component can take on a device, from dimensions: arithmetic, or bytes that must be read.

A bound is max(FLOP / peak FLOP/s, bytes / bandwidth). FLOP are those of matrix products and attention; bytes are the
weights, once, and the keys and values that are read and written. Activations, norms and launches are not in it: what
they add is the distance to the bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cuecard.latency.dimensions import BYTES, Dimensions
from cuecard.models.simulated import pairs_of

FAR = 3.0
"""A component that takes this many times its bound is bound by overhead, not by the device."""


@dataclass(frozen=True)
class Device:
    """What a device can do, in one dtype."""

    name: str
    flops_per_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Work:
    """What a component has to do at least."""

    flops: float
    bytes: float

    def seconds(self, device: Device) -> float:
        return max(self.flops / device.flops_per_s, self.bytes / device.bytes_per_s)

    def bound(self, device: Device) -> Literal["compute", "bandwidth"]:
        return "compute" if self.flops / device.flops_per_s > self.bytes / device.bytes_per_s else "bandwidth"


def works(
    sizes: Dimensions, dtype: str, *, batch: int, visual: int, prompt: int, output: int, cached: int = 0
) -> dict[str, Work]:
    """By component; the first output token comes out of the prefill. Images that lie in the cache are not encoded."""
    found: dict[str, Work] = {}
    if sizes.vision is not None and visual and not cached:
        found |= _seeing(sizes, dtype, batch, visual)
    found["prefill"] = _prefill(sizes, dtype, batch, prompt - cached, cached)
    if output > 1:
        found["decode"] = _decode(sizes, dtype, batch, prompt, output - 1)
    return found


def _seeing(sizes: Dimensions, dtype: str, batch: int, visual: int) -> dict[str, Work]:
    eye, size = sizes.vision, BYTES[dtype]
    assert eye is not None
    patches = visual * eye.merge**2
    encoder = eye.layers * eye.layer_weights + eye.patch_values * eye.hidden
    looks = 4 * eye.layers * eye.hidden * patches**2
    projected = eye.mergers * eye.merger_weights
    return {
        "vision": Work(batch * (2 * patches * encoder + looks), encoder * size),
        "projector": Work(batch * 2 * visual * projected, projected * size),
    }


def _prefill(sizes: Dimensions, dtype: str, batch: int, computed: int, cached: int) -> Work:
    """The head sees the last token only."""
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
    """Weights of a layer that so many tokens together need: of experts, as many as even routing is expected to hit."""
    text = sizes.text
    if not text.experts:
        return text.layer_weights
    hit = text.experts * (1 - (1 - text.active / text.experts) ** tokens)
    return text.layer_weights - (text.experts - hit) * text.expert_weights


def devices(probe: Mapping[str, Any]) -> dict[str, dict[str, Device]]:
    """From a profile's probe: by dtype, the device as `measured` and, where it is known, as on its `datasheet`."""
    found: dict[str, dict[str, Device]] = {}
    for dtype, data in (probe.get("dtypes") or {}).items():
        found[dtype] = {
            kind: Device(probe["device"], data[kind]["flops_per_s"], data[kind]["bytes_per_s"]) for kind in _kinds(data)
        }
    return found


def _kinds(data: Mapping[str, Any]) -> Iterable[str]:
    return (kind for kind in ("measured", "datasheet") if data.get(kind))
