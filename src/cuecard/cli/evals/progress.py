"""Progress of a run: on a terminal a bar above each arm's accuracy so far, elsewhere an occasional line."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from cuecard.cli.options import LINE_S
from cuecard.evals.database import Record
from cuecard.evals.runner.run import RunProgress
from cuecard.report.arm_table import ArmTable
from cuecard.report.page import formatting


class RunBar:
    """Shows the progress of a run of `total` questions (None: unknown). A context manager."""

    def __init__(self, console: Console, total: int | None) -> None:
        self._console, self._printed_s = console, time.monotonic()
        self._scored, self._right, self._ended = Counter[str](), Counter[str](), Counter[str]()
        self._bar = _ArmsProgress(self._so_far, console)
        self._task = self._bar.add_task("questions", total=total)

    def __enter__(self) -> RunBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

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
        self._bar.update(self._task, total=progress.total, completed=progress.answered)
        if not self._console.is_terminal and time.monotonic() - self._printed_s > LINE_S:
            self._printed_s = time.monotonic()
            of = "" if progress.total is None else f" of {progress.total:,}"
            self._console.print(f"{progress.answered:,}{of} questions are answered")

    def _so_far(self) -> Iterable[RenderableType]:
        rows = [
            (arm, [formatting.percent(self._right[arm] / count), f"{count:,}"]) for arm, count in self._scored.items()
        ]
        if rows:
            yield ArmTable(("right", "of"), rows, one_line=True)
        if self._ended:
            yield Text(", ".join(f"{name} {count:,}" for name, count in self._ended.most_common()), style="dim")


class _ArmsProgress(Progress):
    """A bar with lines below it."""

    def __init__(self, below: Callable[[], Iterable[RenderableType]], console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
        self._below = below
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield from self._below()
