"""`cuecard eval` and `cuecard study`: strategies on tasks, every call made once; a stopped run goes on where it was."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from cuecard import disk
from cuecard.cli.evals.tasks import open_named
from cuecard.cli.options import takes_policy_options
from cuecard.cli.signals import stopping
from cuecard.domain.errors import BadInput
from cuecard.evals.analysis.summary import summary as summary_of
from cuecard.evals.item import Task
from cuecard.evals.runner import ray_workers
from cuecard.evals.runner.run import Plan, RunProgress, run_by
from cuecard.evals.runner.workers import WorkerPool
from cuecard.evals.storage.database import Record, Store
from cuecard.evals.storage.requests import Seat
from cuecard.evals.study import cost_estimate as estimates
from cuecard.evals.study import folder
from cuecard.evals.study import study as studies
from cuecard.models import probe as probes
from cuecard.models.base import Model
from cuecard.report.page.machine import machine
from cuecard.strategies.policy import Surface

Maybe = typer.Option
PROBE = Annotated[
    bool, typer.Option("--probe/--no-probe", help="Probe served models that are not known yet; else defaults hold.")
]
RAY = Annotated[bool, typer.Option("--ray", help="Make the calls on a Ray cluster; this process alone stores them.")]
RAY_WORKERS = Annotated[
    int | None, typer.Option(help="How many workers of the cluster make calls, each with models of its own; 1 if not.")
]
RAY_ADDRESS = Annotated[
    str | None, typer.Option(help="The cluster: HOST:PORT, or auto; if not given, one on this machine for this run.")
]
RAY_APART = Annotated[
    bool, typer.Option("--ray-apart", help="Each model of a worker in a process of its own, wherever there is room.")
]
RAY_GPUS = Annotated[float | None, typer.Option(help="GPUs that each process of a worker is given.")]


def study(
    file: Annotated[Path, typer.Argument(help="A TOML file: tasks, arms, options, and a table for each model.")],
    out: Annotated[Path | None, typer.Option(help="The run's directory, instead of the file's.")] = None,
    limit: Annotated[int | None, typer.Option(help="Most questions of each task, instead of the file's.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Run every arm end to end as well, timed as a whole.")] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Make failed calls, and answers with such calls, again.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it will cost: calls, tokens, time. Estimated.")
    ] = False,
    probe: PROBE = True,
    ray: RAY = False,
    ray_workers: RAY_WORKERS = None,
    ray_address: RAY_ADDRESS = None,
    ray_apart: RAY_APART = False,
    ray_gpus: RAY_GPUS = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run a study: go on where it stopped, then sum up."""
    wanted = studies.read(file)
    changes = {"out": out, "limit": limit, "live": live or None}
    wanted = replace(wanted, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]
    on = workers(ray, ray_workers, ray_address, ray_apart, ray_gpus)
    perform(wanted, How(retry_errors, dry_run, as_json, on, probe))


