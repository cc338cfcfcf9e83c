"""One request, from the encoded picture to the last piece of text, with all its time attributed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cuecard.latency.grid import FUSED, Workload
from cuecard.latency.inside.attribution import Inner, Watch
from cuecard.latency.inside.checkpoint import Subject
from cuecard.latency.inside.decoders import ByFused, ByLayers, Compiled, Stepper, empty
from cuecard.latency.inside.inputs import PromptIds, Tensors
from cuecard.models.local.fused_decoder import StaticDecoder

EYES = ("visual", "vision_tower", "vision_model")
PROJECTORS = ("merger", "multi_modal_projector", "connector", "deepstack_merger_list")


@dataclass(frozen=True)
class Timed:
    """What one request took. `tokens` are those of the first row."""

    parts_s: Mapping[str, float]
    total_s: float
    token_times_s: tuple[float, ...]
    tokens: tuple[int, ...]


class Runner:
    """Runs requests on one model in memory."""

    def __init__(self, subject: Subject, capacities: Mapping[int, int]) -> None:
        """`capacities`: by batch, the most tokens that prompt and output have; a compiled step has room for them."""
        self.subject, self._model = subject, subject.model
        self._device = next(subject.model.parameters()).device
        self._capacities = capacities
        self._keeps = "logits_to_keep" in inspect.signature(subject.model.forward).parameters
        self._has_delta = hasattr(getattr(subject.model, "model", None), "rope_deltas")
        self._steppers: dict[Any, Stepper] = {}
        self._decoder: StaticDecoder | None = None
        eye, projectors = _eye(subject.model)
        self._inner = Inner(self._device, eye, projectors) if eye is not None else None
        self._attention = self._model.config._attn_implementation

    def prompt(self, workload: Workload) -> PromptIds:
        return self.subject.feed.prompt(workload.image_px, (workload.cached_text_tokens or 0) + workload.text_tokens)

    @torch.inference_mode()
    def run(self, workload: Workload, prompt: PromptIds) -> Timed:
        """Exactly so many output tokens, each read by the host and decoded to text as it comes."""
        stepper = self._stepper(workload)
        cache, cached = empty(self._model), 0
        if workload.cached_text_tokens is not None:
            cached = prompt.head + workload.cached_text_tokens
            self._forward(prompt.ids[:cached], self._tensors(prompt, workload.batch, cached), cache, workload.batch, 0)
        decode, batch = self.subject.feed.tokenizer.decode, workload.batch
        watch, times, ids_out = Watch(self._device), [], []
        with watch.part("preprocess"):
            tensors = {} if cached else self._tensors(prompt, batch, len(prompt.ids))
        with watch.part("prefill"):
            tokens, spans = self._prefill(prompt, cached, tensors, cache, batch)
            ids = tokens.tolist()
        watch.split("prefill", spans())
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
        """(batch,) first tokens, and what tells the seconds of vision and projector among it."""
        ids, delta = prompt.ids[cached:], self._delta(prompt) if cached else 0
        if self._inner is None or "pixel_values" not in tensors:
            return self._forward(ids, tensors, cache, batch, delta), dict
        with self._inner.listening():
            return self._forward(ids, tensors, cache, batch, delta), self._inner.seconds

    def _forward(self, ids: tuple[int, ...], tensors: Tensors, cache: Any, batch: int, delta: int) -> torch.Tensor:
        """Append tokens to a cache, `delta` positions off its length; -> (batch,) most likely next ones."""
        more: dict[str, Any] = {"logits_to_keep": 1} if self._keeps else {}
        at = cache.get_seq_length()
        if at and self._has_delta:
            where = torch.arange(at, at + len(ids), device=self._device) + delta
            more["position_ids"] = where.expand(3, batch, -1)
        given = torch.tensor([ids], device=self._device).expand(batch, -1)
        out = self._model(input_ids=given, past_key_values=cache, use_cache=True, **more, **tensors)
        return out.logits[:, -1].argmax(-1)

    def _tensors(self, prompt: PromptIds, batch: int, tokens: int) -> Tensors:
        """The images of a batch on the device, each made from its own picture."""
        rows = [self.subject.feed.tensors(prompt) for _ in range(batch)]
        made = {}
        for name in rows[0]:
            part = torch.cat([row[name] for row in rows]).to(self._device)
            part = part[:, :tokens] if name in prompt.kinds else part
            made[name] = part.to(self._model.dtype) if part.is_floating_point() else part
        return made

    def _delta(self, prompt: PromptIds) -> int:
        """How many positions the tokens fall short of their number: images of Qwen's models take fewer."""
        return int(self._model.model.rope_deltas[0, 0]) if self._has_delta and prompt.image is not None else 0

    def _stepper(self, workload: Workload) -> Stepper:
        fused = workload.attention == FUSED
        wanted = "sdpa" if fused else workload.attention
        if wanted != self._attention:
            self._model.set_attn_implementation(wanted)
            self._attention = wanted
        key = (fused, workload.compiled, workload.batch if workload.compiled else 0)
        if key not in self._steppers:
            self._steppers[key] = self._made(fused, workload.compiled, workload.batch)
        return self._steppers[key]

    def _made(self, fused: bool, compiled: bool, batch: int) -> Stepper:
        if not fused:
            return ByLayers(self._model)
        self._decoder = self._decoder or StaticDecoder(self._model)
        return Compiled(self._decoder, batch, self._capacities[batch]) if compiled else ByFused(self._decoder)


def _eye(model: Any) -> tuple[Any, list[Any]]:
    """The vision encoder and the modules that project its output; None of a language model."""
    inner = getattr(model, "model", model)
    eye = next((found for name in EYES if (found := getattr(inner, name, None)) is not None), None)
    if eye is None:
        return None, []
    named = [
        found for owner in (eye, inner) for name in PROJECTORS if (found := getattr(owner, name, None)) is not None
    ]
    return eye, [each for found in named for each in (found if isinstance(found, torch.nn.ModuleList) else [found])]
