"""The table of results for a terminal: a row per arm, columns grouped by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from cuecard.evals.analysis.results import ArmResults, RunResults, TaskResults
from cuecard.evals.analysis.verdict import BASELINE
from cuecard.report.arm_table import ArmTable
from cuecard.report.page import formatting

HEADS = ("right", "latency", "speed-up")


@dataclass(frozen=True)
class Figures:
    """Figures of one arm on one task; None: not known yet."""

    right: float | None
    latency_s: float | None
    times_faster: float | None
    """Speed-up over the large model's own reasoning."""

    @classmethod
    def of(cls, task: TaskResults, arm: ArmResults) -> Figures:
        slow, took = (each.cost("latency") for each in (task.arms[BASELINE], arm))
        faster = slow / took if slow and took else None
        return cls(None if arm.accuracy is None else arm.accuracy.estimate, took, faster)


def results(found: RunResults) -> ResultsTable:
    """Accuracy, latency, and speed-up over the large model's own reasoning, of each arm on each task."""
    figures = {task.task: {arm.arm: Figures.of(task, arm) for arm in task.plain} for task in found.tasks}
    asked = ", ".join(f"{task.items:,} of {task.task}" for task in found.tasks)
    kinds = ", ".join(dict.fromkeys(str(arm.kind) for task in found.tasks for arm in task.plain))
    alone = f"over the large model reasoning for itself ({BASELINE})"
    return ResultsTable(figures, f"Questions: {asked}. Latency: mean, {kinds}. Speed-up: {alone}.")


@dataclass(frozen=True)
class ResultsTable:
    """A row per arm; three columns per task: right, latency, speed-up. Tasks are stacked on a narrow terminal.

    `tasks`: figures by arm, by the head of the task's columns.
    """

    tasks: Mapping[str, Mapping[str, Figures]]
    caption: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        beside = self._table(tuple(self.tasks), options)
        if beside.width <= options.max_width:
            yield beside
        else:
            yield from (self._table((name,), options) for name in self.tasks)
        yield Text(f"\n{self.caption}", style="dim")

    def _table(self, tasks: Sequence[str], options: ConsoleOptions) -> ArmTable:
        rows = [
            (arm, [cell for name in tasks for cell in _cells(self.tasks[name][arm], options.ascii_only)])
            for arm in self.tasks[tasks[0]]
        ]
        if len(tasks) == 1:
            return ArmTable(HEADS, rows, tasks[0])
        return ArmTable(HEADS * len(tasks), rows, groups=[(name, len(HEADS)) for name in tasks])


def _cells(figures: Figures, ascii_only: bool) -> list[str]:
    unknown, times = ("-", "x") if ascii_only else ("–", "×")
    return [
        unknown if figures.right is None else formatting.percent(figures.right),
        unknown if figures.latency_s is None else formatting.duration(figures.latency_s),
        unknown if figures.times_faster is None else f"{figures.times_faster:.2f}{times}",
    ]
