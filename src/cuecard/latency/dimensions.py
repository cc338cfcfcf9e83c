"""How large a checkpoint is, from its `config.json`: layers, widths, weights, and the memory that running it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cuecard.domain.errors import BadInput

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of one weight."""


@dataclass(frozen=True)
class Text:
    """The decoder. `experts` are those of a layer, `active` those that a token passes; 0 of a dense one."""

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
        """Of one layer."""
        return self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)

    @property
    def expert_weights(self) -> int:
        """Of one expert, or of a dense layer's whole feed-forward part."""
        return 3 * self.hidden * self.intermediate

    @property
    def layer_weights(self) -> int:
        return self.attention_weights + self.expert_weights * (self.experts or 1) + self.hidden * self.experts

    @property
    def active_weights(self) -> int:
        """Of one layer, that one token is multiplied with."""
        return self.attention_weights + self.expert_weights * (self.active or 1) + self.hidden * self.experts

    @property
    def head_weights(self) -> int:
        return self.hidden * self.vocabulary

    @property
    def weights(self) -> int:
        return self.layers * self.layer_weights + self.head_weights * (1 if self.tied else 2)


@dataclass(frozen=True)
class Vision:
    """The encoder of images, and the mergers that project its patches into the decoder's space."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    patch_values: int
    """Numbers that one patch is read from."""
    merge: int
    """Patches a side that become one visual token."""
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
    """A checkpoint's sizes; `vision` is None of a language model, and of an encoder of an unknown kind."""

    text: Text
    vision: Vision | None

    @property
    def weights(self) -> int:
        return self.text.weights + (self.vision.weights if self.vision else 0)

    def kv_bytes(self, dtype: str) -> int:
        """Keys and values of one token."""
        return 2 * self.text.layers * self.text.kv_heads * self.text.head_dim * BYTES[dtype]

    def memory_bytes(self, dtype: str, batch: int, visual: int, prompt: int, output: int, attention: str) -> int:
        """Estimated: weights, keys and values, and what the widest moment of a prefill holds beside them."""
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
    """From the values of a `config.json`. Raises BadInput where the decoder's sizes are not among them."""
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
    return Dimensions(decoder, _vision(config.get("vision_config"), hidden))


def _vision(config: Mapping[str, Any] | None, hidden: int) -> Vision | None:
    try:
        assert config is not None
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
    except (KeyError, AssertionError):
        return None
