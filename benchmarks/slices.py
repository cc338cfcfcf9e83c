"""Check estimates of a model's time from slices of its layers against a run of all layers.

Qwen3-VL-2B with random weights, whole and in slices of 4 and 8 layers. All are in memory at once and timed in turn, so
that only the layers differ. The estimate is that of `cuecard profile --layers 8`, for each round. Errors compare the
medians of each component with the whole model's.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import torch

from common import save
from cuecard.latency.inside.checkpoint import loaded, plans
from cuecard.latency.inside.request import Runner
from cuecard.latency.readings import Reading, whole
from cuecard.latency.rounds import Grid, turned, workloads

NAME, DTYPE = "qwen3-vl-2b", "bfloat16"
LAYERS, ROUNDS = 8, 7
GRID = Grid((5,), (128, 256), text_tokens=(32,), attention=("sdpa",))
COMPONENTS = ("vision", "projector", "prefill", "decode", "total")


def seconds(reading: Reading) -> dict[str, float]:
    return {**{name: reading.parts_s.get(name, 0.0) for name in COMPONENTS}, "total": reading.total_s}


def middle(readings: list[Reading]) -> dict[str, float]:
    return {name: median(seconds(each)[name] for each in readings) for name in COMPONENTS}


def measured() -> list[Reading]:
    """Readings of the whole model, and those estimated from its slices, without warm-up."""
    device, made = torch.device("cpu"), list[Reading]()
    all_plans = [*plans(NAME, random=True, layers=LAYERS), *plans(NAME, random=True, layers=None)]
    runners = [Runner(loaded(plan, device, DTYPE), {}) for plan in all_plans]
    cases = [(runner, work, runner.prompt(work)) for runner in runners for work in workloads(GRID)]
    for round in range(ROUNDS + 1):
        for runner, work, prompt in turned(cases, round):
            plan = runner.subject.plan
            sliced = (
                {} if plan.layers is None else {"layers_timed": plan.layers, "layers_total": plan.whole.text.layers}
            )
            point = work.point(prompt.visual, prompt.head, dtype=DTYPE, **sliced)
            timed = runner.run(work, prompt)
            warm = round == 0
            made.append(
                Reading(NAME, "in-process", round, len(made), warm, point, timed.parts_s, timed.total_s)
            )  # fmt: skip
    eye = all_plans[0].whole.vision
    assert eye is not None
    return [each for each in whole(made, {NAME: eye.layers}) if not each.warmup]


def main() -> None:
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    found = measured()
    for px in GRID.image_px:
        here = [each for each in found if each.point.image_px == px]
        estimate = middle([each for each in here if each.point.layers_timed is not None])
        truth = middle([each for each in here if each.point.layers_timed is None])
        errors = {name: estimate[name] / truth[name] - 1 for name in COMPONENTS}
        rows.append({"image_px": px, "measured_s": truth, "estimated_s": estimate, "errors": errors})
        print(px, {name: f"{100 * error:+.1f}%" for name, error in errors.items()}, flush=True)
    settings = {"model": NAME, "dtype": DTYPE, "layers": LAYERS, "rounds": ROUNDS, "output_tokens": GRID.output_tokens}
    print(save("slices", {**settings, "rows": rows}))


if __name__ == "__main__":
    main()
