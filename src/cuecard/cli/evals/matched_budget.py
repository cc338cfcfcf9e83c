"""`cuecard study`: a file, or a study with a command of its own; `matched-budget` compares schemes at equal budgets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from cuecard import disk
from cuecard.cli.evals import run_options
from cuecard.cli.evals.study import How, done, show_estimate, study
from cuecard.cli.options import parts, takes_policy_options, whole_numbers
from cuecard.domain.errors import BadInput, required
from cuecard.evals import run_folder
from cuecard.evals import study as file_studies
from cuecard.evals.analysis.ledger import Price, by_model
from cuecard.evals.budgets.matched import BUDGETS, Comparison, MatchedBudgets, matched_budgets
from cuecard.evals.budgets.schemes import AGAINST, CUTS, arms_of, chosen
from cuecard.report.arm_table import ArmTable
from cuecard.report.page.machine import evaluation_facts
from cuecard.strategies.policy import Surface

FILE = "file"
"""The command that a file name stands for."""
Maybe = typer.Option


class StudyCommands(TyperGroup):
    """`cuecard study FILE` is `cuecard study file FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = [FILE, *args]
        return super().parse_args(ctx, args)


studies = typer.Typer(
    cls=StudyCommands,
    add_completion=False,
    no_args_is_help=True,
    help="Run or resume a study, then summarise it. `cuecard study FILE` runs the study that a file describes.",
)
studies.command(FILE)(study)


@studies.command("matched-budget")
@takes_policy_options(
    Surface.STUDY,
    {
        "budget": "Most tokens of reasoning, where a setting does not cut it.",
        "timeout_s": "Most seconds a call may take, waiting at its server included.",
    },
    timeout_s=file_studies.CALL_S,
)
def matched_budget(
    tasks: run_options.TASKS,
    *,
    out: run_options.OUT,
    small: run_options.SMALL = "demo-small",
    large: run_options.LARGE = "demo-large",
    limit: run_options.LIMIT = None,
    sample: run_options.SAMPLE = None,
    schemes: Annotated[str, Maybe(help="Schemes, separated by commas. Default: all.")] = "",
    cuts: Annotated[str, Maybe(help="Budgets in tokens at which reasoning is cut.")] = ",".join(map(str, CUTS)),
    budgets: Annotated[str, Maybe(help="Budgets as shares of what reason:large costs.")] = ",".join(
        f"{each:g}" for each in BUDGETS
    ),
    against: Annotated[str, Maybe(help="The scheme that the others are compared with.")] = AGAINST,
    price: Annotated[
        list[str] | None, Maybe(help="MODEL=PROMPT,COMPLETION[,CACHED] per million tokens (one for each model).")
    ] = None,
    live: run_options.LIVE = False,
    at_once: run_options.AT_ONCE = None,
    options: Mapping[str, Any],
    retry_errors: run_options.RETRY_ERRORS = False,
    dry_run: run_options.DRY_RUN = False,
    probe: run_options.PROBE = True,
    as_json: run_options.AS_JSON = False,
) -> None:
    """Compare cooperation schemes at equal tokens, equal price and equal time; a stopped comparison resumes."""
    compared = chosen(parts(schemes), whole_numbers("--cuts", cuts, 1))
    prices = by_model("--price", price or (), Price.parse)
    how = Comparison(compared, against, shares(budgets), prices)
    drawn = required("cuecard.report.budgets", "a report")
    wanted = file_studies.Study(
        models={"small": small, "large": large},
        tasks=tasks,
        arms=arms_of(compared),
        out=out,
        limit=limit,
        sample=sample,
        at_once=at_once,
        live=live,
        options=options,
    )
    summary = done(wanted, How(retry_errors, dry_run, as_json, None, probe))
    if dry_run:
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False)) if as_json else show_estimate(summary)
        return
    about, store = run_folder.opened(out)
    with closing(store):
        found = matched_budgets(about["config"], store, how)
    disk.save(out / "matched-budget.json", found.as_object())
    written = drawn.report(out.resolve().name, found, compared, evaluation_facts(about)).save(
        out / "matched-budget.html"
    )
    if as_json:
        typer.echo(json.dumps(found.as_object(), indent=2, ensure_ascii=False))
    else:
        _show(found, drawn.sentences, written)


def shares(text: str) -> tuple[float, ...]:
    """`0.5,1` -> (0.5, 1.0). Raises BadInput."""
    try:
        return tuple(dict.fromkeys(float(part) for part in parts(text)))
    except ValueError:
        raise BadInput(f"--budgets {text!r} are no numbers", "for instance --budgets 0.25,0.5,1") from None


def _show(found: MatchedBudgets, sentences: Any, written: list[Path]) -> None:
    console = Console(highlight=False)
    for task in found.tasks:
        for measure in task.measures:
            rows, title = sentences.accuracies(task, measure), sentences.title(task, measure)
            console.print(ArmTable(sentences.heads(measure), rows, title))
            console.print()
        for line in sentences.summary(task, found.against):
            console.print(Text(f"· {line}"))
        console.print()
    console.print(Text(sentences.LEGEND.format(against=found.against), style="dim"))
    console.print(Text(f"report:  {written[0]}"))
    console.print(Text(f"tables:  {', '.join(path.name for path in written[1:])}", style="dim"))
