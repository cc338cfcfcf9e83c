"""summary.json: results of a run by task and arm. A run with inconsistent counts has no summary.

Means, shares and counts are over questions; units are seconds and tokens. Failed answers are in no mean; they are
counted (`errors`), and their calls and tokens are in every sum. In a run without times (imported or batched), unknown
values are None. An arm with unresolved questions has bounds of its accuracy: with every unresolved question wrong, and
with every one right. The mean over its resolved questions is reported separately, because these questions are easier.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cuecard.domain.call import REASONING_CUT, FinishReason, Mode
from cuecard.domain.errors import MissingExtra
from cuecard.domain.outcome import Route
from cuecard.evals import scorers
from cuecard.evals.analysis.acceptance import ShortAnswers, rule_results, shared_error, short_answers
from cuecard.evals.analysis.comparisons import paired, verdicts
from cuecard.evals.analysis.ledger import LedgerError, ledger, name_of, wasted
from cuecard.evals.analysis.scores import (
    AGGREGATES,
    ScoredReply,
    ScoredTask,
    counted,
    generated,
    scored_tasks,
    sensitivity,
    succeeded,
)
from cuecard.evals.arm import LIVE
from cuecard.evals.database import Record, Store
from cuecard.evals.requests import TOKENS, is_timed
from cuecard.evals.scorers import scorable, stale
from cuecard.stats import mean, quantile, share, share_interval, wilson
from cuecard.strategies.policy import Acceptance

VERSION = 3
FATES = ("prompt", "cached", "completion", "reasoning")


def summary(config: Mapping[str, Any], store: Store) -> Record:
    """The summary of a run as plain data. Raises LedgerError if counts are inconsistent."""
    timed, notes, tasks = is_timed(config), store.notes(), scored_tasks(config, store)
    answers = (answer for task in tasks for answer in task.all_answers)
    check_counts(tasks, store.calls(), timed)
    try:
        found = verdicts(config, tasks)
    except MissingExtra:  # no numpy for the bootstrap
        found = {}
    return {
        "version": VERSION,
        "config": dict(config),
        "pace": notes.get("pace"),
        "scorer": {
            "version": scorers.version(),
            "stale": stale(answers),
        },
        "tasks": {
            task.name: {
                **about,
                "verdict": (verdict := found.get(task.name)) and verdict.as_object(task.name),
                "items": len(task.items),
                "complete": bool(notes.get(f"complete {task.name}")),
                **_of_task(task, config["arms"], timed),
            }
            for about, task in zip(config["tasks"], tasks, strict=True)
        },
        "calls": _of_calls(store.calls(), timed),
    }


def _of_task(task: ScoredTask, names: Sequence[str], timed: bool) -> Record:
    """All arms of one task. `names`: the run's arms."""
    answers = task.answers
    live = [name + LIVE for name in names if name + LIVE in answers]
    arms = {arm: _of_arm(task, answers.get(arm, ()), timed) for arm in (*names, *live)}
    if not timed:
        for arm, about in arms.items():
            unresolved = task.unresolved.get(arm, {})
            about["unresolved"] = len(unresolved)
            if unresolved:
                about |= _bounded(about, answers.get(arm, ()), task, unresolved)
    result: Record = {"arms": arms, "composed_against_measured": _against_live(answers, names)}
    if all(answers.get(f"short:{role}") for role in ("small", "large")):
        result["acceptance"] = _acceptance(short_answers(task))
    return result


def _acceptance(short: Sequence[ShortAnswers]) -> Record:
    """The answers accepted by agreement alone, the share that both models get wrong, and how often these are alike."""
    rule = Acceptance(agreement=True, confidence=None)
    try:
        error = shared_error(short)
    except MissingExtra:
        error = None
    alike = None if error is None or error.alike_given_wrong is None else asdict(error.alike_given_wrong)
    beta = None if error is None else asdict(error.beta)
    return {**asdict(rule_results(rule, short)), "beta": beta, "alike_given_wrong": alike}


