"""`cuecard report`: the page of a run of any kind. `cuecard attention`: the attention of answers to their reasoning."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column
from rich.text import Text

from cuecard import disk
from cuecard.cli import make_console
from cuecard.cli.evals.study import Prices
from cuecard.cli.evals.tasks import open_named
from cuecard.cli.fit import report_profile
from cuecard.cli.options import closing_models, parts, plain_table, progress_bar, show_files, telling_what_is_kept
from cuecard.domain.errors import BadInput, required
from cuecard.evals import run_folder
from cuecard.evals.analysis import examples
from cuecard.evals.analysis.comparisons import MARGIN
from cuecard.evals.analysis.ledger import Price, by_model, watts
from cuecard.evals.analysis.results import RunResults, TaskResults, run_results
from cuecard.evals.analysis.summary import summary as summary_of
from cuecard.evals.interop import reasonings_digest, recorded_reasonings
from cuecard.evals.item import Item, Task
from cuecard.evals.requests import model_revision
from cuecard.evals.run_folder import unfinished
from cuecard.evals.runner import chosen
from cuecard.evals.scorers import scores
from cuecard.latency import readings
from cuecard.models import spec
from cuecard.models.base import Limits, Model
from cuecard.report.arm_table import ArmTable
from cuecard.report.formatting import evaluation_facts, machine

Maybe = typer.Option


@telling_what_is_kept(lambda: "the run is as it was; its report is not whole, the same command writes it again")
def report(
    run: Annotated[Path, typer.Argument(help="The directory of a run of `cuecard eval` or `cuecard profile`.")],
    against: Annotated[str | None, Maybe(help="The baseline. Default: reason:large, where the run has it.")] = None,
    out: Annotated[Path | None, Maybe(help="The page; figures/ and tables/ are written beside it.")] = None,
    margin: Annotated[
        float, Maybe(help="Margin of non-inferiority: an arm that loses less is not worse; 0.01 is one point.")
    ] = MARGIN,
    price: Prices = None,
    power: Annotated[
        list[str] | None, Maybe("--watts", help="MODEL=WATTS while it works, for an estimate of energy.")
    ] = None,
    questions: Annotated[int, Maybe(help="Most questions of a task that the report shows one by one.")] = 40,
    as_json: Annotated[bool, Maybe("--json", help="Print the findings as one JSON object.")] = False,
) -> None:
    """Write a page with figures and tables of a run: the results, and how certain they are."""
    if questions < 0:
        raise BadInput("--questions cannot be less than 0")
    if _is_attention(run):
        _report_attention(run, out, questions, as_json)
        return
    if readings.is_profile(run):
        report_profile(run, out, as_json)
        return
    drawn = required("cuecard.report.evaluation.report", "a report")
    prices, powers = by_model("--price", price or (), Price.parse), by_model("--watts", power or (), watts)
    about, store = run_folder.opened(run)
    config = about["config"]
    with closing(store):
        found = run_results(config, store, against, margin, prices, powers)
        if not any(task.arms for task in found.tasks):
            raise BadInput(f"{run} has no answers yet", "let it run first")
        summary = summary_of(config, store)
        known = examples.all_examples(config, store)
        requests = [examples.request(task, found.baseline, known[task.task]) for task in found.tasks]
        lacking = unfinished(config, store)
        shown = drawn.Evaluation(
            run.resolve().name,
            found,
            summary,
            known,
            [each for each in requests if each is not None],
            evaluation_facts(about),
            questions,
            lacking,
            run,
        )
        page = out or run / "report.html"
        written = drawn.report(shown, store).save(page)
    disk.save(page.parent / "summary.json", summary)
    findings = {**found.as_object(), "unfinished": lacking}
    disk.save(page.parent / "findings.json", findings)
    if as_json:
        typer.echo(json.dumps(findings, indent=2, ensure_ascii=False))
    else:
        warnings = (lacking, drawn.sentences.stale(summary["scorer"]))
        _show(found, drawn, written, [each for each in warnings if each])


def _show(found: RunResults, drawn: Any, written: list[Path], warnings: list[str]) -> None:
    console = make_console()
    for warning in warnings:
        console.print(Text(warning, style="yellow"))
    for task in (task for task in found.tasks if task.verdict is not None):
        console.print(Text(f"{drawn.sentences.pays(task)}\n", style="bold"))
    for task in found.tasks:
        console.print(_table(task, drawn))
        for line in drawn.sentences.summary(task, found):
            console.print(Text(f"· {line}"))
        console.print()
    show_files(console, written)


def _table(task: TaskResults, drawn: Any) -> ArmTable:
    rows = []
    for arm in task.plain:
        each, sure = task.difference(arm.arm), arm.accuracy
        cells = [
            drawn.sentences.right(arm),
            "" if sure is None else drawn.sentences.between(sure),
            "" if each is None else f"{100 * each.accuracy.difference.estimate:+.1f}",
            "" if each is None else f"{each.p_adjusted:.2g}",
            "not known" if arm.latency is None else f"{drawn.sentences.seconds(arm.latency.estimate)} {arm.kind}",
        ]
        rows.append((arm.arm, cells))
    return ArmTable(("right", "95%", "against", "p", "latency"), rows, task.task)


# --- attention --------------------------------------------------------------------------------------------------------

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
        _show_attention(found, page, [*map(str, written[: len(wanted)]), f"`cuecard report {out}` makes a page of it"])


async def _run(
    room: Any,
    asked: Iterator[Any],
    models: Mapping[str, Model],
    folder: Any,
    settings: Any,
    console: Console,
    total: int | None,
) -> None:
    async with closing_models(models.values()):
        for model in models.values():
            room.in_process(model)
        with progress_bar(console, transient=True) as bar:
            line = bar.add_task("questions", total=total)
            await room.run(asked, models, folder, settings, lambda done: bar.update(line, completed=done))


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


def _is_attention(path: Path) -> bool:
    """Whether a directory holds a run of `cuecard attention`."""
    try:
        return bool(json.loads((path / run_folder.ABOUT).read_text(encoding="utf-8")).get("kind") == "attention")
    except (OSError, ValueError, AttributeError):
        return False


def _report_attention(run: Path, out: Path | None, questions: int, as_json: bool) -> None:
    """Write the page of an attention run, with figures and tables beside it."""
    page = required("cuecard.report.attention_report", "a report")
    shown = page.opened(run, questions)
    written = page.save(shown, out or run / "report.html")
    disk.save(written[0].parent / "findings.json", shown.results.as_object())
    if as_json:
        typer.echo(json.dumps(shown.results.as_object(), indent=2, ensure_ascii=False))
    else:
        _show_attention(shown.results, page, [f"report:  {written[0]}"])


def _show_attention(results: Any, page: Any, ends: Sequence[str]) -> None:
    console = make_console()
    rows = page.whole_table(list(results.conditions.values()))
    first, *heads = list(rows[0])[:6]
    # figures are never cut: the names in the first column wrap instead
    widths = [max(len(word) for row in rows for word in (row[head] or "–").split()) for head in heads]
    columns = (Column(head, min_width=width) for head, width in zip(heads, widths, strict=True))
    console.print(plain_table((first, *columns), ([row[head] for head in (first, *heads)] for row in rows)))
    console.print(Text(f"· {page.lead(results)}"))
    for end in ends:
        console.print(Text(end, style="dim"), soft_wrap=True)
