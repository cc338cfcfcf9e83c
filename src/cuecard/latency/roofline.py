"""Rooflines: each component of a measured point with the lower bound of its time on the device.

A bound is max(FLOP / peak FLOP/s, bytes / bandwidth). FLOP are those of matrix products and attention; bytes are the
weights, once, and the keys and values read and written. Activations, norms and kernel launches are not included: they
account for the distance to the bound. All follow from a checkpoint's dimensions, as does the memory that it takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from cuecard import disk
from cuecard.domain.errors import BadInput, did_you_mean
from cuecard.latency import readings
from cuecard.latency.readings import Point, Reading, by_point, usable
from cuecard.models.simulated import pairs_of

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per weight."""
FAR = 3.0
"""A component at this multiple of its bound is limited by overhead, not by the device."""


@dataclass(frozen=True)
class Text:
    """The decoder. `experts`: experts per layer, `active`: those that a token passes; 0 for a dense decoder."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    experts: int = 0
    active: int = 0

    @property
    def attention_weights(self) -> int:
        """Attention weights per layer."""
        return self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)

    @property
    def expert_weights(self) -> int:
        """Weights of one expert, or of a dense layer's whole feed-forward part."""
        return 3 * self.hidden * self.intermediate

    @property
    def layer_weights(self) -> int:
        return self.active_weights + self.expert_weights * (self.experts - self.active)

    @property
    def active_weights(self) -> int:
        """Weights per layer that one token is multiplied with."""
        return self.attention_weights + self.expert_weights * (self.active or 1) + self.hidden * self.experts

    @property
    def head_weights(self) -> int:
        return self.hidden * self.vocabulary

    @property
    def weights(self) -> int:
        return self.layers * self.layer_weights + self.head_weights * (1 if self.tied else 2)


@dataclass(frozen=True)
class Vision:
    """The image encoder, and the mergers that project its patches into the decoder's space."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    patch_values: int
    """Numbers of input values per patch."""
    merge: int
    """Patches a side that merge into one visual token."""
    out: int
    mergers: int = 1

    @property
    def layer_weights(self) -> int:
        return 4 * self.hidden**2 + 2 * self.hidden * self.intermediate

    @property
    def merger_weights(self) -> int:
        wide = self.hidden * self.merge**2
        return wide**2 + wide * self.out

    @property
    def weights(self) -> int:
        return self.layers * self.layer_weights + self.mergers * self.merger_weights + self.patch_values * self.hidden


@dataclass(frozen=True)
class Dimensions:
    """A checkpoint's dimensions; `vision` is None for a language model, and for an encoder of an unknown kind."""

    text: Text
    vision: Vision | None

    @property
    def weights(self) -> int:
        return self.text.weights + (self.vision.weights if self.vision else 0)

    def kv_bytes(self, dtype: str) -> int:
        """Bytes of keys and values per token."""
        return 2 * self.text.layers * self.text.kv_heads * self.text.head_dim * BYTES[dtype]

    def memory_bytes(self, dtype: str, batch: int, visual: int, prompt: int, output: int, attention: str) -> int:
        """Estimated peak bytes: weights, keys and values, and activations at the widest point of a prefill."""
        size, text = BYTES[dtype], self.text
        wide = 2 * text.intermediate * (text.active or 1) + 6 * text.hidden
        held = batch * prompt * wide * size + batch * text.vocabulary * 4
        if attention == "eager":
            held += batch * text.heads * prompt**2 * (size + 4)
        if self.vision is not None:
            patches = batch * visual * self.vision.merge**2
            seen = patches * (2 * self.vision.intermediate + 6 * self.vision.hidden + 2 * self.vision.patch_values) * 4
            held = max(held, seen)
        return self.weights * size + batch * (prompt + output) * self.kv_bytes(dtype) + held


