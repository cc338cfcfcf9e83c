"""`cuecard check`: a cuecard.toml is read, and its servers are probed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cuecard.cli.models import block, facts
from cuecard.domain.errors import MissingExtra
from cuecard.models import probe as probes
from cuecard.models import probe_results, spec
from cuecard.models.openai import OpenAIModel
from cuecard.models.probe_results import ProbeResults

if TYPE_CHECKING:
    from cuecard.gateway.config.settings import KeyEntry


def check(
    config: Annotated[Path, typer.Argument(help="The cuecard.toml.")] = Path("cuecard.toml"),
    probe: Annotated[bool, typer.Option(help="Probe the servers; else only the file is read.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Read a cuecard.toml and probe its servers; all commands go by what is found."""
    try:
        from cuecard.gateway.config.config_file import read
    except ImportError as error:
        raise MissingExtra(f"the gateway needs {error.name}", "pip install '.[gateway]' in a checkout") from error
    chosen = read(config)
    roles = [(name, role, ones) for name, pair in chosen.pairs.items() for role, ones in pair.roles.items()]
    tables = {one.model: one.table() for _, _, ones in roles for one in ones}
    served = {name: table for name, table in tables.items() if isinstance(spec.parse(name), spec.Served)}
    models = {name: model for name, table in served.items() if isinstance(model := spec.load(table), OpenAIModel)}
    found = dict(zip(models, asyncio.run(_probed(list(models.values()))), strict=True)) if probe else {}
    lost = [name for name, each in found.items() if not each.reachable]
    if as_json:
        typer.echo(json.dumps({name: asdict(each) | {"settings": each.settings} for name, each in found.items()}))
    else:
        console = Console(highlight=False)
        for name, each in found.items():
            console.print(block(name, facts(each)))
        for name, role, ones in roles:
            console.print(f"{name}, {role}: {', '.join(one.model for one in ones)}", markup=False)
        for key in chosen.keys:
            console.print(_described(key), markup=False)
        but = f", but these servers cannot be reached: {', '.join(lost)}" if lost else ""
        where = f"; what was found is in {probe_results.path()}" if found else ""
        console.print(f"{config} is in order{but}{where}", markup=False, soft_wrap=True)
    if lost:
        raise typer.Exit(2)


def _described(key: KeyEntry) -> str:
    """What a key may do, in one line."""
    limits = key.model_dump(exclude={"name", "sha256", "expires", "pairs"}, exclude_none=True)
    parts = [f"{limit} {value:,.10g}" for limit, value in limits.items()]
    parts += [] if key.expires is None else [f"expires {key.expires:%Y-%m-%d %H:%M %Z}"]
    parts += [] if key.pairs is None else [f"only {', '.join(key.pairs)}"]
    return f"key {key.name}: {'; '.join(parts) or 'no limits'}"


async def _probed(models: Sequence[OpenAIModel]) -> list[ProbeResults]:
    """Fresh findings of each, whatever is stored."""
    tell = partial(print, file=sys.stderr, flush=True)
    try:
        return list(await asyncio.gather(*(probes.adapted(model, fresh=True, tell=tell) for model in models)))
    finally:
        for model in models:
            await model.aclose()
