"""A profile of models in this process: every point of a grid, round after round, into a directory of readings."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from cuecard.domain.errors import BadInput, CuecardError, ModelError
from cuecard.latency import readings
from cuecard.latency.grid import COMPILED, FUSED, USUAL, Grid, Workload, drifts, is_narrow, turned, workloads
from cuecard.latency.inside import random_weights
from cuecard.latency.inside.checkpoint import CheckpointPlan, TooBig, loaded, plans
from cuecard.latency.inside.device import probe
from cuecard.latency.inside.inputs import PromptIds
from cuecard.latency.inside.request import Runner
from cuecard.latency.progress import ProfileEnd, ProfileProgress
from cuecard.latency.readings import Point, ProfileConfig, Reading, Readings
from cuecard.models.local.attention_hook import free_bytes
from cuecard.models.local.engine import first_line
from cuecard.models.local.fused_decoder import applies
from cuecard.models.local.loading import DTYPES, best_device

SPARE = 0.9
"""The share of the free memory that estimates may fill."""


@dataclass(frozen=True)
class InProcessProfile:
    """What a profile is to be."""

    models: Sequence[str]
    grid: Grid
    dtypes: Sequence[str] = ()
    """By itself float32 on a CPU, bfloat16 elsewhere."""
    device: str | None = None
    random: bool = False
    layers: int | None = None
    repeats: int = 12
    precision: float = 0.03
    max_s: float | None = None


@dataclass(frozen=True)
class InProcessCase:
    """One point of one model, ready to run."""

    runner: Runner
    workload: Workload
    prompt: PromptIds
    point: Point

    @property
    def model(self) -> str:
        return self.runner.subject.name


def profile(
    wish: InProcessProfile, out: Path, machine: dict[str, Any], say: Callable[[ProfileProgress], None]
) -> ProfileEnd:
    """Measure until every point is narrow, or a limit is reached. Raises BadInput, TooBig, ModelError, CannotStore."""
    device = _device(wish.device or best_device())
    dtypes = list(wish.dtypes) or ["float32" if device.type == "cpu" else "bfloat16"]
    if unknown := [dtype for dtype in dtypes if dtype not in DTYPES]:
        raise BadInput(f"unknown dtype {unknown[0]!r}", f"there are: {', '.join(DTYPES)}")
    planned = [plan for text in wish.models for plan in plans(text, random=wish.random, layers=wish.layers)]
    names = [plan.name for plan in planned if plan.layers is None or plan.layers == wish.layers]
    if len(set(names)) < len(names):
        raise BadInput("two models have the same name", "profile them into two directories")
    _refuse_what_does_not_fit(planned, dtypes, wish.grid, device)
    asked = _asked(wish, planned, dtypes, device, machine)
    if readings.is_profile(out):  # a conflict is reported before anything is loaded
        Readings(out, asked).close()
    try:
        # not in inference mode: with weights made in it, PyTorch copies the whole head before it multiplies
        cases = [case for plan in planned for dtype in dtypes for case in _cases(plan, dtype, wish, device)]
        with Readings(out, asked) as held:  # a grid that no model can run has left no directory behind
            return InProcessMeasurement(wish, held, cases, say).all()
    except torch.OutOfMemoryError as error:
        raise TooBig(f"out of memory: {first_line(error)}") from error
    except CuecardError:
        raise
    except Exception as error:
        raise ModelError(f"{type(error).__name__}: {first_line(error)}", "does the model run at all?") from error


def _device(name: str) -> torch.device:
    """Raises BadInput where there is none of this name."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:  # each backend has its own way of not being there
        raise BadInput(f"there is no device {name!r}: {first_line(error)}", "leave --device out") from error
    return device


def _asked(
    wish: InProcessProfile,
    planned: Sequence[CheckpointPlan],
    dtypes: list[str],
    device: torch.device,
    machine: dict[str, Any],
) -> ProfileConfig:
    config = {
        "source": "in-process",
        "models": {plan.name: plan.as_dict() for plan in planned},
        "grid": {**wish.grid.as_dict(), "dtype": dtypes},
        "layers": wish.layers,
        "device": str(device),
    }
    facts = {
        "machine": machine,
        "date": machine["date"],
        "probe": probe(device, dtypes),
        "transformers": transformers.__version__,
    }
    return ProfileConfig(config, facts)


def _refuse_what_does_not_fit(
    planned: Sequence[CheckpointPlan], dtypes: Sequence[str], grid: Grid, device: torch.device
) -> None:
    """Before anything is allocated: all weights together, and the widest moment of each."""
    free = free_bytes(device)
    needed = sum(_most_bytes(plan, dtype, grid) for plan in planned for dtype in dtypes)
    if free is not None and needed > SPARE * free:
        each = ", ".join(f"{plan.name} {_most_bytes(plan, dtypes[0], grid) / 1e9:.1f} GB" for plan in planned)
        raise TooBig(f"estimated {needed / 1e9:.1f} GB do not fit into {free / 1e9:.1f} GB free on {device}: {each}")


