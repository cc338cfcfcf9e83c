"""Accounts for each request that has ended: its client's allowance, metrics, journal, traces, audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cuecard.domain.call import Call
from cuecard.domain.outcome import Outcome
from cuecard.gateway.admission.keys import ApiClient
from cuecard.gateway.audit import Audit
from cuecard.gateway.service import Service
from cuecard.gateway.telemetry.journal import Journal
from cuecard.gateway.telemetry.metrics import GatewayMetrics
from cuecard.gateway.wire import usage
from cuecard.gateway.wire.chat import ParsedRequest, RequestInfo
from cuecard.gateway.wire.usage import RequestEnd, Unanswered

if TYPE_CHECKING:  # OpenTelemetry need not be there
    from cuecard.gateway.telemetry.traces import Traces


@dataclass(frozen=True)
class Accounting:
    """Charges and records requests however they end: answered, decided, left by the client, or failed."""

    metrics: GatewayMetrics
    audit: Audit
    journal: Journal | None
    traces: Traces | None
    pair: Service | None = None
    """The pair that answers; None: not chosen yet."""

    def of(self, pair: Service) -> Accounting:
        """The accounting of requests that this pair answers."""
        return Accounting(self.metrics, self.audit, self.journal, self.traces, pair)

    def answered(self, info: RequestInfo, client: ApiClient, outcome: Outcome, first_shown_s: float | None) -> None:
        """A request has ended in an outcome."""
        pair = self._serving
        self.metrics.answered(info.id, info.model, outcome, first_shown_s, pair.name, pair.prices)
        client.spend(usage.charge(outcome.calls, info.prompt_tokens), self._cost(outcome.calls))
        if isinstance(info, ParsedRequest) and outcome.stopped_by is None:  # what is cut cannot be compared
            self.audit.consider(info.question, outcome, pair)
        if self.journal is not None:
            self.journal.write(info, outcome, pair.name)
        if self.traces is not None:
            self.traces.answered(info, outcome, pair.name)

    def refused(self, error: Exception) -> None:
        """A request was refused before it began; nothing of its content is kept."""
        if self.journal is not None:
            self.journal.write(RequestInfo(model=""), Unanswered(RequestEnd.REFUSED, "", (), 0.0, error))

    def unanswered(self, info: RequestInfo, client: ApiClient, ended: Unanswered) -> None:
        """A request has ended without an outcome; its calls are charged."""
        pair = self._serving
        self.metrics.spent(ended.calls, pair.name, pair.prices)
        client.spend(usage.charge(ended.calls, info.prompt_tokens), self._cost(ended.calls))
        if self.journal is not None:
            self.journal.write(info, ended, pair.name)
        if self.traces is not None and ended.error is not None:
            self.traces.failed(info, ended.error, ended.total_s, pair.name)

    @property
    def _serving(self) -> Service:
        assert self.pair is not None
        return self.pair

    def _cost(self, calls: Sequence[Call]) -> float:
        return sum(usage.costs(calls, self._serving.prices).values())
