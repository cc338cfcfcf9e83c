"""`cuecard import` and `cuecard export`: other tools' predictions become a run, a run's answers their files."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cuecard import disk
from cuecard.cli import make_console
from cuecard.cli.evals.study import beta_text, interval_text
from cuecard.cli.evals.tasks import open_named
from cuecard.cli.options import closing_models, takes_options
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput
from cuecard.evals import run_folder
from cuecard.evals.analysis.summary import summary as summary_of
from cuecard.evals.database import Record
from cuecard.evals.interop import ArmExport, FileFormat, Source, inspect, lmms, of_run, places, source, vlmevalkit
from cuecard.evals.interop.imports import CardReader, Import, ImportResult, fill
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
Files = Mapping[tuple[str, Mode], Sequence[Path]]
"""By role and mode."""


@dataclass(frozen=True)
class ImportOptions:
    """What is imported; all formats take the same options."""

    task: Annotated[str, Option(help="The questions that the files answer: tsv:FILE, mmstar:path=FILE.tsv, mmstar, …")]
    out: Annotated[Path, Option(help="The run's directory.")]
    small_short: Annotated[list[Path] | None, Option(help="The small model's short answers; can be repeated.")] = None
    large_short: Annotated[list[Path] | None, Option(help="The large model's short answers.")] = None
    small_reason: Annotated[
        list[Path] | None, Option(help="The small model's answers after reasoning, with the reasoning.")
    ] = None
    large_reason: Annotated[list[Path] | None, Option(help="The large model's answers after reasoning.")] = None
    small_name: Annotated[str | None, Option(help="The small model's name. Default: from the files' names.")] = None
    large_name: Annotated[str | None, Option(help="The large model's name. Default: from the files' names.")] = None
    large: Annotated[
        str | None, Option(help="The large model, which reads the reasoning where no file has its answer.")
    ] = None
    at_once: Annotated[
        int | None, Option(min=1, help="Most of its calls at once. Default: 1 in this process, else 8.")
    ] = None
    as_json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False

    @property
    def files(self) -> Files:
        modes = (Mode.SHORT, Mode.REASON)
        return {(role, mode): getattr(self, f"{role}_{mode}") or [] for mode in modes for role in ("small", "large")}

    def reader(self) -> CardReader | None:
        """The large model, loaded. Raises BadInput, MissingExtra, ModelError."""
        if self.large is None:
            return None
        at_once = self.at_once or (1 if is_local(self.large) else AT_ONCE_SERVED)
        return CardReader(spec.load(self.large, "large"), self.large, at_once)


def _register(form: str) -> None:
    """Register the import command for one tool's files."""

    @imports.command(form, help=FORMATS[form].about)
    @takes_options
    def command(*, given: ImportOptions) -> None:
        _import(form, given)


for _form in FORMATS:
    _register(_form)


def _import(form: str, given: ImportOptions) -> None:
    files, out = given.files, given.out
    if not any(files.values()):
        raise BadInput("no file of predictions is given", "give --small-short, --large-short, --small-reason, …")
    disk.check_folder(out, run_folder.ABOUT)
    opened, read = open_named(given.task), FORMATS[form].read
    known = places(opened)
    sources = [source(*kind, path, read, known) for kind, paths in files.items() for path in paths]
    reader = given.reader()
    called = _called(form, given, reader)
    made = Import(form, opened, known, sources, called, reader)
    facts = {
        "models": {**called, **({"read_by": reader.spec} if reader else {})},
        "files": {name: str(each.path) for name, each in made.files.items()},
        "argv": sys.argv[1:],
        "machine": machine(),
    }
    with run_folder.RunFolder(out, made.config, facts) as held:
        filled = asyncio.run(_filled(made, held))
        summary = summary_of(json.loads(json.dumps(made.config)), held.store)
        disk.save(out / "summary.json", summary)
    if given.as_json:
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        _show(summary["tasks"][opened.name], sources, filled, out)


