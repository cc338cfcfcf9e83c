"""summary.json: what a run's answers show, by task and arm. A run whose counts contradict each other has none.

Means, shares and counts are over questions; an answer that failed has no score, and its calls and seconds are in every
sum. Seconds, tokens. In a run without times, an imported or a batched one, what is not known is None; an arm with
unresolved questions has bounds, between which its accuracy lies: every unresolved question wrong, every one right. The
mean over its resolved questions is reported apart, as these are the easy ones.
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
from cuecard.evals.analysis.acceptance import rule_results, short_answers
from cuecard.evals.analysis.ledger import LOST, LedgerError, ledger
from cuecard.evals.arm import LIVE
from cuecard.evals.scoring import scorers
from cuecard.evals.scoring.extractors import ours
from cuecard.evals.scoring.rescore import item_of, stale
from cuecard.evals.storage.database import Record, Store
from cuecard.evals.storage.requests import TOKENS, is_timed
from cuecard.stats.inference import mean, quantile, share, share_interval, wilson
from cuecard.strategies.policy import Acceptance

VERSION = 2
FATES = ("prompt", "cached", "completion", "reasoning")
SIDES = ("low", "high")


def summary(config: Mapping[str, Any], store: Store) -> Record:
    """The summary of any run as plain data. Raises LedgerError where counts do not conserve."""
    timed, tasks = is_timed(config), {task["name"]: task for task in config["tasks"]}
    by_task: dict[str, dict[str, Record]] = {name: {} for name in tasks}
    for item in store.items():
        by_task[item["task"]][item["id"]] = item
    answers = list(store.answers())
    check_counts(answers if timed else [_at_time_0(answer) for answer in answers], by_task, store.calls())
    notes = store.notes()
    return {
        "version": VERSION,
        "config": dict(config),
        "pace": notes.get("pace"),
        "scorer": {"version": scorers.version(), "stale": stale(answers)},
        "tasks": {
            name: of_task(
                tasks[name], [each for each in answers if each["task"] == name], items, config["arms"], notes, timed
            )
            for name, items in by_task.items()
        },
        "calls": of_calls(store.calls(), timed),
    }


def of_task(
    task: Record,
    answers: Sequence[Record],
    items: Mapping[str, Record],
    names: Sequence[str],
    notes: Record,
    timed: bool = True,
) -> Record:
    """All arms of one task; `items` by id, `names` of the run's arms."""
    of: dict[str, list[Record]] = {arm: [] for arm in (*names, *(arm + LIVE for arm in names))}
    for answer in answers:
        if answer["arm"] in of:
            of[answer["arm"]].append(answer)
    arms = {
        arm: of_arm(own, items, task["aggregate"], timed) for arm, own in of.items() if own or not arm.endswith(LIVE)
    }
    result: Record = {
        **task,
        "items": len(items),
        "complete": bool(notes.get(f"complete {task['name']}")),
        "arms": arms,
        "composed_against_measured": against_live(of, names),
    }
    if not timed:
        for arm, about in arms.items():
            unresolved = notes.get(f"unresolved {task['name']} {arm}") or {}
            about["unresolved"] = len(unresolved)
            if unresolved:
                about |= _bounded(about, of[arm], items, unresolved, task["aggregate"])
        short = [of.get(f"short:{role}", []) for role in ("small", "large")]
        if all(short):
            rule = Acceptance(agreement=True, confidence=None)
            result["acceptance"] = asdict(rule_results(rule, short_answers(items.values(), *short)))
    return result


