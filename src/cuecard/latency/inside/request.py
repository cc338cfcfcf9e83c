"""One request, from the encoded picture to the last piece of text, with all its time attributed.

All time belongs to a component or to the gap between components; their sum is checked against the wall clock. Tokens
are decoded by Transformers' layers, by fused weights, or by fused weights compiled for fixed shapes.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional
from transformers import DynamicCache

from cuecard.domain.errors import CuecardError
from cuecard.latency.inside.checkpoint import PromptIds, Subject, Tensors
from cuecard.latency.rounds import FUSED, Workload
from cuecard.models.local.fused_decoder import StaticDecoder
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


class Appended:
    """A layer of Transformers' own caches, to which the new token is appended."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """As `Held.attend`."""
        found = self._layer.update(keys[:, :, None], values[:, :, None])
        return functional.scaled_dot_product_attention(query, *found)


class ByFused:
    """Decodes with fused weights, and keys and values that grow."""

    def __init__(self, decoder: StaticDecoder) -> None:
        self._decoder = decoder

    def begin(self, cache: DynamicCache, tokens: torch.Tensor, delta: int) -> None:
        self._held = [layer if hasattr(layer, "attend") else Appended(layer) for layer in cache.layers]
        self._tokens = tokens
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


SLACK_S, SLACK = 1e-3, 0.01
VISION_ENCODERS = ("visual", "vision_tower", "vision_model")
PROJECTORS = ("merger", "multi_modal_projector", "connector", "deepstack_merger_list")


class LostTime(CuecardError):
    """The parts of a run and its gap do not add up to its wall clock."""


class Watch:
    """Host time between synchronised marks. Parts are sequential; the time between them is the gap."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.parts_s: dict[str, float] = {}
        self.start = self._last = self._now()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Attribute the time in this context to a component."""
        begun = self._now()
        self._add("gap", begun - self._last)
        yield
        self._last = self._now()
        self._add(name, self._last - begun)

    def split(self, name: str, inner: dict[str, float]) -> None:
        """Move seconds of a component to others that ran inside it."""
        for part, seconds in inner.items():
            self._add(part, seconds)
            self.parts_s[name] -= seconds

    def elapsed(self) -> float:
        """Seconds from the start to the end of the last part."""
        return self._last - self.start

    def stop(self) -> float:
        """The wall clock of the run. Raises LostTime if the parts do not add up to it."""
        now = self._now()
        self._add("gap", now - self._last)
        total, summed = now - self.start, sum(self.parts_s.values())
        if abs(total - summed) > SLACK_S + SLACK * total or min(self.parts_s.values()) < 0:
            raise LostTime(f"the parts of a run, {self.parts_s}, are not its {total} s")
        self._add("gap", max(total - summed, -self.parts_s["gap"]))
        return total

    def _now(self) -> float:
        synchronise(self._device)
        return time.perf_counter()

    def _add(self, name: str, seconds: float) -> None:
        self.parts_s[name] = self.parts_s.get(name, 0.0) + seconds


