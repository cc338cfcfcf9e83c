"""summary.json: what a run's answers show, by task and arm. A run whose counts contradict each other has none.

Means, shares and counts are over questions; an answer that failed has no score, and its calls and seconds are in every
sum. Seconds, tokens.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from cuecard.domain.call import REASONING_CUT, FinishReason, Mode
from cuecard.domain.errors import MissingExtra
from cuecard.domain.outcome import Route
from cuecard.evals.arm import LIVE
from cuecard.evals.scoring import scorers
from cuecard.evals.scoring.extractors import ours
from cuecard.evals.scoring.rescore import item_of, stale
from cuecard.evals.storage.database import Record, Store
from cuecard.evals.summary import conservation
from cuecard.stats.bootstrap import Interval
from cuecard.stats.inference import mean, quantile, share, share_interval, wilson

VERSION = 2
LOST = (FinishReason.CANCELLED, FinishReason.ERROR)
FATES = ("prompt", "cached", "completion", "reasoning")


def summary(config: Mapping[str, Any], store: Store) -> Record:
    """Everything as plain data. Raises LedgerError where counts do not conserve."""
    tasks = {task["name"]: task for task in config["tasks"]}
    by_task: dict[str, dict[str, Record]] = {name: {} for name in tasks}
    for item in store.items():
        by_task[item["task"]][item["id"]] = item
    answers = list(store.answers())
    conservation.check(answers, by_task, store.calls())
    notes, told = store.notes(), {}
    for name, items in by_task.items():
        own = [answer for answer in answers if answer["task"] == name]
        names = [*config["arms"], *(arm + LIVE for arm in config["arms"])]
        arms = {arm: [answer for answer in own if answer["arm"] == arm] for arm in names}
        told[name] = {
            **tasks[name],
            "items": len(items),
            "complete": bool(notes.get(f"complete {name}")),
            "arms": {
                arm: of_arm(given, items, tasks[name]["aggregate"])
                for arm, given in arms.items()
                if given or not arm.endswith(LIVE)
            },
            "composed_against_measured": against_live(arms, config["arms"]),
        }
    return {
        "version": VERSION,
        "config": dict(config),
        "pace": notes.get("pace"),
        "scorer": {"version": scorers.version(), "stale": stale(answers)},
        "tasks": told,
        "calls": of_calls(store.calls()),
    }


def of_arm(answers: Sequence[Record], items: Mapping[str, Record], aggregate: str) -> Record:
    """One arm on one task."""
    scored = [answer for answer in answers if answer["score"] is not None]
    given = [answer for answer in answers if answer["status"] != "error"]
    accepted = [answer for answer in given if answer["route"] == Route.AGREED]
    told: Record = {
        "n": len(items),
        "answered": len(answers),
        "errors": len(answers) - len(given),
        "degraded": sum(answer["status"] == "degraded" for answer in answers),
        "scored": len(scored),
        "accuracy": mean(answer["score"] for answer in scored),
        "interval": interval(scored, items),
        "by_category": _by_category(answers, items, aggregate),
        "routes": dict(Counter(answer["route"] or "error" for answer in answers)),
        "tokens": tokens(answers),
        "latency": latency(answers),
        "unparsed": share(sum(not answer["parsed"] for answer in given), len(given)),
        "truncated": share(sum(answer["truncated"] for answer in given), len(given)),
        "reasoning_cut": share(sum(_is_cut(answer) for answer in answers), len(answers)),
        "accepted": len(accepted),
        "accepted_wrong": sum(answer["score"] is not None and answer["score"] < 1 for answer in accepted),
        "scores": _by_extractor(scored),
        "attempts": sum(answer["attempts"] for answer in answers),
    }
    return told | aggregated(scored, items, aggregate)


def aggregated(scored: Sequence[Record], items: Mapping[str, Record], aggregate: str) -> Record:
    """What a benchmark's authors report besides the mean: groups of rotations, or POPE's five figures."""
    if aggregate == "circular":
        groups = scorers.circular((items[each["id"]]["group"] or each["id"], each["score"]) for each in scored)
        return {"circular": {"groups": len(groups), "accuracy": mean(groups.values())}}
    if aggregate == "pope":
        return {"pope": asdict(scorers.pope(_polarity(answer, items[answer["id"]]) for answer in scored))}
    return {}


def tokens(answers: Iterable[Record]) -> dict[str, dict[str, int]]:
    """By role: prompt, cached (of the prompt), completion, reasoning (of the completion); and wasted: what of these
    cancelled and failed calls had computed or generated."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for call in (call for answer in answers for call in answer["calls"]):
        counts = {fate: call[f"{fate}_tokens"] or 0 for fate in FATES}
        wasted = counts["prompt"] - counts["cached"] + counts["completion"] if call["finish_reason"] in LOST else 0
        sums[call["role"]].update({**counts, "wasted": wasted, "calls": 1})
    return {role: dict(counts) for role, counts in sums.items()}


