"""`cuecard serve`: the gateway; `cuecard key`: API keys for its clients; `cuecard replay`: its journal again."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
from collections.abc import Coroutine, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import track

from cuecard import virtual_time
from cuecard.cli import make_console
from cuecard.cli.options import closing_models, plain_table, takes_policy_options, telling_what_is_kept
from cuecard.domain.errors import BadInput, required
from cuecard.domain.outcome import Route
from cuecard.models import probe as probes
from cuecard.models import spec
from cuecard.models.base import Model
from cuecard.pair import one_model
from cuecard.strategies import policy_file
from cuecard.strategies.policy import Policy
from cuecard.strategies.policy_file import Surface, policy_with
from cuecard.strategies.run import known

if TYPE_CHECKING:
    from cuecard.gateway.config import Config
    from cuecard.gateway.pairs import Pairs
    from cuecard.gateway.replay import JournalEntry, ReplayedRequest


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
    from cuecard.gateway.app import Reloader, application, assembled, gate_of
    from cuecard.gateway.config import chosen as configured
    from cuecard.gateway.pairs import Pairs

    # report errors before loading a model
    chosen = configured(config, small, large)
    at, on = host or chosen.server.host, chosen.server.port if port is None else port
    if not (chosen.keys or chosen.server.open or is_loopback(at)):
        raise BadInput(f"{at} is open to others, and there are no API keys", "`cuecard key` makes one for cuecard.toml")
    with telling_what_is_kept(partial(_kept, chosen)), closing(_listener(at, on)) as listener:
        gate, pairs = gate_of(chosen), Pairs.configured(chosen)
        say, read = partial(print, file=sys.stderr, flush=True), partial(configured, config, small, large)
        settings = assembled(chosen, pairs, gate, at, say if probe and probes.wanted() else None)
        if config is not None:
            settings = replace(settings, reloader=Reloader(config, read, chosen, pairs, gate, tell=say))
        served = uvicorn.Config(
            application(pairs, settings),
            http=LimitedProtocol,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=chosen.server.drain_s,
        )
        gc.collect()
        gc.freeze()  # long-lived objects need no further collection
        _announce(pairs, listener)  # after the collection, in which a Ctrl-C would be lost
        try:
            uvicorn.Server(served).run(sockets=[listener])
        finally:
            gc.unfreeze()  # libraries that look for leaks at exit (nanobind) would report frozen objects


def _kept(chosen: Config) -> str:
    """What is on disk after the gateway has stopped, in words."""
    files = {"journal": chosen.journal.path, "ledger of budgets": chosen.ledger_path}
    kept = [f"the {name} is in {path}" for name, path in files.items() if path is not None]
    return f"requests under way have ended; {' and '.join(kept) or 'nothing is kept, there is no journal'}"


def _announce(pairs: Pairs, listener: socket.socket) -> None:
    console = make_console(stderr=True, soft_wrap=True)
    host, port = listener.getsockname()[:2]
    root = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    for pair in pairs:
        models = " and ".join(model.name for model in pair.models.values())
        console.print(f"{models} are served as {pair.name} at {root}/v1", markup=False)
        if (remark := one_model(pair.models)) is not None:
            console.print(f"{pair.name}: {remark}", markup=False)
    console.print(f"the dashboard is at {root}/dashboard", markup=False)


def _listener(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"cannot listen on {host}:{port}: {reason}", "give another --host or --port") from error


def key() -> None:
    """Make an API key: the secret for a client, and its hash for cuecard.toml."""
    from cuecard.gateway.tables import make

    secret, digest = make()
    typer.echo(f"give this to the client; it is kept nowhere:\n\n  {secret}\n\nand write this into cuecard.toml:\n")
    typer.echo(f'[[keys]]\nname = "…"\nsha256 = "{digest}"')


# --- journals ---------------------------------------------------------------------------------------------------------


@takes_policy_options(Surface.REPLAY)
def replay(
    journals: Annotated[
        list[Path], typer.Argument(help="Journals of `cuecard serve` that keep content, of one gateway or several.")
    ],
    *,
    strategy: Annotated[
        str | None,
        typer.Option(help="A strategy: mutual, transfer, short, … Default: that of the policy."),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="A policy file, as `cuecard tune` writes it; options override it.")
    ] = None,
    options: Mapping[str, Any],
    small: Annotated[
        str | None, typer.Option(help="Make calls that the journal does not hold with this model.")
    ] = None,
    large: Annotated[
        str | None, typer.Option(help="Make calls that the journal does not hold with this model.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answer a journal's requests again with another policy or pair; calls in the journal are not repeated.

    The requests of several journals are merged in the order in which they ended, and each is answered once.
    """
    required("cuecard.gateway.replay", "the gateway", "pip install '.[gateway]' in a checkout")
    from cuecard.gateway.replay import entries, summary

    base = policy_file.PolicyFile("mutual") if policy is None else policy_file.read(policy)
    chosen, named = policy_with(base.policy(), **options), strategy or base.strategy
    known(named)
    found = entries(*journals)
    if not found:
        names = ", ".join(map(str, journals))
        raise BadInput(f"{names} {'holds' if len(journals) == 1 else 'hold'} no requests")
    living = spec.load_all({role: name for role, name in (("small", small), ("large", large)) if name})
    work: Coroutine[Any, Any, list[ReplayedRequest]] = _all(found, named, chosen, living, quiet=as_json)
    # without models to call, virtual time needs no waiting
    replayed = asyncio.run(work) if living else virtual_time.run(work)
    totals = summary(replayed)
    if as_json:
        typer.echo(json.dumps({"strategy": named, **totals}, indent=2))
    else:
        _show(totals, named, sum(each.after is not None for each in replayed))


async def _all(
    found: list[JournalEntry], strategy: str, policy: Policy, living: dict[str, Model], quiet: bool
) -> list[ReplayedRequest]:
    from cuecard.gateway.replay import replay

    replayed: list[ReplayedRequest] = []
    bar = iter(track(range(len(found)), "replaying", console=make_console(stderr=True), disable=quiet, transient=True))
    async with closing_models(living.values()):
        async for each in replay(found, strategy, policy, living):
            next(bar, None)
            replayed.append(each)
    return replayed


def _show(totals: dict[str, Any], strategy: str, replayable: int) -> None:
    console = make_console()
    console.print(f"{replayable} of {totals['requests']} requests can be replayed by [bold]{strategy}[/]", end="")
    console.print(f"; {totals['answers_changed']} answers change; {totals['calls_asked']} calls were made")
    when = ("before", "after")
    routes = {route: [totals["routes"][each].get(route, 0) for each in when] for route in Route}
    means = [totals["mean_s"][each] for each in when]
    rows = [
        *([route, *map(str, counts)] for route, counts in routes.items() if any(counts)),
        ["seconds, mean", *("–" if mean is None else f"{mean:.2f}" for mean in means)],
        ["tokens", *(f"{totals['tokens'][each]:,}" for each in when)],
    ]
    console.print(plain_table(("", *when), rows))
    if totals["missing"]:
        lacking = ", ".join(f"{call} ({count})" for call, count in totals["missing"].items())
        console.print(f"not in the journal: {lacking}. [dim]--small and --large name models to ask[/]")
    console.print("[dim]seconds before are measured, seconds after are composed of the journal's calls[/]")
