"""`cuecard eval` and `cuecard study`: strategies on tasks, every call made once; stopped runs can be resumed."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from typer import Argument, Option

from cuecard import disk
from cuecard.cli import make_console
from cuecard.cli.evals.tasks import note_of, open_named
from cuecard.cli.options import (
    LINE_S,
    closing_models,
    plain_table,
    takes_options,
    takes_policy_options,
    telling_what_is_kept,
)
from cuecard.domain.errors import BadInput
from cuecard.evals import run_folder
from cuecard.evals import study as studies
from cuecard.evals.analysis.summary import summary as summary_of
from cuecard.evals.database import Record, Store
from cuecard.evals.item import Task
from cuecard.evals.requests import Seat
from cuecard.evals.runner import Plan, RunProgress, expected, ray_workers, run_by
from cuecard.evals.runner.ray_workers import Sizes
from cuecard.evals.runner.scheduler import WorkerPool
from cuecard.evals.study import CALL_S, Study
from cuecard.models import probe as probes
from cuecard.models.base import Model
from cuecard.pair import one_model
from cuecard.report import formatting
from cuecard.report.arm_table import ArmTable, routes_table
from cuecard.report.formatting import machine
from cuecard.strategies.policy_file import Surface

# --- options of all commands that make a run: tasks, models, and the execution of calls -------------------------------

Live = Annotated[bool, Option("--live", help="Run every arm end to end as well, timed as a whole.")]
Prices = Annotated[
    list[str] | None, Option(help="MODEL=PROMPT,COMPLETION[,CACHED] per million tokens (one for each model).")
]


@dataclass(frozen=True)
class StudyOptions:
    """What a study consists of, besides its arms and policy options."""

    tasks: Annotated[list[str], Argument(help="Tasks: names that `cuecard tasks` lists.")]
    out: Annotated[Path, Option(help="The run's directory; an existing run is resumed.")]
    small: Annotated[str, Option(help="The small model, which writes the reasoning.")] = "demo-small"
    large: Annotated[str, Option(help="The large model, which gives the answer.")] = "demo-large"
    limit: Annotated[int | None, Option(help="Most questions of each task.")] = None
    sample: Annotated[
        int | None, Option(help="Draw questions at random with this seed, instead of taking the first ones.")
    ] = None
    live: Live = False
    at_once: Annotated[
        int | None, Option(help="Most calls at once. Default: 1 with a model in this process, else 8.")
    ] = None

    def study(self, arms: Sequence[str], options: Mapping[str, Any]) -> Study:
        given = dict(vars(self))
        models = {role: given.pop(role) for role in ("small", "large")}
        return Study(models=models, arms=arms, options=options, **given)


@dataclass(frozen=True)
class How:
    """How to run a study, in this process or on a Ray cluster."""

    retry_errors: Annotated[
        bool, Option("--retry-errors", help="Repeat failed calls, and answers with such calls.")
    ] = False
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print the estimated cost (calls, tokens, time) and make no call.")
    ] = False
    probe: Annotated[
        bool,
        Option("--probe/--no-probe", help="Probe served models that are not known yet; without it defaults apply."),
    ] = True
    as_json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False
    ray: Annotated[bool, Option("--ray", help="Make the calls on a Ray cluster; only this process stores them.")] = (
        False
    )
    ray_workers: Annotated[
        int | None, Option(help="Workers of the cluster that make calls, each with its own models. [default: 1]")
    ] = None
    ray_address: Annotated[
        str | None, Option(help="The cluster: HOST:PORT, or auto. Default: a cluster on this machine for this run.")
    ] = None
    ray_apart: Annotated[
        bool, Option("--ray-apart", help="Run each model of a worker in its own process, where there is room.")
    ] = False
    ray_gpus: Annotated[float | None, Option(help="GPUs that each process of a worker is given.")] = None

    @cached_property
    def on(self) -> Sizes | None:
        """Workers of a Ray cluster, else this process only. Raises BadInput for their options without `--ray`."""
        given = {
            "workers": self.ray_workers,
            "address": self.ray_address,
            "apart": self.ray_apart or None,
            "gpus": self.ray_gpus,
        }
        known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if known and not self.ray:
            raise BadInput(f"--ray-{min(known)} is about a Ray cluster", "give --ray too")
        return Sizes(**known) if self.ray else None


takes_study_options = takes_policy_options(
    Surface.STUDY,
    {
        "budget": "Most tokens of reasoning, where an arm does not say.",
        "timeout_s": "Most seconds a call may take, waiting at its server included.",
    },
    timeout_s=CALL_S,
)


# --- commands ---------------------------------------------------------------------------------------------------------


@takes_options
def study(
    file: Annotated[Path, typer.Argument(help="A TOML file: tasks, arms, options, and a table for each model.")],
    *,
    out: Annotated[Path | None, typer.Option(help="The run's directory, instead of the file's.")] = None,
    limit: Annotated[int | None, typer.Option(help="Most questions of each task, instead of the file's.")] = None,
    live: Live = False,
    how: How,
) -> None:
    """Run or resume a study, then summarise it."""
    changes = {"out": out, "limit": limit, "live": live or None}
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    perform(replace(studies.read(file), **given), how)


@takes_study_options
def evaluate(
    *,
    strategies: Annotated[
        str,
        typer.Option(help="Arms, separated by commas: mutual, transfer/notes/budget=128, transfer/placebo=empty."),
    ] = ",".join(studies.ARMS),
    given: StudyOptions,
    options: Mapping[str, Any],
    how: How,
) -> None:
    """Evaluate strategies on tasks, or resume an evaluation, then summarise it."""
    perform(given.study(strategies.split(","), options), how)


def perform(wanted: studies.Study, how: How) -> None:
    """Run or estimate a study, and show the result. Raises and exits as `done`."""
    summary = done(wanted, how)
    if how.as_json:
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))
    elif how.dry_run:
        show_estimate(summary)
    else:
        assert wanted.out is not None
        _show(summary, wanted.out)


def done(wanted: studies.Study, how: How) -> Record:
    """Run a study to its end, or estimate it; return the summary.

    Raises CuecardError; exits with 130 when interrupted, with 143 when terminated.
    """
    if (out := wanted.out) is None:
        raise BadInput("a run needs a directory", "give --out, or out in the study's file")
    disk.check_folder(out, run_folder.ABOUT)
    if (out / run_folder.ABOUT).exists():
        wanted = wanted.joined(run_folder.read(out)["config"])
    if wanted.live and how.on is not None and how.on.apart:
        raise BadInput("--live needs all models in one process", "leave out --ray-apart, or --live")
    tasks = studies.opened(wanted, open_named)  # report errors in tasks before loading a model
    with telling_what_is_kept(None) as stop:
        models = wanted.load() if how.on is None else {}
        return stop.run(_performed(wanted, out, how, tasks, models))


async def _performed(
    wanted: studies.Study, out: Path, how: How, tasks: Sequence[Task], models: Mapping[str, Model]
) -> Record:
    console = make_console(stderr=True)
    wanted.check_rules(models)  # before any model is called; with a cluster, once its workers have loaded theirs
    if how.probe and probes.wanted():  # probe to the end first, so that all calls of a run have the same prompts
        await probes.settle(models.values(), wait_s=None, tell=partial(console.print, markup=False))
    async with _pool(wanted, how, models, console) as (pool, seats):
        plan = wanted.plan(tasks, seats)
        remarks = [one_model(seats), *(f"{task.name}: {note}" for task in tasks if (note := note_of(task)))]
        for remark in filter(None, remarks):
            console.print(remark, markup=False)
        if how.on is not None and how.on.apart:
            plan = replace(plan, share_machine=False)
        if how.dry_run:
            return await _estimated(wanted, out, replace(plan, at_once=pool.slots), models)
        config = wanted.config(plan)
        facts = {"models": wanted.given_models(), "argv": sys.argv[1:], "machine": machine()}
        facts |= {} if how.on is None else {"ray": asdict(how.on)}
        with run_folder.RunFolder(out, config, facts) as held:
            if held.resumed:
                console.print(f"going on with {out}" + "".join(f"; new: {each}" for each in held.added))
            if damaged := str(held.mended):
                console.print(f"not as stored, by their checksums, and made again: {damaged}")
            if how.retry_errors:
                again = held.store.drop_errors()
                console.print(f"{again.calls} failed calls and {again.answers} answers are made again")
            try:
                await _run(pool, plan, held.store, console)
            except asyncio.CancelledError:
                calls, answers = held.store.counts()
                kept = f"{calls} calls and {answers} answers are stored in {out}"
                console.print(f"stopped: {kept}; the same command resumes it")
                raise
            summary = summary_of(config, held.store)
            disk.save(out / "summary.json", summary)
    return summary


@asynccontextmanager
async def _pool(
    wanted: studies.Study, how: How, models: Mapping[str, Model], console: Console
) -> AsyncIterator[tuple[WorkerPool, Mapping[str, Seat]]]:
    """The workers that make the calls, and the models' identities."""
    if how.on is None:
        async with closing_models(models.values()):
            pool = WorkerPool.of(models, wanted.slots, time.perf_counter, timed=not wanted.batched)
            yield pool, wanted.seats(models)
        return
    there = ray_workers.Cluster(wanted.models, how.on, wanted.slots, not wanted.batched, console.print)
    try:
        yield await there.start(), there.seats
    finally:
        await there.close()