def latency(answers: Sequence[Record]) -> Record:
    """Of answers that failed too. `kind`: composed or measured."""
    seconds = sorted(answer["latency"]["total_s"] for answer in answers)
    handoffs = [answer["latency"]["handoff_s"] for answer in answers if answer["latency"]["handoff_s"] is not None]
    return {
        "mean_s": mean(seconds),
        "p50_s": quantile(seconds, 0.5) if seconds else None,
        "p90_s": quantile(seconds, 0.9) if seconds else None,
        "handoff_mean_s": mean(handoffs),
        "kind": answers[0]["latency"]["kind"] if answers else None,
    }


def against_live(arms: Mapping[str, Sequence[Record]], names: Iterable[str]) -> dict[str, Record]:
    """By arm that has both: mean seconds composed and measured over the same questions, and answers that are alike."""
    told = {}
    for name in names:
        measured = {answer["id"]: answer for answer in arms[name + LIVE]}
        pairs = [(each, measured[each["id"]]) for each in arms[name] if each["id"] in measured]
        if pairs:
            one, other = (mean(pair[side]["latency"]["total_s"] for pair in pairs) or 0.0 for side in (0, 1))
            told[name] = {
                "questions": len(pairs),
                "composed_mean_s": one,
                "measured_mean_s": other,
                "ratio": one / other if other else None,
                "same_answer": share(sum(a["answer"] == b["answer"] for a, b in pairs), len(pairs)),
                "same_route": share(sum(a["route"] == b["route"] for a, b in pairs), len(pairs)),
            }
    return told


def of_calls(calls: Iterable[tuple[str, Record]]) -> list[Record]:
    """What was made, by model and mode: calls, failures, tries that failed before, tokens, seconds of work."""
    rows: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for _, call in calls:
        row = rows[call["model"], call["mode"]]
        tries = call["failures"]
        row.update({"calls": 1, "failed": int(call["status"] != "ok"), "tried_again": len(tries)})
        for each in (call, *tries):
            row.update({f"{fate}_tokens": each[f"{fate}_tokens"] or 0 for fate in FATES})
        row["milliseconds"] += round(1000 * sum(each["end_s"] for each in (call, *tries)))
    return [
        {"model": model, "mode": mode, **counts, "seconds": counts.pop("milliseconds") / 1000}
        for (model, mode), counts in sorted(rows.items())
    ]


def interval(scored: Sequence[Record], items: Mapping[str, Record]) -> Record | None:
    """95% interval of the accuracy, questions of one cluster counted as one draw."""
    if not scored:
        return None
    scores = [float(answer["score"]) for answer in scored]
    try:
        found: Interval = share_interval(scores, [items[answer["id"]]["cluster"] for answer in scored])
    except MissingExtra:  # what draws bootstraps is not installed
        found = wilson(round(sum(scores)), len(scores))
    return {"low": found.low, "high": found.high, "confidence": found.confidence, "method": found.method}


def _by_category(answers: Sequence[Record], items: Mapping[str, Record], aggregate: str) -> dict[str, Record]:
    def category(answer: Record) -> str:
        return items[answer["id"]]["category"] or ""

    told = {}
    for name, group in groupby(sorted(answers, key=category), key=category):
        own = list(group)
        scored = [answer for answer in own if answer["score"] is not None]
        if name:
            told[name] = {
                "n": len(own),
                "scored": len(scored),
                "accuracy": mean(answer["score"] for answer in scored),
                "mean_s": latency(own)["mean_s"],
                "routes": dict(Counter(answer["route"] or "error" for answer in own)),
                **aggregated(scored, items, aggregate),
            }
    return told


def _by_extractor(scored: Sequence[Record]) -> Record:
    found = scorers.sensitivity([answer["scores"] for answer in scored])
    return {} if found is None else asdict(found)


def _polarity(answer: Record, item: Record) -> tuple[str | None, str]:
    return ours(answer["reply"], item_of(item).question), str(item["golds"][0]).strip().lower()


def _is_cut(answer: Record) -> bool:
    cut = (*REASONING_CUT, FinishReason.LENGTH)
    return any(call["mode"] == Mode.REASON and call["finish_reason"] in cut for call in answer["calls"])
