"""Estimated against measured latency: strategies of the embedded pair on held-out boards, and by the fits of a profile.

Each live request is estimated with its own tokens and route, so that only the times differ.
"""

from __future__ import annotations

import argparse
import asyncio
from statistics import median
from typing import Any

import torch

from common import RESULTS, pair, save
from cuecard.demo import boards
from cuecard.domain.call import Mode
from cuecard.domain.outcome import Outcome, Route
from cuecard.latency.latency_model import plainest, read_all
from cuecard.latency.simulation import Profiles, RequestSize, Way, outcomes
from cuecard.models.base import Model
from cuecard.strategies.policy import Policy, Schedule
from cuecard.strategies.run import answer

VISUAL = 16
ARMS = [
    *((strategy, Schedule.THRIFTY) for strategy in ("short:small", "short:large", "reason:small", "reason:large")),
    *(("transfer", schedule) for schedule in (Schedule.THRIFTY, Schedule.OVERLAP)),
    *(("mutual", schedule) for schedule in Schedule),
]


def estimated_s(profiles: Profiles, strategy: str, schedule: Schedule, live: Outcome) -> float:
    """Seconds of the same request by the fits."""
    asked = [call for call in live.calls if call.mode in (Mode.SHORT, Mode.REASON) and not call.cancelled]
    spoken = next((call for call in asked if call.mode is Mode.REASON), asked[0])
    reasoning = spoken.usage.reasoning_tokens or 0
    work = RequestSize(VISUAL, asked[0].usage.prompt_tokens or 0, (spoken.usage.completion_tokens or 1) - reasoning)
    route = live.route if live.route in (Route.AGREED, Route.CONFIRMED) else Route.TRANSFERRED
    (outcome,) = outcomes(profiles, work, [Way(strategy, schedule, reasoning, route)])
    return outcome.total_s


async def measure(models: dict[str, Model], count: int) -> list[tuple[str, Schedule, list[Outcome]]]:
    """Outcomes of every arm on every board, each from an empty cache, the arms in turn."""
    exercises = boards.exercises(count, 3)
    found: list[tuple[str, Schedule, list[Outcome]]] = [(strategy, schedule, []) for strategy, schedule in ARMS]
    for exercise in (exercises[0], *exercises):  # the first board twice: it warms up
        for strategy, schedule, live in found:
            for model in models.values():
                model.forget()
            live.append(await answer(exercise.question, models, strategy, Policy(schedule=schedule)))
    return [(strategy, schedule, live[1:]) for strategy, schedule, live in found]


def main(count: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    fits = read_all(RESULTS / "profile-cpu")
    profiles = {role: plainest(fits, f"demo-{role}").profile for role in ("small", "large")}
    rows = []
    for strategy, schedule, live in asyncio.run(measure(pair(), count)):
        ratios = [each.total_s / estimated_s(profiles, strategy, schedule, each) for each in live]
        row = {
            "strategy": strategy,
            "schedule": schedule,
            "measured_s": median(each.total_s for each in live),
            "times_the_estimate": median(ratios),
        }
        print(f"{strategy:13s} {schedule:8s} {1000 * row['measured_s']:6.1f} ms, {row['times_the_estimate']:.2f} times")
        rows.append(row)
    return {"boards": count, "seed": 3, "arms": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=100, help="of boards")
    print(save("estimates", main(parser.parse_args().count)))