def _of_arm(task: ScoredTask, answers: Sequence[Record], timed: bool) -> Record:
    """One arm on one task."""
    scored = [answer for answer in answers if answer["score"] is not None]
    whole = succeeded(answers)
    accepted = [answer for answer in whole if answer["route"] == Route.AGREED]
    cut = (*REASONING_CUT, FinishReason.LENGTH)
    cut_off = sum(
        any(call["mode"] == Mode.REASON and call["finish_reason"] in cut for call in answer["calls"])
        for answer in answers
    )
    ended = timed or all(call["finish_reason"] is not None for answer in answers for call in answer["calls"])
    return {
        "n": len(task.items),
        "answered": len(answers),
        "errors": len(answers) - len(whole),
        "scored": len(scored),
        "accuracy": mean(answer["score"] for answer in scored),
        "interval": interval(scored, task.items),
        "by_category": _by_category(task, answers, timed),
        "routes": _routes(answers),
        "tokens": _tokens(answers, timed),
        "generated_mean": mean(map(generated, whole)) if timed or counted(whole) else None,
        "latency": latency(whole, timed),
        "unparsed": share(sum(not answer["parsed"] for answer in whole), len(whole)),
        "truncated": share(sum(answer["truncated"] for answer in whole), len(whole)) if ended else None,
        "reasoning_cut": share(cut_off, len(answers)) if ended else None,
        "accepted": len(accepted),
        "accepted_wrong": sum(answer["score"] is not None and answer["score"] < 1 for answer in accepted),
        "scores": sensitivity([answer["scores"] for answer in scored]),
        "attempts": sum(answer["attempts"] for answer in answers),
        **_aggregated(task, scored),
    }


def _routes(answers: Iterable[Record]) -> dict[str, int]:
    return dict(Counter(answer["route"] or "error" for answer in answers))


def _aggregated(task: ScoredTask, scored: Iterable[Record], category: bool = False) -> Record:
    """The figures besides the mean: over groups of rotations, or those of the benchmark's authors, by aggregate."""
    if task.aggregate == "circular":
        groups = task.graded(scored)
        return {"circular": {"groups": len(groups), "accuracy": mean(groups.values())}}
    rule = AGGREGATES.get(task.aggregate)
    if rule is None or (category and not rule.by_category):
        return {}
    replies = [ScoredReply(task.items[each["id"]], each["reply"], float(each["score"])) for each in scored]
    return {task.aggregate: rule.compute(replies)}


def _tokens(answers: Iterable[Record], timed: bool) -> dict[str, dict[str, int | None]]:
    """Tokens by role: prompt, cached (part of prompt), completion, reasoning (part of completion); and wasted: computed
    or generated by cancelled and failed calls without being used. Missing counts are 0 in a timed run, else None."""
    of: dict[str, list[Record]] = defaultdict(list)
    unused = Counter[str]()
    for answer in answers:
        for call in answer["calls"]:
            of[call["role"]].append(call)
            unused[call["role"]] += sum(wasted(call, answer))
    result: dict[str, dict[str, int | None]] = {}
    for role, calls in of.items():
        sums = {fate: sum(call[f"{fate}_tokens"] or 0 for call in calls) for fate in FATES}
        sums["wasted"] = unused[role]
        unknown = {fate for fate in FATES if not timed and any(call[f"{fate}_tokens"] is None for call in calls)}
        unknown |= {"wasted"} if unknown else set()
        result[role] = {name: None if name in unknown else count for name, count in sums.items()}
        result[role]["calls"] = len(calls)
    return result


def latency(answers: Sequence[Record], timed: bool = True) -> Record:
    """Mean, median, 90th percentile and mean handoff latency in seconds. `kind`: composed or measured."""
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


def _against_live(answers: Mapping[str, Sequence[Record]], names: Iterable[str]) -> dict[str, Record]:
    """For arms with both: mean composed and measured seconds on the same questions, and the share of equal answers."""
    result = {}
    for name in names:
        if pairs := paired(answers.get(name, ()), answers.get(name + LIVE, ())):
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


def _of_calls(calls: Iterable[tuple[str, Record]], timed: bool) -> list[Record]:
    """Calls that were made, by model and mode: count, failures, failed earlier attempts, tokens, seconds of work."""
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
    """95% interval of the accuracy, clustered; None if nothing is scored."""
    if not scored:
        return None
    scores = [float(answer["score"]) for answer in scored]
    try:
        sure = share_interval(scores, [items[answer["id"]]["cluster"] for answer in scored])
    except MissingExtra:  # no numpy for the bootstrap
        sure = wilson(round(sum(scores)), len(scores))
    return {"low": sure.low, "high": sure.high, "confidence": sure.confidence, "method": sure.method}


def _by_category(task: ScoredTask, answers: Iterable[Record], timed: bool) -> dict[str, Record]:
    of: dict[str, list[Record]] = defaultdict(list)
    for answer in answers:
        of[task.items[answer["id"]]["category"] or ""].append(answer)
    result = {}
    for name, own in sorted(of.items()):
        scored = [answer for answer in own if answer["score"] is not None]
        if name:
            result[name] = {
                "n": len(own),
                "errors": len(own) - len(succeeded(own)),
                "scored": len(scored),
                "accuracy": mean(answer["score"] for answer in scored),
                "mean_s": latency(succeeded(own), timed)["mean_s"],
                "routes": _routes(own),
                **_aggregated(task, scored, category=True),
            }
    return result


