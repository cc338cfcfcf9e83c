"""Figures for the embedded pair's model card, from the runs of `make evaluate`.

python benchmarks/embedded.py boards=runs/evaluate shapes=runs/evaluate-easy-vqa long=runs/evaluate-long \
    changed=runs/evaluate-changed > benchmarks/results/evaluation.json
python benchmarks/embedded.py boards=runs/validation > benchmarks/results/validation.json
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cuecard.domain.call import Mode
from cuecard.domain.outcome import Route
from cuecard.evals import run_folder
from cuecard.evals.analysis.acceptance import CALIBRATED_RULES, RULES
from cuecard.evals.analysis.scores import by_arm
from cuecard.evals.arm import LIVE
from cuecard.evals.database import Record
from cuecard.stats import compare, wilson_bounds

ARMS = {
    "small_short": "short:small",
    "large_short": "short:large",
    "small_reason": "reason:small",
    "large_reason": "reason:large",
    "transfer": "transfer",
    "mutual": "mutual",
    "mutual_agree": "mutual/accept=agree",
}
PAIRED = (("transfer", "small_reason"), ("mutual", "large_reason"), ("mutual", "large_short"))
Arms = dict[str, Sequence[Record]]


def of_arm(answers: Sequence[Record]) -> dict[str, float]:
    """Accuracy with its 95% interval (Wilson), mean seconds and generated tokens."""
    n, right = len(answers), round(sum(answer["score"] for answer in answers))
    low, high = wilson_bounds(right, n)
    tokens = sum(call["completion_tokens"] or 0 for answer in answers for call in answer["calls"])
    seconds = sum(answer["latency"]["total_s"] for answer in answers)
    return {"accuracy": right / n, "low": low, "high": high, "mean_s": seconds / n, "mean_tokens": tokens / n}


def paired(ones: Sequence[Record], others: Sequence[Record]) -> dict[str, float]:
    """Accuracy of the first minus that of the second on the same questions, with its 95% interval and p-value."""
    compared = compare([one["score"] for one in ones], [other["score"] for other in others])
    sure = compared.difference
    return {
        "difference": sure.estimate,
        "low": sure.low if sure.low is not None else sure.estimate,
        "high": sure.high if sure.high is not None else sure.estimate,
        "better": compared.better,
        "worse": compared.worse,
        "p": compared.p,
    }


def whole(arms: Arms) -> dict[str, Any]:
    """Figures of all arms; answers accepted without reasoning, and the wrong ones; speed-up of `mutual`."""
    figures: dict[str, Any] = {"arms": {name: of_arm(answers) for name, answers in arms.items()}}
    for name, prefix in (("mutual", ""), ("mutual_agree", "agree_")):
        taken = [answer["score"] for answer in arms[name] if answer["route"] == Route.AGREED]
        figures |= {f"{prefix}accepted": len(taken), f"{prefix}accepted_wrong": taken.count(0)}
    seconds = {name: figures["arms"][name]["mean_s"] for name in ("large_reason", "mutual")}
    return figures | {"speed_up": seconds["large_reason"] / seconds["mutual"]}


def seconds_a_token(answers: Sequence[Record]) -> float:
    """Mean seconds between generated tokens."""
    calls = [call for answer in answers for call in answer["calls"] if (call["completion_tokens"] or 0) > 1]
    seconds = sum(call["end_s"] - call["first_token_s"] for call in calls)
    return float(seconds / sum(call["completion_tokens"] - 1 for call in calls))


def kinds(arms: Arms, category: Callable[[Record], str]) -> dict[str, Any]:
    """The figures of `whole` by category, with the number of questions."""
    found = {}
    for task in dict.fromkeys(map(category, arms["mutual"])):
        own = {name: [answer for answer in answers if category(answer) == task] for name, answers in arms.items()}
        found[task] = {"questions": len(own["mutual"]), **whole(own)}
    return found


def acceptance(answers: dict[str, list[Record]]) -> dict[str, Any]:
    """Acceptance rule -> figures of `mutual`, for each rule that the run has as an arm."""
    found = {}
    for rule in map(str, (*RULES, *CALIBRATED_RULES)):
        if own := answers.get(f"mutual/accept={rule}"):
            taken = [answer["score"] for answer in own if answer["route"] == Route.AGREED]
            found[rule] = {"accepted": len(taken), "wrong": taken.count(0), "accuracy": of_arm(own)["accuracy"]}
    return found


def regime(run: Path) -> dict[str, Any]:
    """Figures of a run with one task; the seconds are measured on live arms, without which only its rules are given."""
    about, store = run_folder.opened(run)
    (task,) = about["config"]["tasks"]
    answers = by_arm(store.answers(), task["name"])
    categories = {item["id"]: item["category"] for item in store.items()}
    store.close()
    rules = {"task": task["name"], "acceptance": acceptance(answers), "machine": about["machine"]}
    if not any(arm.endswith(LIVE) for arm in answers):
        return rules | {"questions": max(map(len, answers.values()))}
    arms: Arms = {name: answers[arm + LIVE] for name, arm in ARMS.items()}
    pace = {role: seconds_a_token(arms[f"{role}_reason"]) for role in ("small", "large")}
    return {
        **rules,
        "questions": len(arms["mutual"]),
        **whole(arms),
        "routes": dict(Counter(answer["route"] for answer in arms["mutual"])),
        "paired": {f"{one} - {other}": paired(arms[one], arms[other]) for one, other in PAIRED},
        "reasoning_tokens": {role: reasoning_tokens(arms[f"{role}_reason"]) for role in ("small", "large")},
        "seconds_a_token": pace | {"ratio": pace["large"] / pace["small"]},
        "kinds": kinds(arms, lambda answer: categories[answer["id"]]),
    }


def reasoning_tokens(answers: Sequence[Record]) -> float:
    """Mean reasoning tokens per reasoning call."""
    calls = [call for answer in answers for call in answer["calls"] if call["mode"] == Mode.REASON]
    return sum(call["reasoning_tokens"] or 0 for call in calls) / len(calls)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN", help="a regime and the directory of its run")
    runs = [each.partition("=") for each in parser.parse_args().runs]
    if wrong := [name for name, equals, _ in runs if not equals]:
        parser.error(f"write NAME=RUN instead of {', '.join(wrong)}")
    if missing := [folder for _, _, folder in runs if not (Path(folder) / "run.json").exists()]:
        parser.error(f"not the directory of a run: {', '.join(missing)} (make evaluate makes runs)")
    print(json.dumps({name: regime(Path(folder)) for name, _, folder in runs}, indent=2))
