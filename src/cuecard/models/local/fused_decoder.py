"""Decoding one token at a time with few operations: fused weights, a KV cache updated in place, no Python layers.

For decoders built like Qwen3, Qwen3-VL and Llama. At batch size 1, the cost of a token is that of launching its
operations or of reading the weights, so operations are few, and each weight is read once. The same step works on keys
and values that grow (`GrowingLayer` of `transformers_network`, the length is a number) and on fixed ones (`Fixed`, the
length is a tensor, so that the step can be compiled and captured in a CUDA graph).

Tokens of several calls are decoded in one step (`batched_logits`): weights are read once for all of them, attention is
computed per call. In float32 a row of a batch differs from the same row alone by the order of sums, about a millionth
of the largest logit. If the two best tokens are closer than a hundred times that, the step is repeated alone, so that
the tokens of a greedy call do not depend on the other calls in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import SiLUActivation

LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
NORMS = {"q_norm", "k_norm"}
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
POSITIONS = 4096
"""Rotations are computed for this many positions at once."""


class Held(Protocol):
    """Storage for the keys and values of one layer while a token is decoded."""

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """(batch, kv heads, group, head_dim) query and (batch, kv heads, head_dim) keys and values of the new token
        -> attention output over all tokens, in the shape of the query.
        """


@dataclass(frozen=True)
class Layer:
    """One layer's weights; those with the same input are fused."""

    first_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    out: torch.Tensor
    second_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class Fixed:
    """(batch, kv heads, capacity, head_dim) keys and values; all layers share `at`, the position of the next token."""

    def __init__(self, like: torch.Tensor, shape: tuple[int, ...], at: torch.Tensor, places: torch.Tensor) -> None:
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.at, self.places = at, places

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        self.keys.index_copy_(2, self.at, keys[:, :, None])
        self.values.index_copy_(2, self.at, values[:, :, None])
        # matrix products use the whole GPU for one query; attention kernels use one block per head
        weights = torch.matmul(query, self.keys.transpose(2, 3)).float() * query.shape[-1] ** -0.5
        weights = torch.softmax(weights.masked_fill(self.places > self.at, float("-inf")), -1)
        return torch.matmul(weights.to(values.dtype), self.values)


