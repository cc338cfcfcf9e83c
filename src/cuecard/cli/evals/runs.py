"""Commands over stored runs: `cuecard compare`, `cuecard rescore`, `cuecard unparsed` and `cuecard grade`."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from cuecard import disk
from cuecard.cli import make_console
from cuecard.cli.options import plain_table, progress_bar
from cuecard.domain.errors import BadInput, ModelError
from cuecard.evals import judging as listing
from cuecard.evals import run_folder
from cuecard.evals.analysis.results import ArmComparison, RunComparison, compare_runs
from cuecard.evals.analysis.summary import summary
from cuecard.evals.database import Store
from cuecard.evals.judging import GRADED, READ, GradedArm, Items, Judge, Judged, Keep, ListedReply, graded_arms
from cuecard.evals.requests import is_local, model_revision
from cuecard.evals.run_folder import opened_run, unfinished
from cuecard.evals.scorers import Changed, Rescored, item_of, rescored
from cuecard.evals.study import AT_ONCE_SERVED
from cuecard.models import spec
from cuecard.report import formatting
from cuecard.report.arm_table import ArmTable
from cuecard.stats import Interval

MOST_NAMES = 8
MOST_SHOWN = 20


# --- compare ----------------------------------------------------------------------------------------------------------


def compare(
    first: Annotated[Path, typer.Argument(help="The directory of a run.")],
    second: Annotated[Path, typer.Argument(help="The directory of another run, whose gain over the first is shown.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare two runs arm by arm: paired differences with intervals and tests, and their configurations."""
    with opened_run(first) as one, opened_run(second) as other:
        compared = compare_runs(one, other)
        lacks = {run: unfinished(*of) for run, of in ((first, one), (second, other))}
    if as_json:
        typer.echo(json.dumps(compared.as_object(), indent=2, ensure_ascii=False))
    else:
        for run, warning in lacks.items():
            if warning is not None:
                make_console().print(Text(f"{run}: {warning}", style="yellow"))
        _show_compared(compared, first, second)


def _show_compared(compared: RunComparison, first: Path, second: Path) -> None:
    console = make_console()
    for task in dict.fromkeys(each.task for each in compared.arms):
        arms = [each for each in compared.arms if each.task == task]
        counts = sorted({each.questions for each in arms})
        asked = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        kinds = " and ".join(dict.fromkeys(kind or "not known" for each in arms for kind in each.kinds))
        console.print(Text(f"\n{task}, {asked} questions: {second} less {first}", style="bold"))
        console.print(_accuracies(arms))
        console.print(_costs(arms, kinds))
        for each in (each for each in arms if any(each.errors)):
            lost = " and ".join(map(str, each.errors))
            console.print(Text(f"{each.arm}: {lost} answers failed; their questions are left out"))
        for each in (each for each in arms if any(each.unresolved)):
            unknown = " and ".join(map(str, each.unresolved))
            console.print(
                Text(f"{each.arm}: {unknown} questions cannot be resolved; compared are the others, the easy ones")
            )
    console.print("p: two-sided, adjusted by Holm's method over all arms and tasks; intervals are 95%", style="dim")
    for what, names in (("first", compared.only_first), ("second", compared.only_second)):
        if names:
            more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
            console.print(Text(f"only in the {what}: {', '.join(names[:MOST_NAMES])}{more}", style="dim"))
    for task, count in compared.left_out.items():
        console.print(Text(f"{task}: {count} questions are not the same in both runs, and are left out"))
    if compared.configuration:
        console.print(Text(f"\nconfiguration (there: {first}, here: {second})", style="bold"))
        for line in compared.configuration:
            console.print(Text(f"  {line}"))
    else:
        console.print(Text("the configurations are the same", style="dim"))


def _accuracies(arms: list[ArmComparison]) -> ArmTable:
    rows = []
    for each in arms:
        made = each.accuracy
        cells = ["–"] * 5
        if made is not None:
            cells = [
                _percent(each.first_accuracy),
                _percent(each.second_accuracy),
                f"{100 * made.difference.estimate:+.1f}",
                _between(made.difference, 100, ".1f"),
                f"{made.better}/{made.worse}",
            ]
        rows.append((each.arm, [*cells, _p(each, "accuracy"), f"{100 * each.same_answer:.0f}%"]))
    return ArmTable(("first, %", "second", "points", "95%", "+/−", "p", "same"), rows)


def _costs(arms: list[ArmComparison], kinds: str) -> ArmTable:
    rows = []
    for each in arms:
        tokens = "–" if each.tokens is None else f"{each.tokens.difference.estimate:+.1f}"
        rows.append((each.arm, [*_seconds(each), _p(each, "seconds"), tokens, _p(each, "tokens")]))
    return ArmTable(("first", "second", "speed", "95%", "p", "tokens", "p"), rows, f"latency is {kinds}")


def _seconds(each: ArmComparison) -> list[str]:
    if each.seconds is None or each.times_faster is None:
        return ["–"] * 4
    return [
        formatting.duration(each.seconds.first),
        formatting.duration(each.seconds.second),
        f"{each.times_faster.estimate:.2f}×",
        _between(each.times_faster, 1, ".2f"),
    ]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _between(interval: Interval, scale: float, form: str) -> str:
    if interval.low is None or interval.high is None:
        return "–"
    return f"{scale * interval.low:{form}} to {scale * interval.high:{form}}"


def _p(each: ArmComparison, what: str) -> str:
    p = each.p_adjusted.get(what)
    return "–" if p is None else f"{p:.2g}"