@takes_policy_options(
    Surface.STUDY,
    {
        "budget": "Most tokens of reasoning, where an arm does not say.",
        "timeout_s": "Most seconds a call may take, waiting at its server included.",
    },
    timeout_s=studies.CALL_S,
)
def evaluate(
    tasks: Annotated[list[str], typer.Argument(help="Tasks, as `cuecard tasks` lists them.")],
    *,
    out: Annotated[Path, Maybe(help="The run's directory; one that is there already is gone on with.")],
    strategies: Annotated[
        str, Maybe(help="Arms, with commas between: mutual, transfer/notes/budget=128, transfer/placebo=empty.")
    ] = ",".join(studies.ARMS),
    small: Annotated[str, Maybe(help="The model that writes the reasoning.")] = "demo-small",
    large: Annotated[str, Maybe(help="The model that speaks the answer.")] = "demo-large",
    limit: Annotated[int | None, Maybe(help="Most questions of each task.")] = None,
    sample: Annotated[int | None, Maybe(help="Draw them by chance, with this seed, instead of the first.")] = None,
    live: Annotated[bool, Maybe("--live", help="Run every arm end to end as well, timed as a whole.")] = False,
    at_once: Annotated[
        int | None, Maybe(help="Most calls at once; by itself 1 with a model in this process, else 8.")
    ] = None,
    options: Mapping[str, Any],
    retry_errors: Annotated[
        bool, Maybe("--retry-errors", help="Make failed calls, and answers with such calls, again.")
    ] = False,
    dry_run: Annotated[bool, Maybe("--dry-run", help="Say what it will cost: calls, tokens, time. Estimated.")] = False,
    probe: PROBE = True,
    ray: RAY = False,
    ray_workers: RAY_WORKERS = None,
    ray_address: RAY_ADDRESS = None,
    ray_apart: RAY_APART = False,
    ray_gpus: RAY_GPUS = None,
    as_json: Annotated[bool, Maybe("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate strategies on tasks: go on where it stopped, then sum up."""
    wanted = studies.Study(
        models={"small": small, "large": large},
        tasks=tasks,
        arms=strategies.split(","),
        out=out,
        limit=limit,
        sample=sample,
        at_once=at_once,
        live=live,
        options=options,
    )
    on = workers(ray, ray_workers, ray_address, ray_apart, ray_gpus)
    perform(wanted, How(retry_errors, dry_run, as_json, on, probe))


@dataclass(frozen=True)
class How:
    """How a study is run, besides what it is. `on`: a Ray cluster's workers, else this process alone."""

    retry_errors: bool = False
    dry_run: bool = False
    as_json: bool = False
    on: ray_workers.Sizes | None = None
    probe: bool = True


def workers(
    ray: bool, number: int | None, address: str | None, apart: bool, gpus: float | None
) -> ray_workers.Sizes | None:
    """What the options of a cluster say. Raises BadInput for one of them without `--ray`."""
    given = {"workers": number, "address": address, "apart": apart or None, "gpus": gpus}
    known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if known and not ray:
        raise BadInput(f"--ray-{min(known)} is about a Ray cluster", "give --ray too")
    return ray_workers.Sizes(**known) if ray else None


def perform(wanted: studies.Study, how: How) -> None:
    """Run a study, or estimate it. Raises CuecardError; exits with 130 when interrupted, with 143 when terminated."""
    if (out := wanted.out) is None:
        raise BadInput("a run needs a directory", "give --out, or out in the study's file")
    if (out / "run.json").exists():
        wanted = wanted.joined(folder.read(out)["config"])
    if wanted.live and how.on is not None and how.on.apart:
        raise BadInput("--live needs all models in one process", "leave out --ray-apart, or --live")
    tasks = studies.opened(wanted, open_named)  # all that can be wrong is found before a model is loaded
    with stopping() as stop:
        try:
            models = wanted.load() if how.on is None else {}
            summary = stop.run(_performed(wanted, out, how, tasks, models))
        except KeyboardInterrupt:
            raise typer.Exit(stop.code) from None
    if how.as_json:
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        _show_estimate(summary) if how.dry_run else _show(summary, out)


async def _performed(
    wanted: studies.Study, out: Path, how: How, tasks: Sequence[Task], models: Mapping[str, Model]
) -> Record:
    console = Console(stderr=True, highlight=False)
    if how.probe and probes.wanted():  # to its end, so that all calls of a run are prompted alike
        await probes.settle(models.values(), wait_s=None, tell=partial(console.print, markup=False))
    async with _pool(wanted, how, models, console) as (pool, seats):
        plan = wanted.plan(tasks, seats)
        if how.on is not None and how.on.apart:
            plan = replace(plan, share_machine=False)
        if how.dry_run:
            return await _estimated(wanted, out, replace(plan, at_once=pool.slots), models)
        about = folder.About(wanted.config(plan), _facts(wanted, how))
        with folder.RunFolder(out, about) as held:
            _tell_beginning(console, held)
            if how.retry_errors:
                again = held.store.drop_errors()
                console.print(f"{again.calls} failed calls and {again.answers} answers are made again")
            try:
                await _run(pool, plan, held.store, console)
            except asyncio.CancelledError:
                calls, answers = held.store.counts()
                kept = f"{calls} calls and {answers} answers are stored in {out}"
                console.print(f"stopped: {kept}; the same command goes on from there")
                raise
            summary = summary_of(about.config, held.store)
            disk.save(out / "summary.json", summary)
    return summary


@asynccontextmanager
async def _pool(
    wanted: studies.Study, how: How, models: Mapping[str, Model], console: Console
) -> AsyncIterator[tuple[WorkerPool, Mapping[str, Seat]]]:
    """Who makes the calls, and who sits there."""
    if how.on is None:
        try:
            yield (
                WorkerPool.of(models, wanted.slots, time.perf_counter, timed=not wanted.batched),
                wanted.seats(models),
            )
        finally:
            for model in models.values():
                await model.aclose()
        return
    there = ray_workers.Cluster(wanted.models, how.on, wanted.slots, not wanted.batched, console.print)
    try:
        pool = await there.start()
        yield pool, there.seats
    finally:
        await there.close()


async def _run(pool: WorkerPool, plan: Plan, store: Store, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[so_far]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
    )
    far = SoFar()
    with Bar(*columns, console=console, transient=True) as bar:
        line = bar.add_task("questions", total=None, so_far="")

        def listen(progress: RunProgress, records: Sequence[Record]) -> None:
            far.take(records)
            bar.update(line, total=progress.total, completed=progress.answered, so_far=far.text())

        done = await run_by(pool, plan, store, listen)
    busy = "" if done.busy_share is None else f", slots busy {100 * done.busy_share:.0f}% of the time"
    console.print(f"{done.answered} questions, {done.fresh} of them now; {done.calls} calls made{busy}")


class SoFar:
    """Accuracy by arm and routes, over what was heard of."""

    def __init__(self) -> None:
        self.right, self.scored = Counter[str](), Counter[str]()
        self.routes = Counter[str]()
        self.errors = 0

    def take(self, records: Sequence[Record]) -> None:
        for record in records:
            if record["score"] is not None:
                self.scored[record["arm"]] += 1
                self.right[record["arm"]] += record["score"]
            self.errors += record["status"] == "error"
            if record["route"] not in (None, "direct"):
                self.routes[record["route"]] += 1

    def text(self) -> str:
        arms = [f"{arm} {self.right[arm] / count:.2f}" for arm, count in self.scored.items()]
        routes = [f"{route} {count}" for route, count in self.routes.most_common()]
        errors = [f"errors {self.errors}"] if self.errors else []
        return "  ".join((*arms, "|", *routes, *errors))


async def _estimated(wanted: studies.Study, out: Path, plan: Plan, models: Mapping[str, Model]) -> Record:
    store = None
    try:
        if (out / "run.json").exists():
            there, store = folder.opened(out)
            folder.added(there["config"], wanted.config(plan), out)
        return await estimates.estimate(plan, models, store, wanted.local and bool(models))
    finally:
        if store is not None:
            store.close()


def _facts(wanted: studies.Study, how: How) -> dict[str, Any]:
    workers = {} if how.on is None else {"ray": asdict(how.on)}
    return {"models": wanted.given_models(), "argv": sys.argv[1:], "machine": machine(), **workers}


def _tell_beginning(console: Console, held: folder.RunFolder) -> None:
    if held.resumed:
        console.print(f"going on with {held.path}" + "".join(f"; new: {each}" for each in held.added))
    if held.mended.calls or held.mended.answers:
        damaged = f"{held.mended.calls} calls and {held.mended.answers} answers"
        console.print(f"{damaged} were damaged: they are made again")


def _show_estimate(summary: Record) -> None:
    console = Console(highlight=False)
    table = Table("task", "questions left", "calls", "prompt tokens", "completion tokens", "time", box=None)
    for name, task in summary["tasks"].items():
        table.add_row(name, _count(task["left"]), *_costs(task))
    if len(summary["tasks"]) > 1:
        table.add_row("all", "", *_costs(summary["total"]))
    console.print(table)
    for name, task in summary["tasks"].items():
        console.print(f"[dim]{name}: estimated from {task['basis']}[/]")


def _costs(summary: Record) -> list[str]:
    seconds = summary.get("seconds")
    counts = [_count(summary.get(name)) for name in ("calls", "prompt_tokens", "completion_tokens")]
    return [*counts, "not known" if seconds is None else _duration(seconds)]


def _count(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 60 else f"{seconds:.1f} s"


def _show(summary: Record, out: Path) -> None:
    console = Console(highlight=False)
    for name, task in summary["tasks"].items():
        table = Table("arm", "accuracy", "95%", "latency", "kind", "tokens", "routes", box=None, title=name)
        table.columns[0].no_wrap = True
        for arm, each in task["arms"].items():
            table.add_row(arm, *_cells(each))
        console.print(table)
        for arm, both in task["composed_against_measured"].items():
            ratio, same = both["ratio"] or 0.0, both["same_answer"]
            console.print(f"[dim]{arm}: composed {ratio:.2f} of measured, {100 * same:.0f}% of answers the same[/]")
    console.print(f"[dim]{out / 'summary.json'}[/]")


def _cells(arm: Record) -> list[str]:
    between, latency = arm["interval"] or {}, arm["latency"]
    generated = sum(role["completion"] for role in arm["tokens"].values()) / max(1, arm["answered"])
    bounds = [between.get(side) for side in ("low", "high")]
    return [
        "–" if arm["accuracy"] is None else f"{arm['accuracy']:.3f}",
        "–" if None in bounds else "–".join(f"{bound:.3f}" for bound in bounds),
        "–" if latency["mean_s"] is None else f"{latency['mean_s']:.3f} s",
        latency["kind"] or "–",
        f"{generated:.1f}",
        ", ".join(f"{route} {count}" for route, count in arm["routes"].items()),
    ]
