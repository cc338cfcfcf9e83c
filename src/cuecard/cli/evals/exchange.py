"""`cuecard import` and `cuecard export`: other tools' predictions become a run, a run's answers their files."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cuecard import disk
from cuecard.cli.evals.study import beta_text, interval_text
from cuecard.cli.evals.tasks import open_named
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput
from cuecard.evals import run_folder
from cuecard.evals.analysis.summary import summary as summary_of
from cuecard.evals.database import Record
from cuecard.evals.interop import inspect, lmms, vlmevalkit
from cuecard.evals.interop.files import ArmExport, FileFormat, Source, of_run, places, source
from cuecard.evals.interop.imports import CardReader, Import, ImportResult, fill, unresolved
from cuecard.evals.requests import is_local
from cuecard.evals.study import AT_ONCE_SERVED
from cuecard.models import spec
from cuecard.report.arm_table import ArmTable, routes_table
from cuecard.report.formatting import machine

FORMATS = {
    "vlmevalkit": FileFormat(
        "VLMEvalKit's prediction files: MODEL_DATASET.xlsx, .tsv or .json.", vlmevalkit.read, vlmevalkit.model
    ),
    "lmms-eval": FileFormat(
        "lmms-eval's sample logs: DATETIME_samples_TASK.jsonl, written with --log_samples.", lmms.read, lmms.model
    ),
    "lm-eval": FileFormat(
        "lm-evaluation-harness's sample logs: samples_TASK_DATETIME.jsonl, written with --log_samples.",
        lmms.read_lm_eval,
        lmms.model,
    ),
    "inspect": FileFormat("inspect_ai's logs: .eval or .json.", inspect.read, inspect.model),
}


imports = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Turn predictions of one or two models, made by other tools, into a run.",
)
exports_ = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Write a run's answers as files that other tools read."
)
Option = typer.Option
Task = Annotated[str, Option(help="The questions that the files answer: tsv:FILE, mmstar:path=FILE.tsv, mmstar, …")]
Out = Annotated[Path, Option(help="The run's directory.")]
SmallShort = Annotated[list[Path] | None, Option(help="The small model's short answers; can be repeated.")]
LargeShort = Annotated[list[Path] | None, Option(help="The large model's short answers.")]
SmallReason = Annotated[
    list[Path] | None, Option(help="The small model's answers after reasoning, with the reasoning.")
]
LargeReason = Annotated[list[Path] | None, Option(help="The large model's answers after reasoning.")]
SmallName = Annotated[str | None, Option(help="The small model's name. Default: from the files' names.")]
LargeName = Annotated[str | None, Option(help="The large model's name. Default: from the files' names.")]
Large = Annotated[str | None, Option(help="The large model, which reads the reasoning where no file has its answer.")]
AtOnce = Annotated[int | None, Option(min=1, help="Most of its calls at once. Default: 1 in this process, else 8.")]
AsJson = Annotated[bool, Option("--json", help="Print one JSON object.")]
Files = Mapping[tuple[str, Mode], Sequence[Path]]
"""By role and mode."""
Names = Mapping[str, str | None]
"""By role; None: named by its files."""


def _register(form: str) -> None:
    """Register the import command for one tool's files; all of them take the same options."""

    @imports.command(form, help=FORMATS[form].about)
    def command(
        task: Task,
        out: Out,
        small_short: SmallShort = None,
        large_short: LargeShort = None,
        small_reason: SmallReason = None,
        large_reason: LargeReason = None,
        small_name: SmallName = None,
        large_name: LargeName = None,
        large: Large = None,
        at_once: AtOnce = None,
        as_json: AsJson = False,
    ) -> None:
        files = {
            ("small", Mode.SHORT): small_short or [],
            ("large", Mode.SHORT): large_short or [],
            ("small", Mode.REASON): small_reason or [],
            ("large", Mode.REASON): large_reason or [],
        }
        names = {"small": small_name, "large": large_name}
        _import(form, task, out, files, names, (large, at_once), as_json)


for _form in FORMATS:
    _register(_form)


def _import(
    form: str,
    task: str,
    out: Path,
    files: Files,
    names: Names,
    given: tuple[str | None, int | None],
    as_json: bool,
) -> None:
    if not any(files.values()):
        raise BadInput("no file of predictions is given", "give --small-short, --large-short, --small-reason, …")
    disk.check_folder(out, run_folder.ABOUT)
    opened, read = open_named(task), FORMATS[form].read
    known = places(opened)
    sources = [source(*kind, path, read, known) for kind, paths in files.items() for path in paths]
    reader = _reader(*given)
    called = _called(form, task, files, names, reader)
    made = Import(form, opened, known, sources, called, reader)
    facts = {
        "models": {**called, **({"read_by": reader.spec} if reader else {})},
        "files": {name: str(each.path) for name, each in made.files.items()},
        "argv": sys.argv[1:],
        "machine": machine(),
    }
    with run_folder.RunFolder(out, run_folder.About(made.config, facts)) as held:
        filled = asyncio.run(_filled(made, held))
        summary = summary_of(json.loads(json.dumps(made.config)), held.store)
        disk.save(out / "summary.json", summary)
    if as_json:
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        _show(summary["tasks"][opened.name], sources, filled, out)


def _called(form: str, task: str, files: Files, names: Names, reader: CardReader | None) -> dict[str, str]:
    """The names of the models by role: as given, else from the names of their files."""
    called = {}
    for role, name in names.items():
        there = [
            list(dict.fromkeys(FORMATS[form].model(path, task) for path in paths))
            for (of, _), paths in files.items()
            if of == role and paths
        ]
        if name is None and (several := next((each for each in there if len(each) > 1), None)):
            what = f"files of one kind are by several models: {', '.join(several)}"
            raise BadInput(what, f"give the files of one model, or its name: --{role}-name")
        if there:
            called[role] = name or there[0][0]
        elif role == "large" and reader is not None:
            called[role] = name or reader.model.name
        elif name is not None:
            raise BadInput(f"--{role}-name names a model of which there is no file", f"give --{role}-short")
    return called


