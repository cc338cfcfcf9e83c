"""The parts of an application as its configuration describes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from cuecard.domain.errors import MissingExtra
from cuecard.gateway.admission.gate import Gate
from cuecard.gateway.admission.ledger import BudgetLedger
from cuecard.gateway.admission.local_state import LocalState
from cuecard.gateway.admission.shared_state import SharedState
from cuecard.gateway.app import AppSettings
from cuecard.gateway.audit import Audit
from cuecard.gateway.config.config import Config
from cuecard.gateway.pairs import Pairs
from cuecard.gateway.telemetry.journal import Journal
from cuecard.models.images.fetcher import Fetcher

if TYPE_CHECKING:  # OpenTelemetry is optional
    from cuecard.gateway.telemetry.traces import Traces


def assembled(config: Config, pairs: Pairs, gate: Gate, host: str, tell: Callable[[str], None] | None) -> AppSettings:
    """The parts besides the pairs, for a gateway that listens on `host`; `tell`: as in AppSettings.

    Raises BadInput, MissingExtra.
    """
    return AppSettings(
        gate=gate,
        audit=Audit(pairs.first, config.audit),
        journal=None if (log := config.journal).path is None else Journal(**log.model_dump()),
        fetcher=Fetcher(hosts=config.images.hosts) if config.images.urls else None,
        traces=_traces(),
        server=config.server,
        images=config.images,
        hosts=config.hosts(host),
        tell=tell,
    )


def gate_of(config: Config) -> Gate:
    """The gate with the configured keys, and where their limits are counted. Raises BadInput, MissingExtra."""
    settings = config.state
    if settings.url is None:
        return Gate(config.keys, LocalState(ledger=BudgetLedger(config.ledger_path)))
    own = settings.model_dump(include={"timeout_s", "lease_s", "prefix"})
    return Gate(config.keys, SharedState(settings.url, allow=settings.on_failure == "allow", **own))


def _traces() -> Traces | None:
    """Traces to the collector set by OpenTelemetry's environment variables; None without one."""
    try:
        from cuecard.gateway.telemetry import traces
    except ImportError:
        if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            raise MissingExtra("traces need OpenTelemetry's packages", "pip install '.[otel]' in a checkout") from None
        return None
    return traces.from_environment()
