"""A profile of models in this process: every point of a grid, in rounds, stored in a directory of readings."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from cuecard.domain.errors import BadInput, CuecardError, ModelError, one_line
from cuecard.latency import readings
from cuecard.latency.inside.checkpoint import CheckpointPlan, PromptIds, TooBig, loaded, outline, plans
from cuecard.latency.inside.request import Runner, synchronise
from cuecard.latency.readings import ProfileConfig, Reading, Readings
from cuecard.latency.rounds import (
    COMPILED,
    FUSED,
    USUAL,
    Case,
    Grid,
    ProfileEnd,
    ProfileProgress,
    RoundLimits,
    Rounds,
    Workload,
    workloads,
)
from cuecard.models.local.attention_hook import free_bytes
from cuecard.models.local.fused_decoder import applies
from cuecard.models.local.transformers_network import DTYPES, best_device

SPARE = 0.9
"""Share of the free memory that estimates may use."""
DATASHEETS: dict[str, tuple[float, float, float]] = {
    # name as the driver reports it: dense FLOP/s in half precision (tensor cores), in float32, bytes/s
    "H200": (989.4e12, 66.9e12, 4.8e12),
    "H100 PCIe": (756e12, 51e12, 2.0e12),
    "H100 NVL": (835e12, 60e12, 3.9e12),
    "H100": (989.4e12, 66.9e12, 3.35e12),
    "A100 80GB PCIe": (312e12, 19.5e12, 1.935e12),
    "A100-SXM4-80GB": (312e12, 19.5e12, 2.039e12),
    "A100-SXM4-40GB": (312e12, 19.5e12, 1.555e12),
    "A100-PCIE-40GB": (312e12, 19.5e12, 1.555e12),
    "L40S": (362e12, 91.6e12, 0.864e12),
    "RTX 4090": (165.2e12, 82.6e12, 1.008e12),
    "RTX 3090": (71e12, 35.6e12, 0.936e12),
    "A10": (125e12, 31.2e12, 0.6e12),
    "L4": (121e12, 30.3e12, 0.3e12),
}
"""NVIDIA's datasheets and architecture papers; figures with sparsity are halved. The first matching name counts."""
SOURCE = "NVIDIA's datasheet, dense"

ENOUGH_S = 0.3
"""Seconds for which each measurement repeats; the best counts, as a peak is wanted."""
SIDES = {"cpu": (512, 1024), "other": (4096, 8192)}
BYTES = {"cpu": 256 << 20, "other": 1 << 30}


@dataclass(frozen=True)
class InProcessProfile(RoundLimits):
    """The settings of a profile."""

    models: Sequence[str]
    grid: Grid
    dtypes: Sequence[str] = ()
    """Default: float32 on a CPU, bfloat16 elsewhere."""
    device: str | None = None
    random: bool = False
    layers: int | None = None


@dataclass(frozen=True)
class InProcessCase(Case):
    """One point of one model, ready to run."""

    runner: Runner
    workload: Workload
    prompt: PromptIds


def profile(
    wish: InProcessProfile, out: Path, machine: dict[str, Any], say: Callable[[ProfileProgress], None]
) -> ProfileEnd:
    """Measure until every mean is precise or a limit is reached. Raises BadInput, TooBig, ModelError, CannotStore."""
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
    if readings.is_profile(out):  # report a conflict before loading anything
        Readings(out, asked).close()
    try:
        # not in inference mode: with weights made in it, PyTorch copies the whole head before it multiplies
        cases = [case for plan in planned for dtype in dtypes for case in _cases(plan, dtype, wish, device)]
        with Readings(out, asked) as held:  # a grid that no model can run leaves no directory behind
            return _measured(Rounds(cases, held, wish, say), held)
    except torch.OutOfMemoryError as error:
        raise TooBig(f"out of memory: {one_line(error)}") from error
    except CuecardError:
        raise
    except Exception as error:
        raise ModelError(f"{type(error).__name__}: {one_line(error)}", "does the model run at all?") from error


