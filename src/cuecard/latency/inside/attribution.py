"""Attributes every moment of a run to a component, or to the gap between components, and checks that none is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from cuecard.domain.errors import CuecardError
from cuecard.latency.inside.device import synchronise

SLACK_S, SLACK = 1e-3, 0.01


class LostTime(CuecardError):
    """The parts of a run and its gap are not its wall clock."""


class Watch:
    """Host time between synchronised marks. Parts follow one another; what lies between them is the gap."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.parts_s: dict[str, float] = {}
        self.start = self._last = self._now()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens inside is that component's."""
        begun = self._now()
        self._add("gap", begun - self._last)
        yield
        self._last = self._now()
        self._add(name, self._last - begun)

    def split(self, name: str, inner: dict[str, float]) -> None:
        """Of a component, give these seconds to others that ran inside it."""
        for part, seconds in inner.items():
            self._add(part, seconds)
            self.parts_s[name] -= seconds

    def elapsed(self) -> float:
        """Seconds since the start, at the end of the last part."""
        return self._last - self.start

    def stop(self) -> float:
        """The wall clock of the run. Raises LostTime if the parts are not all of it."""
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


class Inner:
    """Time inside a forward pass: of the vision encoder, and of the projector, which may be a part of it.

    By events on a GPU, so that nothing waits in between; by the host's clock else.
    """

    def __init__(self, device: torch.device, vision: Any, projectors: Sequence[Any]) -> None:
        self._device, self._on_gpu = device, device.type == "cuda"
        self._vision, self._projectors = vision, projectors
        self._spans: list[tuple[str, Any, Any]] = []
        self._open: dict[str, Any] = {}
        self._inside = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Spans of everything computed inside are kept."""
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
        """By component, without what ran inside another one; after a synchronisation."""
        found = {"vision": 0.0, "projector": 0.0}
        for name, begun, ended in self._spans:
            taken = begun.elapsed_time(ended) / 1000 if self._on_gpu else ended - begun
            found[name.removeprefix("inner ")] += taken
            if name.startswith("inner "):
                found["vision"] -= taken
        return found

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
