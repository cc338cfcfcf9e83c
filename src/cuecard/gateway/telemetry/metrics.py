"""Prometheus metrics, sums since the start, and the last requests as time lines."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cuecard.domain.call import Call, Mode
from cuecard.domain.errors import CuecardError, RateLimited
from cuecard.domain.estimate import reasoning_alone_s
from cuecard.domain.outcome import Outcome, Route
from cuecard.gateway.config.config import PAIR, Prices
from cuecard.gateway.service import Service
from cuecard.gateway.upstream.pool import BreakerState, Pool, Replica
from cuecard.gateway.wire.usage import costs

RECENT = 200
MINUTES = 60
"""How many minutes of routes are kept."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)


@dataclass(frozen=True)
class RecentRequest:
    """One request that is over."""

    id: str
    at: float
    """Unix time of its end."""
    model: str
    outcome: Outcome
    first_shown_s: float | None
    """Seconds until the first piece of text was sent to the client."""


@dataclass
class GatewayMetrics:
    """All counts of the gateway. Totals are sums over the calls of all requests, cancelled ones included."""

    pairs: Iterable[Service] = ()
    """The pairs that are served."""
    recent: deque[RecentRequest] = field(default_factory=lambda: deque(maxlen=RECENT))
    routes: Tally[str] = field(default_factory=Tally)
    tokens: Tally[tuple[str, str]] = field(default_factory=Tally)
    """(role, what) -> tokens."""
    failures: Tally[str] = field(default_factory=Tally)
    refusals: Tally[str] = field(default_factory=Tally)
    """Requests that were their clients' mistakes."""
    words: dict[str, str] = field(default_factory=dict)
    """Class of an error -> its description."""
    cost: dict[str, float] = field(default_factory=dict)
    """role -> what its calls have cost, in the currency of the prices."""
    saved_s: float = 0.0
    """Against the large model reasoning by itself, estimated."""
    alone_s: float = 0.0
    """What that would have taken, estimated."""
    compared: int = 0
    """Requests of which that could be estimated."""
    gone: int = 0
    """Requests whose client disconnected first."""
    minutes: dict[int, Tally[str]] = field(default_factory=dict)
    """Minute of Unix time -> how many requests took which route, or failed; the last hour's, the busy ones only."""

    def __post_init__(self) -> None:
        self.registry = CollectorRegistry()
        self._children: dict[tuple[Any, tuple[str, ...]], Any] = {}
        self.began = time.time()
        made: dict[str, Any] = {"registry": self.registry, "namespace": "cuecard"}
        self._requests = Counter("requests", "Answered requests", ["pair", "model", "strategy", "route"], **made)
        self._failed = Counter("failures", "Requests that ended in an error", ["error"], **made)
        self._refused = Counter("refusals", "Requests that were their clients' mistakes", ["error"], **made)
        self._left = Counter("clients_gone", "Requests whose client left first", **made)
        self._tokens = Counter("tokens", "Tokens of all calls", ["pair", "role", "model", "mode", "what"], **made)
        self._cost = Counter(
            "cost", "Price of all calls, in the currency of the configuration", ["pair", "role"], **made
        )
        self._calls = Counter("calls", "Calls to models", ["pair", "role", "model", "mode", "end"], **made)
        self._latency = Histogram("latency_seconds", "Whole request", ["pair", "route"], buckets=SECONDS, **made)
        self._first = Histogram("ttft_seconds", "To the first word shown, reasoning or not", buckets=SECONDS, **made)
        self._ttfo = Histogram("ttfo_seconds", "To the first token of the answer that stands", buckets=SECONDS, **made)
        self._handoff = Histogram(
            "handoff_seconds", "Last token of reasoning to first answer token", buckets=SECONDS, **made
        )
        self._overhead = Histogram("overhead_seconds", "Request time without any call", buckets=OVERHEAD, **made)
        self._checked = Gauge("audit_checked", "Agreed answers that were looked at again", **made)
        self._differed = Gauge("audit_differed", "Those of them that reasoning answered differently", **made)
        self._false = Gauge("audit_interval", "False accepts, 95% Wilson interval of their share", ["end"], **made)
        self._breaker = Gauge(
            "upstream_breaker", "1 at the state the circuit breaker is in", ["pair", "role", "replica", "state"], **made
        )
        self._retries = Gauge(
            "upstream_retries", "Calls that were tried again, since the start", ["pair", "role"], **made
        )
        self._running = Gauge("upstream_running", "Calls under way", ["pair", "role", "replica"], **made)
        self._reloads = Counter("config_reloads", "Times that the configuration was read again", ["result"], **made)

    def answered(
        self,
        request: str,
        model: str,
        outcome: Outcome,
        first_shown_s: float | None,
        pair: str = PAIR,
        prices: Mapping[str, Prices] | None = None,
    ) -> None:
        """A request has ended in an outcome; `prices` as its pair's."""
        self.recent.append(RecentRequest(request, time.time(), model, outcome, first_shown_s))
        self.routes[outcome.route] += 1
        self._tick(outcome.route)
        self._of(self._requests, pair, model, outcome.strategy, outcome.route).inc()
        self._of(self._latency, pair, outcome.route).observe(outcome.total_s)
        self._overhead.observe(outcome.overhead_s)
        if first_shown_s is not None:
            self._first.observe(first_shown_s)
        if outcome.handoff_s is not None:
            self._handoff.observe(max(0.0, outcome.handoff_s))
        spoken = [call.first_token_s for call in outcome.calls if call.mode is not Mode.REASON and call.first_token_s]
        if spoken:
            self._ttfo.observe(max(spoken))
        alone = reasoning_alone_s(outcome)
        if alone is not None:
            self.saved_s, self.compared = self.saved_s + alone - outcome.total_s, self.compared + 1
            self.alone_s += alone
        self.spent(outcome.calls, pair, prices)

    def spent(self, calls: Sequence[Call], pair: str = PAIR, prices: Mapping[str, Prices] | None = None) -> None:
        """Count the calls of a request and their cost, whether it was answered or not."""
        for role, price in costs(calls, prices or {}).items():
            self.cost[role] = self.cost.get(role, 0.0) + price
            self._cost.labels(pair, role).inc(price)
        for call in calls:
            self._call(call, pair)

    def reloaded(self, result: str) -> None:
        """The configuration was read again: `ok` or `failed`."""
        self._reloads.labels(result).inc()

    def failed(self, error: Exception) -> None:
        """A request has ended in an error; one that is its client's mistake is refused, and no failure."""
        name = type(error).__name__
        self.words[name] = words(error)
        if is_clients(error):
            self.refusals[name] += 1
            self._refused.labels(name).inc()
            return
        self.failures[name] += 1
        self._failed.labels(name).inc()
        self._tick("failed")

    def left(self) -> None:
        self.gone += 1
        self._left.inc()

    def _tick(self, what: str) -> None:
        """Count it for the current minute, and drop the minutes before the last hour."""
        minute = int(time.time() // 60)
        if minute not in self.minutes:
            self.minutes = {at: seen for at, seen in self.minutes.items() if at > minute - MINUTES} | {minute: Tally()}
        self.minutes[minute][what] += 1

    def _call(self, call: Call, pair: str) -> None:
        self._of(self._calls, pair, call.role, call.model, call.mode, call.finish_reason).inc()
        usage, fate = call.usage, "wasted" if call.cancelled else "completion"
        cached, reasoning = usage.cached_tokens or 0, usage.reasoning_tokens or 0
        counts = {
            "prompt": (usage.prompt_tokens or 0) - cached,
            "cached": cached,
            "reasoning": 0 if call.cancelled else reasoning,
            fate: (usage.completion_tokens or 0) - (0 if call.cancelled else reasoning),
        }
        for what, count in counts.items():
            self.tokens[call.role, what] += count
            self._of(self._tokens, pair, call.role, call.model, call.mode, what).inc(max(0, count))

    def _of(self, metric: Any, *labels: str) -> Any:
        """The metric with these labels, looked up once: prometheus_client takes a lock for it."""
        if (child := self._children.get((metric, labels))) is None:
            child = self._children[metric, labels] = metric.labels(*labels)
        return child

    def exposition(self, audit: Mapping[str, Any]) -> bytes:
        """The text that Prometheus scrapes; `audit` as `Audit.as_dict`."""
        self._checked.set(audit["checked"])
        self._differed.set(audit["differed"])
        for end in ("low", "high"):
            if audit[end] is not None:
                self._false.labels(end).set(audit[end])
        for gauge in (self._retries, self._breaker, self._running):
            gauge.clear()  # of pairs that are served no more
        for pair, role, pool in self._pools():
            self._retries.labels(pair, role).set(pool.retries)
        for pair, role, index, replica in self._replicas():
            for state in BreakerState:
                self._breaker.labels(pair, role, str(index), state).set(replica.breaker.state is state)
            self._running.labels(pair, role, str(index)).set(replica.running)
        return generate_latest(self.registry)

    def stats(self) -> dict[str, Any]:
        """Sums since the start, the last hour minute by minute, and how the servers do."""
        served, minute = sum(self.routes.values()), int(time.time() // 60)
        return {
            "since": self.began,
            "requests": served,
            "routes": {route: self.routes[route] for route in Route if self.routes[route]},
            "failures": dict(self.failures),
            "refusals": dict(self.refusals),
            "words": self.words,
            "clients_gone": self.gone,
            "tokens": [{"role": role, "what": what, "tokens": n} for (role, what), n in self.tokens.items() if n],
            "cost": {"total": sum(self.cost.values()), **self.cost}
            if any(pair.prices for pair in self.pairs)
            else None,
            "saved_s": {"estimated": self.saved_s, "alone": self.alone_s, "requests": self.compared},
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
                    "waiting": len(replica.waiting),
                }
                for pair, role, index, replica in self._replicas()
            ],
        }

    def last(self, count: int) -> list[dict[str, Any]]:
        """The last requests, newest first: the times of their calls, and no texts."""
        newest = list(self.recent)[::-1][:count]
        return [
            {
                "id": seen.id,
                "at": seen.at,
                "model": seen.model,
                "route": seen.outcome.route,
                "reason": seen.outcome.reason,
                "strategy": seen.outcome.strategy,
                "total_s": seen.outcome.total_s,
                "alone_s": reasoning_alone_s(seen.outcome),
                "calls": [
                    {
                        "role": call.role,
                        "mode": call.mode,
                        "start_s": call.start_s,
                        "first_token_s": call.first_token_s,
                        "end_s": call.end_s,
                        "tokens": call.usage.completion_tokens,
                        "end": call.finish_reason,
                    }
                    for call in seen.outcome.calls
                ],
            }
            for seen in newest
        ]

    def _pools(self) -> list[tuple[str, str, Pool]]:
        there = [(pair.name, role, model) for pair in self.pairs for role, model in pair.models.items()]
        return [(pair, role, model) for pair, role, model in there if isinstance(model, Pool)]

    def _replicas(self) -> list[tuple[str, str, int, Replica]]:
        return [(pair, role, *each) for pair, role, pool in self._pools() for each in enumerate(pool.replicas)]


def is_clients(error: Exception) -> bool:
    """Whether an error is a client's mistake; that a model's server is busy is not."""
    if not isinstance(error, CuecardError) or error.http_status >= 500:
        return False
    return error.http_status != 429 or isinstance(error, RateLimited)


def words(error: Exception) -> str:
    """The description of an error's class."""
    doc = type(error).__doc__ if isinstance(error, CuecardError) else None
    return (doc or "A defect of the gateway: see its log.").partition("\n")[0]
