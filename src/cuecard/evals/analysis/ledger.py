"""The ledger: spending by route, model, mode and stage, from stored answers; every total equals the sum of its parts.

A call is divided at its first token: before it is prefill, the rest is decode. WARM, SCORE and WEIGH calls have one
stage. Seconds of a stage are model time, so concurrent calls count twice; seconds of an answer are the request's
latency, divided into busy time (at least one call runs) and idle time (none runs).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from cuecard.domain.call import FinishReason, Mode
from cuecard.domain.errors import BadInput, CuecardError, did_you_mean
from cuecard.domain.outcome import Route

T = TypeVar("T")
Record = Mapping[str, Any]
_NEAR_S = 1e-6
LOST = (FinishReason.CANCELLED, FinishReason.ERROR)


class LedgerError(CuecardError):
    """A run's records are inconsistent: for example, a total is not the sum of its parts."""

    hint = "the run's records are damaged, or a defect of cuecard wrote them: please report it"


@dataclass(frozen=True)
class Price:
    """Price per million tokens, in any currency; `cached` defaults to `prompt`."""

    prompt: float
    completion: float
    cached: float | None = None

    @classmethod
    def parse(cls, text: str) -> tuple[str, Price]:
        """A model and its price, from MODEL=PROMPT,COMPLETION[,CACHED]. Raises BadInput."""
        model, _, numbers = text.rpartition("=")
        try:
            prompt, completion, *cached = (float(number) for number in numbers.split(","))
            if not model or len(cached) > 1 or min(prompt, completion, *cached) < 0:
                raise ValueError
        except ValueError:
            raise BadInput(f"{text!r} is no price", "write MODEL=PROMPT,COMPLETION per million tokens") from None
        return model, cls(prompt, completion, *cached)

    def of(self, spent: Spending) -> float:
        """The price of this spending. Prompt tokens with an unknown cached part cost the full price."""
        fresh = spent.computed_tokens + spent.unseen_tokens
        cached = self.prompt if self.cached is None else self.cached
        return (fresh * self.prompt + spent.cached_tokens * cached + spent.completion_tokens * self.completion) / 1e6


def watts(text: str) -> tuple[str, float]:
    """A model and its power in watts while it runs, from MODEL=WATTS. Raises BadInput."""
    model, _, number = text.rpartition("=")
    try:
        drawn = float(number)
    except ValueError:
        drawn = -1.0
    if not model or not 0 <= drawn < math.inf:
        raise BadInput(f"{text!r} is no power", "write MODEL=WATTS")
    return model, drawn


def by_model(option: str, texts: Iterable[str], parse: Callable[[str], tuple[str, T]]) -> dict[str, T]:
    """Parse an option that is given once per model, into values by model. Raises BadInput."""
    result: dict[str, T] = {}
    for text in texts:
        model, value = parse(text)
        if model in result:
            raise BadInput(f"{option} is given twice for {model!r}", "give it once a model")
        result[model] = value
    return result


def check_models(option: str, given: Mapping[str, object], answers: Iterable[Record]) -> None:
    """Raises BadInput if an option names a model that made no call in these answers."""
    called = sorted({call["model"] for answer in answers for call in answer["calls"]})
    if unknown := sorted(set(given) - set(called)):
        raise BadInput(f"{option} is about {unknown[0]!r}, which no arm calls", did_you_mean(unknown[0], called))


@dataclass(frozen=True)
class Spending:
    """Additive calls, tokens and seconds. Prompt tokens are cached, computed, or `unseen` (cached part unknown).

    `wasted_tokens`: computed, unseen and completion tokens of cancelled or failed calls with unused results.
    `uncounted`: calls without any token counts; their tokens are in none of the sums.
    """

    calls: int = 0
    """A call is counted in its first stage."""
    uncounted: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    computed_tokens: int = 0
    unseen_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    wasted_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        return Spending(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Spending)))


@dataclass(frozen=True)
class LedgerRow:
    """Spending of one route, model, mode and stage; price and energy are None if no price or power is given.

    The price is also None if a call that did not fail has no token counts.

    `energy_j` (joules) is an estimate: the model's given power times its model time.
    """

    route: str
    model: str
    mode: str
    stage: str
    spent: Spending
    price: float | None
    energy_j: float | None


