"""The answers that an interrupted or still running run lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from cuecard.evals.arm import LIVE
from cuecard.evals.database import Store

MOST_NAMES = 4


def unfinished(config: Mapping[str, Any], store: Store) -> str | None:
    """One sentence for each unfinished task, with the numbers of answered and of all questions; None if complete.

    An imported run is always complete.
    """
    return " ".join(_lacking(config, store)) or None


def _lacking(config: Mapping[str, Any], store: Store) -> Iterator[str]:
    if "imported" in config:
        return
    notes, asked = store.notes(), Counter(item["task"] for item in store.items())
    answered = Counter((answer["task"], answer["arm"]) for answer in store.answers())
    for name in (task["name"] for task in config["tasks"]):
        arms = [*config["arms"], *(arm + LIVE for arm in config["arms"] if answered[name, arm + LIVE])]
        counts = {arm: answered[name, arm] for arm in arms}
        least, known = min(counts.values()), notes.get(f"questions {name}")
        total = max(asked[name], known or 0)
        is_over = notes.get(f"complete {name}", True)  # runs of earlier versions have no such note
        if is_over and least >= asked[name]:
            continue
        of = f"of {total:,} questions" if is_over or known else "questions, of a number that is not known yet,"
        yield f"Unfinished: on {name} {least:,} {of} are answered by all {len(arms)} arms{_behind(counts)}."


def _behind(counts: Mapping[str, int]) -> str:
    """Text that lists the arms with fewer answers than others; empty if there are none."""
    most = max(counts.values())
    behind = [f"{arm} {count:,}" for arm, count in counts.items() if count < most]
    if not behind:
        return ""
    more = f" and {len(behind) - MOST_NAMES} more arms" if len(behind) > MOST_NAMES else ""
    return f"; fewer than {most:,} by {', '.join(behind[:MOST_NAMES])}{more}"