def _most_bytes(plan: CheckpointPlan, dtype: str, grid: Grid) -> int:
    """Estimated for the largest point; an encoder of an unknown kind is taken to make 1,024 tokens of an image."""
    vision = plan.sizes.vision

    def visual(px: int | None) -> int:
        return 0 if px is None else max(1, px // (16 * vision.merge)) ** 2 if vision else 1024

    return max(
        plan.sizes.memory_bytes(
            dtype,
            work.batch,
            visual(work.image_px),
            visual(work.image_px) + (work.cached_text_tokens or 0) + work.text_tokens,
            work.output_tokens,
            work.attention,
        )
        for work in workloads(grid)
    )


def _cases(plan: CheckpointPlan, dtype: str, wish: InProcessProfile, device: torch.device) -> Iterator[InProcessCase]:
    """Every point of a model, which is loaded for it."""
    fuses = applies(random_weights.outline(plan.config))
    if not fuses and {FUSED, COMPILED} & set(wish.grid.attention):
        raise BadInput(f"{plan.name} cannot be decoded by fused weights", "give --attention sdpa")
    subject, works = loaded(plan, device, dtype), list[Workload]()
    usual = FUSED if dtype == "float32" and fuses else "sdpa"
    for work in workloads(wish.grid):
        works.append(replace(work, attention=usual) if work.attention == USUAL else work)
    capacities: dict[int, int] = {}
    runner = Runner(subject, capacities)
    sliced = {} if plan.layers is None else {"layers_timed": plan.layers, "layers_total": plan.whole.text.layers}
    most = plan.config.get_text_config().max_position_embeddings
    for work in works:
        prompt = runner.prompt(work)
        room = len(prompt.ids) + work.output_tokens
        if room > most:
            raise BadInput(f"{room} tokens are more than {plan.name} reads at once, {most}", "make the grid smaller")
        capacities[work.batch] = max(capacities.get(work.batch, 0), room)
        yield InProcessCase(runner, work, prompt, work.point(prompt.visual, prompt.head, dtype=dtype, **sliced))


class InProcessMeasurement:
    """The rounds over all cases."""

    def __init__(
        self,
        wish: InProcessProfile,
        held: Readings,
        cases: Sequence[InProcessCase],
        say: Callable[[ProfileProgress], None],
    ) -> None:
        self._wish, self._held, self._cases, self._say = wish, held, cases, say
        self._until = None if wish.max_s is None else time.monotonic() + wish.max_s
        self._totals: dict[tuple[str, Point], list[float]] = defaultdict(list)
        for reading in readings.read(held.path):
            if not reading.warmup:
                self._totals[reading.model, reading.point].append(reading.total_s)
        self._warm: set[tuple[str, Point]] = set()
        self._cost_s: dict[tuple[str, Point], float] = {}
        self._made = 0

    def all(self) -> ProfileEnd:
        """Round after round, each in the other order, over the points that are not narrow yet."""
        late = False
        for round in range(self._wish.repeats):
            for case in turned(self._cases, round):
                key = (case.model, case.point)
                if self._held.done(case.model, case.point, round) or self._is_narrow(key):
                    continue
                if late := self._until is not None and time.monotonic() > self._until:
                    break
                self._say(self._progress(case, round))
                self._measure(case, round)
            if late:
                break
        drift = drifts(readings.read(self._held.path))
        keys = [(case.model, case.point) for case in self._cases]
        wide = sum(not self._is_narrow(key) for key in keys)
        return ProfileEnd(self._made, wide, late, drift, tuple(self._held.notes))

    def _is_narrow(self, key: tuple[str, Point]) -> bool:
        return is_narrow(self._totals[key], self._wish.precision)

    def _measure(self, case: InProcessCase, round: int) -> None:
        """One reading; before the first one of this process a run with the same shapes, kept apart."""
        key = (case.model, case.point)
        if key not in self._warm:
            self._one(case, round, warmup=True)
            self._warm.add(key)
        self._cost_s[key] = self._one(case, round, warmup=False)
        self._totals[key].append(self._cost_s[key])

    def _one(self, case: InProcessCase, round: int, *, warmup: bool) -> float:
        timed = case.runner.run(case.workload, case.prompt)
        self._held.append(
            Reading(
                model=case.model,
                source="in-process",
                round=round,
                position=self._held.count(),
                warmup=warmup,
                point=case.point,
                parts_s=timed.parts_s,
                total_s=timed.total_s,
                observed={"output_tokens": len(timed.tokens)},
                token_times_s=timed.token_times_s,
            )
        )
        self._made += 1
        return timed.total_s

    def _progress(self, case: InProcessCase, round: int) -> ProfileProgress:
        """What is left at most: the rounds of points that are not narrow, each as long as it took last."""
        rounds = {
            (each.model, each.point): max(0, self._wish.repeats - len(self._totals[each.model, each.point]))
            for each in self._cases
            if not self._is_narrow((each.model, each.point))
        }
        known = [*self._cost_s.values()] or [0.0]
        usual = sum(known) / len(known)
        seconds = sum(count * self._cost_s.get(key, usual) for key, count in rounds.items())
        if self._until is not None:
            seconds = min(seconds, max(0.0, self._until - time.monotonic()))
        point = case.point
        now = f"round {round + 1}: {case.model}, {point.prompt_tokens} tokens, {point.output_tokens} to write"
        return ProfileProgress(self._made, sum(rounds.values()), seconds, now)
