"""`cuecard report` of a latency profile: derives missing results, then draws the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from cuecard.cli.latency.fit import fits_of, pairs_of
from cuecard.domain.errors import BadInput, required
from cuecard.latency import readings
from cuecard.latency.analysis import measured
from cuecard.latency.analysis.latency_model import Fit, plainest
from cuecard.latency.simulate import breakeven
from cuecard.report.page.machine import run_facts


def report(run: Path, out: Path | None, as_json: bool) -> None:
    """Write the page of a profile; missing fits and break-even points are made with default settings.

    Raises BadInput, MissingExtra.
    """
    drawn = required("cuecard.report.latency.report", "a report")
    about = readings.about(run)
    served: list[Any] = []
    if about["config"].get("source") == "server":
        from cuecard.latency.server import metrics  # imports HTTP

        served = metrics.served(run)
    fits = _fits(run, may_lack=bool(served))
    shown = drawn.Profiled(
        run.resolve().name,
        measured.points(run),
        [plainest(fits, model) for model in dict.fromkeys(fit.model for fit in fits)],
        _pairs(run, fits) if fits else [],
        measured.roofs(run),
        measured.devices(about.get("probe") or {}),
        facts(about),
        served,
    )
    made = drawn.report(shown)
    written = made.save(out or run / "report.html")
    if as_json:
        typer.echo(json.dumps({name: list(rows) for name, rows in made.tables.items()}, indent=2, default=str))
        return
    console = Console(highlight=False)
    for line in drawn.summary(shown):
        console.print(Text(f"· {line}"))
    console.print(Text(f"report:  {written[0]}"))
    console.print(Text(f"tables:  {', '.join(path.name for path in written[1:])}", style="dim"))


def _fits(run: Path, *, may_lack: bool) -> list[Fit]:
    """The fits of a profile; none if `may_lack` and they cannot be made, as with one output length. Raises BadInput."""
    try:
        return fits_of(run)
    except BadInput:
        if not may_lack:
            raise
        return []


def _pairs(run: Path, fits: Sequence[Fit]) -> list[breakeven.PairBreakEven]:
    """Break-even points from the directory, else new ones of every model with the last; none for a single model."""
    path = run / breakeven.FILE
    if not path.exists():
        try:
            both = pairs_of(fits, None, None)
        except BadInput:
            return []
        found = [breakeven.pair(*pair, breakeven.query(pair)) for pair in both]
        breakeven.write(found, path)
    return breakeven.read(path)


def facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts about a profile, for the footer of its page."""
    config = about["config"]
    lines = [("models", ", ".join(config.get("models") or ())), ("timed", str(config.get("source") or "not known"))]
    lines += [(f"grid, {name.replace('_', ' ')}", _plain(value)) for name, value in (config.get("grid") or {}).items()]
    return run_facts(about, lines)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