@dataclass(frozen=True)
class RouteTotals:
    """The answers of one route: request latency in seconds, divided into busy (a call runs) and idle time."""

    route: str
    answers: int
    latency_s: float
    busy_s: float
    idle_s: float


@dataclass(frozen=True)
class Ledger:
    """The ledger of a set of answer records, usually of one arm."""

    rows: tuple[LedgerRow, ...]
    routes: tuple[RouteTotals, ...]
    total: Spending
    price: float | None
    """None if any row has no price."""
    energy_j: float | None
    """Estimated; None if any row has none."""
    answers: int
    latency_s: float

    def as_object(self) -> dict[str, Any]:
        """Plain data, for a summary."""
        rows = [
            {key: value for key, value in asdict(row).items() if key != "spent"} | asdict(row.spent)
            for row in self.rows
        ]
        routes, total = [asdict(route) for route in self.routes], asdict(self.total)
        return {
            "rows": rows,
            "routes": routes,
            "total": total | {"price": self.price, "energy_j": self.energy_j},
            "answers": self.answers,
        }


def ledger(
    records: Iterable[Record],
    prices: Mapping[str, Price] | None = None,
    powers: Mapping[str, float] | None = None,
) -> Ledger:
    """The ledger of answer records of one arm; `prices` and `powers` (watts) by model.

    Raises LedgerError if a question was answered twice, a call is inconsistent, or a total differs from its parts.
    """
    kept = list(records)
    _check_answers(kept)
    prices, powers, sums = prices or {}, powers or {}, dict[tuple[str, str, str, str], Spending]()
    unknown = set[tuple[str, str, str, str]]()
    for record in kept:
        for call in record["calls"]:
            for stage, spent in stages(call, record):
                key = (route_of(record), call["model"], call["mode"], stage)
                sums[key] = sums.get(key, Spending()) + spent
                if spent.uncounted and call["finish_reason"] != FinishReason.ERROR:
                    unknown.add(key)
    rows = tuple(
        LedgerRow(
            *key,
            spent,
            prices[key[1]].of(spent) if key[1] in prices and key not in unknown else None,
            powers[key[1]] * spent.seconds if key[1] in powers else None,
        )
        for key, spent in sorted(sums.items())
    )
    known = [row.price for row in rows if row.price is not None]
    drawn = [row.energy_j for row in rows if row.energy_j is not None]
    made = Ledger(
        rows,
        tuple(_route(route, kept) for route in sorted({route_of(record) for record in kept})),
        sum((row.spent for row in rows), Spending()),
        math.fsum(known) if len(known) == len(rows) else None,
        math.fsum(drawn) if len(drawn) == len(rows) and powers else None,
        len(kept),
        math.fsum(_latency_s(record) for record in kept),
    )
    check(made.total, kept)
    return made


def wasted(call: Record, record: Record) -> tuple[int, int]:
    """(computed prompt tokens, generated tokens) of a failed or cancelled call that are wasted; (0, 0) for other calls.

    A reasoning that another model has read, or that was resumed, is used, although its call is cancelled at the end of
    the reasoning. Steps of a reasoning are also used, including tokens generated past them.
    """
    if call["finish_reason"] not in LOST:
        return 0, 0
    completion, route = call.get("completion_tokens") or 0, record["route"]
    if call["mode"] == Mode.REASON and call["finish_reason"] != FinishReason.ERROR:
        if route == Route.REVISED:
            return 0, 0
        if route in (Route.TRANSFERRED, Route.DIRECT) and call.get("reasoning_end_s") is not None:
            return 0, completion - (call.get("reasoning_tokens") or 0)
    return (call.get("prompt_tokens") or 0) - (call.get("cached_tokens") or 0), completion


