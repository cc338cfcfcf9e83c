"""Published dimensions of Qwen3-VL, for weights made on the fly: latency does not depend on what weights know.

The values are those of the `config.json` of Qwen/Qwen3-VL-{2B,4B,8B,32B,30B-A3B}-Instruct on the Hugging Face hub,
compared with torchtitan's table (2B, 8B, 30B-A3B: pytorch/torchtitan, torchtitan/experiments/qwen3_vl/__init__.py).
`qwen3-vl-tiny` and `-tiny-deep` are unpublished: the same architecture at the sizes of the embedded pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cuecard.domain.errors import BadInput
from cuecard.domain.suggestions import did_you_mean

_SMALL_EYE = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
_LARGE_EYE = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}


def _preset(text: Mapping[str, Any], eye: Mapping[str, Any], tied: bool, kind: str = "qwen3_vl") -> dict[str, Any]:
    decoder = {
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5_000_000,
            "mrope_interleaved": True,
            "mrope_section": [24, 20, 20],
        },
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
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000,
        "mrope_interleaved": True,
        "mrope_section": [12, 10, 10],
    },
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
    """What to say of a name that is no preset."""
    presets = f"presets are {', '.join(PRESETS)}"
    return BadInput(f"unknown model {name[:200]!r}", did_you_mean(name, PRESETS, presets))
