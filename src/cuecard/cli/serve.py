"""`cuecard serve`: the pair behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import gc
import os
import socket
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cuecard.cli.options import telling_what_is_kept
from cuecard.domain.errors import BadInput, MissingExtra, required
from cuecard.models import probe as probes
from cuecard.models import spec
from cuecard.strategies.acceptance_rules import one_model

if TYPE_CHECKING:
    from cuecard.gateway.admission.state import LimitState
    from cuecard.gateway.config.config import Config
    from cuecard.gateway.pairs import Pairs
    from cuecard.gateway.telemetry.traces import Traces

ROLES = ("small", "large")


def serve(
    config: Annotated[
        Path | None, typer.Option(help="A cuecard.toml, instead of the embedded pair. Options override it.")
    ] = None,
    small: Annotated[str | None, typer.Option(help="The small model, which writes the reasoning.")] = None,
    large: Annotated[str | None, typer.Option(help="The large model, which gives the answer.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port; 0 takes a free one. [default: 8400]")
    ] = None,
    probe: Annotated[
        bool,
        typer.Option(help="Probe servers that are not known yet, in the background; without it their defaults apply."),
    ] = True,
) -> None:
    """Serve a pair as one model to every OpenAI client."""
    required("cuecard.gateway.app", "the gateway", "pip install '.[gateway]' in a checkout")
    import uvicorn

    from cuecard.gateway.admission.connections import LimitedProtocol, is_loopback
    from cuecard.gateway.admission.gate import Gate
    from cuecard.gateway.app import AppSettings, application
    from cuecard.gateway.audit import Audit
    from cuecard.gateway.pairs import Pairs, Reloader
    from cuecard.gateway.telemetry.journal import Journal
    from cuecard.models.images.fetcher import Fetcher

    # report errors before loading a model
    chosen = _chosen(config, small, large)
    at, on = host or chosen.server.host, chosen.server.port if port is None else port
    if not (chosen.keys or chosen.server.open or is_loopback(at)):
        raise BadInput(f"{at} is open to others, and there are no API keys", "`cuecard key` makes one for cuecard.toml")
    with telling_what_is_kept(partial(_kept, chosen)), closing(_listener(at, on)) as listener:
        gate = Gate(chosen.keys, _state(chosen))
        pairs = Pairs.configured(chosen)
        _announce(pairs, _root(listener))
        say, read = partial(print, file=sys.stderr, flush=True), partial(_chosen, config, small, large)
        settings = AppSettings(
            gate=gate,
            audit=Audit(pairs.first, chosen.audit),
            journal=None if (log := chosen.journal).path is None else Journal(**log.model_dump()),
            fetcher=Fetcher(hosts=chosen.images.hosts) if chosen.images.urls else None,
            traces=_traces(),
            server=chosen.server,
            images=chosen.images,
            hosts=chosen.hosts(at),
            tell=say if probe and probes.wanted() else None,
            reloader=None if config is None else Reloader(config, read, chosen, pairs, gate, tell=say),
        )
        served = uvicorn.Config(
            application(pairs, settings),
            http=LimitedProtocol,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=chosen.server.drain_s,
        )
        gc.collect()
        gc.freeze()  # long-lived objects need no further collection
        uvicorn.Server(served).run(sockets=[listener])


def _state(chosen: Config) -> LimitState:
    """Where the limits of keys are counted. Raises BadInput, MissingExtra."""
    from cuecard.gateway.admission.ledger import BudgetLedger
    from cuecard.gateway.admission.local_state import LocalState
    from cuecard.gateway.admission.shared_state import SharedState

    settings = chosen.state
    if settings.url is None:
        return LocalState(ledger=BudgetLedger(chosen.ledger_path))
    own = settings.model_dump(include={"timeout_s", "lease_s", "prefix"})
    return SharedState(settings.url, allow=settings.on_failure == "allow", **own)


def _kept(chosen: Config) -> str:
    """What is on disk after the gateway has stopped, in words."""
    files = {"journal": chosen.journal.path, "ledger of budgets": chosen.ledger_path}
    kept = [f"the {name} is in {path}" for name, path in files.items() if path is not None]
    return f"requests under way have ended; {' and '.join(kept) or 'nothing is kept, there is no journal'}"


def _announce(pairs: Pairs, root: str) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for pair in pairs:
        models = " and ".join(model.name for model in pair.models.values())
        console.print(f"{models} are served as {pair.name} at {root}/v1", markup=False)
        if (remark := one_model(pair.models)) is not None:
            console.print(f"{pair.name}: {remark}", markup=False)
    console.print(f"the dashboard is at {root}/dashboard", markup=False)


def _traces() -> Traces | None:
    """Traces to the collector set by OpenTelemetry's environment variables; None without one."""
    try:
        from cuecard.gateway.telemetry import traces
    except ImportError:
        if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            raise MissingExtra("traces need OpenTelemetry's packages", "pip install '.[otel]' in a checkout") from None
        return None
    return traces.from_environment()


def _chosen(file: Path | None, small: str | None, large: str | None) -> Config:
    from cuecard.gateway.config.config import PAIR, Config, read
    from cuecard.gateway.config.pairs import Upstream

    demo = {"small": {"model": "demo-small"}, "large": {"model": "demo-large"}}
    base = read(file) if file else Config.model_validate({"version": 1, **demo})
    given = {role: name for role, name in zip(ROLES, (small, large), strict=True) if name}
    if not given:
        return base
    for name in given.values():
        spec.parse(name)
    if PAIR not in base.pairs:
        raise BadInput(f"{file} has no pair {PAIR} whose models --small and --large would be", "leave them out")
    pair = base.pairs[PAIR].model_copy(update={role: [Upstream(model=name)] for role, name in given.items()})
    return base.model_copy(update={"pairs": {**base.pairs, PAIR: pair}})


def _root(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listener(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"cannot listen on {host}:{port}: {reason}", "give another --host or --port") from error


def key() -> None:
    """Make an API key: the secret for a client, and its hash for cuecard.toml."""
    from cuecard.gateway.admission.keys import make

    secret, digest = make()
    typer.echo(f"give this to the client; it is kept nowhere:\n\n  {secret}\n\nand write this into cuecard.toml:\n")
    typer.echo(f'[[keys]]\nname = "…"\nsha256 = "{digest}"')
