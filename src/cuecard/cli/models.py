"""`cuecard models`: what is there, and what each can do."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

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
) -> None:
    """Show models and what each can do."""
    table = Table(title="Models")
    for column in ("model", "images", "probabilities", "scoring", "keeps prefixes", "cards", "notes"):
        table.add_column(column)
    failed = 0
    for name in specs or list(spec.EMBEDDED):
        try:
            model = spec.load(name)
        except CuecardError as error:
            failed += 1
            table.add_row(name, *[""] * 5, f"{error} ({error.hint})")
            continue
        table.add_row(name, *cells(model.abilities))
        asyncio.run(model.aclose())
    Console().print(table)
    if failed:
        raise typer.Exit(2)


def cells(able: Abilities) -> tuple[str, ...]:
    """One row of the table."""
    known = {True: "yes", False: "no", None: "not known"}
    flags = (able.images, able.logprobs, able.scoring, able.prefix_sessions)
    return (*(known[flag] for flag in flags), ", ".join(able.card_formats), "; ".join(able.notes))