async def _filled(made: Import, held: run_folder.RunFolder) -> ImportResult:
    try:
        return await fill(made, held.store)
    finally:
        if made.reader is not None:
            await made.reader.model.aclose()


def _reader(given: str | None, at_once: int | None) -> CardReader | None:
    if given is None:
        return None
    local = is_local(given)
    return CardReader(spec.load(given, "large"), given, at_once or (1 if local else AT_ONCE_SERVED))


def _show(task: Record, sources: list[Source], filled: ImportResult, out: Path) -> None:
    console = Console(highlight=False)
    rows = [(arm, _cells(about)) for arm, about in task["arms"].items()]
    console.print(ArmTable(("accuracy", "95%", "resolved"), rows, task["name"]))
    if (routes := routes_table({arm: about["routes"] for arm, about in task["arms"].items()})) is not None:
        console.print(routes)

    def say(text: str) -> None:
        console.print(text, style="dim", markup=False, soft_wrap=True)

    if failed := {arm: about["errors"] for arm, about in task["arms"].items() if about["errors"]}:
        counts = ", ".join(f"{arm} {count}" for arm, count in failed.items())
        say(f"calls that failed there, whose answers are in no mean: {counts}")
    for arm, lacks in unresolved(filled).items():
        reasons = ", ".join(f"{count} × {what}" for what, count in lacks.items())
        say(f"{arm}: {reasons}; from all of them wrong to all of them right")
    if filled.left_out:
        say(f"{filled.left_out} questions of the task are in no file, and no part of the run")
    for each in sources:
        for why, count in each.unused.items():
            say(f"{each.path}: {count} not used: {why}")
        if each.mode is Mode.SHORT and (thought := sum(reply.reasoning is not None for reply in each.replies.values())):
            say(f"{each.path}: {thought} of {len(each.replies)} short answers come with reasoning")
    if (accepted := task.get("acceptance")) and accepted["accepted"]:
        say(f"agreement accepts {accepted['accepted']} of {accepted['questions']}, {accepted['wrong']} of them wrong")
        say(beta_text(accepted["beta"], accepted["alike_given_wrong"]))
    say(f"seconds are not known, nor tokens where the files tell none; {out / 'summary.json'}")


def _cells(about: Record) -> list[str]:
    sides = about["bounds"] if "bounds" in about else {"low": about["accuracy"], "high": about["accuracy"]}
    low, high = sides["low"], sides["high"]
    return [
        "–" if low is None else f"{low:.3f} to {high:.3f}" if "bounds" in about else f"{low:.3f}",
        interval_text(about["bounds"]["interval"] if "bounds" in about else about["interval"]),
        f"{about['answered'] - about['errors']} of {about['n']}",
    ]


# --- export -----------------------------------------------------------------------------------------------------------

Run = Annotated[Path, typer.Argument(help="The directory of a run.")]
ArmName = Annotated[str, Option(help="The arm whose answers are written.")]
Into = Annotated[Path, Option(help="Where to write.")]
OneTask = Annotated[str | None, Option(help="Only this task of the run.")]


@exports_.command("vlmevalkit")
def export_vlmevalkit(
    run: Run,
    arm: ArmName,
    out: Into,
    task: OneTask = None,
    form: Annotated[vlmevalkit.Form, Option("--format", help="Of the file.")] = "xlsx",
    data: Annotated[Path | None, Option(help="The data set's TSV file, whose columns are kept.")] = None,
    dataset: Annotated[str | None, Option(help="What VLMEvalKit calls the set (MMBench_DEV_EN).")] = None,
) -> None:
    """MODEL_DATASET.xlsx with `prediction` and `thinking`, which its `dataset.evaluate` takes."""
    for answers in of_run(run, arm, task):
        _tell(answers, vlmevalkit.write(answers, out, form, data, dataset))


@exports_.command("lmms-eval")
def export_lmms(
    run: Run,
    arm: ArmName,
    out: Into,
    task: OneTask = None,
    name: Annotated[str | None, Option(help="What lmms-eval calls the task (mmstar).")] = None,
) -> None:
    """DATETIME_samples_TASK.jsonl and DATETIME_results.json, as --log_samples writes them."""
    now = datetime.now(UTC)
    for answers in of_run(run, arm, task):
        _tell(answers, *lmms.write(answers, out, now, name))
        if answers.drawn:
            _warn("the questions were drawn by chance: `doc_id` counts them, and not the data set's rows")


@exports_.command("inspect")
def export_inspect(
    run: Run,
    arm: ArmName,
    out: Into,
    task: OneTask = None,
    form: Annotated[inspect.Form, Option("--format", help="Of the log; eval needs inspect_ai.")] = "json",
    images: Annotated[bool, Option("--images", help="Write the images too.")] = False,
) -> None:
    """A log that `inspect view` shows."""
    now, (_, store) = datetime.now(UTC), run_folder.opened(run)
    with closing(store):
        for answers in of_run(run, arm, task):
            _tell(answers, inspect.write(answers, out, now, form, store.image if images else lambda digest: None))


def _tell(answers: ArmExport, *paths: Path) -> None:
    for path in paths:
        typer.echo(path)
    if answers.unanswered:
        count = len(answers.rows) + answers.unanswered
        _warn(f"{answers.unanswered} of {count} questions have no answer of {answers.arm} and are left out")


def _warn(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)
