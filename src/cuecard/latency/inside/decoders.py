"""Ways to decode a token: by Transformers' layers, by fused weights, or by fused weights compiled for fixed shapes."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers import DynamicCache

from cuecard.models.local.fused_decoder import StaticDecoder, grown
from cuecard.models.local.transformers_network import growing, shareable

ROUND = 256
"""Capacity for keys and values of a compiled step is a multiple of this."""
SHAPES = 64
"""Maximum number of compiled combinations of model and batch in one process."""


class Stepper(Protocol):
    """A decoder; `begin` starts each request."""

    def begin(self, cache: DynamicCache, tokens: torch.Tensor, delta: int) -> None:
        """Continue after the cache with (batch,) tokens, at position cache length + `delta`."""
        ...

    def step(self) -> torch.Tensor:
        """-> (batch,) next tokens."""
        ...


def empty(model: Any) -> DynamicCache:
    """A cache as local models use it: tokens are appended without copying earlier ones, if possible."""
    cache = DynamicCache(config=model.config)
    return growing(model.config) if shareable(cache) else cache


class ByLayers:
    """Decodes with the checkpoint's own layers."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._has_delta = hasattr(getattr(model, "model", None), "rope_deltas")

    def begin(self, cache: DynamicCache, tokens: torch.Tensor, delta: int) -> None:
        self._cache, self._tokens = cache, tokens
        self._at = cache.get_seq_length() + delta

    def step(self) -> torch.Tensor:
        batch, more = len(self._tokens), {}
        if self._has_delta:
            more["position_ids"] = torch.full((3, batch, 1), self._at, device=self._tokens.device)
        out = self._model(input_ids=self._tokens[:, None], past_key_values=self._cache, use_cache=True, **more)
        self._tokens, self._at = out.logits[:, -1].argmax(-1), self._at + 1
        return self._tokens


class ByFused:
    """Decodes with fused weights, and keys and values that grow."""

    def __init__(self, decoder: StaticDecoder) -> None:
        self._decoder = decoder

    def begin(self, cache: DynamicCache, tokens: torch.Tensor, delta: int) -> None:
        self._held, self._tokens = grown(cache), tokens
        self._at = cache.get_seq_length() + delta

    def step(self) -> torch.Tensor:
        self._tokens = self._decoder.logits(self._tokens, self._at, self._held).argmax(-1)
        self._at += 1
        return self._tokens


class Compiled:
    """Fused weights and fixed shapes: layers compiled by `torch.compile`, and on a GPU one CUDA graph a step.

    The state of a step is in tensors that the step updates itself, so that a step is one replay.
    """

    def __init__(self, decoder: StaticDecoder, batch: int, capacity: int, backend: str = "inductor") -> None:
        self._decoder, device = decoder, decoder.head.device
        capacity = -(-capacity // ROUND) * ROUND
        self._held = decoder.fixed(batch, capacity)
        self._tokens = torch.zeros(batch, dtype=torch.long, device=device)
        self._at = torch.zeros(1, dtype=torch.long, device=device)
        torch._dynamo.config.recompile_limit = SHAPES
        # without tuning, a product with one row reads its weights well below the available bandwidth
        tuned: Any = {"coordinate_descent_tuning": True} if backend == "inductor" and device.type == "cuda" else None
        decoder.make_room(capacity)
        # keep references, as a captured graph reads from their addresses
        self._cos, self._sin = decoder.cos, decoder.sin
        self._parts = tuple(
            torch.compile(part, fullgraph=True, dynamic=False, backend=backend, options=tuned)
            for part in (decoder.layer, decoder.last)
        )
        self._graph = self._captured() if device.type == "cuda" else None

    def begin(self, cache: DynamicCache, tokens: torch.Tensor, delta: int) -> None:
        length = cache.get_seq_length()
        for place, layer in zip(self._held, cache.layers, strict=True):
            place.keys[:, :, :length], place.values[:, :, :length] = layer.keys, layer.values
        self._held[0].at.fill_(length)
        self._tokens.copy_(tokens)
        self._at.fill_(length + delta)

    def step(self) -> torch.Tensor:
        if self._graph is not None:
            self._graph.replay()
        else:
            self._one()
        return self._tokens

    def _one(self) -> None:
        logits = self._decoder.step(
            self._tokens, self._cos[self._at][0], self._sin[self._at][0], self._held, self._parts
        )
        self._tokens.copy_(logits.argmax(-1))
        self._held[0].at.add_(1)
        self._at.add_(1)

    def _captured(self) -> Any:
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):  # compiles, and lets libraries choose and allocate workspaces
                self._held[0].at.zero_()
                self._one()
        torch.cuda.current_stream().wait_stream(beside)
        self._held[0].at.zero_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._one()
        return graph
