"""`cuecard plan`: what pairs of models would cost, from fits and public figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cuecard.latency.simulate.plan import PairPlan, plans
from cuecard.report.page import formatting


def plan(
    file: Annotated[
        Path, typer.Argument(help="A TOML file of models, pairs and questions: see docs/reference/latency.md.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Latency and cost of each strategy for pairs of models, on paper: estimated, all of it."""
    questions, found = plans(file)
    if as_json:
        printed = {"label": "estimated", "questions": questions, "pairs": [asdict(each) for each in found]}
        typer.echo(json.dumps(printed, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    for each in found:
        console.print(_table(each, questions))
        for model, origin in each.origins.items():
            console.print(Text(f"{model}: {origin}", style="dim"))
        console.print()


def _table(found: PairPlan, questions: int) -> Table:
    load = found.load
    title = (
        f"{found.small} and {found.large}, estimated: {load.visual_tokens} visual and {load.text_tokens} text tokens,"
        f" {load.reasoning_tokens} of reasoning, {formatting.percent(load.agree)} accepted at once"
    )
    shown = Table("strategy", "schedule", "mean latency", "tokens small", "tokens large", box=None, title=title)
    shown.add_column(f"cost of {questions:,}")
    for line in found.lines:
        shown.add_row(
            line.strategy,
            str(line.schedule or ""),
            formatting.duration(line.mean_s),
            _tokens(line.prompt_tokens, line.completion_tokens, "small"),
            _tokens(line.prompt_tokens, line.completion_tokens, "large"),
            "not known" if line.cost is None else f"{line.cost * questions:,.3g}",
        )
    return shown


def _tokens(prompt: Mapping[str, float], written: Mapping[str, float], role: str) -> str:
    """Prompt and generated tokens a question."""
    return f"{prompt[role]:,.0f} + {written[role]:,.0f}" if prompt[role] else "–"
