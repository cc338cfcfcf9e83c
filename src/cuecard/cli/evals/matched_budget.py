"""`cuecard study`: a file, or `matched-budget`, which compares cooperation schemes at equal budgets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from cuecard import disk
from cuecard.cli import make_console
from cuecard.cli.evals.study import How, Prices, StudyOptions, done, show_estimate, study, takes_study_options
from cuecard.cli.options import parts, positive_numbers, show_files, whole_numbers
from cuecard.domain.errors import required
from cuecard.evals import run_folder
from cuecard.evals.analysis import matched_budgets as matched
from cuecard.evals.analysis.ledger import Price, by_model
from cuecard.report.arm_table import ArmTable
from cuecard.report.formatting import evaluation_facts

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
@takes_study_options
def matched_budget(
    *,
    given: StudyOptions,
    schemes: Annotated[str, Maybe(help="Schemes, separated by commas. Default: all.")] = "",
    cuts: Annotated[str, Maybe(help="Budgets in tokens at which reasoning is cut.")] = ",".join(map(str, matched.CUTS)),
    budgets: Annotated[str, Maybe(help="Budgets as shares of what reason:large costs.")] = ",".join(
        f"{each:g}" for each in matched.BUDGETS
    ),
    against: Annotated[str, Maybe(help="The scheme that the others are compared with.")] = matched.AGAINST,
    price: Prices = None,
    options: Mapping[str, Any],
    how: How,
) -> None:
    """Compare cooperation schemes at equal tokens, equal price and equal time; a stopped comparison resumes."""
    compared = matched.chosen(parts(schemes), whole_numbers("--cuts", cuts, 1))
    prices = by_model("--price", price or (), Price.parse)
    shares = positive_numbers("--budgets", budgets)
    comparison = matched.Comparison(compared, against, shares, prices)
    drawn = required("cuecard.report.evaluation.budgets", "a report")
    summary = done(given.study(matched.arms_of(compared), options), how)
    if how.dry_run:
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False)) if how.as_json else show_estimate(summary)
        return
    out = given.out
    about, store = run_folder.opened(out)
    with closing(store):
        found = matched.matched_budgets(about["config"], store, comparison)
    disk.save(out / "matched-budget.json", found.as_object())
    written = drawn.report(out.resolve().name, found, compared, evaluation_facts(about)).save(
        out / "matched-budget.html"
    )
    if how.as_json:
        typer.echo(json.dumps(found.as_object(), indent=2, ensure_ascii=False))
    else:
        _show_matched(found, drawn, written)


def _show_matched(found: matched.MatchedBudgets, drawn: Any, written: list[Path]) -> None:
    console = make_console()
    for task in found.tasks:
        for measure in task.measures:
            rows = [(row.pop("scheme"), [*row.values()]) for row in drawn.by_scheme(task, measure, "accuracy")]
            console.print(ArmTable(drawn.heads(measure), rows, drawn.title(task, measure)))
            console.print()
        for line in drawn.summary(task, found.against):
            console.print(Text(f"· {line}"))
        console.print()
    console.print(Text(drawn.LEGEND.format(against=found.against), style="dim"))
    show_files(console, written)
