"""Compare the strategies and schedules with each model alone, on held-out boards."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import replace
from typing import Any

from common import pair, save
from cuecard.demo.live import examine
from cuecard.demo.tasks import BoardsTask
from cuecard.evals.analysis.scores import by_arm
from cuecard.evals.arm import parse_all
from cuecard.evals.runner import Plan
from cuecard.strategies.policy import Schedule
from embedded import of_arm, paired

ARMS = {
    "large_reason": "reason:large",
    "small_reason": "reason:small",
    "large_short": "short:large",
    "transfer_thrifty": "transfer/thrifty",
    "transfer_overlap": "transfer/overlap",
    **{f"mutual_{schedule}": f"mutual/{schedule}" for schedule in Schedule},
    **{name: f"{name}/thrifty" for name in ("cascade", "route", "verdict")},
    "vote": "vote/thrifty/samples=3",
}


async def measure(count: int) -> dict[str, Any]:
    models = pair()
    first = Plan([BoardsTask("boards", -1, 2, "test", "examined")], parse_all(ARMS.values()), {})
    await examine(first, models, lambda record: None)
    task = BoardsTask("boards", 1, count, "test", "examined")
    run = await examine(replace(first, tasks=[task]), models, lambda record: None)
    with run.store() as store:
        answers = by_arm(store.answers(), task.name)
    arms: dict[str, Any] = {name: of_arm(answers[arm]) for name, arm in ARMS.items()}
    for name, figures in arms.items():
        figures["speed_up"] = arms["large_reason"]["mean_s"] / figures["mean_s"]
        figures["against_large_reason"] = paired(answers[ARMS[name]], answers[ARMS["large_reason"]])
        accuracy, took_ms = figures["accuracy"], 1000 * figures["mean_s"]
        print(f"{name:15s} right {accuracy:.3f}  {took_ms:6.1f} ms  x{figures['speed_up']:.2f}")
    return {"boards": count, "seed": 1, "arms": arms}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=200, help="of boards")
    print(save("strategies", asyncio.run(measure(parser.parse_args().count))))
