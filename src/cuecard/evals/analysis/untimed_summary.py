"""The summary of a run without times, an imported or a batched one: what is not known is None.

An arm with unresolved questions has bounds: every unresolved question wrong, every one right, between these two lies
the accuracy. The mean over the questions that were resolved is told apart, as these are the easy ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from cuecard.evals.analysis.acceptance import from_records, told
from cuecard.evals.scoring import scorers
from cuecard.evals.storage.database import Record, Store
from cuecard.evals.storage.requests import is_timed
from cuecard.evals.summary.summary import FATES, interval, summary
from cuecard.stats.inference import mean
from cuecard.strategies.policy import Acceptance

PAIR = ("short:small", "short:large")


def summary_of(config: Mapping[str, Any], store: Store) -> Record:
    """The summary of any run. Raises LedgerError where counts do not conserve."""
    return summary(config, store) if is_timed(config) else summed(config, store)


def summed(config: Mapping[str, Any], store: Store) -> Record:
    """As of any run, less what nobody knows of it. Raises LedgerError where counts do not conserve."""
    whole = summary(config, cast(Store, _AtNoTime(store)))
    answers, notes = list(store.answers()), store.notes()
    for name, task in whole["tasks"].items():
        items = {item["id"]: item for item in store.items(name)}
        for arm, about in task["arms"].items():
            own = [each for each in answers if (each["task"], each["arm"]) == (name, arm)]
            lacking = notes.get(f"unresolved {name} {arm}") or {}
            _forget_times(about)
            _forget_counts(about, own)
            about["unresolved"] = len(lacking)
            if lacking:
                _bound(about, own, items, lacking, task["aggregate"])
        short = [[each for each in answers if (each["task"], each["arm"]) == (name, arm)] for arm in PAIR]
        if all(short):
            rule = Acceptance(agreement=True, confidence=None)
            task["acceptance"] = asdict(told(rule, from_records(items.values(), *short)))
    _forget_calls(whole["calls"], store)
    return whole


def _bound(
    about: Record, answers: Sequence[Record], items: Mapping[str, Record], lacking: Mapping[str, str], aggregate: str
) -> None:
    about["resolved"] = {"n": len(answers), "accuracy": about["accuracy"], "interval": about["interval"]}
    about["bounds"] = bounds(answers, items, lacking)
    for name in ("accuracy", "interval", "pope"):
        if name in about:
            about[name] = None
    about["scores"] = {}
    for category in about["by_category"].values():
        category |= dict.fromkeys({"accuracy", "circular", "pope"} & category.keys())
    if aggregate == "circular":
        sides = (_circular(answers, items, lacking, value) for value in (0.0, 1.0))
        about["circular"] = {**about["circular"], "accuracy": None, "bounds": dict(zip(_SIDES, sides, strict=True))}


_SIDES = ("low", "high")


def bounds(answers: Sequence[Record], items: Mapping[str, Record], lacking: Mapping[str, str]) -> Record:
    """Accuracy with every unresolved question wrong, and with every one right; and a 95% interval around both.

    The interval goes from the lower end of the low one's to the upper end of the high one's, so it covers the accuracy
    at least as often as either (Horowitz and Manski 2000).
    """
    scored: list[Record] = [each for each in answers if each["score"] is not None]
    unknown = [id for id in lacking if items[id]["golds"]]
    low, high = (scored + [{"id": id, "score": value} for id in unknown] for value in (0.0, 1.0))
    ends = {"low": low, "high": high}
    between = {side: interval(ends[side], items) for side in _SIDES}
    return {
        "unresolved": len(lacking),
        **{side: mean(each["score"] for each in ends[side]) for side in _SIDES},
        "interval": {side: told and told[side] for side, told in between.items()},
    }


def _circular(
    answers: Sequence[Record], items: Mapping[str, Record], lacking: Mapping[str, str], value: float
) -> float | None:
    known = [(each["id"], each["score"]) for each in answers if each["score"] is not None]
    pairs = known + [(id, value) for id in lacking if items[id]["golds"]]
    return mean(scorers.circular((items[id]["group"] or id, score) for id, score in pairs).values())


# --- what is not known ------------------------------------------------------------------------------------------------


def _forget_times(about: Record) -> None:
    about["latency"] = dict.fromkeys(about["latency"])
    for category in about["by_category"].values():
        category["mean_s"] = None


def _forget_counts(about: Record, answers: Sequence[Record]) -> None:
    """Sums of which a part is not known are not known."""
    calls = [call for answer in answers for call in answer["calls"]]
    if any(call["finish_reason"] is None for call in calls):
        about["truncated"] = about["reasoning_cut"] = None
    for role, counts in about["tokens"].items():
        own = [call for call in calls if call["role"] == role]
        for fate in FATES:
            if any(call[f"{fate}_tokens"] is None for call in own):
                counts[fate] = counts["wasted"] = None


def _forget_calls(rows: Sequence[Record], store: Store) -> None:
    calls = [call for _, call in store.calls()]
    for row in rows:
        own = [call for call in calls if (call["model"], call["mode"]) == (row["model"], row["mode"])]
        for name in (f"{fate}_tokens" for fate in FATES):
            if any(call[name] is None for call in own):
                row[name] = None
        if any(call["end_s"] is None for call in own):
            row["seconds"] = None


@dataclass(frozen=True)
class _AtNoTime:
    """A store whose unknown times are 0, for sums that are forgotten afterwards."""

    store: Store

    def items(self) -> Iterator[Record]:
        return self.store.items()

    def notes(self) -> Record:
        return self.store.notes()

    def answers(self) -> Iterator[Record]:
        none = dict.fromkeys(("start_s", "end_s"), 0.0)
        for answer in self.store.answers():
            calls = [{**call, **none, "first_token_s": None} for call in answer["calls"]]
            yield {**answer, "calls": calls, "latency": {**answer["latency"], "total_s": 0.0}}

    def calls(self) -> Iterator[tuple[str, Record]]:
        for key, call in self.store.calls():
            yield key, {**call, "end_s": call["end_s"] or 0.0}
