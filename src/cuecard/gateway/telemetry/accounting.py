"""Where every request that is over is entered: its client's allowance, metrics, journal, traces, second looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cuecard.domain.call import Call
from cuecard.domain.outcome import Outcome
from cuecard.gateway.admission.keys import Client
from cuecard.gateway.audit import Audit
from cuecard.gateway.service import Service
from cuecard.gateway.telemetry.journal import Journal
from cuecard.gateway.telemetry.metrics import Observatory
from cuecard.gateway.wire import usage
from cuecard.gateway.wire.chat import Asked, Given
from cuecard.gateway.wire.usage import End, Unanswered

if TYPE_CHECKING:  # OpenTelemetry need not be there
    from cuecard.gateway.telemetry.traces import Traces


@dataclass(frozen=True)
class Books:
    """What a request costs is entered however it ends: answered, decided only, left by its client, or failed."""

    seen: Observatory
    audit: Audit
    journal: Journal | None
    traces: Traces | None
    pair: Service | None = None
    """Which answers; None: nothing was asked of any yet."""

    def of(self, pair: Service) -> Books:
        """For the requests that a pair answers."""
        return Books(self.seen, self.audit, self.journal, self.traces, pair)

    def answered(self, asked: Given, client: Client, outcome: Outcome, first_shown_s: float | None) -> None:
        """A request has ended in an outcome."""
        pair = self._serving
        self.seen.answered(asked.id, asked.model, outcome, first_shown_s, pair.name, pair.prices)
        client.spend(usage.charge(outcome.calls, asked.prompt_tokens), self._cost(outcome.calls))
        if isinstance(asked, Asked) and outcome.stopped_by is None:  # what is cut cannot be compared
            self.audit.consider(asked.question, outcome, pair)
        if self.journal is not None:
            self.journal.write(asked, outcome, pair.name)
        if self.traces is not None:
            self.traces.answered(asked, outcome, pair.name)

    def refused(self, error: Exception) -> None:
        """A request was refused before anything was done; of what it says, nothing is kept."""
        if self.journal is not None:
            self.journal.write(Given(model=""), Unanswered(End.REFUSED, "", (), 0.0, error))

    def unanswered(self, asked: Given, client: Client, ended: Unanswered) -> None:
        """A request has ended without an outcome; its calls have cost what they cost."""
        pair = self._serving
        self.seen.spent(ended.calls, pair.name, pair.prices)
        client.spend(usage.charge(ended.calls, asked.prompt_tokens), self._cost(ended.calls))
        if self.journal is not None:
            self.journal.write(asked, ended, pair.name)
        if self.traces is not None and ended.error is not None:
            self.traces.failed(asked, ended.error, ended.total_s, pair.name)

    @property
    def _serving(self) -> Service:
        assert self.pair is not None
        return self.pair

    def _cost(self, calls: Sequence[Call]) -> float:
        return sum(usage.costs(calls, self._serving.prices).values())