async def _run(pool: WorkerPool, plan: Plan, store: Store, console: Console) -> None:
    with RunBar(console, expected(plan)) as bar:
        ended = await run_by(pool, plan, store, bar.listen)
    busy = "" if ended.busy_share is None else f", slots busy {100 * ended.busy_share:.0f}% of the time"
    console.print(f"{ended.answered} questions, {ended.fresh} of them now; {ended.calls} calls made{busy}")


async def _estimated(wanted: studies.Study, out: Path, plan: Plan, models: Mapping[str, Model]) -> Record:
    local = wanted.local and bool(models)
    if not (out / run_folder.ABOUT).exists():
        return await studies.estimate(plan, models, None, local)
    with run_folder.opened_run(out) as (there, store):
        run_folder.added(there, wanted.config(plan), out)
        return await studies.estimate(plan, models, store, local)


def show_estimate(summary: Record) -> None:
    """Show the estimated cost of a study by task."""
    console = make_console()
    rows = [[name, _count(task["left"]), *_costs(task)] for name, task in summary["tasks"].items()]
    rows += [["all", "", *_costs(summary["total"])]] if len(rows) > 1 else []
    heads = ("task", "questions left", "calls", "prompt tokens", "completion tokens", "time")
    console.print(plain_table(heads, rows))
    for name, task in summary["tasks"].items():
        console.print(f"[dim]{name}: estimated from {task['basis']}[/]")


