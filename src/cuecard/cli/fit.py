"""`cuecard fit`: a latency model of every profiled model. `cuecard breakeven`: break-even points of pairs.

Estimates without loading or calling a model: `cuecard ask --estimate`, the latency of each strategy for a question, by
fits; `cuecard plan`, latency and cost for pairs of models, from fits and public figures.
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
from rich.table import Column, Table
from rich.text import Text

from cuecard.cli import make_console
from cuecard.cli.options import plain_table, show_files, whole_numbers
from cuecard.domain.errors import BadInput, required
from cuecard.domain.outcome import LatencyKind, Route
from cuecard.domain.question import Question
from cuecard.latency import breakeven as points
from cuecard.latency import readings
from cuecard.latency.latency_model import FOLDER, Fit, plainest, read_all, write
from cuecard.latency.roofline import devices, roofs
from cuecard.latency.simulation import LEAST_TEXT, Chances, PairPlan, RequestSize, Way, outcomes, plans
from cuecard.models import prompt
from cuecard.report import formatting
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
    fits = required("cuecard.latency.fit", "fitting").fits(run, draws, seed)
    written = write(fits, run / FOLDER)
    if as_json:
        errors = {path.stem: asdict(each)["held_out"] for path, each in zip(written, fits, strict=True)}
        typer.echo(json.dumps(errors, indent=2, ensure_ascii=False))
        return
    console = make_console()
    console.print(_errors(fits))
    for path in written:
        console.print(Text(f"estimated: {path}", style="dim"))


def _errors(fits: list[Fit]) -> Table:
    """Errors on held-out points, one row per component."""
    rows = []
    for each in fits:
        for name, error in each.held_out.items():
            described = each.described if name == next(iter(each.held_out)) else ""
            rows.append((described, name, str(error.points), f"{100 * error.median:.1f}%", f"{100 * error.p90:.1f}%"))
    heads = (Column("fit", overflow="fold"), "of", "points", "median error", "90% below")
    return plain_table(heads, rows, "held-out points")


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
    console = make_console()
    for each in found:
        console.print(_crossings(each))
        for line in each.extrapolated:
            console.print(Text(f"extrapolated: {line}", style="dim"))
    console.print(Text(f"estimated: {path}", style="dim"))


def fits_of(run: Path) -> list[Fit]:
    """The fits of a directory, made if there are none yet. Raises BadInput."""
    if run.is_dir() and readings.is_profile(run) and not any((run / FOLDER).glob("*.json")):
        write(required("cuecard.latency.fit", "fitting").fits(run), run / FOLDER)
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
    work = found.workload
    title = (
        f"{found.small} against {found.large}: tokens at which the large model by itself is as fast"
        f" ({work.visual} visual of {work.prompt} prompt tokens, answers of {work.answer}; estimated, 95%)"
    )
    rows = formatting.break_even(found)
    return plain_table(rows[0], (row.values() for row in rows), title)


# --- cuecard estimate -------------------------------------------------------------------------------------------------

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
    fits = fits_of(path)
    specs = {role: str(given["model"] if isinstance(given, Mapping) else given) for role, given in roles.items()}
    # profiles name a server's model by the part after the #, other models by the last part
    names = {role: text.rpartition("#")[2].rstrip("/").rpartition("/")[2] for role, text in specs.items()}
    chosen = {role: plainest(fits, names[role]) for role in ("small", "large")}
    workload = _workload(question, chosen["small"].pixels_per_visual_token or PIXELS)
    lengths = (budget,) if budget is not None else LENGTHS
    profiles = {role: fit.profile for role, fit in chosen.items()}
    # models in this process share its cores or its device; a profile's model need not be available at all
    served = any(text.startswith(("http://", "https://")) for text in specs.values())
    rows = _ways(schedule or (Schedule.OVERLAP if served else Schedule.THRIFTY))
    ways = [replace(way, reasoning=length) for _, way in rows for length in lengths]
    took = iter(outcome.total_s for outcome in outcomes(profiles, workload, ways))
    found = {name: {length: next(took) for length in lengths} for name, _ in rows}
    wanted = {
        "visual_tokens": (workload.visual,),
        "prompt_tokens": (workload.prompt, *(workload.prompt + length for length in lengths)),  # with the card
        "output_tokens": (workload.answer, *(length + workload.answer for length in lengths)),
    }
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
    heads = ("strategy", *(f"{length:,} tokens of reasoning" for length in lengths))
    console = make_console()
    console.print(
        plain_table(heads, ((name, *map(formatting.duration, of.values())) for name, of in found.items()), title)
    )
    for line in notes:
        console.print(Text(line, style="yellow"))


def _ways(schedule: Schedule) -> list[tuple[str, Way]]:
    return [
        *((name, Way(name)) for name in ("short:small", "short:large", "reason:small", "reason:large")),
        (f"transfer, {schedule}", Way("transfer", schedule)),
        (f"mutual, {schedule}, accepted at once", Way("mutual", schedule, route=Route.AGREED)),
        (f"mutual, {schedule}, not accepted", Way("mutual", schedule)),
    ]


def _workload(question: Question, pixels: float) -> RequestSize:
    """The size of the question in tokens, estimated from characters and pixels; `pixels`: per visual token."""
    visual = 0
    for image in question.images:
        with Pictures.open(io.BytesIO(image.data)) as picture:
            visual += max(1, round(picture.width * picture.height / pixels))
    turns = prompt.short(question, prompt.TAGS).turns
    text = math.ceil(sum(len(turn.text) for turn in turns) / CHARACTERS)
    return RequestSize(visual, visual + max(text, LEAST_TEXT))


# --- the page of a profile --------------------------------------------------------------------------------------------


def report_profile(run: Path, out: Path | None, as_json: bool) -> None:
    """Write the page of a profile; missing fits and break-even points are made with default settings.

    Raises BadInput, MissingExtra.
    """
    drawn = required("cuecard.report.latency_report", "a report")
    about = readings.about(run)
    served: list[Any] = []
    if about["config"].get("source") == "server":
        from cuecard.latency import server_requests  # imports HTTP

        served = server_requests.served(run)
    fits = _fits(run, may_lack=bool(served))
    shown = drawn.Profiled(
        run.resolve().name,
        readings.points(run),
        [plainest(fits, model) for model in dict.fromkeys(fit.model for fit in fits)],
        _pairs(run, fits) if fits else [],
        roofs(run),
        devices(about.get("probe") or {}),
        _facts(about),
        served,
    )
    made = drawn.report(shown)
    written = made.save(out or run / "report.html")
    if as_json:
        typer.echo(json.dumps({name: list(rows) for name, rows in made.tables.items()}, indent=2, default=str))
        return
    console = make_console()
    for line in drawn.summary(shown):
        console.print(Text(f"· {line}"))
    show_files(console, written)


def _fits(run: Path, *, may_lack: bool) -> list[Fit]:
    """The fits of a profile; none if `may_lack` and they cannot be made, as with one output length. Raises BadInput."""
    try:
        return fits_of(run)
    except BadInput:
        if not may_lack:
            raise
        return []


def _pairs(run: Path, fits: Sequence[Fit]) -> list[points.PairBreakEven]:
    """Break-even points from the directory, else new ones of every model with the last; none for a single model."""
    path = run / points.FILE
    if not path.exists():
        try:
            both = pairs_of(fits, None, None)
        except BadInput:
            return []
        found = [points.pair(*pair, points.query(pair)) for pair in both]
        points.write(found, path)
    return points.read(path)


def _facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts about a profile, for the footer of its page."""
    config = about["config"]
    lines = [("models", ", ".join(config.get("models") or ())), ("timed", str(config.get("source") or "not known"))]
    for name, value in (config.get("grid") or {}).items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        lines.append((f"grid, {name.replace('_', ' ')}", text))
    return formatting.run_facts(about, lines)


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
    console = make_console()
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
    heads = ("strategy", "schedule", "mean latency", "tokens small", "tokens large", f"cost of {questions:,}")
    rows = (
        (
            line.strategy,
            str(line.schedule or ""),
            formatting.duration(line.mean_s),
            *(_tokens(line.prompt_tokens, line.completion_tokens, role) for role in ("small", "large")),
            "not known" if line.cost is None else f"{line.cost * questions:,.3g}",
        )
        for line in found.lines
    )
    return plain_table(heads, rows, title)


def _tokens(prompt: Mapping[str, float], written: Mapping[str, float], role: str) -> str:
    """Prompt and generated tokens per question."""
    return f"{prompt[role]:,.0f} + {written[role]:,.0f}" if prompt[role] else "–"
