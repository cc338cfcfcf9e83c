"""Figures of a pair of instruct models with default options, from a run of `cuecard eval`:

    cuecard eval gym:gsm_symbolic,seed=20261128,count=60 --small URL#NAME --large URL#NAME \\
        --strategies reason:small,transfer,short:large,mutual --out runs/real
    python benchmarks/real_table.py runs/real

Prints the figures, and stores them as benchmarks/results/real_table.json. In the stored figures (2026-11-28), 59 of the
60 reasonings are calls of an earlier run with the same prompts and limits, in which the probe had timed out.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from common import save
from cuecard.domain.call import FinishReason
from cuecard.domain.errors import BadInput
from cuecard.evals import run_folder

Record = Mapping[str, Any]
TWO_PROMPTS = 1.8
"""A reasoning call with more than this many times the short call's prompt tokens has made a second request."""


def by_arm(answers: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """Arm -> task/question id -> answer."""
    arms: dict[str, dict[str, Record]] = {}
    for each in answers:
        arms.setdefault(each["arm"], {})[f"{each['task']}/{each['id']}"] = each
    return arms


def right(arm: Mapping[str, Record]) -> int:
    return sum(each["score"] == 1 for each in arm.values())


def second_requests(arms: Mapping[str, Mapping[str, Record]]) -> tuple[int, int]:
    """The number of finished reasonings, and of those that needed a second request for an answer."""
    finished = again = 0
    for question, answer in arms["reason:small"].items():
        (call,) = [each for each in answer["calls"] if each["mode"] == "reason"]
        short = next(each for each in arms["short:large"][question]["calls"] if each["mode"] == "short")
        if call["finish_reason"] == FinishReason.STOP:
            finished += 1
            again += call["prompt_tokens"] > TWO_PROMPTS * short["prompt_tokens"]
    return finished, again


def _brief(calls: Sequence[Record]) -> dict[str, Any]:
    return {
        "calls": len(calls),
        "mean tokens": round(mean(each["completion_tokens"] for each in calls), 2),
        "run on": sum(each["finish_reason"] != FinishReason.STOP for each in calls),
    }


def figures(answers: Sequence[Record]) -> dict[str, Any]:
    arms = by_arm(answers)
    calls = {call["key"]: call for each in answers for call in each["calls"] if not call["cancelled"]}
    brief = {mode: [call for call in calls.values() if call["mode"] == mode] for mode in ("short", "read")}
    finished, again = second_requests(arms)
    both = [(arms["reason:small"][each]["score"], arms["transfer"][each]["score"]) for each in arms["transfer"]]
    return {
        "questions": len(arms["transfer"]),
        "right": {arm: right(of) for arm, of in arms.items()},
        "right in reason:small only": sum(own > read for own, read in both),
        "right in transfer only": sum(read > own for own, read in both),
        "answers cut": sum(each["truncated"] for each in answers),
        "routes of mutual": {
            route: sum(each["route"] == route for each in arms["mutual"].values())
            for route in sorted({each["route"] for each in arms["mutual"].values()})
        },
        **{f"{mode} calls": _brief(of) for mode, of in brief.items()},
        "finished reasonings": finished,
        "second requests": again,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the directory of a run of cuecard eval")
    try:
        _, store = run_folder.opened(parser.parse_args().run)
    except BadInput as error:
        parser.error(str(error))
    try:
        found = figures(list(store.answers()))
    finally:
        store.close()
    for name, value in found.items():
        print(f"{name}: {value}")
    print(save("real_table", found))


if __name__ == "__main__":
    main()