class StaticDecoder:
    """The decoder of a checkpoint, whose weights become views of the fused ones, so that both share memory."""

    def __init__(self, model: Any) -> None:
        """`model`: one for which `applies` is true."""
        text, config = _text(model), model.config.get_text_config()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.eps = text.layers[0].self_attn.head_dim, config.rms_norm_eps
        self.embedding, self.last_norm = text.embed_tokens.weight, text.norm.weight
        self.head = model.lm_head.weight
        self.layers = [_fused(layer) for layer in text.layers]
        self._frequencies = text.rotary_emb.inv_freq.float()
        self._scaling = float(text.rotary_emb.attention_scaling)
        self._weights = self._rotated_weights(text) if hasattr(text.layers[0].self_attn, "q_norm") else None
        self.cos, self.sin = self._rotations(POSITIONS)

    def fixed(self, batch: int, capacity: int) -> list[Fixed]:
        """Empty storage for all layers."""
        device, shape = self.head.device, (batch, self.kv_heads, capacity, self.head_dim)
        at, places = torch.zeros(1, dtype=torch.long, device=device), torch.arange(capacity, device=device)
        return [Fixed(layer.out, shape, at, places) for layer in self.layers]

    def make_room(self, positions: int) -> None:
        """Extend the rotations to at least this many positions."""
        if positions > len(self.cos):
            self.cos, self.sin = self._rotations(positions)

    def logits(self, tokens: torch.Tensor, position: int, held: Sequence[Held]) -> torch.Tensor:
        """(batch,) tokens at a position, after the tokens in `held` -> (batch, vocabulary) logits."""
        if position >= len(self.cos):
            self.make_room(2 * position)
        return self.step(tokens, self.cos[position], self.sin[position], held)

    def step(
        self, tokens: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, held: Sequence[Held], compiled: Any = None
    ) -> torch.Tensor:
        """(batch,) tokens and (head_dim,) rotations -> (batch, vocabulary) logits of the next ones.

        `compiled`: replacements for `self.layer` and `self.last`.
        """
        layer, last = compiled or (self.layer, self.last)
        hidden = functional.embedding(tokens, self.embedding)
        if self._weights is not None:
            cos, sin = self._weights[0] * cos, self._weights[1] * sin
        for index, (weights, place) in enumerate(zip(self.layers, held, strict=True)):
            turns = (cos, sin) if self._weights is None else (cos[index], sin[index])
            hidden = layer(hidden, weights, place, *turns)
        return last(hidden)

    def turned(self, index: int, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(…, head_dim) rotations for a layer, multiplied by its norm weights if it has any."""
        return (cos, sin) if self._weights is None else (self._weights[0][index] * cos, self._weights[1][index] * sin)

    def layer(
        self, hidden: torch.Tensor, weights: Layer, held: Held, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        """(batch, hidden) through one layer."""
        batch, turned = len(hidden), self.heads + self.kv_heads
        seen = self._normed(hidden, weights.first_norm)
        qkv = functional.linear(seen, weights.qkv, weights.qkv_bias).view(batch, -1, self.head_dim)
        both = qkv[:, :turned]
        if self._weights is not None:
            # the rotations already include the norm's weights
            both = functional.rms_norm(both, (self.head_dim,), None, self.eps)
        both = torch.addcmul(both * cos, both.roll(self.head_dim // 2, -1), sin)
        query = both[:, : self.heads].reshape(batch, self.kv_heads, -1, self.head_dim)
        found = held.attend(query, both[:, self.heads :], qkv[:, turned:]).reshape(batch, -1)
        hidden = _added(hidden, found, weights.out)
        seen = self._normed(hidden, weights.second_norm)
        gate, up = functional.linear(seen, weights.gate_up).chunk(2, -1)
        return _added(hidden, functional.silu(gate) * up, weights.down)

    def last(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, hidden) after the layers -> (batch, vocabulary) logits."""
        return functional.linear(self._normed(hidden, self.last_norm), self.head)

    def _normed(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(hidden, hidden.shape[1:], weight, self.eps)

    def _rotations(self, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(positions, head_dim) cosines and sines; the sines' first half is negative, as halves swap by rolling."""
        places = torch.arange(positions, device=self._frequencies.device, dtype=torch.float32)
        angles = torch.outer(places, self._frequencies)
        cos, sin = angles.cos() * self._scaling, angles.sin() * self._scaling
        kind = self.embedding.dtype
        return torch.cat([cos, cos], -1).to(kind), torch.cat([-sin, sin], -1).to(kind)

    def _rotated_weights(self, text: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """(layers, heads + kv heads, head_dim) weights of the norms of queries and keys; and rolled by half."""
        counts = {"q_norm": self.heads, "k_norm": self.kv_heads}

        def norms(attention: Any) -> torch.Tensor:
            return torch.cat([getattr(attention, name).weight.expand(count, -1) for name, count in counts.items()])

        plain = torch.stack([norms(layer.self_attn) for layer in text.layers])
        return plain, plain.roll(self.head_dim // 2, -1)


def _added(hidden: torch.Tensor, found: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """hidden + found @ weight.T: one operation, or two if a compiler is to fuse them better."""
    if torch.compiler.is_compiling():
        return hidden + functional.linear(found, weight)
    return torch.addmm(hidden, found, weight.t())


def applies(model: Any) -> bool:
    """Whether `StaticDecoder` supports the architecture of a checkpoint's decoder."""
    text, head = _text(model), getattr(model, "lm_head", None)
    layers, rotary = getattr(text, "layers", None), getattr(text, "rotary_emb", None)
    if not layers or rotary is None or type(head) is not nn.Linear or head.bias is not None:
        return False
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    turns = 2 * len(getattr(rotary, "inv_freq", ())) == getattr(layers[0].self_attn, "head_dim", 0)
    is_still = getattr(rotary, "rope_type", "") not in ("dynamic", "longrope")
    return kinds <= {"full_attention"} and turns and is_still and all(map(_is_plain, layers))


def _is_plain(layer: Any) -> bool:
    """Whether a layer has the known parts, and no others."""
    if _parts(layer) != LAYER:
        return False
    attention, mlp = layer.self_attn, layer.mlp
    found = _parts(attention)
    if not found >= ATTENTION or found - ATTENTION not in (set(), NORMS) or _parts(mlp) != MLP:
        return False
    lines = [*(getattr(attention, name) for name in sorted(ATTENTION)), mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    plain = all(type(line) is nn.Linear for line in lines)
    bare = all(line.bias is None for line in (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    return plain and bare and isinstance(mlp.act_fn, nn.SiLU | SiLUActivation)


def _parts(module: Any) -> set[str]:
    return {name for name, _ in module.named_children()}


def _text(model: Any) -> Any:
    inner = getattr(model, "model", None)
    return getattr(inner, "language_model", inner)


def _fused(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        first_norm=layer.input_layernorm.weight,
        qkv=_joined(attention.q_proj, attention.k_proj, attention.v_proj),
        qkv_bias=_biases(attention.q_proj, attention.k_proj, attention.v_proj),
        out=attention.o_proj.weight,
        second_norm=layer.post_attention_layernorm.weight,
        gate_up=_joined(mlp.gate_proj, mlp.up_proj),
        down=mlp.down_proj.weight,
    )


def _joined(*parts: nn.Linear) -> torch.Tensor:
    """The weights concatenated by rows; the parts become views of the result."""
    joined = torch.cat([part.weight.detach() for part in parts])
    start = 0
    for part in parts:
        part.weight.data = joined[start : start + part.out_features]
        start += part.out_features
    return joined


def _biases(*parts: nn.Linear) -> torch.Tensor | None:
    found = [part.bias for part in parts if part.bias is not None]
    return torch.cat([each.detach() for each in found]) if len(found) == len(parts) else None


CLOSE = 1e-4
"""Fraction of the largest logit: if the two best tokens are closer, the step is repeated alone."""


class Several:
    """One layer of the caches of several calls."""

    def __init__(self, layers: Sequence[Held]) -> None:
        self._each = layers

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """As `Held.attend`, row by row, because the lengths differ."""
        rows = (
            place.attend(query[i : i + 1], keys[i : i + 1], values[i : i + 1]) for i, place in enumerate(self._each)
        )
        return torch.cat(list(rows))


def batched_logits(
    decoder: StaticDecoder, tokens: torch.Tensor, positions: Sequence[int], caches: Sequence[Any]
) -> torch.Tensor:
    """(batch,) tokens, each at its position after its cache -> (batch, vocabulary) logits."""
    if (last := max(positions)) >= len(decoder.cos):
        decoder.make_room(2 * last)
    at = torch.tensor(positions, device=tokens.device)
    cos, sin = decoder.cos[at][:, None], decoder.sin[at][:, None]
    hidden = functional.embedding(tokens, decoder.embedding)
    for index, weights in enumerate(decoder.layers):
        held = Several([cache.layers[index] for cache in caches])
        hidden = decoder.layer(hidden, weights, held, *decoder.turned(index, cos, sin))
    return decoder.last(hidden)


def are_close(logits: torch.Tensor) -> list[bool]:
    """(batch, vocabulary) logits -> for each row, whether another order of sums could choose another token."""
    best = logits.topk(2, -1).values
    near: list[bool] = (best[:, 0] - best[:, 1] <= CLOSE * logits.abs().amax(-1)).tolist()
    return near
