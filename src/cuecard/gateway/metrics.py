"""Prometheus metrics, sums since the start, the last requests as time lines; and the audit of accepted answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter as Tally
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cuecard.answers import extract, same_answer
from cuecard.domain.call import Call, Mode
from cuecard.domain.errors import CuecardError, RateLimited
from cuecard.domain.outcome import Outcome, Route, reasoning_alone_s
from cuecard.domain.question import Question
from cuecard.gateway.config import PAIR, AuditSettings
from cuecard.gateway.pairs import Service
from cuecard.gateway.spending import charge
from cuecard.gateway.tables import Prices, costs
from cuecard.gateway.wire.request import estimated_tokens
from cuecard.models.pool import BreakerState, Pool, Replica
from cuecard.stats import wilson_bounds
from cuecard.strategies.run import answer

RECENT = 200
MINUTES = 60
"""How many minutes of routes are kept."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)


class GatewayMetrics:
    """All counts of the gateway. Totals are sums over the calls of all requests, cancelled ones included."""

    def __init__(self, pairs: Iterable[Service] = ()) -> None:
        """`pairs`: those that are served."""
        self._pairs_served, self._registry, self._began = pairs, CollectorRegistry(), time.time()
        self._recent = deque[tuple[str, float, str, Outcome]](maxlen=RECENT)
        """Id, Unix time of its end, model and outcome of each of the last requests."""
        self._words: dict[str, str] = {}
        """Class of an error -> its description."""
        self._saved_s = self._alone_s = 0.0
        """Seconds saved against the large model reasoning alone, and its seconds; both estimated."""
        self._compared = 0
        """Number of requests with this estimate."""
        self.minutes: dict[int, Tally[str]] = {}
        """Minute of Unix time -> number of requests by route, or failed; the minutes of the last hour with requests."""
        self._children: dict[tuple[Any, tuple[str, ...]], Any] = {}

        def made(kind: Any, name: str, description: str, labels: str = "", **more: Any) -> Any:
            return kind(name, description, labels.split(), registry=self._registry, namespace="cuecard", **more)

        self._requests = made(Counter, "requests", "Answered requests", "pair model strategy route")
        self._failed = made(Counter, "failures", "Requests that ended in an error", "error")
        self._refused = made(Counter, "refusals", "Requests that were their clients' mistakes", "error")
        self._left = made(Counter, "clients_gone", "Requests whose client left first")
        self._tokens = made(Counter, "tokens", "Tokens of all calls", "pair role model mode what")
        self._cost = made(Counter, "cost", "Price of all calls, in the currency of the configuration", "pair role")
        self._calls = made(Counter, "calls", "Calls to models", "pair role model mode end")
        self._latency = made(Histogram, "latency_seconds", "Whole request", "pair route", buckets=SECONDS)
        self._first = made(Histogram, "ttft_seconds", "To the first word shown, reasoning or not", buckets=SECONDS)
        self._ttfo = made(Histogram, "ttfo_seconds", "To the first token of the answer that stands", buckets=SECONDS)
        self._handoff = made(
            Histogram, "handoff_seconds", "Last token of reasoning to first answer token", buckets=SECONDS
        )
        self._overhead = made(Histogram, "overhead_seconds", "Request time without any call", buckets=OVERHEAD)
        self._checked = made(Gauge, "audit_checked", "Agreed answers that were looked at again")
        self._differed = made(Gauge, "audit_differed", "Those of them that reasoning answered differently")
        self._false = made(Gauge, "audit_interval", "False accepts, 95% Wilson interval of their share", "end")
        self._breaker = made(
            Gauge, "upstream_breaker", "1 at the state the circuit breaker is in", "pair role replica state"
        )
        self._retries = made(Gauge, "upstream_retries", "Calls that were tried again, since the start", "pair role")
        self._running = made(Gauge, "upstream_running", "Calls under way", "pair role replica")
        self._state_up = made(Gauge, "state_up", "1 while the state that gateways share is reached", "kind")
        self._state_failures = made(Gauge, "state_failures", "Calls of the shared state that have failed", "kind")
        self._unsettled = made(Gauge, "state_unsettled", "Requests that have ended and are not charged yet", "kind")
        self._reloads = made(Counter, "config_reloads", "Times that the configuration was read again", "result")

    def answered(
        self, request: str, model: str, outcome: Outcome, first_shown_s: float | None, pair: str = PAIR
    ) -> None:
        """Count a request that has ended in an outcome; its calls are counted by `spent`."""
        self._recent.append((request, time.time(), model, outcome))
        self._tick(outcome.route)
        self._of(self._requests, pair, model, outcome.strategy, outcome.route).inc()
        self._of(self._latency, pair, outcome.route).observe(outcome.total_s)
        self._overhead.observe(outcome.overhead_s)
        if first_shown_s is not None:
            self._first.observe(first_shown_s)
        if outcome.handoff_s is not None:
            self._handoff.observe(max(0.0, outcome.handoff_s))
        begun = [call.first_token_s for call in outcome.calls if call.mode is not Mode.REASON and call.first_token_s]
        if begun:
            self._ttfo.observe(max(begun))
        if (alone := reasoning_alone_s(outcome)) is not None:
            self._saved_s, self._compared = self._saved_s + alone - outcome.total_s, self._compared + 1
            self._alone_s += alone

    def spent(self, calls: Sequence[Call], pair: str = PAIR, prices: Mapping[str, Prices] | None = None) -> None:
        """Count the calls of a request and their cost, whether it was answered or not."""
        for role, price in costs(calls, prices or {}).items():
            self._of(self._cost, pair, role).inc(price)
        for call in calls:
            self._of(self._calls, pair, call.role, call.model, call.mode, call.finish_reason).inc()
            for what, count in _tokens(call).items():
                self._of(self._tokens, pair, call.role, call.model, call.mode, what).inc(max(0, count))

    def reloaded(self, result: str) -> None:
        """Count a reload of the configuration: `ok` or `failed`."""
        self._reloads.labels(result).inc()

    def failed(self, error: Exception) -> None:
        """Count a request that has ended in an error: as a refusal if it is the client's mistake, else as a failure."""
        name = type(error).__name__
        self._words[name] = words(error)
        if is_clients(error):
            self._refused.labels(name).inc()
            return
        self._failed.labels(name).inc()
        self._tick("failed")

    def left(self) -> None:
        self._left.inc()

    def _tick(self, what: str) -> None:
        """Count it for the current minute, and drop the minutes before the last hour."""
        minute = int(time.time() // 60)
        if minute not in self.minutes:
            recent = {at: seen for at, seen in self.minutes.items() if at > minute - MINUTES}
            self.minutes = recent | {minute: Tally()}
        self.minutes[minute][what] += 1

    def _of(self, metric: Any, *labels: str) -> Any:
        """The metric with these labels, looked up once: prometheus_client takes a lock for it."""
        if (child := self._children.get((metric, labels))) is None:
            child = self._children[metric, labels] = metric.labels(*labels)
        return child

    def exposition(self, audit: Mapping[str, Any], shared: Mapping[str, Any] | None = None) -> bytes:
        """The text that Prometheus scrapes; `audit` as `Audit.as_dict`, `shared` as `LimitState.as_dict`."""
        if shared is not None:
            self._state_up.labels("redis").set(shared["up"])
            self._state_failures.labels("redis").set(shared["failures"])
            self._unsettled.labels("redis").set(shared["unsettled"])
        self._checked.set(audit["checked"])
        self._differed.set(audit["differed"])
        for end in ("low", "high"):
            if audit[end] is not None:
                self._false.labels(end).set(audit[end])
        for gauge in (self._retries, self._breaker, self._running):
            gauge.clear()  # some pairs may no longer be served
        for pair, role, pool in self._pools():
            self._retries.labels(pair, role).set(pool.retries)
        for pair, role, index, replica in self._replicas():
            for state in BreakerState:
                self._breaker.labels(pair, role, str(index), state).set(replica.breaker.state is state)
            self._running.labels(pair, role, str(index)).set(replica.running)
        return generate_latest(self._registry)

    def stats(self) -> dict[str, Any]:
        """Sums since the start, the last hour by minute, and the state of the servers."""
        routes, minute = _sums(self._requests, "route"), int(time.time() // 60)
        tokens, cost = _sums(self._tokens, "role", "what"), _sums(self._cost, "role")
        return {
            "since": self._began,
            "requests": int(sum(routes.values())),
            "routes": {route: int(routes[route]) for route in Route if routes[route]},
            "failures": {error: int(count) for error, count in _sums(self._failed, "error").items()},
            "refusals": {error: int(count) for error, count in _sums(self._refused, "error").items()},
            "words": self._words,
            "clients_gone": int(_sums(self._left)[()]),
            "tokens": [{"role": role, "what": what, "tokens": int(n)} for (role, what), n in tokens.items() if n],
            "cost": {"total": sum(cost.values()), **cost} if any(pair.prices for pair in self._pairs_served) else None,
            "saved_s": {"estimated": self._saved_s, "alone": self._alone_s, "requests": self._compared},
            "minutes": [
                {"at": 60 * at, "routes": dict(self.minutes.get(at, {}))}
                for at in range(minute - MINUTES + 1, minute + 1)
            ],
            "upstreams": [
                {
                    "pair": pair,
                    "role": role,
                    "replica": index,
                    "model": replica.model.name,
                    "state": replica.breaker.state,
                    "running": replica.running,
                    "waiting": replica.waiting,
                }
                for pair, role, index, replica in self._replicas()
            ],
        }

    def last(self, count: int) -> list[dict[str, Any]]:
        """The last requests, newest first: the times of their calls, without texts."""
        return [
            {
                "id": request,
                "at": at,
                "model": model,
                "route": outcome.route,
                "reason": outcome.reason,
                "strategy": outcome.strategy,
                "total_s": outcome.total_s,
                "alone_s": reasoning_alone_s(outcome),
                "calls": [
                    {each: getattr(call, each) for each in ("role", "mode", "start_s", "first_token_s", "end_s")}
                    | {"tokens": call.usage.completion_tokens, "end": call.finish_reason}
                    for call in outcome.calls
                ],
            }
            for request, at, model, outcome in list(self._recent)[::-1][:count]
        ]

    def _pools(self) -> list[tuple[str, str, Pool]]:
        there = [(pair.name, role, model) for pair in self._pairs_served for role, model in pair.models.items()]
        return [(pair, role, model) for pair, role, model in there if isinstance(model, Pool)]

    def _replicas(self) -> list[tuple[str, str, int, Replica]]:
        return [(pair, role, *each) for pair, role, pool in self._pools() for each in enumerate(pool.replicas)]


def _tokens(call: Call) -> dict[str, int]:
    usage, fate = call.usage, "wasted" if call.cancelled else "completion"
    cached, reasoning = usage.cached_tokens or 0, 0 if call.cancelled else usage.reasoning_tokens or 0
    read = {"prompt": (usage.prompt_tokens or 0) - cached, "cached": cached}
    return read | {"reasoning": reasoning, fate: (usage.completion_tokens or 0) - reasoning}


def _sums(counter: Counter, *labels: str) -> dict[Any, float]:
    """The sums of a counter by one label, or by several as a tuple."""
    sums: dict[Any, float] = defaultdict(float)
    for sample in (sample for metric in counter.collect() for sample in metric.samples):
        if sample.name.endswith("_total"):
            values = tuple(sample.labels[label] for label in labels)
            sums[values[0] if len(values) == 1 else values] += sample.value
    return sums


def is_clients(error: Exception) -> bool:
    """Whether an error is a client's mistake; a busy model server is not."""
    if not isinstance(error, CuecardError) or error.http_status >= 500:
        return False
    return error.http_status != 429 or isinstance(error, RateLimited)


def words(error: Exception) -> str:
    """The description of an error's class."""
    doc = type(error).__doc__ if isinstance(error, CuecardError) else None
    return (doc or "A defect of the gateway: see its log.").partition("\n")[0]


# --- audit ------------------------------------------------------------------------------------------------------------

WAITING = 100
HOUR_S = 3600.0
log = logging.getLogger("cuecard.gateway")


class Audit:
    """Checks a share of the agreed requests by reasoning, one at a time, while no client's request runs.

    A request that arrives meanwhile cancels the check, which is repeated later. No check begins while the checks of the
    last hour, including cancelled and failed ones, have used `tokens_per_hour`.

    A reasoned answer may be wrong, too: the audit counts how often it differs from the accepted one.
    """

    def __init__(self, service: Service, settings: AuditSettings, rng: Random | None = None) -> None:
        """`service`: the first pair."""
        self._service, self._share, self._strategy = service, settings.share, settings.strategy
        self._warn_above, self._rng = settings.warn_above, rng or Random()
        self._budget, self._spent = settings.tokens_per_hour, deque[tuple[float, int]]()
        self._waiting: asyncio.Queue[tuple[Question, Outcome, Service]] = asyncio.Queue(WAITING)
        self._working: asyncio.Task[None] | None = None
        self.checked = self.differed = self.failed = self.skipped = 0
        """Skipped: the queue was full, or their pair is no longer served."""

    def consider(self, question: Question, outcome: Outcome, pair: Service | None = None) -> None:
        """Queue a share of the agreed requests. `pair`: the pair that answered; None: the first."""
        if outcome.route is not Route.AGREED or self._rng.random() >= self._share:
            return
        if self._waiting.full():
            self.skipped += 1
            return
        self._waiting.put_nowait((question, outcome, pair or self._service))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the share of false accepts."""
        return wilson_bounds(self.differed, self.checked)

    @property
    def alarming(self) -> bool:
        """Whether false accepts exceed `warn_above` with 97.5% confidence."""
        return self.checked > 0 and self.interval[0] > self._warn_above

    def as_dict(self) -> dict[str, float | int | bool | None]:
        """The counts, and the interval of the share of false accepts."""
        low, high = self.interval
        return {
            "checked": self.checked,
            "differed": self.differed,
            "rate": self.differed / self.checked if self.checked else None,
            "low": low if self.checked else None,
            "high": high if self.checked else None,
            "failed": self.failed,
            "skipped": self.skipped,
            "waiting": self._waiting.qsize(),
            "alarming": self.alarming,
        }

    async def aclose(self) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])

    async def _work(self) -> None:
        while not self._waiting.empty():
            await self._wait_for_budget()
            await self._service.occupancy.idle.wait()
            question, outcome, pair = self._waiting.get_nowait()
            if pair.is_retired:
                self.skipped += 1
                continue
            try:
                second = await self._check_while_idle(question, pair)
            except CuecardError:
                self.failed += 1
                continue
            if second is None and not self._waiting.full():
                self._waiting.put_nowait((question, outcome, pair))
            elif second is None:
                self.skipped += 1
            else:
                await self._note(question, outcome, second)

    async def _wait_for_budget(self) -> None:
        """Wait until what was spent in the last hour is less than the budget."""
        clock = asyncio.get_running_loop().time
        while self._budget is not None and self._spent:
            if self._spent[0][0] + HOUR_S <= clock():
                self._spent.popleft()
            elif sum(tokens for _, tokens in self._spent) >= self._budget:
                await asyncio.sleep(self._spent[0][0] + HOUR_S - clock())
            else:
                return

    async def _check_while_idle(self, question: Question, service: Service) -> Outcome | None:
        """The second answer; None if a request arrived before it was complete. Raises CuecardError."""
        calls = list[Call]()
        work = answer(question, service.models, self._strategy, service.policy, calls=calls)
        looking, coming = asyncio.ensure_future(work), asyncio.ensure_future(service.occupancy.busy.wait())
        try:
            await asyncio.wait([looking, coming], return_when=asyncio.FIRST_COMPLETED)
            return looking.result() if looking.done() else None
        finally:
            for task in (looking, coming):
                task.cancel()
            await asyncio.gather(looking, coming, return_exceptions=True)
            if self._budget is not None:
                self._spent.append((asyncio.get_running_loop().time(), charge(calls, estimated_tokens(question))))

    async def _note(self, question: Question, first: Outcome, second: Outcome) -> None:
        was_alarming = self.alarming
        self.checked += 1
        one, other = extract(first.answer, question), extract(second.answer, question)
        self.differed += not await same_answer(one, other, question)
        if self.alarming and not was_alarming:
            log.warning("more than %.0f%% of the agreed answers are wrong: %s", 100 * self._warn_above, self.as_dict())
