"""`cuecard report`: a run as a page with figures and tables, while it goes on or when it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cuecard import disk
from cuecard.cli import attention_report
from cuecard.cli.latency import report as latency_report
from cuecard.domain.errors import BadInput, MissingExtra
from cuecard.evals.analysis import examples
from cuecard.evals.analysis.ledger import Price, watts
from cuecard.evals.analysis.results import MARGIN, RunResults, TaskResults, run_results
from cuecard.evals.analysis.summary import summary as summary_of
from cuecard.evals.storage.database import Record, Store
from cuecard.evals.study import folder
from cuecard.latency import readings

Maybe = typer.Option


def report(
    run: Annotated[Path, typer.Argument(help="The directory of a run of `cuecard eval` or `cuecard profile`.")],
    against: Annotated[str | None, Maybe(help="The baseline; by itself reason:large, where the run has it.")] = None,
    out: Annotated[Path | None, Maybe(help="The page; figures/ and tables/ come beside it.")] = None,
    margin: Annotated[float, Maybe(help="An arm that loses less is not worse: 0.01 is one point.")] = MARGIN,
    price: Annotated[
        list[str] | None, Maybe(help="MODEL=PROMPT,COMPLETION[,CACHED] per million tokens (one for each model).")
    ] = None,
    power: Annotated[
        list[str] | None, Maybe("--watts", help="MODEL=WATTS while it works, for an estimate of energy.")
    ] = None,
    questions: Annotated[int, Maybe(help="Most questions of a task that are shown one by one.")] = 40,
    as_json: Annotated[bool, Maybe("--json", help="Print the findings as one JSON object.")] = False,
) -> None:
    """A page with figures and tables of a run: what it shows, and how sure that is."""
    if questions < 0:
        raise BadInput("--questions cannot be less than 0")
    if attention_report.is_run(run):
        attention_report.report(run, out, questions, as_json)
        return
    if readings.is_profile(run):
        latency_report.report(run, out, as_json)
        return
    drawn = _room()
    about, store = folder.opened(run)
    config = about["config"]
    try:
        found = run_results(
            config, store, against, margin, dict(map(Price.parse, price or ())), dict(map(watts, power or ()))
        )
        if not any(task.arms for task in found.tasks):
            raise BadInput(f"{run} has no answers yet", "let it run first")
        summary = summary_of(config, store)
        shown = _evaluation(drawn, run, about, store, found, summary, questions)
        page = out or run / "report.html"
        written = drawn.report(shown).save(page)
    finally:
        store.close()
    disk.save(page.parent / "summary.json", summary)
    disk.save(page.parent / "findings.json", found.as_object())
    if as_json:
        typer.echo(json.dumps(found.as_object(), indent=2, ensure_ascii=False))
    else:
        _show(found, drawn, written, drawn.sentences.stale(summary["scorer"]))


def _evaluation(
    drawn: Any, run: Path, about: Record, store: Store, found: RunResults, summary: Record, questions: int
) -> Any:
    """What the page shows: at most `questions` of each task one by one."""
    known = examples.all_examples(about["config"], store)
    requests = [examples.request(task, found.baseline, known[task.task], store) for task in found.tasks]
    return drawn.Evaluation(
        run.resolve().name,
        found,
        summary,
        [request for request in requests if request is not None],
        examples.galleries(found, known),
        {
            task.task: examples.most_telling(known[task.task], [arm.arm for arm in task.plain], questions)
            for task in found.tasks
        },
        examples.rows(store),
        store.image,
        facts(about),
    )


def _room() -> Any:
    """What draws. Raises MissingExtra."""
    try:
        from cuecard.report.evaluation import report as evaluation_report
    except ImportError as error:
        raise MissingExtra(f"a report needs {error.name}", "pip install '.[evals]' in a checkout") from error
    return evaluation_report


def facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of a run, for its foot."""
    config, machine = about["config"], about.get("machine") or {}
    lines = [("command", " ".join(["cuecard", *about["argv"]]))] if about.get("argv") else []
    lines += [
        (role, f"{model['name']}, revision {model['revision']}") for role, model in (config.get("models") or {}).items()
    ]
    lines += [("task", f"{task['name']}, revision {task['revision']}") for task in config["tasks"]]
    chosen = [f"{name} {config[name]}" for name in ("limit", "sample") if config.get(name) is not None]
    lines += [("questions", ", ".join(chosen))] if chosen else []
    return lines + [(name.replace("_", " "), str(value)) for name, value in machine.items() if value is not None]


def _show(found: RunResults, drawn: Any, written: list[Path], stale: str | None) -> None:
    console = Console(highlight=False)
    if stale:
        console.print(Text(stale, style="yellow"))
    for task in found.tasks:
        console.print(_table(task, drawn))
        for line in drawn.sentences.summary(task, found):
            console.print(Text(f"· {line}"))
        console.print()
    for path in written[:1]:
        console.print(Text(f"report:  {path}"))
    console.print(Text(f"tables:  {', '.join(path.name for path in written[1:])}", style="dim"))


def _table(task: TaskResults, drawn: Any) -> Table:
    shown = Table(Column("arm", overflow="fold"), "right", "95%", "against", "p", "latency", box=None, title=task.task)
    for arm in task.plain:
        each, sure = task.difference(arm.arm), arm.accuracy
        bounds = "" if sure is None else drawn.sentences.between(sure)
        shown.add_row(
            Text(arm.arm),
            drawn.sentences.right(arm),
            bounds,
            "" if each is None else f"{100 * each.accuracy.difference.estimate:+.1f}",
            "" if each is None else f"{each.p_adjusted:.2g}",
            "not known" if arm.latency is None else f"{arm.latency.estimate:.3f} s {arm.kind}",
        )
    return shown
