"""`cuecard unparsed`: replies in which no answer was found, for a look by hand; and a judge that reads them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cuecard.evals import run_folder
from cuecard.evals.analysis import unparsed as listing
from cuecard.evals.analysis.unparsed import Judged, UnparsedReply
from cuecard.evals.database import Store
from cuecard.evals.judge import Judge
from cuecard.evals.requests import is_local, model_revision
from cuecard.evals.scorers import item_of
from cuecard.evals.study import AT_ONCE_SERVED
from cuecard.models import spec

MOST_SHOWN = 20
MOST_CHARACTERS = 160


def unparsed(
    run: Annotated[Path, typer.Argument(help="The directory of a run of `cuecard eval`.")],
    task: Annotated[str | None, typer.Option(help="Only this task of the run.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="A model that reads the replies: demo-large, hf:ORG/NAME, URL#NAME, …")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Judge replies anew that are judged already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list, an object a reply.")] = False,
) -> None:
    """List replies in which no answer was found, for a look by hand; with --judge, what a model reads in them.

    What a judge reads is kept apart, in judged.json: no score, interval or test of the run has it in it.
    """
    _, store = run_folder.opened(run)
    with closing(store):
        known = listing.read(run)
        replies = listing.unparsed(store, known, task=task)
        if judge is not None:
            wanted = [each for each in replies if again or each.judged is None]
            asyncio.run(_judged(run, judge, wanted, store, known))
            replies = listing.unparsed(store, known, task=task)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in replies], indent=2, ensure_ascii=False))
    else:
        _show(replies)


async def _judged(
    run: Path, given: str, replies: Sequence[UnparsedReply], store: Store, known: dict[str, Judged]
) -> None:
    """Judge these replies, and keep what is found: each judgement is in the file when this ends, however it ends."""
    items = {(each["task"], each["id"]): item_of(each) for each in store.items()}
    model = spec.load(given, "judge")
    own = Judge(model, model_revision(given), 1 if is_local(given) else AT_ONCE_SERVED)
    try:
        failures = await own.judge(replies, items, known.__setitem__)
    finally:
        listing.write(run, known)
        await model.aclose()
    if failures:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"{len(failures):,} of {len(replies):,} replies could not be judged: {failures[0]}", markup=False)


def _show(replies: Sequence[UnparsedReply]) -> None:
    console = Console(highlight=False)
    if not replies:
        console.print("an answer was found in every reply")
        return
    judged = any(each.judged for each in replies)
    heads: list[str | Column] = ["task", "question", "arms", Column("reply", overflow="fold"), "right"]
    shown = Table(*heads, *(["judged"] if judged else []), box=None)
    for each in replies[:MOST_SHOWN]:
        long = len(each.reply) > MOST_CHARACTERS
        text = f"…{each.reply[-MOST_CHARACTERS:]}" if long else each.reply or "(empty)"
        cells = [each.task, each.id, ", ".join(each.arms), text, " or ".join(each.golds) or "not known"]
        shown.add_row(*map(Text, [*cells, *([_found(each)] if judged else [])]))
    console.print(shown)
    if (more := len(replies) - MOST_SHOWN) > 0:
        console.print(f"and {more:,} more: --json has all of them", style="dim")
    count = sum(len(each.arms) for each in replies)
    console.print(f"{len(replies):,} replies of {count:,} answers were not parsed, and count as wrong", style="dim")
    if judged:
        names = ", ".join(dict.fromkeys(each.judged.judge for each in replies if each.judged))
        console.print(f"judged by {names}: kept apart, in {listing.FILE}, and in no score of the run", style="dim")


def _found(reply: UnparsedReply) -> str:
    if reply.judged is None:
        return "not judged"
    return "no answer" if reply.judged.answer is None else f"{reply.judged.answer} ({reply.judged.score:g})"
