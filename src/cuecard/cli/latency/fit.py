"""`cuecard fit`: a latency model of every model that was profiled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cuecard.domain.errors import BadInput, MissingExtra
from cuecard.latency.analysis.latency_model import FOLDER, Fit, write

Maybe = typer.Option


def fit(
    run: Annotated[Path, typer.Argument(help="The directory of a run of `cuecard profile`.")],
    draws: Annotated[int, Maybe(help="Bootstrap draws that intervals come from.")] = 200,
    seed: Annotated[int, Maybe(help="Seed of the draws and of what is held out.")] = 0,
    as_json: Annotated[bool, Maybe("--json", help="Print the errors as one JSON object.")] = False,
) -> None:
    """Fit latency models to a profile's readings, and say how far they are off on points that they had not seen."""
    if draws < 0:
        raise BadInput("--draws cannot be less than 0")
    fits = fitting().fits(run, draws, seed)
    written = write(fits, run / FOLDER)
    if as_json:
        errors = {path.stem: _errors(each) for path, each in zip(written, fits, strict=True)}
        typer.echo(json.dumps(errors, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    console.print(_table(fits))
    for path in written:
        console.print(Text(f"estimated: {path}", style="dim"))


def fitting() -> Any:
    """What fits. Raises MissingExtra."""
    try:
        from cuecard.latency.analysis import fit
    except ImportError as error:
        raise MissingExtra(f"fitting needs {error.name}", "pip install '.[evals]' in a checkout") from error
    return fit


def _errors(fit: Fit) -> dict[str, dict[str, float]]:
    return {
        name: {"median": each.median, "p90": each.p90, "points": each.points} for name, each in fit.held_out.items()
    }


def _table(fits: list[Fit]) -> Table:
    """Errors of held-out points, a row a component."""
    shown = Table(
        Column("fit", overflow="fold"), "of", "points", "median error", "90% below", box=None, title="held-out points"
    )
    for each in fits:
        for name, error in each.held_out.items():
            described = each.described if name == next(iter(each.held_out)) else ""
            shown.add_row(
                Text(described), name, str(error.points), f"{100 * error.median:.1f}%", f"{100 * error.p90:.1f}%"
            )
    return shown
