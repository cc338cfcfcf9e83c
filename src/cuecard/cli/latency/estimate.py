"""Estimates without loading or calling a model.

`cuecard ask --estimate`: the latency of each strategy for a question, by fits. `cuecard plan`: latency and cost for
pairs of models, from fits and public figures.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image as Pictures
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cuecard.cli.latency.fit import fits_of
from cuecard.domain.outcome import LatencyKind, Route
from cuecard.domain.question import Question
from cuecard.latency.analysis.latency_model import Fit, plainest
from cuecard.latency.simulate.plan import PairPlan, plans
from cuecard.latency.simulate.simulation import LEAST_TEXT, RequestSize, Way, outcomes
from cuecard.models import prompt
from cuecard.report.page import formatting
from cuecard.strategies.policy import Schedule

LENGTHS = (32, 128, 512)
CHARACTERS = 4
"""Characters per token, approximately."""
PIXELS = 32 * 32
"""Pixels per visual token, if the profile has no figure: patches of 16 by 16, merged two by two."""


def estimate(
    path: Path,
    question: Question,
    roles: Mapping[str, Any],
    schedule: Schedule | None,
    budget: int | None,
    as_json: bool = False,
) -> None:
    """Print seconds of strategies by tokens of reasoning: for a budget, or for a few lengths. Raises BadInput."""
    fits, specs = fits_of(path), {role: _spec(given) for role, given in roles.items()}
    # profiles name a server's model by the part after the #, other models by the last part
    names = {role: text.rpartition("#")[2].rstrip("/").rpartition("/")[2] for role, text in specs.items()}
    chosen = {role: plainest(fits, names[role]) for role in ("small", "large")}
    workload = _workload(question, chosen["small"])
    lengths = (budget,) if budget is not None else LENGTHS
    profiles = {role: fit.profile for role, fit in chosen.items()}
    # models in this process share its cores or its device; a profile's model need not be available at all
    served = any(text.startswith(("http://", "https://")) for text in specs.values())
    rows = _ways(schedule or (Schedule.OVERLAP if served else Schedule.THRIFTY))
    ways = [replace(way, reasoning=length) for _, way in rows for length in lengths]
    took = iter(outcome.total_s for outcome in outcomes(profiles, workload, ways))
    found = {name: {length: next(took) for length in lengths} for name, _ in rows}
    wanted = _lengths(workload, lengths)
    notes = [f"extrapolated: {line}" for fit in chosen.values() for line in fit.beyond(wanted)]
    if as_json:
        estimated = {
            "label": LatencyKind.ESTIMATED,
            "models": names,
            **asdict(workload),
            "seconds": found,
            "notes": notes,
        }
        typer.echo(json.dumps(estimated, indent=2, ensure_ascii=False))
        return
    title = (
        f"{names['small']} and {names['large']}, estimated: about {workload.visual} visual of {workload.prompt} prompt"
        f" tokens, answers of {workload.answer}"
    )
    shown = Table("strategy", *(f"{length:,} tokens of reasoning" for length in lengths), box=None, title=title)
    for name, seconds in found.items():
        shown.add_row(name, *map(formatting.duration, seconds.values()))
    console = Console(highlight=False)
    console.print(shown)
    for line in notes:
        console.print(Text(line, style="yellow"))


def _ways(schedule: Schedule) -> list[tuple[str, Way]]:
    return [
        *((name, Way(name)) for name in ("short:small", "short:large", "reason:small", "reason:large")),
        (f"transfer, {schedule}", Way("transfer", schedule)),
        (f"mutual, {schedule}, accepted at once", Way("mutual", schedule, route=Route.AGREED)),
        (f"mutual, {schedule}, not accepted", Way("mutual", schedule)),
    ]


def _spec(given: Any) -> str:
    return str(given["model"] if isinstance(given, Mapping) else given)


def _workload(question: Question, fit: Fit) -> RequestSize:
    """The size of the question in tokens, estimated from characters and pixels."""
    visual = sum(_visual(image.data, fit.pixels_per_visual_token or PIXELS) for image in question.images)
    turns = prompt.short(question, prompt.TAGS).turns
    text = math.ceil(sum(len(turn.text) for turn in turns) / CHARACTERS)
    return RequestSize(visual, visual + max(text, LEAST_TEXT))


def _visual(data: bytes, pixels: float) -> int:
    with Pictures.open(io.BytesIO(data)) as picture:
        return max(1, round(picture.width * picture.height / pixels))


def _lengths(workload: RequestSize, lengths: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Tokens of the estimated calls, by the names of the measured ranges."""
    written = (workload.answer, *(length + workload.answer for length in lengths))
    prompts = (workload.prompt, *(workload.prompt + length for length in lengths))  # the reader's has the card in it
    return {"visual_tokens": (workload.visual,), "prompt_tokens": prompts, "output_tokens": written}


# --- plans ------------------------------------------------------------------------------------------------------------


def plan(
    file: Annotated[
        Path, typer.Argument(help="A TOML file of models, pairs and questions: see docs/reference/latency.md.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Estimate latency and cost of each strategy for pairs of models, without a call."""
    questions, found = plans(file)
    if as_json:
        printed = {"label": "estimated", "questions": questions, "pairs": [asdict(each) for each in found]}
        typer.echo(json.dumps(printed, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    for each in found:
        console.print(_plan_table(each, questions))
        for model, origin in each.origins.items():
            console.print(Text(f"{model}: {origin}", style="dim"))
        for line in each.extrapolated:
            console.print(Text(f"extrapolated: {line}", style="yellow"))
        console.print()


def _plan_table(found: PairPlan, questions: int) -> Table:
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
    """Prompt and generated tokens per question."""
    return f"{prompt[role]:,.0f} + {written[role]:,.0f}" if prompt[role] else "–"