def of_arm(answers: Sequence[Record], items: Mapping[str, Record], aggregate: str, timed: bool = True) -> Record:
    """One arm on one task."""
    scored = [answer for answer in answers if answer["score"] is not None]
    given = [answer for answer in answers if answer["status"] != "error"]
    accepted = [answer for answer in given if answer["route"] == Route.AGREED]
    ended = timed or all(call["finish_reason"] is not None for answer in answers for call in answer["calls"])
    result: Record = {
        "n": len(items),
        "answered": len(answers),
        "errors": len(answers) - len(given),
        "degraded": sum(answer["status"] == "degraded" for answer in answers),
        "scored": len(scored),
        "accuracy": mean(answer["score"] for answer in scored),
        "interval": interval(scored, items),
        "by_category": _by_category(answers, items, aggregate, timed),
        "routes": dict(Counter(answer["route"] or "error" for answer in answers)),
        "tokens": tokens(answers, timed),
        "latency": latency(answers, timed),
        "unparsed": share(sum(not answer["parsed"] for answer in given), len(given)),
        "truncated": share(sum(answer["truncated"] for answer in given), len(given)) if ended else None,
        "reasoning_cut": share(sum(_is_cut(answer) for answer in answers), len(answers)) if ended else None,
        "accepted": len(accepted),
        "accepted_wrong": sum(answer["score"] is not None and answer["score"] < 1 for answer in accepted),
        "scores": _by_extractor(scored),
        "attempts": sum(answer["attempts"] for answer in answers),
    }
    return result | aggregated(scored, items, aggregate)


def aggregated(scored: Sequence[Record], items: Mapping[str, Record], aggregate: str) -> Record:
    """What a benchmark's authors report besides the mean: groups of rotations, or POPE's five figures."""
    if aggregate == "circular":
        groups = scorers.circular((items[each["id"]]["group"] or each["id"], each["score"]) for each in scored)
        return {"circular": {"groups": len(groups), "accuracy": mean(groups.values())}}
    if aggregate == "pope":
        return {"pope": asdict(scorers.pope(_polarity(answer, items[answer["id"]]) for answer in scored))}
    return {}


