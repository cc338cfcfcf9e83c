"""`cuecard attention`: the attention of answers to their reasoning, resumable; and the page of a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cuecard import disk
from cuecard.cli.console import make_console
from cuecard.cli.evals.tasks import open_named
from cuecard.cli.options import parts, progress_bar, telling_what_is_kept
from cuecard.domain.errors import BadInput, required
from cuecard.evals import run_folder
from cuecard.evals.interop.files import reasonings_digest, recorded_reasonings
from cuecard.evals.item import Item, Task
from cuecard.evals.requests import model_revision
from cuecard.evals.runner.run import chosen
from cuecard.evals.scorers import scores
from cuecard.models import spec
from cuecard.models.base import Limits, Model
from cuecard.report.formatting import machine

Maybe = typer.Option
FIGURES = ("3", "4", "5")


def attention(
    task: Annotated[str, Maybe(help="A task: a name that `cuecard tasks` lists.")],
    model: Annotated[str, Maybe(help="The model that answers: demo-large, hf:ORG/NAME, a directory, a .gguf file.")],
    out: Annotated[Path, Maybe(help="The run's directory; an existing run is resumed.")],
    small: Annotated[
        str | None, Maybe(help="A model whose reasoning is the card; its own reasoning is measured as well.")
    ] = None,
    reasonings: Annotated[
        Path | None,
        Maybe(
            help="The model's recorded reasonings: JSONL with `id` and `reasoning`, or the directory of a"
            " `cuecard eval` with the arm `reason:large`."
        ),
    ] = None,
    limit: Annotated[int | None, Maybe(min=1, help="Most questions.")] = None,
    sample: Annotated[
        int | None, Maybe(help="Draw questions at random with this seed, instead of taking the first ones.")
    ] = None,
    figures: Annotated[str, Maybe(help="Which of the paper's figures 3, 4 and 5 to draw.")] = "3,4,5",
    delta: Annotated[float, Maybe(help="The share of the reasoning's attention that its key tokens carry.")] = 0.8,
    budget: Annotated[int, Maybe(min=1, help="Most tokens of reasoning.")] = 2048,
    browse: Annotated[
        int, Maybe(min=0, help="Questions of which the attention to every token is kept, for the report.")
    ] = 40,
    raw: Annotated[
        bool, Maybe("--raw", help="Keep whole attention rows as well: raw/*.npz, fp32, one file for each question.")
    ] = False,
    as_json: Annotated[bool, Maybe("--json", help="Print the findings as one JSON object.")] = False,
) -> None:
    """Measure how answers attend to reasoning: total mass, sparsity, key tokens, tightness of the bound."""
    wanted = _figures(figures)
    room = required("cuecard.attention.api", "attention", "pip install '.[local,evals]' in a checkout")
    disk.check_folder(out, run_folder.ABOUT)
    settings = room.Settings(delta, Limits(reasoning_tokens=budget), browse, raw)
    opened, named = open_named(task), {"large": model, **({} if small is None else {"small": small})}
    recorded = None if reasonings is None else recorded_reasonings(reasonings, opened.name)
    models = spec.load_all(named)
    config = {
        "task": opened.name,
        "data": opened.revision,
        "sample": sample,
        "models": {role: each.name for role, each in models.items()},
        "revisions": {role: model_revision(each) for role, each in named.items()},
        "delta": delta,
        "budget": budget,
        **({} if recorded is None else {"reasonings": reasonings_digest(recorded)}),
    }
    console = make_console(stderr=True)
    with (
        telling_what_is_kept(lambda: f"what is done is kept in {out}, and the same command goes on from there") as stop,
        room.Folder(out, config, {"argv": sys.argv[1:], "machine": machine()}) as folder,
    ):
        asked, count = _asked(room, opened, limit, sample, recorded), _count(limit, opened.count, recorded)
        stop.run(_run(room, asked, models, folder, settings, console, count))
    found = room.findings(out)
    disk.save(out / "findings.json", found.as_object())
    page = required("cuecard.report.attention_report", "a report")
    written = page.save_parts(found, page.figures(found, wanted), out)
    if as_json:
        typer.echo(json.dumps(found.as_object(), indent=2, ensure_ascii=False))
    else:
        _show(found, page, [*map(str, written[: len(wanted)]), f"`cuecard report {out}` makes a page of it"])


async def _run(
    room: Any,
    asked: Iterator[Any],
    models: Mapping[str, Model],
    folder: Any,
    settings: Any,
    console: Console,
    total: int | None,
) -> None:
    try:
        for model in models.values():
            room.in_process(model)
        with progress_bar(console, transient=True) as bar:
            line = bar.add_task("questions", total=total)
            await room.run(asked, models, folder, settings, lambda done: bar.update(line, completed=done))
    finally:
        for model in models.values():
            await model.aclose()


def _figures(text: str) -> list[int]:
    chosen = parts(text) or ("",)
    if wrong := [part for part in chosen if part not in FIGURES]:
        raise BadInput(f"there is no figure {wrong[0]!r} here", "give --figures 3,4,5, or some of them")
    return list(map(int, dict.fromkeys(chosen)))


def _asked(
    room: Any, task: Task, limit: int | None, sample: int | None, recorded: Mapping[str, str] | None
) -> Iterator[Any]:
    """Items as questions of an attention run; with recordings, only those that have one."""
    for item in chosen(task, limit, sample):
        if recorded is None or item.id in recorded:
            golds, thought = "; ".join(item.golds), None if recorded is None else recorded[item.id]
            yield room.Asked(item.id, item.question, item.cluster, item.category, golds, _score_of(item), thought)


def _count(limit: int | None, there: int | None, recorded: Mapping[str, str] | None) -> int | None:
    """Maximum number of questions; None if unknown."""
    return min(filter(None, (limit, there, len(recorded or ()))), default=None)


def _score_of(item: Item) -> Any:
    return lambda answer: scores(answer, item)["ours"]


# --- the page ---------------------------------------------------------------------------------------------------------


def is_run(path: Path) -> bool:
    """Whether a directory holds a run of `cuecard attention`."""
    try:
        return bool(json.loads((path / run_folder.ABOUT).read_text(encoding="utf-8")).get("kind") == "attention")
    except (OSError, ValueError, AttributeError):
        return False


def report(run: Path, out: Path | None, questions: int, as_json: bool) -> None:
    """Write the page of an attention run, with figures and tables beside it."""
    page = required("cuecard.report.attention_report", "a report")
    shown = page.opened(run, questions)
    written = page.save(shown, out or run / "report.html")
    disk.save(written[0].parent / "findings.json", shown.results.as_object())
    if as_json:
        typer.echo(json.dumps(shown.results.as_object(), indent=2, ensure_ascii=False))
    else:
        _show(shown.results, page, [f"report:  {written[0]}"])


def _show(results: Any, page: Any, ends: Sequence[str]) -> None:
    console = make_console()
    rows = page.whole_table(list(results.conditions.values()))
    first, *heads = list(rows[0])[:6]
    # figures are never cut: the names in the first column wrap instead
    widths = [max(len(word) for row in rows for word in (row[head] or "–").split()) for head in heads]
    columns = (Column(head, min_width=width) for head, width in zip(heads, widths, strict=True))
    shown = Table(Column(first), *columns, box=None)
    for row in rows:
        shown.add_row(*(Text(row[head]) for head in (first, *heads)))
    console.print(shown)
    console.print(Text(f"· {page.lead(results)}"))
    for end in ends:
        console.print(Text(end, style="dim"), soft_wrap=True)
