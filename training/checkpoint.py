"""The two checkpoints of the embedded pair: shapes, construction, and saving in the Hugging Face layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from cuecard.models.scope import FILE
from training import tokenizer as tk
from training.scope import scope

PIXELS = 128 * 128

# Both models have the same vision tower: trained with the small model, frozen in the large one.
VISION = {"depth": 2, "hidden_size": 96, "intermediate_size": 256, "deepstack_visual_indexes": [0]}
# The large model has more layers of the same kind as the small one: here the time of a token is per layer.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "demo-small": {
        "text": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4},
        "vision": VISION,
    },
    "demo-large": {
        "text": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 12},
        "vision": VISION,
    },
}


def architecture(name: str, tokenizer: PreTrainedTokenizerBase) -> Qwen3VLConfig:
    """The configuration of `demo-small` or `demo-large`: patch 16, merge 2, heads of 64."""
    shape = SIZES[name]
    ids = {
        token: tokenizer.convert_tokens_to_ids(token)
        for token in (tk.IMAGE, tk.VIDEO, tk.IMAGE_START, tk.IMAGE_END, tk.END, tk.PAD)
    }
    return Qwen3VLConfig(
        text_config={
            **shape["text"],
            "vocab_size": len(tokenizer),
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 4096,
            "rope_theta": 1e4,
            "rope_scaling": {"rope_type": "default", "mrope_section": [12, 10, 10], "mrope_interleaved": True},
            "tie_word_embeddings": True,
            "pad_token_id": ids[tk.PAD],
            "eos_token_id": ids[tk.END],
            "bos_token_id": None,
        },
        vision_config={
            **shape["vision"],
            "num_heads": 4,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": shape["text"]["hidden_size"],
            "num_position_embeddings": 64,
        },
        image_token_id=ids[tk.IMAGE],
        video_token_id=ids[tk.VIDEO],
        vision_start_token_id=ids[tk.IMAGE_START],
        vision_end_token_id=ids[tk.IMAGE_END],
        tie_word_embeddings=True,
        cuecard_wording="trained",
    )


def grow(weights: Mapping[str, torch.Tensor], larger: Qwen3VLForConditionalGeneration) -> dict[str, torch.Tensor]:
    """Weights of a deeper model that initially computes the same function: zero layers amid the old ones.

    A new layer is a copy of the old layer behind them, which looks a cell up, with its two output matrices set to zero,
    so that at first it adds nothing to the residual stream (depth up-scaling as in SOLAR, Kim et al. 2023, made
    function-preserving as in Net2Net).
    """
    stack, grown = "language_model.layers.", {}
    old, new = (_depth(state, stack) for state in (weights, larger.state_dict()))
    for name, fresh in larger.state_dict().items():
        head, found, tail = name.partition(stack)
        source, silent = name, False
        if found:
            layer, _, rest = tail.partition(".")
            index = int(layer)
            before, after = index < old // 2, index >= new - (old - old // 2)
            silent = not (before or after) and any(part in rest for part in ("o_proj", "down_proj"))
            from_layer = index if before else index - (new - old) if after else old // 2
            source = f"{head}{stack}{from_layer}.{rest}"
        grown[name] = torch.zeros_like(fresh) if silent else weights[source].clone()
    return grown


def _depth(weights: Mapping[str, torch.Tensor], stack: str) -> int:
    return 1 + max(int(name.partition(stack)[2].partition(".")[0]) for name in weights if stack in name)


def save(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write config, safetensors, tokenizer, chat template and image processor settings."""
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(tk.END)
    model.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids(tk.PAD)
    model.to(torch.float16).save_pretrained(folder)  # half the size; loaded as float32 on a CPU
    tokenizer.save_pretrained(folder)
    pixels = {"shortest_edge": PIXELS, "longest_edge": PIXELS}
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen3VLProcessor",
        "patch_size": 16,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": pixels,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    (folder / FILE).write_text(json.dumps(scope().as_object(), indent=2) + "\n")
