"""`cuecard fit`: a latency model of every profiled model. `cuecard breakeven`: break-even points of pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cuecard.cli.options import whole_numbers
from cuecard.domain.errors import BadInput, MissingExtra
from cuecard.latency.analysis.latency_model import FOLDER, Fit, plainest, read_all, write
from cuecard.latency.readings import is_profile
from cuecard.latency.simulate import breakeven as points
from cuecard.latency.simulate.simulation import TRANSFER, Chances
from cuecard.report.page import formatting
from cuecard.strategies.policy import Schedule

Maybe = typer.Option


def fit(
    run: Annotated[Path, typer.Argument(help="The directory of a run of `cuecard profile`.")],
    draws: Annotated[int, Maybe(help="Bootstrap draws for intervals.")] = 200,
    seed: Annotated[int, Maybe(help="Seed of the draws and of the held-out points.")] = 0,
    as_json: Annotated[bool, Maybe("--json", help="Print the errors as one JSON object.")] = False,
) -> None:
    """Fit latency models to a profile's readings, and report their errors on held-out points."""
    if draws < 0:
        raise BadInput("--draws cannot be less than 0")
    fits = fitting().fits(run, draws, seed)
    written = write(fits, run / FOLDER)
    if as_json:
        errors = {path.stem: asdict(each)["held_out"] for path, each in zip(written, fits, strict=True)}
        typer.echo(json.dumps(errors, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    console.print(_errors(fits))
    for path in written:
        console.print(Text(f"estimated: {path}", style="dim"))


def fitting() -> Any:
    """Import the module that fits. Raises MissingExtra."""
    try:
        from cuecard.latency.analysis import fit
    except ImportError as error:
        raise MissingExtra(f"fitting needs {error.name}", "pip install '.[evals]' in a checkout") from error
    return fit


def _errors(fits: list[Fit]) -> Table:
    """Errors on held-out points, one row per component."""
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


# --- break-even -------------------------------------------------------------------------------------------------------


def breakeven(
    runs: Annotated[
        list[Path], typer.Argument(help="Directories of `cuecard profile`, or fits, the small model first.")
    ],
    agree: Annotated[float | None, Maybe(help="Share of questions whose short answers are accepted.")] = None,
    confirm: Annotated[float, Maybe(help="Share of the others where reasoning confirms the large model.")] = 0.0,
    small: Annotated[str | None, Maybe(help="The small model. Default: all but the last.")] = None,
    large: Annotated[str | None, Maybe(help="The large model. Default: the last.")] = None,
    visual: Annotated[int | None, Maybe(help="Visual tokens. Default: 196, or the nearest that was measured.")] = None,
    prompt: Annotated[int | None, Maybe(help="Tokens of the prompt, including visual tokens.")] = None,
    answer: Annotated[int, Maybe(help="Tokens of a short answer.")] = 4,
    output_tokens: Annotated[
        str, Maybe(help="Tokens that the large model writes by itself, separated by commas.")
    ] = ",".join(map(str, points.OUTPUTS)),
    draws: Annotated[
        int, Maybe(help="Bootstrap draws for intervals; with fewer than 20 there are none.")
    ] = points.DRAWS,
    out: Annotated[Path | None, Maybe(help="The file. Default: breakeven.json in the first directory.")] = None,
    as_json: Annotated[bool, Maybe("--json", help="Print the file.")] = False,
) -> None:
    """Estimate how many tokens a small model may write before a large model that reasons itself is as fast."""
    fits = [fit for run in runs for fit in fits_of(run)]
    outputs, draws = sorted(whole_numbers("--output-tokens", output_tokens, least=1)), max(0, draws)
    Chances(agree or 0.0, confirm)  # validates the rates before anything runs
    found = []
    for both in pairs_of(fits, small, large):
        workload = points.usual(both, visual, prompt, answer)
        query = points.query(both, workload, agree=agree, confirm=confirm, outputs=outputs, draws=draws)
        found.append(points.pair(*both, query))
    path = out or (runs[0] if runs[0].is_dir() else runs[0].parent) / points.FILE
    points.write(found, path)
    if as_json:
        typer.echo(json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=2))
        return
    console = Console(highlight=False)
    for each in found:
        console.print(_crossings(each))
        for line in each.extrapolated:
            console.print(Text(f"extrapolated: {line}", style="dim"))
    console.print(Text(f"estimated: {path}", style="dim"))


def fits_of(run: Path) -> list[Fit]:
    """The fits of a directory, made if there are none yet. Raises BadInput."""
    if run.is_dir() and is_profile(run) and not any((run / FOLDER).glob("*.json")):
        write(fitting().fits(run), run / FOLDER)
    return read_all(run)


def pairs_of(fits: Sequence[Fit], small: str | None, large: str | None) -> list[tuple[Fit, Fit]]:
    """Every model with the last one, in their plainest settings. Raises BadInput."""
    models = list(dict.fromkeys(fit.model for fit in fits))
    last = large or next((model for model in reversed(models) if model != small), models[-1])
    firsts = [small] if small else [model for model in models if model != last]
    if not firsts or firsts == [last]:
        raise BadInput(f"break-even points need two models, there is {last}", "give two directories, or --small")
    return [(plainest(fits, first), plainest(fits, last)) for first in firsts]


def _crossings(found: points.PairBreakEven) -> Table:
    """One row per number of tokens that the large model writes; one column per way of answering."""
    work, rate = found.workload, found.agree
    title = (
        f"{found.small} against {found.large}: tokens at which the large model by itself is as fast"
        f" ({work.visual} visual of {work.prompt} prompt tokens, answers of {work.answer}; estimated, 95%)"
    )
    mutual = [(schedule, rate) for schedule in Schedule] if rate is not None else []
    heads = [f"{found.large} writes", f"{found.small} alone", *(f"transfer, {each}" for each in TRANSFER)]
    heads += [f"mutual at {rate:g}, {schedule}" for schedule, rate in mutual if rate is not None]
    shown = Table(*heads, box=None, title=title)
    alone = {each.output: each.crossing for each in found.alone if each.visual == work.visual}
    together = {(e.strategy, e.schedule, e.agree, e.output): e.crossing for e in found.together}
    for output in dict.fromkeys(each.output for each in found.together):
        cells = [alone[output], *(together["transfer", schedule, None, output] for schedule in TRANSFER)]
        cells += [together["mutual", schedule, rate, output] for schedule, rate in mutual]
        shown.add_row(f"{output:,}", *map(formatting.crossing, cells))
    return shown
