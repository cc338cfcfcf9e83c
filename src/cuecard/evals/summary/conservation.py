"""A run's books: every count equals the sum of its parts, or there is no summary."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from cuecard.evals.storage.database import Record
from cuecard.evals.storage.requests import TOKENS
from cuecard.evals.summary.ledger import LedgerError, ledger


def check(
    answers: Sequence[Record], items: Mapping[str, Mapping[str, Record]], calls: Iterable[tuple[str, Record]]
) -> None:
    """Raises LedgerError: an answer without its item, tokens that its calls do not have, routes that do not add up.

    What the team of an answer counted, what its calls tell, and what the stored calls tell are three counts of one sum.
    """
    stored = {key: {name: record[name] for name in ("model", "mode", "status", *TOKENS)} for key, record in calls}
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for answer in answers:
        if answer["id"] not in items.get(answer["task"], {}):
            raise LedgerError(f"{_name(answer)} answers an item that the run does not have")
        _of_team(answer)
        _of_store(answer, stored)
        groups[answer["task"], answer["arm"]].append(answer)
    for (task, arm), own in groups.items():
        routes = Counter(answer["route"] or "error" for answer in own)
        if len(own) > len(items[task]) or sum(routes.values()) != len(own):
            raise LedgerError(f"{arm} has {len(own)} answers to the {len(items[task])} items of {task}")
        ledger(own)  # which checks that calls, tokens and seconds add up by route, model, mode and stage


def _of_team(answer: Record) -> None:
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for call in answer["calls"]:
        sums[call["model"]].update({name: call[name] or 0 for name in TOKENS})
    for model, counted in (answer.get("usage") or {}).items():
        for name in TOKENS:
            if (counted[name] or 0) != sums[model][name]:
                what = f"{counted[name]} {name} of {model} were counted, its calls have {sums[model][name]}"
                raise LedgerError(f"{_name(answer)}: {what}")


def _of_store(answer: Record, stored: Mapping[str, Record]) -> None:
    """Cached tokens may differ: they are those that the arm would have found, had it come first."""
    for call in answer["calls"]:
        if call["key"] is None:
            continue
        if (made := stored.get(call["key"])) is None:
            raise LedgerError(f"{_name(answer)}: its {call['mode']} call is not stored")
        for name in TOKENS:
            whole, told = made[name], call[name]
            same = (told or 0) <= (whole or 0) if call["cancelled"] else told == whole
            if not same and name != "cached_tokens":
                raise LedgerError(f"{_name(answer)}: {told} {name}, but its {call['mode']} call has {whole}")


def _name(answer: Record) -> str:
    return f"{answer['task']} {answer['id']} {answer['arm']}"
