"""Calls without times: of imported files, which tell none, and of calls that a local model decoded together.

What a call took in a batch is no request's latency, so it is kept apart from where latencies are looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cuecard.domain.call import FinishReason
from cuecard.evals.storage.database import Record

BATCHED = "batched"
"""The key under which a run's configuration, and a call's record, say so."""
TIMES = ("first_token_s", "end_s", "hot_first_token_s", "hot_end_s", "reasoning_end_s")


def is_timed(config: Mapping[str, Any]) -> bool:
    """Whether a run's answers have latencies."""
    return "imported" not in config and not config.get(BATCHED)


def batched(record: Record) -> Record:
    """The call less its times, which lie under a name of their own."""
    own = {name: record[name] for name in TIMES[:2]}
    return {**record, **dict.fromkeys(TIMES), "pieces": [], "cold": None, BATCHED: own}


def timeless(record: Record | None) -> Record | None:
    """A call as it can be replayed: one of unknown length takes no time, and its times are taken out afterwards."""
    if record is None or record["end_s"] is not None:
        return record
    return {**record, "end_s": 0.0, "finish_reason": record["finish_reason"] or FinishReason.STOP}


def untimed(answer: Record, look: Callable[[str], Record | None]) -> Record:
    """The answer without times, as some of its calls have none, and each call's end as it was told of it."""
    none = dict.fromkeys(("start_s", "first_token_s", "reasoning_end_s", "end_s"))
    calls = []
    for call in answer["calls"]:
        made = look(call["key"]) or call
        known = call["finish_reason"] if call["cancelled"] or call["error"] else made["finish_reason"]
        calls.append({**call, **none, "finish_reason": known})
    return {**answer, "calls": calls, "latency": {"total_s": None, "handoff_s": None, "kind": None}}
