"""What `cuecard attention` and `cuecard report` share about a run of the former: its page, and its figures in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cuecard import disk
from cuecard.domain.errors import MissingExtra


def is_run(path: Path) -> bool:
    """Whether a directory holds a run of `cuecard attention`."""
    try:
        return bool(json.loads((path / "run.json").read_text(encoding="utf-8")).get("kind") == "attention")
    except (OSError, ValueError, AttributeError):
        return False


def report(run: Path, out: Path | None, questions: int, as_json: bool) -> None:
    """The page of such a run, with figures and tables beside it."""
    page = drawing()
    shown = page.opened(run, questions)
    written = page.save(shown, out or run / "report.html")
    disk.save(written[0].parent / "findings.json", shown.results.as_object())
    if as_json:
        typer.echo(json.dumps(shown.results.as_object(), indent=2, ensure_ascii=False))
    else:
        show(shown.results, page, [f"report:  {written[0]}"])


def drawing() -> Any:
    """What draws. Raises MissingExtra."""
    try:
        from cuecard.report.attention import report as attention_report
    except ImportError as error:
        raise MissingExtra(f"figures need {error.name}", "pip install '.[evals]' in a checkout") from error
    return attention_report


def show(results: Any, page: Any, ends: Sequence[str]) -> None:
    console = Console(highlight=False)
    heads, rows = page.whole_sheet(list(results.conditions.values()))
    # figures are never cut: the names in the first column wrap instead
    widths = [max(len(word) for row in rows for word in (row[place] or "–").split()) for place in range(6)]
    columns = (Column(head, min_width=widths[place] if place else None) for place, head in enumerate(heads[:6]))
    shown = Table(*columns, box=None)
    for row in rows:
        shown.add_row(*map(Text, row[:6]))
    console.print(shown)
    console.print(Text(f"· {page.lead(results)}"))
    for end in ends:
        console.print(Text(end, style="dim"), soft_wrap=True)