# --- unresolved questions ---------------------------------------------------------------------------------------------


def _bounded(about: Record, answers: Sequence[Record], task: ScoredTask, unresolved: Mapping[str, str]) -> Record:
    """The fields that replace the accuracies of an arm with unresolved questions."""
    result: Record = {name: None for name in ("accuracy", "interval", *AGGREGATES) if name in about}
    result |= {
        "resolved": {"n": len(answers), "accuracy": about["accuracy"], "interval": about["interval"]},
        "bounds": bounds(answers, task.items, unresolved),
        "scores": {},
        "by_category": {
            name: category | dict.fromkeys({"accuracy", "circular", *AGGREGATES} & category.keys())
            for name, category in about["by_category"].items()
        },
    }
    if task.aggregate == "circular":
        ends = _ends(answers, task.items, unresolved)
        sides = {side: mean(task.graded(each).values()) for side, each in ends.items()}
        result["circular"] = {**about["circular"], "accuracy": None, "bounds": sides}
    return result


def bounds(answers: Sequence[Record], items: Mapping[str, Record], unresolved: Mapping[str, str]) -> Record:
    """Accuracy with every unresolved question wrong, and with every one right; and a 95% interval around both.

    The interval goes from the lower end of the low accuracy's interval to the upper end of the high accuracy's, so it
    covers the accuracy at least as often as either (Horowitz and Manski 2000).
    """
    ends = _ends(answers, items, unresolved)
    intervals = {side: interval(each, items) for side, each in ends.items()}
    return {
        "unresolved": len(unresolved),
        **{side: mean(each["score"] for each in own) for side, own in ends.items()},
        "interval": {side: sure and sure[side] for side, sure in intervals.items()},
    }


def _ends(
    answers: Sequence[Record], items: Mapping[str, Record], unresolved: Mapping[str, str]
) -> dict[str, list[Record]]:
    """All scores with every unresolved question wrong, and with every one right."""
    scored = [each for each in answers if each["score"] is not None]
    unknown = [id for id in unresolved if scorable(items[id]["golds"], items[id].get("scorer"))]
    return {
        side: scored + [{"id": id, "score": value} for id in unknown] for side, value in (("low", 0.0), ("high", 1.0))
    }


# --- the check --------------------------------------------------------------------------------------------------------


def check_counts(tasks: Iterable[ScoredTask], calls: Iterable[tuple[str, Record]], timed: bool) -> None:
    """Raises LedgerError for tokens of an answer that differ from its calls, or routes that do not add up.

    The usage of an answer, its calls, and the stored calls count the same tokens, and must agree.
    """
    stored = {key: {name: record[name] for name in TOKENS} for key, record in calls}
    for own in (own for task in tasks for own in task.answers.values()):
        for answer in own:
            _check_usage(answer)
            _check_stored(answer, stored)
        # checks that calls, tokens and seconds add up by route, model, mode and stage
        ledger(own if timed else map(_at_once, own))


def _at_once(answer: Record) -> Record:
    """The answer with unknown times as 0."""
    calls = [{**call, "start_s": 0.0, "end_s": 0.0, "first_token_s": None} for call in answer["calls"]]
    return {**answer, "calls": calls, "latency": {"total_s": 0.0}}


def _check_usage(answer: Record) -> None:
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for call in answer["calls"]:
        sums[call["model"]].update({name: call[name] or 0 for name in TOKENS})
    for model, usage in (answer.get("usage") or {}).items():
        for name in TOKENS:
            if (usage[name] or 0) != sums[model][name]:
                what = f"{usage[name]} {name} of {model} were counted, its calls have {sums[model][name]}"
                raise LedgerError(f"{name_of(answer)}: {what}")


def _check_stored(answer: Record, stored: Mapping[str, Record]) -> None:
    """Raises LedgerError if an answer's call is not stored or has other token counts.

    Cached tokens may differ: an answer has those that its arm alone would have had in the cache.
    """
    for call in answer["calls"]:
        if call["key"] is None:
            continue
        if (whole := stored.get(call["key"])) is None:
            raise LedgerError(f"{name_of(answer)}: its {call['mode']} call is not stored")
        for name in TOKENS:
            most, own = whole[name], call[name]
            same = (own or 0) <= (most or 0) if call["cancelled"] else own == most
            if not same and name != "cached_tokens":
                raise LedgerError(f"{name_of(answer)}: {own} {name}, but its {call['mode']} call has {most}")