def _costs(summary: Record) -> list[str]:
    counts = [_count(summary.get(name)) for name in ("calls", "prompt_tokens", "completion_tokens")]
    if (seconds := summary.get("seconds")) is None:
        return [*counts, "not known"]
    whole = round(seconds)
    clock = f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
    return [*counts, clock if whole >= 60 else formatting.duration(seconds)]


def _count(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _show(summary: Record, out: Path) -> None:
    console = make_console()
    for task in (task for task in summary["tasks"].values() if task["verdict"]):
        console.print(Text(f"{task['verdict']['sentence']}\n", style="bold"))
    for name, task in summary["tasks"].items():
        console.print(_arms(name, task))
        if (routes := routes_table({arm: each["routes"] for arm, each in task["arms"].items()})) is not None:
            console.print()
            console.print(routes)
        for arm, both in task["composed_against_measured"].items():
            ratio, same = both["ratio"] or 0.0, both["same_answer"]
            line = f"{arm}: composed {ratio:.2f} of measured, {100 * same:.0f}% of answers the same"
            console.print(Text(line, style="dim"))
        console.print()
    console.print(Text(str(out / "summary.json"), style="dim"))


def _arms(name: str, task: Record) -> ArmTable:
    arms = task["arms"]
    kinds = list(dict.fromkeys(arm["latency"]["kind"] or "not known" for arm in arms.values()))
    failed = any(arm["errors"] for arm in arms.values())
    heads = ["accuracy", "95%", "latency", "tokens", *(["failed"] if failed else []), *(["kind"] * (len(kinds) > 1))]
    rows = [(arm, [_cells(each)[head] for head in heads]) for arm, each in arms.items()]
    lost = "; failed answers are in no mean" if failed else ""
    return ArmTable(heads, rows, f"{name}: {task['items']:,} questions, latency {' and '.join(kinds)}{lost}")


def _cells(arm: Record) -> dict[str, str]:
    latency, generated = arm["latency"], arm["generated_mean"]
    return {
        "accuracy": "–" if arm["accuracy"] is None else f"{arm['accuracy']:.3f}",
        "95%": interval_text(arm["interval"]),
        "latency": "–" if latency["mean_s"] is None else formatting.duration(latency["mean_s"]),
        "tokens": "–" if generated is None else f"{generated:.1f}",
        "failed": f"{arm['errors']:,} of {arm['answered']:,}",
        "kind": latency["kind"] or "–",
    }


def beta_text(beta: Mapping[str, Any] | None, alike: Mapping[str, Any] | None) -> str:
    """The error that no selection between the models' answers, and no agreement, can fix; ends of 95% intervals."""
    if beta is None:
        return "the share of questions that all models get wrong is not known: it needs numpy"
    given = "" if alike is None else f", and say the same on {_share(alike)} of these, where agreement cannot tell"
    return f"all models get {_share(beta)} of the questions wrong (beta){given}"


def _share(interval: Mapping[str, Any]) -> str:
    low, high = interval["low"], interval["high"]
    ends = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * interval['estimate']:.1f}%{ends}"


