"""`cuecard rescore`: the stored replies of a run, scored again without asking a model."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cuecard import disk
from cuecard.evals.analysis.summary import summary
from cuecard.evals.scoring.rescore import Changed, Rescored, rescored
from cuecard.evals.storage.database import Store
from cuecard.evals.study import folder

MOST_SHOWN = 20


def rescore(
    run: Annotated[Path, typer.Argument(help="The directory of a run.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with every answer.")] = False,
) -> None:
    """Score stored replies with this version's extractors and scorers, and say which questions change.

    No model is called; routes, calls and seconds stay as they are.
    """
    config = folder.read(run)["config"]
    with disk.locked(run):
        store = Store(run / "run.sqlite")
        try:
            result, rows = rescored(store)
            if not dry_run:
                store.replace(rows)
                about = summary(config, store)
                disk.save(run / "summary.json", about)
        finally:
            store.close()
    typer.echo(json.dumps(asdict(result), indent=2, ensure_ascii=False)) if as_json else _show(result, dry_run)


def _show(result: Rescored, dry_run: bool) -> None:
    console = Console(highlight=False)
    before = ", ".join(f"{version} {count:,}" for version, count in result.earlier.items())
    console.print(f"{result.answers:,} answers, scored by {before or 'nothing'}; this is {result.version}")
    if not result.changed:
        console.print("no score changes")
        return
    questions = len({(each.task, each.id) for each in result.changed})
    console.print(f"{len(result.changed):,} answers to {questions:,} questions have another score")
    console.print(_by_arm(result.changed))
    shown = Table("task", "question", "arm", Column("reply", overflow="fold"), "taken", "score", box=None)
    for each in result.changed[:MOST_SHOWN]:
        taken, score = (" → ".join(map(_cell, pair)) for pair in (each.answers, each.scores))
        reply = each.reply if len(each.reply) <= 80 else "…" + each.reply[-79:]
        shown.add_row(*map(Text, (each.task, each.id, each.arm, reply, taken, score)))
    console.print(shown)
    if (more := len(result.changed) - MOST_SHOWN) > 0:
        console.print(f"and {more:,} more: --json has all of them", style="dim")
    if dry_run:
        console.print("nothing is changed: without --dry-run it is", style="dim")


def _by_arm(changed: tuple[Changed, ...]) -> Table:
    better, worse = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for each in changed:
        old, new = (0.0 if score is None else score for score in each.scores)
        better[each.task, each.arm] += new > old
        worse[each.task, each.arm] += new < old
    table = Table("task", "arm", "more right", "less right", "by another extractor", box=None)
    for key in better:
        of_arm = [each for each in changed if (each.task, each.arm) == key]
        other = sum(each.scores[0] == each.scores[1] for each in of_arm)
        table.add_row(*map(Text, key), f"{better[key]:,}", f"{worse[key]:,}", f"{other:,}")
    return table


def _cell(value: object) -> str:
    return "none" if value is None else str(value)
