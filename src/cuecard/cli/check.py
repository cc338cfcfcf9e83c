"""`cuecard check`: a cuecard.toml is read, and its servers are asked what they can do."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cuecard.cli.models import block
from cuecard.domain.errors import MissingExtra

if TYPE_CHECKING:
    from cuecard.gateway.probe import Findings

ANSWERS = {True: "yes", False: "no", None: "could not be told"}


def check(
    config: Annotated[Path, typer.Argument(help="The cuecard.toml.")] = Path("cuecard.toml"),
    probe: Annotated[bool, typer.Option(help="Ask the servers; else only the file is read.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Read a cuecard.toml and ask its servers what they can do; `cuecard serve` goes by what is found."""
    try:
        from cuecard.gateway.config import read
        from cuecard.gateway.probe import beside, of_servers, save
    except ImportError as error:
        raise MissingExtra(f"the gateway needs {error.name}", "pip install 'cuecard[gateway]'") from error
    chosen = read(config)
    found = asyncio.run(of_servers(chosen, {})) if probe else {}
    if found:
        save(beside(config), found)
    if as_json:
        typer.echo(json.dumps({name: asdict(each) | {"settings": each.settings} for name, each in found.items()}))
    else:
        console = Console(highlight=False)
        for name, each in found.items():
            console.print(block(name, told(each)))
        console.print(f"{config} is in order" + (f"; what was found is in {beside(config)}" if found else ""))
    if not all(each.reachable for each in found.values()):
        raise typer.Exit(2)


def told(found: Findings) -> dict[str, str]:
    """What a server showed, in words."""
    if not found.reachable:
        return {"error": found.problem or "it does not answer"}
    pace = ""
    if found.first_s is not None and found.again_s is not None:
        pace = f" (a long prompt {found.first_s * 1000:.0f} ms, again {found.again_s * 1000:.0f} ms, measured)"
    return {
        "short answers": ANSWERS[found.short_answers],
        "reasoning": ANSWERS[found.reasoning],
        "images": ANSWERS[found.images],
        "probabilities": ANSWERS[found.logprobs],
        "goes on with given reasoning": ANSWERS[found.prefill],
        "prefix cache": ANSWERS[found.prefix_cache] + pace,
        "gives up when its client has gone": ANSWERS[found.aborts],
        "cards": "thinking" if found.prefill else "notes",
        "warming": "yes" if found.pays else "no: it is not clearly faster the second time",
        "notes": "; ".join(found.notes) or "none",
    }
