"""`cuecard demo`: every strategy on real questions, live, and a report to look at."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

import cuecard
from cuecard.domain.errors import BadInput, MissingExtra
from cuecard.domain.outcome import Route
from cuecard.models import spec
from cuecard.models.base import Model
from cuecard.report.page import formatting
from cuecard.report.showcase import terminal
from cuecard.report.showcase.records import Showcase

EASY_VQA_TEST = 9673


def demo(
    boards: Annotated[int, typer.Option(help="Questions about held-out boards of handwritten digits.")] = 24,
    easy_vqa: Annotated[int, typer.Option(help="Questions of easy-VQA's test split.")] = 12,
    seed: Annotated[int, typer.Option(help="Which questions: the same for the same seed.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for report.html and results.json.")] = Path("runs/demo"),
    small: Annotated[str, typer.Option(help="The model that writes the reasoning.")] = "demo-small",
    large: Annotated[str, typer.Option(help="The model that speaks the answer.")] = "demo-large",
) -> None:
    """Every strategy on real questions, live: a table, a time line, and a report to open in a browser."""
    _check(boards, easy_vqa)
    page = _page_maker()
    _prepare(out)
    models = {role: spec.load(given, role) for role, given in (("small", small), ("large", large))}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("questions", total=boards + easy_vqa)
        shown = asyncio.run(_run(models, (boards, easy_vqa, seed), lambda: progress.advance(bar)))
    asked = f"{boards} boards, {easy_vqa} of easy-VQA, seed {seed}"
    shown = replace(shown, about=(("pair", f"{small} and {large}"), ("questions", asked), *_about(datetime.now(UTC))))
    _write(out / "report.html", page(shown))
    _write(out / "results.json", shown.json())
    _tell(shown)
    typer.echo(f"\nreport:  {out / 'report.html'}\nnumbers: {out / 'results.json'}")


def _check(boards: int, easy_vqa: int) -> None:
    if boards < 0 or easy_vqa < 0:
        raise BadInput("--boards and --easy-vqa cannot be less than 0")
    if boards + easy_vqa == 0:
        raise BadInput("there are no questions to ask", "give --boards or --easy-vqa at least 1")
    if easy_vqa > EASY_VQA_TEST:
        raise BadInput(f"easy-VQA's test split has only {EASY_VQA_TEST} questions", "lower --easy-vqa")


def _page_maker() -> Callable[[Showcase], str]:
    """What makes the page, and with it all that the run needs, looked for before anything runs. Raises MissingExtra."""
    try:
        import easy_vqa  # noqa: F401
        import sklearn  # noqa: F401

        from cuecard.report.showcase.report import page
    except ImportError as error:
        raise MissingExtra(f"the demo needs {error.name}", "pip install '.[demo]' in a checkout") from error
    return page


async def _run(models: Mapping[str, Model], size: tuple[int, int, int], tick: Callable[[], None]) -> Showcase:
    from cuecard.demo.showcase import showcase  # needs numpy, which only the demo has

    try:
        return await showcase(models, *size, tick)
    finally:
        for model in models.values():
            await model.aclose()


def _about(now: datetime) -> tuple[tuple[str, str], ...]:
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS {threads}"
    software = f"cuecard {cuecard.__version__}, Python {platform.python_version()}"
    return ("machine", machine), ("software", software), ("made", f"{now:%Y-%m-%d %H:%M} UTC")


def _tell(shown: Showcase) -> None:
    console = Console(highlight=False)
    console.print(terminal.results(shown.rows))
    console.print(terminal.routes([row for row in shown.rows if set(row.routes) != {Route.DIRECT}]))
    if (sample := shown.sample) is None:
        return
    console.print(
        Text(f"\n{formatting.plain(sample.question.text)} (right: {formatting.plain(sample.truth)})", style="bold")
    )
    until_s = max(call.end_s for outcome in sample.outcomes.values() for call in outcome.calls)
    for name, outcome in sample.outcomes.items():
        if name in ("reason:large", shown.headline):
            console.print(Text(f"\n{name}: {formatting.plain(outcome.answer)}"))
            console.print(terminal.Timeline(outcome, until_s))


def _prepare(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder {out}: {error.strerror}", "give another --out") from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}", "give another --out") from error