def stages(call: Record, record: Record) -> Iterator[tuple[str, Spending]]:
    """The spending of a call, by stage. Raises LedgerError if the call is inconsistent."""
    start, first, end = call["start_s"], call.get("first_token_s"), call["end_s"]
    prompt, cached, completion = (call.get(f"{name}_tokens") for name in ("prompt", "cached", "completion"))
    reasoning = call.get("reasoning_tokens") or 0
    _must(start <= (end if first is None else first) + _NEAR_S, record, "a call has its first token before it begins")
    _must((start if first is None else first) <= end + _NEAR_S, record, "a call ends before its first token")
    _must(end <= _latency_s(record) + _NEAR_S, record, "a call ends after its answer")
    _must((cached or 0) <= (prompt or 0), record, "more prompt tokens are cached than there are")
    _must(reasoning <= (completion or 0), record, "more tokens are reasoning than were generated")
    wasted_prompt, wasted_completion = wasted(call, record)
    fresh = (prompt or 0) - (cached or 0)
    read = Spending(
        calls=1,
        uncounted=int(prompt is None and completion is None),
        prompt_tokens=prompt or 0,
        cached_tokens=cached or 0,
        computed_tokens=0 if cached is None else fresh,
        unseen_tokens=fresh if cached is None else 0,
        wasted_tokens=wasted_prompt,
        seconds=(end if first is None else first) - start,
    )
    written = Spending(
        completion_tokens=completion or 0,
        reasoning_tokens=reasoning,
        wasted_tokens=wasted_completion,
        seconds=0.0 if first is None else end - first,
    )
    if call["mode"] in (Mode.WARM, Mode.SCORE, Mode.WEIGH):
        yield str(call["mode"]), read + written
    else:
        yield "prefill", read
        if first is not None or completion:
            yield "decode", written


def check(total: Spending, records: Sequence[Record]) -> None:
    """Raises LedgerError if the total of the rows differs from the sums over the records."""
    calls = [call for record in records for call in record["calls"]]
    straight: dict[str, float] = {
        f"{name}_tokens": sum(call.get(f"{name}_tokens") or 0 for call in calls)
        for name in ("prompt", "cached", "completion", "reasoning")
    }
    straight |= {"calls": len(calls), "seconds": math.fsum(call["end_s"] - call["start_s"] for call in calls)}
    for name, value in straight.items():
        _equal(name, getattr(total, name), value)
    _equal("prompt tokens", total.prompt_tokens, total.cached_tokens + total.computed_tokens + total.unseen_tokens)


def name_of(record: Record) -> str:
    """Task, question and arm of an answer, for messages."""
    return f"{record['task']} {record['id']} {record['arm']}"


def route_of(record: Record) -> str:
    """The route of an answer; `error` if it failed."""
    return "error" if record["status"] == "error" else str(record["route"])


def _check_answers(records: Sequence[Record]) -> None:
    for name, count in Counter(map(name_of, records)).items():
        if count > 1:
            raise LedgerError(f"{name} is answered {count} times")
    for record in records:
        if route_of(record) not in (*Route, "error"):
            raise LedgerError(f"{name_of(record)}: no route is called {record['route']!r}")


def _route(route: str, records: Sequence[Record]) -> RouteTotals:
    own = [record for record in records if route_of(record) == route]
    latency_s = math.fsum(_latency_s(record) for record in own)
    busy_s = math.fsum(_busy_s(record["calls"]) for record in own)
    idle_s = math.fsum(_latency_s(record) - _busy_s(record["calls"]) for record in own)
    return RouteTotals(route, len(own), latency_s, busy_s, idle_s)


def _busy_s(calls: Iterable[Record]) -> float:
    """Seconds in which at least one call runs."""
    total = until = 0.0
    for call in sorted(calls, key=lambda call: call["start_s"]):
        total += max(0.0, call["end_s"] - max(until, call["start_s"]))
        until = max(until, call["end_s"])
    return total


def _latency_s(record: Record) -> float:
    """Latency in seconds; for a failed answer without one, the end of its last call."""
    total = (record.get("latency") or {}).get("total_s")
    return max((call["end_s"] for call in record["calls"]), default=0.0) if total is None else float(total)


def _must(holds: bool, record: Record, what: str) -> None:
    if not holds:
        raise LedgerError(f"{name_of(record)}: {what}")


def _equal(what: str, total: float, parts: float) -> None:
    if not math.isclose(total, parts, rel_tol=1e-9, abs_tol=_NEAR_S):
        raise LedgerError(f"{what}: {total:g} in all, {parts:g} in its parts")