class VisionTimer:
    """Times the vision encoder inside a forward pass, and the projector, which may be a part of it.

    With events on a GPU, without waiting in between; with the host's clock elsewhere.
    """

    def __init__(self, device: torch.device, vision: Any, projectors: Sequence[Any]) -> None:
        self._device, self._on_gpu = device, device.type == "cuda"
        self._vision, self._projectors = vision, projectors
        self._spans: list[tuple[str, Any, Any]] = []
        self._open: dict[str, Any] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the modules that run in this context."""
        self._spans.clear()
        handles = []
        for name, module in [("vision", self._vision), *(("projector", each) for each in self._projectors)]:
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._begin(name)))
            handles.append(module.register_forward_hook(lambda *_, name=name: self._end(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def seconds(self) -> dict[str, float]:
        """Seconds by component, without nested components; call after a synchronisation."""
        taken_s = {"vision": 0.0, "projector": 0.0}
        for name, begun, ended in self._spans:
            taken = begun.elapsed_time(ended) / 1000 if self._on_gpu else ended - begun
            taken_s[name.removeprefix("inner ")] += taken
            if name.startswith("inner "):
                taken_s["vision"] -= taken
        return taken_s

    def _begin(self, name: str) -> None:
        self._open[name] = self._mark()

    def _end(self, name: str) -> None:
        inner = name == "projector" and "vision" in self._open
        self._spans.append((f"inner {name}" if inner else name, self._open.pop(name), self._mark()))

    def _mark(self) -> Any:
        if not self._on_gpu:
            synchronise(self._device)
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass(frozen=True)
class Timed:
    """Times of one request. `tokens` are those of the first row of the batch."""

    parts_s: Mapping[str, float]
    total_s: float
    token_times_s: tuple[float, ...]
    tokens: tuple[int, ...]


class Runner:
    """Runs requests on one loaded model."""

    def __init__(self, subject: Subject, capacities: Mapping[int, int]) -> None:
        """`capacities`: by batch size, the maximum tokens of prompt and output, which compiled steps reserve."""
        self.subject, self._model = subject, subject.model
        self._device = next(subject.model.parameters()).device
        self._capacities = capacities
        self._keeps = "logits_to_keep" in inspect.signature(subject.model.forward).parameters
        self._has_delta = hasattr(getattr(subject.model, "model", None), "rope_deltas")
        self._steppers: dict[Any, Stepper] = {}
        self._decoder: StaticDecoder | None = None
        encoder, projectors = _vision_modules(subject.model)
        self._vision = None if encoder is None else VisionTimer(self._device, encoder, projectors)
        self._attention = self._model.config._attn_implementation

    def prompt(self, workload: Workload) -> PromptIds:
        return self.subject.feed.prompt(workload.image_px, (workload.cached_text_tokens or 0) + workload.text_tokens)

    @torch.inference_mode()
    def run(self, workload: Workload, prompt: PromptIds) -> Timed:
        """Generate exactly the workload's output tokens, each transferred to the host and decoded to text at once."""
        stepper = self._stepper(workload)
        config, cached = self._model.config, 0
        cache = DynamicCache(config=config)
        if shareable(cache):  # as in local models, tokens are appended without copying earlier ones
            cache = growing(config)
        if workload.cached_text_tokens is not None:
            cached = prompt.head + workload.cached_text_tokens
            self._forward(prompt.ids[:cached], self._tensors(prompt, workload.batch, cached), cache, workload.batch, 0)
        decode, batch = self.subject.feed.tokenizer.decode, workload.batch
        watch, times, ids_out = Watch(self._device), [], []
        with watch.part("preprocess"):
            tensors = {} if cached else self._tensors(prompt, batch, len(prompt.ids))
        with watch.part("prefill"):
            tokens, seconds = self._prefill(prompt, cached, tensors, cache, batch)
            ids = tokens.tolist()
        watch.split("prefill", seconds())
        times.append(watch.elapsed())
        ids_out.append(ids[0])
        with watch.part("detokenise"):
            for each in ids:
                decode([each])
        if workload.output_tokens > 1:
            with watch.part("decode"):
                stepper.begin(cache, tokens, self._delta(prompt))
        for _ in range(workload.output_tokens - 1):
            with watch.part("decode"):
                ids = stepper.step().tolist()
            times.append(watch.elapsed())
            ids_out.append(ids[0])
            with watch.part("detokenise"):
                for each in ids:
                    decode([each])
        total = watch.stop()
        return Timed(watch.parts_s, total, tuple(round(each, 7) for each in times), tuple(ids_out))

    def _prefill(self, prompt: PromptIds, cached: int, tensors: Tensors, cache: Any, batch: int) -> Any:
        """(batch,) first tokens, and a function for the seconds of vision and projector, for use after a sync."""
        ids, delta = prompt.ids[cached:], self._delta(prompt) if cached else 0
        if self._vision is None or "pixel_values" not in tensors:
            return self._forward(ids, tensors, cache, batch, delta), dict
        with self._vision.recording():
            return self._forward(ids, tensors, cache, batch, delta), self._vision.seconds

    def _forward(self, ids: tuple[int, ...], tensors: Tensors, cache: Any, batch: int, delta: int) -> torch.Tensor:
        """Append tokens to a cache, at positions from its length + `delta` on; -> (batch,) most likely next tokens."""
        more: dict[str, Any] = {"logits_to_keep": 1} if self._keeps else {}
        at = cache.get_seq_length()
        if at and self._has_delta:
            where = torch.arange(at, at + len(ids), device=self._device) + delta
            more["position_ids"] = where.expand(3, batch, -1)
        given = torch.tensor([ids], device=self._device).expand(batch, -1)
        out = self._model(input_ids=given, past_key_values=cache, use_cache=True, **more, **tensors)
        return out.logits[:, -1].argmax(-1)

    def _tensors(self, prompt: PromptIds, batch: int, tokens: int) -> Tensors:
        """The images of a batch on the device, each processed from its own picture."""
        rows = [self.subject.feed.tensors(prompt) for _ in range(batch)]
        made = {}
        for name in rows[0]:
            part = torch.cat([row[name] for row in rows]).to(self._device)
            part = part[:, :tokens] if name in prompt.kinds else part
            made[name] = part.to(self._model.dtype) if part.is_floating_point() else part
        return made

    def _delta(self, prompt: PromptIds) -> int:
        """Positions minus tokens of the prompt, <= 0: images of Qwen's models take fewer positions than tokens."""
        return int(self._model.model.rope_deltas[0, 0]) if self._has_delta and prompt.image is not None else 0

    def _stepper(self, workload: Workload) -> Stepper:
        fused = workload.attention == FUSED
        wanted = "sdpa" if fused else workload.attention
        if wanted != self._attention:
            self._model.set_attn_implementation(wanted)
            self._attention = wanted
        key = (fused, workload.compiled, workload.batch if workload.compiled else 0)
        if key not in self._steppers:
            self._steppers[key] = self._new_stepper(*key)
        return self._steppers[key]

    def _new_stepper(self, fused: bool, compiled: bool, batch: int) -> Stepper:
        if not fused:
            return ByLayers(self._model)
        self._decoder = self._decoder or StaticDecoder(self._model)
        return Compiled(self._decoder, batch, self._capacities[batch]) if compiled else ByFused(self._decoder)


def _vision_modules(model: Any) -> tuple[Any, list[Any]]:
    """The vision encoder and the modules that project its output; None for a language model."""
    inner = getattr(model, "model", model)
    encoder = next((module for name in VISION_ENCODERS if (module := getattr(inner, name, None)) is not None), None)
    if encoder is None:
        return None, []
    projectors: list[Any] = []
    for owner in (encoder, inner):
        for name in PROJECTORS:
            module = getattr(owner, name, None)
            if module is not None:
                projectors += module if isinstance(module, torch.nn.ModuleList) else [module]
    return encoder, projectors