def dimensions_of(config: Mapping[str, Any]) -> Dimensions:
    """Dimensions from the values of a `config.json`. Raises BadInput if the decoder's sizes are missing."""
    text = config.get("text_config") or config
    try:
        hidden, heads = text["hidden_size"], text["num_attention_heads"]
        active = text.get("num_experts_per_tok") or 0
        decoder = Text(
            layers=text["num_hidden_layers"],
            hidden=hidden,
            heads=heads,
            kv_heads=text.get("num_key_value_heads") or heads,
            head_dim=text.get("head_dim") or hidden // heads,
            intermediate=(active and text.get("moe_intermediate_size")) or text["intermediate_size"],
            vocabulary=text["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
            experts=(text.get("num_experts") or text.get("num_local_experts") or 0) if active else 0,
            active=active,
        )
    except KeyError as error:
        raise BadInput(f"the checkpoint's configuration has no {error}", "its dimensions are not known") from error
    return Dimensions(decoder, _encoder(config.get("vision_config") or {}, hidden))


def _encoder(config: Mapping[str, Any], hidden: int) -> Vision | None:
    try:
        patch, frames = config["patch_size"], config.get("temporal_patch_size") or 1
        return Vision(
            layers=config.get("depth") or config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=config.get("num_heads") or config["num_attention_heads"],
            intermediate=config["intermediate_size"],
            patch_values=patch**2 * frames * (config.get("in_channels") or config.get("num_channels") or 3),
            merge=config["spatial_merge_size"],
            out=config.get("out_hidden_size") or hidden,
            mergers=1 + len(config.get("deepstack_visual_indexes") or ()),
        )
    except KeyError:
        return None


# --- bounds -----------------------------------------------------------------------------------------------------------


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
        sizes, by_kind = (models.get(group[0].model) or {}).get("dimensions"), known.get(group[0].point.dtype or "")
        if sizes and by_kind:
            own = disk.built(Dimensions, {name: sizes.get(name) for name in ("text", "vision")})
            found += _roofs(group, own, by_kind)
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


# --- presets ----------------------------------------------------------------------------------------------------------

# Published dimensions of Qwen3-VL, for random weights: latency does not depend on weight values. They are those of the
# `config.json` of Qwen/Qwen3-VL-{2B,4B,8B,32B,30B-A3B}-Instruct on the Hugging Face hub, compared with torchtitan's
# table (2B, 8B, 30B-A3B: pytorch/torchtitan, torchtitan/experiments/qwen3_vl/__init__.py). `qwen3-vl-tiny` and
# `-tiny-deep` are unpublished: the same architecture at the sizes of the embedded pair.
_SMALL_EYE = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
_LARGE_EYE = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}


def _preset(
    layers: int, hidden: int, heads: int, intermediate: int, eye: Mapping[str, Any], *, tied: bool, **text: Any
) -> dict[str, Any]:
    decoder = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "intermediate_size": intermediate,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "rope_parameters": _rope(5_000_000, [24, 20, 20]),
        "tie_word_embeddings": tied,
        **text,
    }
    vision = {
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 2304,
        "out_hidden_size": hidden,
        **eye,
    }
    kind = "qwen3_vl_moe" if "num_experts" in text else "qwen3_vl"
    return {"model_type": kind, "text_config": decoder, "vision_config": vision, "tie_word_embeddings": tied}


def _rope(theta: int, section: list[int]) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, "mrope_interleaved": True, "mrope_section": section}


_EXPERTS = {"num_key_value_heads": 4, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8}
_TINY = {
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1024,
    "max_position_embeddings": 8192,
    "rope_parameters": _rope(10_000, [12, 10, 10]),
}
_TINY_EYE = {
    "depth": 4,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_heads": 4,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0],
}
_TINY_MARKS = {
    "image_token_id": 1000,
    "video_token_id": 1001,
    "vision_start_token_id": 1002,
    "vision_end_token_id": 1003,
}
PRESETS: Mapping[str, dict[str, Any]] = {
    "qwen3-vl-tiny": _preset(4, 128, 4, 384, _TINY_EYE, tied=True, **_TINY) | _TINY_MARKS,
    "qwen3-vl-tiny-deep": _preset(12, 128, 4, 384, _TINY_EYE, tied=True, **_TINY) | _TINY_MARKS,
    "qwen3-vl-2b": _preset(28, 2048, 16, 6144, _SMALL_EYE, tied=True),
    "qwen3-vl-4b": _preset(36, 2560, 32, 9728, _SMALL_EYE, tied=True),
    "qwen3-vl-8b": _preset(36, 4096, 32, 12288, _LARGE_EYE, tied=False),
    "qwen3-vl-32b": _preset(64, 5120, 64, 25600, _LARGE_EYE, tied=False),
    "qwen3-vl-30b-a3b": _preset(48, 2048, 32, 6144, _LARGE_EYE, tied=False, **_EXPERTS),
}
"""By name, in the form of a `config.json`."""


def unknown_preset(name: str) -> BadInput:
    """The error for an unknown preset."""
    presets = f"presets are {', '.join(PRESETS)}"
    return BadInput(f"unknown model {name[:200]!r}", did_you_mean(name, PRESETS, presets))