def _called(form: str, given: ImportOptions, reader: CardReader | None) -> dict[str, str]:
    """The names of the models by role: as given, else from the names of their files."""
    called = {}
    for role, name in {"small": given.small_name, "large": given.large_name}.items():
        there = [
            list(dict.fromkeys(FORMATS[form].model(path, given.task) for path in paths))
            for (of, _), paths in given.files.items()
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
    async with closing_models([made.reader.model] if made.reader else []):
        return await fill(made, held.store)


def _show(task: Record, sources: list[Source], filled: ImportResult, out: Path) -> None:
    console = make_console()
    rows = [(arm, _cells(about)) for arm, about in task["arms"].items()]
    console.print(ArmTable(("accuracy", "95%", "resolved"), rows, task["name"]))
    if (routes := routes_table({arm: about["routes"] for arm, about in task["arms"].items()})) is not None:
        console.print(routes)

    def say(text: str) -> None:
        console.print(text, style="dim", markup=False, soft_wrap=True)

    if failed := {arm: about["errors"] for arm, about in task["arms"].items() if about["errors"]}:
        counts = ", ".join(f"{arm} {count}" for arm, count in failed.items())
        say(f"calls that failed there, whose answers are in no mean: {counts}")
    for arm, lacks in filled.unresolved.items():
        reasons = ", ".join(f"{count} × {what}" for what, count in Counter(lacks.values()).items())
        if not reasons:
            continue
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


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and where to."""

    run: Annotated[Path, typer.Argument(help="The directory of a run.")]
    arm: Annotated[str, Option(help="The arm whose answers are written.")]
    out: Annotated[Path, Option(help="Where to write.")]
    task: Annotated[str | None, Option(help="Only this task of the run.")] = None

    def answers(self) -> list[ArmExport]:
        """The arm's answers by task. Raises BadInput."""
        return of_run(self.run, self.arm, self.task)


@exports_.command("vlmevalkit")
@takes_options
def export_vlmevalkit(
    *,
    given: ExportOptions,
    form: Annotated[vlmevalkit.Form, Option("--format", help="Of the file.")] = "xlsx",
    data: Annotated[Path | None, Option(help="The data set's TSV file, whose columns are kept.")] = None,
    dataset: Annotated[str | None, Option(help="What VLMEvalKit calls the set (MMBench_DEV_EN).")] = None,
) -> None:
    """MODEL_DATASET.xlsx with `prediction` and `thinking`, which its `dataset.evaluate` takes."""
    for answers in given.answers():
        _tell(answers, vlmevalkit.write(answers, given.out, form, data, dataset))


@exports_.command("lmms-eval")
@takes_options
def export_lmms(
    *,
    given: ExportOptions,
    name: Annotated[str | None, Option(help="What lmms-eval calls the task (mmstar).")] = None,
) -> None:
    """DATETIME_samples_TASK.jsonl and DATETIME_results.json, as --log_samples writes them."""
    now = datetime.now(UTC)
    for answers in given.answers():
        _tell(answers, *lmms.write(answers, given.out, now, name))
        if answers.drawn:
            _warn("the questions were drawn by chance: `doc_id` counts them, and not the data set's rows")


@exports_.command("inspect")
@takes_options
def export_inspect(
    *,
    given: ExportOptions,
    form: Annotated[inspect.Form, Option("--format", help="Of the log; eval needs inspect_ai.")] = "json",
    images: Annotated[bool, Option("--images", help="Write the images too.")] = False,
) -> None:
    """A log that `inspect view` shows."""
    now = datetime.now(UTC)
    with run_folder.opened_run(given.run) as (_, store):
        for answers in given.answers():
            picture = store.image if images else lambda digest: None
            _tell(answers, inspect.write(answers, given.out, now, form, picture))


def _tell(answers: ArmExport, *paths: Path) -> None:
    for path in paths:
        typer.echo(path)
    if answers.unanswered:
        count = len(answers.rows) + answers.unanswered
        _warn(f"{answers.unanswered} of {count} questions have no answer of {answers.arm} and are left out")


def _warn(text: str) -> None:
    make_console(stderr=True, soft_wrap=True).print(text, markup=False)
