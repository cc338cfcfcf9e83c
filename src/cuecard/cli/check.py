"""`cuecard check`: a cuecard.toml is read, and its servers are probed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cuecard.cli.models import block
from cuecard.domain.errors import MissingExtra
from cuecard.models import probe as probes
from cuecard.models import spec
from cuecard.models.openai import OpenAIModel
from cuecard.models.probe import Findings

ANSWERS = {True: "yes", False: "no", None: "could not be told"}


def check(
    config: Annotated[Path, typer.Argument(help="The cuecard.toml.")] = Path("cuecard.toml"),
    probe: Annotated[bool, typer.Option(help="Probe the servers; else only the file is read.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Read a cuecard.toml and probe its servers; all commands go by what is found."""
    try:
        from cuecard.gateway.config import read
    except ImportError as error:
        raise MissingExtra(f"the gateway needs {error.name}", "pip install 'cuecard[gateway]'") from error
    chosen = read(config)
    tables = {one.model: one.table() for ones in chosen.roles.values() for one in ones}
    served = {name: table for name, table in tables.items() if isinstance(spec.parse(name), spec.Served)}
    models = {name: model for name, table in served.items() if isinstance(model := spec.load(table), OpenAIModel)}
    found = dict(zip(models, asyncio.run(_probed(list(models.values()))), strict=True)) if probe else {}
    if as_json:
        typer.echo(json.dumps({name: asdict(each) | {"settings": each.settings} for name, each in found.items()}))
    else:
        console = Console(highlight=False)
        for name, each in found.items():
            console.print(block(name, facts(each)))
        console.print(f"{config} is in order" + (f"; what was found is in {probes.path()}" if found else ""))
    if not all(each.reachable for each in found.values()):
        raise typer.Exit(2)


async def _probed(models: Sequence[OpenAIModel]) -> list[Findings]:
    """Fresh findings of each, whatever is stored."""
    tell = partial(print, file=sys.stderr, flush=True)
    try:
        return list(await asyncio.gather(*(probes.adapted(model, fresh=True, tell=tell) for model in models)))
    finally:
        for model in models:
            await model.aclose()


def facts(found: Findings) -> dict[str, str]:
    """What a server showed, in words."""
    if not found.reachable:
        return {"error": found.problem or "it does not answer"}
    pace = ""
    if found.first_s is not None and found.again_s is not None:
        pace = f" (a prompt {found.first_s * 1000:.0f} ms, again {found.again_s * 1000:.0f} ms, measured)"
    listed = "" if found.listed is not False else f"; it lists {', '.join(found.served[:8])}"
    tokens = "" if found.short_tokens is None else f" ({found.short_tokens} tokens on a question that tempts to reason)"
    reads = [
        f"{form} {'right' if each.right else 'wrong'}, {each.tokens} tokens{'' if each.short else ', runs on'}"
        for form, each in found.reads.items()
    ]
    return {
        "listed": ANSWERS[found.listed] + listed,
        "short answers": ANSWERS[found.short_answers] + tokens,
        "decodes under a grammar": found.constraint or "no",
        "reads cards": "; ".join(reads) or "could not be told",
        "cards": ", ".join(found.cards) or "none was read well: notes",
        "reasoning": ANSWERS[found.reasoning],
        "continues given reasoning": ANSWERS[found.prefill],
        "probabilities": ANSWERS[found.logprobs],
        "images": ANSWERS[found.images],
        "prefix cache": ANSWERS[found.prefix_cache] + pace,
        "warming": "yes" if found.pays else "no: it is not clearly faster the second time",
        "stops when its client has gone": ANSWERS[found.aborts],
        "notes": "; ".join(found.notes) or "none",
    }