def _device(name: str) -> torch.device:
    """The device. Raises BadInput if it does not exist."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:  # each backend reports a missing device in its own way
        raise BadInput(f"there is no device {name!r}: {one_line(error)}", "leave --device out") from error
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
    """Check before allocation: all weights together, and the peak memory of each model. Raises TooBig."""
    free = free_bytes(device)
    needed = sum(_most_bytes(plan, dtype, grid) for plan in planned for dtype in dtypes)
    if free is not None and needed > SPARE * free:
        each = ", ".join(f"{plan.name} {_most_bytes(plan, dtypes[0], grid) / 1e9:.1f} GB" for plan in planned)
        raise TooBig(f"estimated {needed / 1e9:.1f} GB do not fit into {free / 1e9:.1f} GB free on {device}: {each}")


def _most_bytes(plan: CheckpointPlan, dtype: str, grid: Grid) -> int:
    """Peak bytes, estimated for the largest point; an encoder of an unknown kind counts as 1,024 tokens per image."""
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
    """Load a model and yield a case for each of its points."""
    fuses = applies(outline(plan.config))
    if not fuses and {FUSED, COMPILED} & set(wish.grid.attention):
        raise BadInput(f"{plan.name} cannot be decoded by fused weights", "give --attention sdpa")
    usual = FUSED if dtype == "float32" and fuses else "sdpa"
    capacities: dict[int, int] = {}
    runner = Runner(loaded(plan, device, dtype), capacities)
    sliced = {} if plan.layers is None else {"layers_timed": plan.layers, "layers_total": plan.whole.text.layers}
    most = plan.config.get_text_config().max_position_embeddings
    for point in workloads(wish.grid):
        work = replace(point, attention=usual) if point.attention == USUAL else point
        prompt = runner.prompt(work)
        room = len(prompt.ids) + work.output_tokens
        if room > most:
            raise BadInput(f"{room} tokens are more than {plan.name} reads at once, {most}", "make the grid smaller")
        capacities[work.batch] = max(capacities.get(work.batch, 0), room)
        at = work.point(prompt.visual, prompt.head, dtype=dtype, **sliced)
        described = f"{plan.name}, {at.prompt_tokens} tokens, {at.output_tokens} to write"
        yield InProcessCase((plan.name, at), described, runner, work, prompt)


def _measured(rounds: Rounds[InProcessCase], store: Readings) -> ProfileEnd:
    """Measure all rounds; the first run of each case, with the same shapes, is stored as warm-up."""
    for case, round in rounds:
        if rounds.is_cold(case):
            _measure(case, round, store, warmup=True)
        total_s = _measure(case, round, store, warmup=False)
        rounds.add(case, total_s, total_s)
    return rounds.end()


def _measure(case: InProcessCase, round: int, store: Readings, *, warmup: bool) -> float:
    """Measure and store one reading; return its seconds."""
    timed = case.runner.run(case.workload, case.prompt)
    model, point = case.key
    store.append(
        Reading(
            model=model,
            source="in-process",
            round=round,
            position=store.count(),
            warmup=warmup,
            point=point,
            parts_s=timed.parts_s,
            total_s=timed.total_s,
            observed={"output_tokens": len(timed.tokens)},
            token_times_s=timed.token_times_s,
        )
    )
    return timed.total_s


# --- the device -------------------------------------------------------------------------------------------------------


def probe(device: torch.device, dtypes: Iterable[str]) -> dict[str, Any]:
    """Peak FLOP/s and bytes/s in each dtype, in the form that `roofline.devices` reads."""
    kind = device.type if device.type in SIDES else "other"
    bandwidth = _bandwidth(device, BYTES[kind])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    peaks = {}
    for dtype in dict.fromkeys(dtypes):
        flops = max(_products(device, getattr(torch, dtype), side) for side in SIDES[kind])
        measured = {"flops_per_s": flops, "bytes_per_s": max(bandwidth.values())}
        peaks[dtype] = {"measured": measured, "datasheet": datasheet(name, dtype)}
    return {"device": name, "threads": torch.get_num_threads(), "bandwidth": bandwidth, "dtypes": peaks}


def datasheet(name: str, dtype: str) -> dict[str, Any] | None:
    """The datasheet's figures of a device; None if it is not in the table."""
    sheet = next((sheet for known, sheet in DATASHEETS.items() if re.search(rf"\b{known}\b", name)), None)
    if sheet is None:
        return None
    return {"flops_per_s": sheet[1 if dtype == "float32" else 0], "bytes_per_s": sheet[2], "source": SOURCE}


def _products(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """FLOP/s of a product of two square matrices."""
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(one)
    return 2 * side**3 / _fastest(device, lambda: torch.mm(one, other, out=out))


def _bandwidth(device: torch.device, size: int) -> dict[str, float]:
    """Bytes/s of reading, of copying, and of a triad; each byte read or written counts."""
    values = torch.ones(size // 4, device=device)
    others, out = torch.ones_like(values), torch.empty_like(values)
    return {
        "read": size / _fastest(device, values.sum),
        "copy": 2 * size / _fastest(device, lambda: out.copy_(values)),
        "triad": 3 * size / _fastest(device, lambda: torch.add(values, others, alpha=2.0, out=out)),
    }


def _fastest(device: torch.device, work: Callable[[], Any]) -> float:
    work()
    best, until = float("inf"), time.perf_counter() + ENOUGH_S
    while time.perf_counter() < until:
        synchronise(device)
        before = time.perf_counter()
        work()
        synchronise(device)
        best = min(best, time.perf_counter() - before)
    return best
