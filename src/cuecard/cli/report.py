"""`cuecard report`: a run, finished or not, as a page with figures and tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from cuecard import disk
from cuecard.cli import attention as attention_report
from cuecard.cli.console import make_console
from cuecard.cli.evals.study import Prices
from cuecard.cli.fit import fits_of, pairs_of
from cuecard.cli.options import show_files, telling_what_is_kept
from cuecard.domain.errors import BadInput, required
from cuecard.evals import run_folder
from cuecard.evals.analysis import examples
from cuecard.evals.analysis.ledger import Price, by_model, watts
from cuecard.evals.analysis.results import RunResults, TaskResults, run_results
from cuecard.evals.analysis.summary import summary as summary_of
from cuecard.evals.analysis.verdict import MARGIN
from cuecard.evals.judging import Judgements
from cuecard.latency import breakeven, readings
from cuecard.latency.latency_model import Fit, plainest
from cuecard.latency.roofline import devices, roofs
from cuecard.report.arm_table import ArmTable
from cuecard.report.formatting import evaluation_facts, run_facts

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
    if attention_report.is_run(run):
        attention_report.report(run, out, questions, as_json)
        return
    if readings.is_profile(run):
        latency_report(run, out, as_json)
        return
    drawn = required("cuecard.report.evaluation.report", "a report")
    prices, powers = by_model("--price", price or (), Price.parse), by_model("--watts", power or (), watts)
    about, store = run_folder.opened(run)
    config = about["config"]
    try:
        found = run_results(config, store, against, margin, prices, powers)
        if not any(task.arms for task in found.tasks):
            raise BadInput(f"{run} has no answers yet", "let it run first")
        summary = summary_of(config, store)
        known = examples.all_examples(config, store)
        requests = [examples.request(task, found.baseline, known[task.task], store) for task in found.tasks]
        shown = drawn.evaluation(
            run.resolve().name,
            (found, summary),
            known,
            store,
            evaluation_facts(about),
            questions,
            filter(None, requests),
            Judgements.of_run(run),
        )
        page = out or run / "report.html"
        written = drawn.report(shown).save(page)
    finally:
        store.close()
    disk.save(page.parent / "summary.json", summary)
    findings = {**found.as_object(), "unfinished": shown.unfinished}
    disk.save(page.parent / "findings.json", findings)
    if as_json:
        typer.echo(json.dumps(findings, indent=2, ensure_ascii=False))
    else:
        warnings = (shown.unfinished, drawn.sentences.stale(summary["scorer"]))
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


# --- latency profiles -------------------------------------------------------------------------------------------------


def latency_report(run: Path, out: Path | None, as_json: bool) -> None:
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
        facts(about),
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
