"""`cuecard demo`: every strategy on two sets of real questions, live, and a report."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from cuecard import disk
from cuecard.cli import make_console
from cuecard.cli.options import closing_models, telling_what_is_kept
from cuecard.demo import EXTRA
from cuecard.demo.live import ARMS, HEADLINE, LiveRun, Tally, examine, regimes
from cuecard.demo.tasks import BoardsTask
from cuecard.domain.errors import BadInput, required
from cuecard.evals.analysis import examples
from cuecard.evals.analysis.comparisons import BASELINE
from cuecard.evals.analysis.results import RunResults, run_results
from cuecard.evals.analysis.summary import summary
from cuecard.evals.database import Record
from cuecard.evals.item import Task
from cuecard.evals.runner import Plan
from cuecard.evals.study import Study
from cuecard.models.base import Model
from cuecard.report import arm_table, formatting
from cuecard.report.formatting import evaluation_facts, machine

EASY_VQA_TEST = 9673
SHOWN = 40
"""Maximum number of questions of a task that the page shows in detail."""
WRITTEN = ("report.html", "results.json", "figures", "tables")
LINES = 8
"""Number of progress lines without an interactive terminal."""
DRAW_S = 0.1


def demo(
    shapes: Annotated[int, typer.Option("--shapes", "--easy-vqa", help="Questions of easy-VQA's test split.")] = 24,
    boards: Annotated[int, typer.Option(help="Questions about held-out boards of handwritten digits.")] = 24,
    seed: Annotated[int, typer.Option(help="Which questions: the same for the same seed.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for report.html and results.json.")] = Path("runs/demo"),
    small: Annotated[str, typer.Option(help="The small model, which writes the reasoning.")] = "demo-small",
    large: Annotated[str, typer.Option(help="The large model, which gives the answer.")] = "demo-large",
) -> None:
    """Run every strategy on two kinds of questions, live: a table, verdicts, a time line and an HTML report."""
    if shapes < 0 or boards < 0:
        raise BadInput("--shapes and --boards cannot be less than 0")
    if shapes + boards == 0:
        raise BadInput("there are no questions to ask", "give --shapes or --boards at least 1")
    if shapes > EASY_VQA_TEST:
        raise BadInput(f"easy-VQA's test split has only {EASY_VQA_TEST} questions", "lower --shapes")
    for package in ("easy_vqa", "sklearn"):  # report a missing package before anything runs
        required(package, "the demo", EXTRA)
    drawn = required("cuecard.report.evaluation.report", "the demo", EXTRA)
    tasks = regimes(shapes, boards, seed)
    study = Study({"small": small, "large": large}, [task.name for task in tasks], ARMS)
    _prepare(out)
    watch = _Watch(make_console(), tasks, out)
    with telling_what_is_kept(watch.kept) as stop:
        models = study.load()
        plan = study.plan(tasks, study.seats(models))
        run = stop.run(_run(plan, models, watch))
        page = _results(run, study.config(plan), out, drawn, watch)
    typer.echo(f"\nreport:  {page}\nnumbers: {out / 'results.json'}")


def _prepare(out: Path) -> None:
    """Make the folder. Raises BadInput if it contains anything but an earlier demo."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        others = sorted(path.name for path in out.iterdir() if path.name not in WRITTEN)
    except OSError as error:
        raise BadInput(f"cannot make the folder {out}: {error.strerror}", "give another --out") from error
    if others:
        more = "" if len(others) <= 3 else f" and {len(others) - 3} more"
        raise BadInput(
            f"{out} holds files that are not a demo's: {', '.join(others[:3])}{more}",
            "give --out a folder that is new, empty, or an earlier demo's",
        )


async def _run(plan: Plan, models: Mapping[str, Model], watch: _Watch) -> LiveRun:
    first = replace(plan, tasks=[BoardsTask("boards", -1, 1, "validation", "examined")])
    async with closing_models(models.values()):
        with watch:
            await examine(first, models, lambda record: None)  # first calls are slower
            return await examine(plan, models, watch.listen)


