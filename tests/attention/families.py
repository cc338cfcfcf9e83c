"""Tiny random checkpoints with different kinds of attention: groups, sliding windows, soft caps, sinks."""

from __future__ import annotations

from pathlib import Path

import tiny
import torch
import transformers
from transformers import PreTrainedModel

from training import tokenizer as tk

TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    "{# closes with </think> #}"
)
SHAPE = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
}
TURNS = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"] * 2}


def llama() -> PreTrainedModel:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))


def qwen3() -> PreTrainedModel:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SHAPE))


def gemma2() -> PreTrainedModel:
    """Sliding windows, and a soft cap (tanh) on scores, low enough to have an effect."""
    config = transformers.Gemma2Config(**SHAPE, **TURNS, attn_logit_softcapping=2.0, query_pre_attn_scalar=16)
    return transformers.Gemma2ForCausalLM(config)


def gemma3() -> PreTrainedModel:
    return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**SHAPE, **TURNS))


def gpt_oss() -> PreTrainedModel:
    """Sliding windows, and a learned sink per head."""
    config = transformers.GptOssConfig(**SHAPE, **TURNS, num_local_experts=2, num_experts_per_tok=1)
    model = transformers.GptOssForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.sinks.normal_(1, 1)
    return model


def gpt_neo() -> PreTrainedModel:
    """Its attention does not use Transformers' attention interface."""
    config = transformers.GPTNeoConfig(
        vocab_size=1024, hidden_size=64, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]]
    )
    return transformers.GPTNeoForCausalLM(config)


def saved(family: str, folder: Path) -> Path:
    """Save a checkpoint of one of the above, with uneven attention scores and the demo's words; returns its folder."""
    torch.manual_seed(0)
    model = globals()[family]()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.normal_(0, 0.15)
    tokenizer = tiny.words(TEMPLATE, eos_token=tk.END, pad_token=tk.PAD)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