def interval_text(interval: Mapping[str, float | None] | None) -> str:
    low, high = (None if interval is None else interval[side] for side in ("low", "high"))
    return "–" if low is None or high is None else f"{low:.3f}–{high:.3f}"


# --- progress: a bar above each arm's accuracy on a terminal, an occasional line elsewhere ----------------------------


class RunBar(Progress):
    """Shows the progress of a run of `total` questions (None: unknown). A context manager."""

    def __init__(self, console: Console, total: int | None) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
        self._scored, self._right, self._ended = Counter[str](), Counter[str](), Counter[str]()
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._printed_s, self._questions = time.monotonic(), self.add_task("questions", total=total)

    def listen(self, progress: RunProgress, records: Sequence[Record]) -> None:
        """Update after an item; `records` are those of its answers."""
        for record in records:
            if record["score"] is not None:
                self._scored[record["arm"]] += 1
                self._right[record["arm"]] += record["score"]
            if record["status"] == "error":
                self._ended["errors"] += 1
            elif record["route"] not in (None, "direct"):
                self._ended[record["route"]] += 1
        done, how = (progress.live, " live") if progress.live else (progress.answered, "")
        self.update(self._questions, description=f"questions{how}", total=progress.total, completed=done)
        if not self.console.is_terminal and time.monotonic() - self._printed_s > LINE_S:
            self._printed_s = time.monotonic()
            of = "" if progress.total is None else f" of {progress.total:,}"
            self.console.print(f"{done:,}{of} questions are answered{how}")

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        rows = [
            (arm, [formatting.percent(self._right[arm] / count), f"{count:,}"]) for arm, count in self._scored.items()
        ]
        if rows:
            yield ArmTable(("right", "of"), rows, one_line=True)
        if self._ended:
            yield Text(", ".join(f"{name} {count:,}" for name, count in self._ended.most_common()), style="dim")