class _Watch:
    """Progress of the demo: on a terminal the table, updated as answers arrive; else lines on standard error."""

    def __init__(self, console: Console, tasks: Sequence[Task], out: Path) -> None:
        self.console, self._tasks, self._out, self._tally = console, tasks, out, Tally()
        self.asked = sum(task.count or 0 for task in tasks)
        self._answers, self._began_s, self._drawn_s = 0, 0.0, 0.0
        # drawn between calls only: drawing in another thread would disturb the timing
        self._live = Live(console=console, auto_refresh=False) if console.is_interactive else None

    @property
    def answered(self) -> int:
        """Questions that every arm has answered."""
        return self._answers // len(ARMS)

    def kept(self) -> str:
        """What is kept of a demo that is stopped now, in words."""
        kept = "nothing is kept" if self.answered < self.asked else f"the report in {self._out} is not whole"
        return f"{self.answered} of {self.asked} questions were answered; {kept}"

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> _Watch:
        if self._live is None:
            self.say(f"{self.asked} questions by {len(ARMS)} strategies; Ctrl-C stops")
        else:
            self._live.start()
            self._draw(self._live)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._live is not None:
            self._live.transient = kind is None  # keep the table of a stopped demo
            self._live.stop()

    def listen(self, record: Record) -> None:
        """Count one more answer."""
        if not self._answers:
            self._began_s = time.monotonic()  # without the first calls, which are slower
        self._tally.add(record)
        self._answers += 1
        ended, every = self._answers % len(ARMS) == 0, max(1, self.asked // LINES)
        if self._live is None:
            if ended and (self.answered == 1 or self.answered % every == 0):
                self.say(self._so_far())
        elif ended or time.monotonic() - self._drawn_s > DRAW_S:
            self._draw(self._live)

    def _draw(self, live: Live) -> None:
        arms = {task.name: self._tally.figures(task.name, ARMS) for task in self._tasks}
        live.update(arm_table.ResultsTable(arms, f"{self._so_far()}; Ctrl-C stops"), refresh=True)
        self._drawn_s = time.monotonic()

    def _so_far(self) -> str:
        left_s = (time.monotonic() - self._began_s) * (self.asked * len(ARMS) / max(1, self._answers) - 1)
        left = f", about {left_s:.0f} s left" if 0 < self.answered < self.asked else ""
        return f"{self.answered} of {self.asked} questions answered{left}"


def _results(run: LiveRun, config: Mapping[str, Any], out: Path, drawn: Any, watch: _Watch) -> Path:
    """Print the results, then write them; return the page."""
    with run.store() as store:
        found, known = run_results(config, store), run.examples(config, store)
        samples = run.samples(known)
        _show(watch.console, found, samples, drawn.sentences)
        watch.say(f"writing the report to {out}")
        summed, about = summary(config, store), {"config": config, "argv": sys.argv[1:], "machine": machine()}
        shown = drawn.Evaluation("demo", found, summed, known, samples, evaluation_facts(about), SHOWN)
        page: Path = drawn.report(shown, store).save(out / "report.html")[0]
        results = {"questions": watch.asked, **about, **found.as_object(), "answers": examples.rows(store)}
    disk.save(out / "results.json", results)
    return page


def _show(console: Console, found: RunResults, samples: Sequence[examples.Request], sentences: Any) -> None:
    for task in (task for task in found.tasks if task.verdict is not None):
        verdict, _, gain = sentences.pays(task).partition(": ")
        console.print(Text.assemble((verdict, "bold"), ": ", gain, "\n"))
    console.print(arm_table.results(found))
    if samples:
        _show_sample(console, samples[-1])


def _show_sample(console: Console, sample: examples.Request) -> None:
    terminal = required("cuecard.report.terminal", "the demo", EXTRA)
    asked, gold = (formatting.plain(text) for text in (sample.example.question.text, sample.example.gold))
    console.print(Text(f"\n{asked} (right: {gold})", style="bold"))
    until_s = max(call.end_s for outcome in sample.outcomes.values() for call in outcome.calls)
    for arm, role in ((BASELINE, "the baseline, the large model reasoning for itself"), (HEADLINE, "the pair")):
        console.print(Text(f"\n{arm}, {role}: {formatting.plain(sample.outcomes[arm].answer)}"))
        console.print(terminal.Timeline(sample.outcomes[arm], until_s))
    console.print()
    console.print(terminal.Legend())