def tokens(answers: Iterable[Record], timed: bool = True) -> dict[str, dict[str, int | None]]:
    """By role: prompt, cached (of the prompt), completion, reasoning (of the completion); and wasted: what of these
    cancelled and failed calls had computed or generated. A count that a timed run lacks is 0."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    unknown = set[tuple[str, str]]()
    for call in (call for answer in answers for call in answer["calls"]):
        counts = {fate: call[f"{fate}_tokens"] or 0 for fate in FATES}
        wasted = counts["prompt"] - counts["cached"] + counts["completion"] if call["finish_reason"] in LOST else 0
        sums[call["role"]].update({**counts, "wasted": wasted, "calls": 1})
        if not timed and (lacking := [fate for fate in FATES if call[f"{fate}_tokens"] is None]):
            unknown |= {(call["role"], name) for name in (*lacking, "wasted")}
    return {
        role: {name: None if (role, name) in unknown else count for name, count in counts.items()}
        for role, counts in sums.items()
    }


def latency(answers: Sequence[Record], timed: bool = True) -> Record:
    """Of answers that failed too. `kind`: composed or measured."""
    if not timed:
        return dict.fromkeys(("mean_s", "p50_s", "p90_s", "handoff_mean_s", "kind"))
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
    result = {}
    for name in names:
        measured = {answer["id"]: answer for answer in arms[name + LIVE]}
        pairs = [(each, measured[each["id"]]) for each in arms[name] if each["id"] in measured]
        if pairs:
            one, other = (mean(pair[side]["latency"]["total_s"] for pair in pairs) or 0.0 for side in (0, 1))
            result[name] = {
                "questions": len(pairs),
                "composed_mean_s": one,
                "measured_mean_s": other,
                "ratio": one / other if other else None,
                "same_answer": share(sum(a["answer"] == b["answer"] for a, b in pairs), len(pairs)),
                "same_route": share(sum(a["route"] == b["route"] for a, b in pairs), len(pairs)),
            }
    return result


def of_calls(calls: Iterable[tuple[str, Record]], timed: bool = True) -> list[Record]:
    """Calls that were made, by model and mode: how many, failures, failed attempts before, tokens, seconds of work."""
    rows: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    unknown = set[tuple[str, str, str]]()
    for _, call in calls:
        key = call["model"], call["mode"]
        row, attempts = rows[key], (call, *call["failures"])
        row.update({"calls": 1, "failed": int(call["status"] != "ok"), "tried_again": len(attempts) - 1})
        for each in attempts:
            row.update({f"{fate}_tokens": each[f"{fate}_tokens"] or 0 for fate in FATES})
        row["milliseconds"] += round(1000 * sum(each["end_s"] or 0.0 for each in attempts))
        if not timed:
            unknown |= {(*key, f"{fate}_tokens") for fate in FATES if call[f"{fate}_tokens"] is None}
            unknown |= {(*key, "seconds")} if call["end_s"] is None else set()
    result = []
    for key, row in sorted(rows.items()):
        values: Record = {**row, "seconds": row["milliseconds"] / 1000}
        known = {name: None if (*key, name) in unknown else value for name, value in values.items()}
        result.append({"model": key[0], "mode": key[1], **known})
    return result


def interval(scored: Sequence[Record], items: Mapping[str, Record]) -> Record | None:
    """95% interval of the accuracy, questions of one cluster counted as one draw."""
    if not scored:
        return None
    scores = [float(answer["score"]) for answer in scored]
    try:
        sure = share_interval(scores, [items[answer["id"]]["cluster"] for answer in scored])
    except MissingExtra:  # no numpy, which draws bootstraps
        sure = wilson(round(sum(scores)), len(scores))
    return {"low": sure.low, "high": sure.high, "confidence": sure.confidence, "method": sure.method}


def _by_category(
    answers: Sequence[Record], items: Mapping[str, Record], aggregate: str, timed: bool
) -> dict[str, Record]:
    def category(answer: Record) -> str:
        return items[answer["id"]]["category"] or ""

    result = {}
    for name, group in groupby(sorted(answers, key=category), key=category):
        own = list(group)
        scored = [answer for answer in own if answer["score"] is not None]
        if name:
            result[name] = {
                "n": len(own),
                "scored": len(scored),
                "accuracy": mean(answer["score"] for answer in scored),
                "mean_s": latency(own, timed)["mean_s"],
                "routes": dict(Counter(answer["route"] or "error" for answer in own)),
                **aggregated(scored, items, aggregate),
            }
    return result


def _by_extractor(scored: Sequence[Record]) -> Record:
    found = scorers.sensitivity([answer["scores"] for answer in scored])
    return {} if found is None else asdict(found)


def _polarity(answer: Record, item: Record) -> tuple[str | None, str]:
    return ours(answer["reply"], item_of(item).question), str(item["golds"][0]).strip().lower()


def _is_cut(answer: Record) -> bool:
    cut = (*REASONING_CUT, FinishReason.LENGTH)
    return any(call["mode"] == Mode.REASON and call["finish_reason"] in cut for call in answer["calls"])


# --- unresolved questions ---------------------------------------------------------------------------------------------


def _bounded(
    about: Record,
    answers: Sequence[Record],
    items: Mapping[str, Record],
    unresolved: Mapping[str, str],
    aggregate: str,
) -> Record:
    """What replaces the accuracies of an arm that has unresolved questions."""
    result: Record = {name: None for name in ("accuracy", "interval", "pope") if name in about}
    result |= {
        "resolved": {"n": len(answers), "accuracy": about["accuracy"], "interval": about["interval"]},
        "bounds": bounds(answers, items, unresolved),
        "scores": {},
        "by_category": {
            name: category | dict.fromkeys({"accuracy", "circular", "pope"} & category.keys())
            for name, category in about["by_category"].items()
        },
    }
    if aggregate == "circular":
        sides = {
            side: _circular(answers, items, unresolved, value) for side, value in zip(SIDES, (0.0, 1.0), strict=True)
        }
        result["circular"] = {**about["circular"], "accuracy": None, "bounds": sides}
    return result


def bounds(answers: Sequence[Record], items: Mapping[str, Record], unresolved: Mapping[str, str]) -> Record:
    """Accuracy with every unresolved question wrong, and with every one right; and a 95% interval around both.

    The interval goes from the lower end of the low one's to the upper end of the high one's, so it covers the accuracy
    at least as often as either (Horowitz and Manski 2000).
    """
    scored: list[Record] = [each for each in answers if each["score"] is not None]
    unknown = [id for id in unresolved if items[id]["golds"]]
    ends = {
        side: scored + [{"id": id, "score": value} for id in unknown]
        for side, value in zip(SIDES, (0.0, 1.0), strict=True)
    }
    intervals = {side: interval(ends[side], items) for side in SIDES}
    return {
        "unresolved": len(unresolved),
        **{side: mean(each["score"] for each in ends[side]) for side in SIDES},
        "interval": {side: sure and sure[side] for side, sure in intervals.items()},
    }


def _circular(
    answers: Sequence[Record], items: Mapping[str, Record], unresolved: Mapping[str, str], value: float
) -> float | None:
    known = [(each["id"], each["score"]) for each in answers if each["score"] is not None]
    pairs = known + [(id, value) for id in unresolved if items[id]["golds"]]
    return mean(scorers.circular((items[id]["group"] or id, score) for id, score in pairs).values())


# --- the check --------------------------------------------------------------------------------------------------------


def check_counts(
    answers: Sequence[Record], items: Mapping[str, Mapping[str, Record]], calls: Iterable[tuple[str, Record]]
) -> None:
    """Raises LedgerError: an answer without its item, tokens that its calls do not have, routes that do not add up.

    The usage of an answer, its calls and the stored calls are three counts of one sum.
    """
    stored = {key: {name: record[name] for name in TOKENS} for key, record in calls}
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for answer in answers:
        if answer["id"] not in items.get(answer["task"], {}):
            raise LedgerError(f"{_name(answer)} answers an item that the run does not have")
        _check_usage(answer)
        _check_stored(answer, stored)
        groups[answer["task"], answer["arm"]].append(answer)
    for (task, arm), own in groups.items():
        if len(own) > len(items[task]):
            raise LedgerError(f"{arm} has {len(own)} answers to the {len(items[task])} items of {task}")
        ledger(own)  # which checks that calls, tokens and seconds add up by route, model, mode and stage


def _check_usage(answer: Record) -> None:
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for call in answer["calls"]:
        sums[call["model"]].update({name: call[name] or 0 for name in TOKENS})
    for model, counted in (answer.get("usage") or {}).items():
        for name in TOKENS:
            if (counted[name] or 0) != sums[model][name]:
                what = f"{counted[name]} {name} of {model} were counted, its calls have {sums[model][name]}"
                raise LedgerError(f"{_name(answer)}: {what}")


def _check_stored(answer: Record, stored: Mapping[str, Record]) -> None:
    """Cached tokens may differ: they are those that the arm would have had in the cache, had it come first."""
    for call in answer["calls"]:
        if call["key"] is None:
            continue
        if (whole := stored.get(call["key"])) is None:
            raise LedgerError(f"{_name(answer)}: its {call['mode']} call is not stored")
        for name in TOKENS:
            most, own = whole[name], call[name]
            same = (own or 0) <= (most or 0) if call["cancelled"] else own == most
            if not same and name != "cached_tokens":
                raise LedgerError(f"{_name(answer)}: {own} {name}, but its {call['mode']} call has {most}")


def _name(answer: Record) -> str:
    return f"{answer['task']} {answer['id']} {answer['arm']}"


def _at_time_0(answer: Record) -> Record:
    """An answer whose unknown times are 0, so that its counts can be checked."""
    calls = [{**call, "start_s": 0.0, "end_s": 0.0, "first_token_s": None} for call in answer["calls"]]
    return {**answer, "calls": calls, "latency": {**answer["latency"], "total_s": 0.0}}
