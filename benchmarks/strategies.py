"""The strategies and schedules against each model alone, on held-out boards, side by side."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from common import pair, save
from cuecard.demo import boards
from cuecard.demo.evaluate import examine, paired, summary
from cuecard.strategies.policy import Policy, Schedule

ARMS = {
    "large_reason": ("reason:large", Policy()),
    "small_reason": ("reason:small", Policy()),
    "large_short": ("short:large", Policy()),
    "transfer_thrifty": ("transfer", Policy(schedule=Schedule.THRIFTY)),
    "transfer_overlap": ("transfer", Policy(schedule=Schedule.OVERLAP)),
    **{f"mutual_{schedule}": ("mutual", Policy(schedule=schedule)) for schedule in Schedule},
    **{name: (name, Policy(schedule=Schedule.THRIFTY, samples=3)) for name in ("cascade", "route", "vote", "verdict")},
}


async def measure(count: int) -> dict[str, Any]:
    models, exercises = pair(), boards.exercises(count, 1)
    await examine(models, boards.exercises(2, -1), ARMS, lambda: None)
    trials = await examine(models, exercises, ARMS, lambda: None)
    arms = summary(trials)["arms"]
    for arm, figures in arms.items():
        figures["speed_up"] = arms["large_reason"]["mean_s"] / figures["mean_s"]
        figures["against_large_reason"] = paired(trials, arm, "large_reason")
        print(
            f"{arm:15s} right {figures['accuracy']:.3f}  {figures['mean_s'] * 1000:6.1f} ms  x{figures['speed_up']:.2f}"
        )
    return {"boards": count, "seed": 1, "arms": arms}


if __name__ == "__main__":
    print(save("strategies", asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 200))))
