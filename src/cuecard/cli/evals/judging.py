"""`cuecard unparsed` and `cuecard grade`: replies that no scorer can settle, read or graded by a judge model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cuecard.cli.options import progress_bar
from cuecard.domain.errors import BadInput, ModelError
from cuecard.evals import judging as listing
from cuecard.evals import run_folder
from cuecard.evals.database import Store
from cuecard.evals.judging import GRADED, READ, GradedArm, Items, Judge, Judged, Keep, ListedReply, graded_arms
from cuecard.evals.requests import is_local, model_revision
from cuecard.evals.scorers import item_of
from cuecard.evals.study import AT_ONCE_SERVED
from cuecard.models import spec
from cuecard.stats.bootstrap import Interval

MOST_SHOWN = 20
MOST_CHARACTERS = 160
SAVED_EACH = 50


def unparsed(
    run: Annotated[Path, typer.Argument(help="The directory of a run of `cuecard eval`.")],
    task: Annotated[str | None, typer.Option(help="Only this task of the run.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="A model that reads the replies: demo-large, hf:ORG/NAME, URL#NAME.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Judge replies again that are judged already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list with an object for each reply.")] = False,
) -> None:
    """List replies in which no answer was found, for manual inspection; --judge lets a model read them.

    What a judge reads is kept apart, in judged.json: no score, interval or test of the run has it in it.
    """
    _, store = run_folder.opened(run)
    with closing(store):
        known = listing.read(run, READ)
        replies = listing.unparsed(store, known, task=task)
        if judge is not None:
            wanted = [each for each in replies if again or each.judged is None]
            asyncio.run(_judged(run, READ, judge, Judge.read, wanted, store, known))
            replies = listing.unparsed(store, known, task=task)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in replies], indent=2, ensure_ascii=False))
    else:
        _show(replies)


def grade(
    run: Annotated[Path, typer.Argument(help="The directory of a run of `cuecard eval`.")],
    judge: Annotated[str, typer.Option(help="The model that grades: demo-large, hf:ORG/NAME, URL#NAME.")],
    task: Annotated[
        str | None,
        typer.Option(help="This task of the run, whatever its scorer. Default: tasks that only a judge can score."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Grade replies again that are graded already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list with an object for each arm.")] = False,
) -> None:
    """Grade replies to open questions (MM-Vet's, for example) from 0 to 1 by a judge model.

    Grades are kept apart, in graded.json: no score, interval or test of the run has them in it. The report shows them.
    The exit code is 1 if the judge graded no reply.
    """
    _, store = run_folder.opened(run)
    with closing(store):
        known = listing.read(run, GRADED)
        replies = listing.gradable(store, known, task=task)
        if not replies:
            lacking = f"of task {task}" if task else "to open questions"
            raise BadInput(
                f"{run} has no replies {lacking} whose right answers are known",
                "name a task of the run by --task",
            )
        wanted = [each for each in replies if again or each.judged is None]
        asyncio.run(_judged(run, GRADED, judge, Judge.grade, wanted, store, known))
        replies, answers = listing.gradable(store, known, task=task), list(store.answers())
        tasks = dict.fromkeys(each.task for each in replies)
        found = {
            name: graded_arms(answers, {item["id"]: item for item in store.items(name)}, replies, name)
            for name in tasks
        }
    if as_json:
        rows = [{"task": name, **asdict(arm)} for name, arms in found.items() for arm in arms]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        _show_grades(found, replies)
    if not any(found.values()):
        raise typer.Exit(1)


async def _judged(
    run: Path,
    file: str,
    given: str,
    work: Callable[[Judge, Sequence[ListedReply], Items, Keep], Awaitable[list[ModelError]]],
    replies: Sequence[ListedReply],
    store: Store,
    known: dict[str, Judged],
) -> None:
    """Judge these replies and save the judgements.

    All are in the file when this ends, also after an error; a killed process loses at most the last `SAVED_EACH`.
    """
    items = {(each["task"], each["id"]): item_of(each) for each in store.items()}
    model = spec.load(given, "judge")
    own = Judge(model, model_revision(given), 1 if is_local(given) else AT_ONCE_SERVED)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        with progress_bar(console) as bar:
            judging = bar.add_task("judged", total=len(replies))

            def keep(key: str, judged: Judged) -> None:
                known[key] = judged
                bar.advance(judging)
                if len(known) % SAVED_EACH == 0:
                    listing.write(run, file, known)

            failures = await work(own, replies, items, keep)
    finally:
        listing.write(run, file, known)
        await model.aclose()
    if failures:
        console.print(f"{len(failures):,} of {len(replies):,} replies could not be judged: {failures[0]}", markup=False)


def _show(replies: Sequence[ListedReply]) -> None:
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
        names = listing.judges(replies)
        console.print(f"judged by {names}: kept apart, in {READ}, and in no score of the run", style="dim")


def _found(reply: ListedReply) -> str:
    if reply.judged is None:
        return "not judged"
    return "no answer" if reply.judged.answer is None else f"{reply.judged.answer} ({reply.judged.score:g})"


def _show_grades(found: Mapping[str, Sequence[GradedArm]], replies: Sequence[ListedReply]) -> None:
    console = Console(highlight=False)
    if not any(found.values()):
        console.print("no reply is graded")
        return
    shown = Table("task", "arm", "grade", "interval", "graded", "failed", box=None)
    for task, arms in found.items():
        for arm in arms:
            mean, between = f"{100 * arm.mean.estimate:.1f}%", _between(arm.mean)
            of = f"{arm.graded:,} of {arm.answered:,}"
            shown.add_row(*map(Text, [task, arm.arm, mean, between, of, f"{arm.failed:,}"]))
    console.print(shown)
    names = listing.judges(replies)
    if names:
        console.print(f"graded by {names}: kept apart, in {GRADED}, and in no score of the run", style="dim")


def _between(interval: Interval) -> str:
    """`91.1 to 99.7`, in percent; `–` if the grades do not determine it: one image, or all the same."""
    if interval.low is None or interval.high is None or interval.low == interval.high:
        return "–"
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
