"""`cuecard ask --estimate`: what each strategy would take for a question, by fits; no model is loaded or asked."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import typer
from PIL import Image as Pictures
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cuecard.cli.latency.breakeven import fits_of
from cuecard.domain.outcome import LatencyKind, Route
from cuecard.domain.question import Question
from cuecard.latency.analysis.latency_model import Fit, plainest
from cuecard.latency.simulate.simulation import LEAST_TEXT, RequestSize, Way, outcomes
from cuecard.models import prompt
from cuecard.report.page import formatting
from cuecard.strategies.policy import Schedule

LENGTHS = (32, 128, 512)
CHARACTERS = 4
"""Of a token, about."""
PIXELS = 32 * 32
"""Of a visual token, where the profile does not tell: patches of 16 by 16, two by two of them merged."""


def estimate(
    path: Path,
    question: Question,
    roles: Mapping[str, Any],
    schedule: Schedule | None,
    budget: int | None,
    as_json: bool = False,
) -> None:
    """Print seconds of strategies by tokens of reasoning: a budget, or a few lengths. Raises BadInput."""
    fits, names = fits_of(path), {role: _name(given) for role, given in roles.items()}
    chosen = {role: plainest(fits, names[role]) for role in ("small", "large")}
    workload = _workload(question, chosen["small"])
    lengths = (budget,) if budget is not None else LENGTHS
    profiles = {role: fit.profile for role, fit in chosen.items()}
    rows = _ways(schedule or _usual(roles))
    ways = [replace(way, reasoning=length) for _, way in rows for length in lengths]
    took = iter(outcome.total_s for outcome in outcomes(profiles, workload, ways))
    found = {name: {length: next(took) for length in lengths} for name, _ in rows}
    notes = [line for fit in chosen.values() for line in _beyond(fit, workload)]
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
        console.print(Text(line, style="dim"))


def _usual(roles: Mapping[str, Any]) -> Schedule:
    """Models in this process share its cores, or its device; a profile's model need not be there at all."""
    served = any(_name_of(given).startswith(("http://", "https://")) for given in roles.values())
    return Schedule.OVERLAP if served else Schedule.THRIFTY


def _ways(schedule: Schedule) -> list[tuple[str, Way]]:
    return [
        *((name, Way(name)) for name in ("short:small", "short:large", "reason:small", "reason:large")),
        (f"transfer, {schedule}", Way("transfer", schedule)),
        (f"mutual, {schedule}, accepted at once", Way("mutual", schedule, route=Route.AGREED)),
        (f"mutual, {schedule}, not accepted", Way("mutual", schedule)),
    ]


def _name_of(given: Any) -> str:
    return str(given["model"] if isinstance(given, Mapping) else given)


def _name(given: Any) -> str:
    """As profiles call it: of a server what follows the #, else the last part."""
    text = _name_of(given)
    return text.rpartition("#")[2].rstrip("/").rpartition("/")[2]


def _workload(question: Question, fit: Fit) -> RequestSize:
    """The question in tokens, estimated from characters and pixels."""
    visual = sum(_visual(image.data, fit.pixels_per_visual_token or PIXELS) for image in question.images)
    turns = prompt.short(question, prompt.TAGS).turns
    text = math.ceil(sum(len(turn.text) for turn in turns) / CHARACTERS)
    return RequestSize(visual, visual + max(text, LEAST_TEXT))


def _visual(data: bytes, pixels: float) -> int:
    with Pictures.open(io.BytesIO(data)) as picture:
        return max(1, round(picture.width * picture.height / pixels))


def _beyond(fit: Fit, workload: RequestSize) -> list[str]:
    """Where the question lies outside of what was measured."""
    wanted = {"visual_tokens": workload.visual, "prompt_tokens": workload.prompt}
    return [
        f"extrapolated: {fit.model} was measured with {low} to {high} {name.replace('_', ' ')}"
        for name, (low, high) in fit.ranges.items()
        if not low <= wanted.get(name, low) <= high
    ]
