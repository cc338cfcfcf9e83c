"""Tables of arms for a terminal: figures stay whole at any width; names fold at their slashes, or are shortened."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from cuecard.evals.analysis.comparisons import BASELINE
from cuecard.evals.analysis.results import ArmResults, RunResults, TaskResults
from cuecard.report import formatting

LEAST_NAME = 24
"""Minimum columns for a folded name; with fewer, names are on lines of their own, above their figures."""
GAP = 2


@dataclass(frozen=True)
class ArmTable:
    """A row per arm, its figures under `heads`. `one_line`: names are shortened in the middle instead of folded."""

    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    title: str = ""
    one_line: bool = False
    groups: Sequence[tuple[str, int]] = ()
    """Names above the heads, each with the number of columns it covers; left out if names are above their figures."""

    @property
    def width(self) -> int:
        """Columns needed to show every name beside its figures, in one line."""
        return self._longest + sum(width + GAP for width in self._widths)

    @property
    def _widths(self) -> list[int]:
        columns = zip(self.heads, *(cells for _, cells in self.rows), strict=True)
        return [max(map(cell_len, column)) for column in columns]

    @property
    def _longest(self) -> int:
        return max(map(cell_len, ("arm", *(name for name, _ in self.rows))))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(self.title, style="italic", overflow="fold")
        widths, longest = self._widths, self._longest
        room = options.max_width - sum(width + GAP for width in widths)
        lines = self._beside(widths, min(longest, room)) if room >= min(longest, LEAST_NAME) else None
        for line in lines or self._above(widths, options.max_width):
            line.no_wrap, line.overflow = True, "ignore"
            yield line

    def _beside(self, widths: Sequence[int], room: int) -> Iterator[Text]:
        """Lines with names to the left of their figures."""
        if self.groups:
            yield Text(_padded("", room) + "".join(self._over(widths)), style="bold")
        yield Text(_padded("arm", room) + _aligned(self.heads, widths), style="bold")
        for name, cells in self.rows:
            first, *more = self._fitted(name, room)
            yield Text(_padded(first, room) + _aligned(cells, widths))
            yield from map(Text, more)

    def _over(self, widths: Sequence[int]) -> Iterator[str]:
        """The names of groups, each as wide as its columns."""
        start = 0
        for name, count in self.groups:
            width = sum(each + GAP for each in widths[start : start + count]) - GAP
            yield " " * GAP + f" {name} ".center(width, "-")
            start += count

    def _above(self, widths: Sequence[int], width: int) -> Iterator[Text]:
        """Names above their figures, which take as many lines as needed."""
        chunks = list(_chunks(widths, width))
        for part in chunks:
            yield Text(_aligned(self.heads[part], widths[part]), style="bold")
        for name, cells in self.rows:
            yield from map(Text, self._fitted(name, width))
            for part in chunks:
                yield Text(_aligned(cells[part], widths[part]))

    def _fitted(self, name: str, width: int) -> list[str]:
        return [shortened(name, width)] if self.one_line else folded(name, width)


def routes_table(arms: Mapping[str, Mapping[str, int]]) -> ArmTable | None:
    """Questions by route of each arm with routes besides `direct`, a column per route; None without such an arm."""
    chosen = {arm: routes for arm, routes in arms.items() if set(routes) - {"direct"}}
    heads = list(dict.fromkeys(route for routes in chosen.values() for route in routes))
    rows = [(arm, [str(routes.get(route, 0)) for route in heads]) for arm, routes in chosen.items()]
    return ArmTable(heads, rows, "questions by route") if rows else None


def folded(name: str, width: int) -> list[str]:
    """Lines of at most `width` columns, broken after slashes if there are any."""
    lines = [""]
    for piece in _pieces(name, width):
        if lines[-1] and cell_len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return lines


def _pieces(name: str, width: int) -> Iterator[str]:
    """Parts of a name that are not broken."""
    for part in re.split(r"(?<=/)", name):
        for piece in [part] if cell_len(part) <= width else re.split(r"(?<=[=+,])", part):
            yield from chop_cells(piece, width)


def shortened(name: str, width: int) -> str:
    """A name shortened in the middle, as arms differ at their ends: `mutual/notes…budget=64`."""
    if cell_len(name) <= width:
        return name
    head, tail = name, name
    while cell_len(head) > width // 3:
        head = head[:-1]
    while cell_len(head) + 1 + cell_len(tail) > width:
        tail = tail[1:]
    return f"{head}…{tail}"


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(" " * (GAP + width - cell_len(cell)) + cell for cell, width in zip(cells, widths, strict=True))


def _chunks(widths: Sequence[int], width: int) -> Iterator[slice]:
    """Slices of columns that fit into a line, at least one column each."""
    start, taken = 0, 0
    for at, each in enumerate(widths):
        if at > start and taken + GAP + each > width:
            yield slice(start, at)
            start, taken = at, 0
        taken += GAP + each
    yield slice(start, len(widths))


# --- results of all tasks ---------------------------------------------------------------------------------------------

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
