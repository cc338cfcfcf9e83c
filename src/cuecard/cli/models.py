"""`cuecard models`: what is there, and what each can do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from cuecard.domain.errors import CuecardError
from cuecard.models import spec
from cuecard.models.base import Abilities


def models(
    specs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models to look at: names, directories, hf:ORG/NAME or URL#NAME. Default: the embedded pair."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list, an object a model.")] = False,
) -> None:
    """Show models and what each can do."""
    console, told_of = Console(highlight=False), []
    failed = 0
    for name in specs or list(spec.EMBEDDED):
        try:
            model = spec.load(name)
        except CuecardError as error:
            failed += 1
            told_of.append({"model": name, "error": error.message, "hint": error.hint})
            if not as_json:
                console.print(block(name, {"error": str(error)}))
            continue
        told_of.append({"model": name, **as_object(model.abilities)})
        if not as_json:
            console.print(block(name, told(model.abilities)))
        asyncio.run(model.aclose())
    if as_json:
        typer.echo(json.dumps(told_of, ensure_ascii=False, indent=2))
    if failed:
        raise typer.Exit(2)


def told(able: Abilities) -> dict[str, str]:
    """What a model can do, in words."""
    known = {True: "yes", False: "no", None: "not known"}
    return {
        "images": known[able.images],
        "probabilities": known[able.logprobs],
        "scoring": known[able.scoring],
        "keeps prefixes": known[able.prefix_sessions],
        "cards": ", ".join(able.card_formats),
        "notes": "; ".join(able.notes) or "none",
        "trained on": "not told" if able.scope is None else able.scope.about,
    }


def as_object(able: Abilities) -> dict[str, Any]:
    """What a model can do, as plain data; null is not known."""
    return {
        "images": able.images,
        "probabilities": able.logprobs,
        "scoring": able.scoring,
        "keeps_prefixes": able.prefix_sessions,
        "cards": list(able.card_formats),
        "notes": list(able.notes),
        "trained_on": None if able.scope is None else able.scope.about,
    }


def block(name: str, facts: Mapping[str, str]) -> Group:
    """A model's name and, under it, a line a fact, which wraps within its own column."""
    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold")
    for fact, value in facts.items():
        lines.add_row(f"  {fact}", Text(value))
    return Group(Text(name, style="bold"), lines)