# --- rescore ----------------------------------------------------------------------------------------------------------


def rescore(
    run: Annotated[Path, typer.Argument(help="The directory of a run.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with every answer.")] = False,
) -> None:
    """Score stored replies with this version's extractors and scorers, and list the scores that change.

    No model is called; routes, calls and seconds stay as they are.
    """
    config = run_folder.read(run)["config"]
    with disk.locked(run, run_folder.ABOUT), closing(run_folder.checked(Store(run / run_folder.ROWS))) as store:
        result, rows = rescored(store)
        if not dry_run:
            store.replace(rows)
            disk.save(run / "summary.json", summary(config, store))
    if as_json:
        typer.echo(json.dumps(asdict(result), indent=2, ensure_ascii=False))
    else:
        _show_rescored(result, dry_run)


def _show_rescored(result: Rescored, dry_run: bool) -> None:
    console = make_console()
    before = ", ".join(f"{version} {count:,}" for version, count in result.earlier.items())
    console.print(f"{result.answers:,} answers, scored by {before or 'nothing'}; this is {result.version}")
    if not result.changed:
        console.print("no score changes")
        return
    questions = len({(each.task, each.id) for each in result.changed})
    console.print(f"{len(result.changed):,} answers to {questions:,} questions have another score")
    console.print(_by_arm(result.changed))
    rows = []
    for each in result.changed[:MOST_SHOWN]:
        pairs = (" → ".join("none" if it is None else str(it) for it in pair) for pair in (each.answers, each.scores))
        reply = each.reply if len(each.reply) <= 80 else "…" + each.reply[-79:]
        rows.append((each.task, each.id, each.arm, reply, *pairs))
    console.print(plain_table(("task", "question", "arm", Column("reply", overflow="fold"), "taken", "score"), rows))
    if (more := len(result.changed) - MOST_SHOWN) > 0:
        console.print(f"and {more:,} more: --json has all of them", style="dim")
    if dry_run:
        console.print("nothing is changed: without --dry-run it is", style="dim")


def _by_arm(changed: tuple[Changed, ...]) -> Table:
    better, worse, other = (Counter[tuple[str, str]]() for _ in range(3))
    for each in changed:
        old, new = (0.0 if score is None else score for score in each.scores)
        better[each.task, each.arm] += new > old
        worse[each.task, each.arm] += new < old
        other[each.task, each.arm] += each.scores[0] == each.scores[1]
    rows = ((*key, f"{better[key]:,}", f"{worse[key]:,}", f"{other[key]:,}") for key in better)
    return plain_table(("task", "arm", "more right", "less right", "by another extractor"), rows)


# --- unparsed, grade: replies that no scorer can settle, read or graded by a judge model ------------------------------

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
    with opened_run(run) as (_, store):
        known = listing.read(run, READ)
        replies = listing.unparsed(store, known, task=task)
        if judge is not None:
            wanted = [each for each in replies if again or each.judged is None]
            asyncio.run(_judged(run, READ, judge, Judge.read, wanted, store, known))
            replies = listing.unparsed(store, known, task=task)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in replies], indent=2, ensure_ascii=False))
    else:
        _show_unparsed(replies)


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
    with opened_run(run) as (_, store):
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
    console = make_console(stderr=True, soft_wrap=True)
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


def _show_unparsed(replies: Sequence[ListedReply]) -> None:
    console = make_console()
    if not replies:
        console.print("an answer was found in every reply")
        return
    judged = any(each.judged for each in replies)
    heads: list[str | Column] = ["task", "question", "arms", Column("reply", overflow="fold"), "right"]
    rows = []
    for each in replies[:MOST_SHOWN]:
        long = len(each.reply) > MOST_CHARACTERS
        text = f"…{each.reply[-MOST_CHARACTERS:]}" if long else each.reply or "(empty)"
        cells = [each.task, each.id, ", ".join(each.arms), text, " or ".join(each.golds) or "not known"]
        rows.append([*cells, *([each.judgement] if judged else [])])
    console.print(plain_table([*heads, *(["judged"] if judged else [])], rows))
    if (more := len(replies) - MOST_SHOWN) > 0:
        console.print(f"and {more:,} more: --json has all of them", style="dim")
    count = sum(len(each.arms) for each in replies)
    console.print(f"{len(replies):,} replies of {count:,} answers were not parsed, and count as wrong", style="dim")
    if judged:
        names = listing.judges(replies)
        console.print(f"judged by {names}: kept apart, in {READ}, and in no score of the run", style="dim")


def _show_grades(found: Mapping[str, Sequence[GradedArm]], replies: Sequence[ListedReply]) -> None:
    console = make_console()
    if not any(found.values()):
        console.print("no reply is graded")
        return
    rows = []
    for task, arms in found.items():
        for arm in arms:
            # the ends are equal if the grades do not determine them: one image, or all the same
            mean, known = f"{100 * arm.mean.estimate:.1f}%", arm.mean.low != arm.mean.high
            between = _between(arm.mean, 100, ".1f") if known else "–"
            rows.append([task, arm.arm, mean, between, f"{arm.graded:,} of {arm.answered:,}", f"{arm.failed:,}"])
    console.print(plain_table(("task", "arm", "grade", "interval", "graded", "failed"), rows))
    if names := listing.judges(replies):
        console.print(f"graded by {names}: kept apart, in {GRADED}, and in no score of the run", style="dim")
