"""`cuecard replay`: the requests of a journal, answered again by another policy or pair."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cuecard import virtual_time
from cuecard.cli.options import takes_policy_options
from cuecard.domain.errors import BadInput, required
from cuecard.domain.outcome import Route
from cuecard.models import spec
from cuecard.models.base import Model
from cuecard.strategies import policy_file
from cuecard.strategies.policy import Policy, Surface, policy_with
from cuecard.strategies.run import known

if TYPE_CHECKING:
    from cuecard.gateway.replay import JournalEntry, ReplayedRequest


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
    living = {role: spec.load(name, role) for role, name in (("small", small), ("large", large)) if name}
    work: Coroutine[Any, Any, list[ReplayedRequest]] = _all(found, named, chosen, living, quiet=as_json)
    # without models to call, virtual time needs no waiting
    totals = summary(asyncio.run(work) if living else virtual_time.run(work))
    if as_json:
        typer.echo(json.dumps({"strategy": named, **totals}, indent=2))
    else:
        _show(totals, named)


async def _all(
    found: list[JournalEntry], strategy: str, policy: Policy, living: dict[str, Model], quiet: bool
) -> list[ReplayedRequest]:
    from cuecard.gateway.replay import replay

    replayed: list[ReplayedRequest] = []
    bar = iter(track(range(len(found)), "replaying", console=Console(stderr=True), disable=quiet, transient=True))
    try:
        async for each in replay(found, strategy, policy, living):
            next(bar, None)
            replayed.append(each)
    finally:
        for model in living.values():
            await model.aclose()
    return replayed


def _show(totals: dict[str, Any], strategy: str) -> None:
    console = Console(highlight=False)
    console.print(f"{totals['told']} of {totals['requests']} requests can be replayed by [bold]{strategy}[/]", end="")
    console.print(f"; {totals['answers_changed']} answers change; {totals['calls_asked']} calls were made")
    table = Table("", "before", "after", box=None)
    for route in Route:
        if any(counts := [totals["routes"][when].get(route, 0) for when in ("before", "after")]):
            table.add_row(route, *map(str, counts))
    table.add_row("seconds, mean", *(_seconds(totals["mean_s"][when]) for when in ("before", "after")))
    table.add_row("tokens", *(f"{totals['tokens'][when]:,}" for when in ("before", "after")))
    console.print(table)
    if totals["missing"]:
        lacking = ", ".join(f"{call} ({count})" for call, count in totals["missing"].items())
        console.print(f"not in the journal: {lacking}. [dim]--small and --large name models to ask[/]")
    console.print("[dim]seconds before are measured, seconds after are composed of the journal's calls[/]")


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
