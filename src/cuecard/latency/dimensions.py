"""Dimensions of a checkpoint from its `config.json`: layers, widths, weights, and the memory that running it takes.

The presets are published dimensions of Qwen3-VL, for random weights: latency does not depend on weight values. They are
those of the `config.json` of Qwen/Qwen3-VL-{2B,4B,8B,32B,30B-A3B}-Instruct on the Hugging Face hub, compared with
torchtitan's table (2B, 8B, 30B-A3B: pytorch/torchtitan, torchtitan/experiments/qwen3_vl/__init__.py).
`qwen3-vl-tiny` and `-tiny-deep` are unpublished: the same architecture at the sizes of the embedded pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cuecard.domain.errors import BadInput, did_you_mean

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per weight."""


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


def of(config: Mapping[str, Any]) -> Dimensions:
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
    return Dimensions(decoder, _vision(config.get("vision_config") or {}, hidden))


def _vision(config: Mapping[str, Any], hidden: int) -> Vision | None:
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


# --- presets ----------------------------------------------------------------------------------------------------------

_SMALL_EYE = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
_LARGE_EYE = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}


def _preset(text: Mapping[str, Any], eye: Mapping[str, Any], tied: bool, kind: str = "qwen3_vl") -> dict[str, Any]:
    decoder = {
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
        "out_hidden_size": decoder["hidden_size"],
        **eye,
    }
    return {"model_type": kind, "text_config": decoder, "vision_config": vision, "tie_word_embeddings": tied}


def _rope(theta: int, section: list[int]) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, "mrope_interleaved": True, "mrope_section": section}


def _dense(layers: int, hidden: int, heads: int, intermediate: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "intermediate_size": intermediate,
    }


_MIXTURE = {
    **_dense(48, 2048, 32, 6144),
    "num_key_value_heads": 4,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}
_TINY = {
    **_dense(4, 128, 4, 384),
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
    "qwen3-vl-tiny": _preset(_TINY, _TINY_EYE, tied=True) | _TINY_MARKS,
    "qwen3-vl-tiny-deep": _preset({**_TINY, "num_hidden_layers": 12}, _TINY_EYE, tied=True) | _TINY_MARKS,
    "qwen3-vl-2b": _preset(_dense(28, 2048, 16, 6144), _SMALL_EYE, tied=True),
    "qwen3-vl-4b": _preset(_dense(36, 2560, 32, 9728), _SMALL_EYE, tied=True),
    "qwen3-vl-8b": _preset(_dense(36, 4096, 32, 12288), _LARGE_EYE, tied=False),
    "qwen3-vl-32b": _preset(_dense(64, 5120, 64, 25600), _LARGE_EYE, tied=False),
    "qwen3-vl-30b-a3b": _preset(_MIXTURE, _LARGE_EYE, tied=False, kind="qwen3_vl_moe"),
}
"""By name, in the form of a `config.json`."""


def near(name: str) -> BadInput:
    """The error for an unknown preset."""
    presets = f"presets are {', '.join(PRESETS)}"
    return BadInput(f"unknown model {name[:200]!r}", did_you_mean(name, PRESETS, presets))
