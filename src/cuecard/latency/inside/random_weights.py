"""Random weights of given dimensions, made module by module on the device, in the dtype that they are to have."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

SPREAD = 0.02


def outline(config: Any, dtype: str = "float32") -> Any:
    """The modules of a configuration, with shapes and without memory."""
    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(config, dtype=getattr(torch, dtype))


@torch.no_grad()
def made(config: Any, device: torch.device, dtype: str, seed: int = 0) -> Any:
    """A model of a Transformers configuration. No copy of it is ever made: modules are born where they stay."""
    model = outline(config, dtype)
    chance = torch.Generator(device).manual_seed(seed)
    tied = model.config.tie_word_embeddings
    for name, module in model.named_modules():
        if not (tied and name == "lm_head"):
            _fill(model, module, device, chance)
    model.tie_weights()
    return model.eval()


def _fill(model: Any, module: Any, device: torch.device, chance: torch.Generator) -> None:
    """Memory and values for what belongs to this module itself."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if not own:
        return
    module.to_empty(device=device, recurse=False)
    for name, weight in module.named_parameters(recurse=False):
        if weight.dim() > 1:
            weight.normal_(0, SPREAD, generator=chance)
        else:
            weight.fill_(0.0 if name == "bias" else 1.0)
    if any(True for _ in module.buffers(recurse=False)):
        # rotations' frequencies follow from the configuration, not from chance
        model._init_weights(module)
