"""Figures of values with intervals, a row each: arms, extractors side by side, rules with error rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cuecard.report.page.canvas import INK, TEXT, WIDTH, canvas, key

COLOURS = ("#0072b2", "#c14e00", "#008060", "#b0568a")
MARKS = ("o", "s", "D", "^")


@dataclass(frozen=True)
class IntervalRow:
    """One row: values by the mark that shows them, and the ends of its line (None: no line), all shares of 1."""

    name: str
    values: Mapping[str, float]
    low: float | None
    high: float | None
    note: str = ""
    """At the right end of the row."""
    strong: bool = False


def interval_rows(rows: Sequence[IntervalRow], across: str, references: Mapping[str, float] | None = None) -> Figure:
    """A row each, in per cent. `references` are dashed lines over all rows, named in the key."""
    letters = max(len(row.name) for row in rows)
    left, note = min(300, 24 + int(6.6 * letters)), max(len(row.note) for row in rows)
    marks = list(dict.fromkeys(mark for row in rows for mark in row.values))
    bottom = 72 if len(marks) > 1 or references else 44
    figure, axes = canvas(height=14 + bottom + 27 * len(rows), left=left, top=10, bottom=bottom)
    ends = [end for row in rows for end in (row.low, row.high, *row.values.values()) if end is not None]
    ends += (references or {}).values()
    low, high = 100 * min(ends), 100 * max(ends)
    room = max(high - low, 2)
    text = room * 1.2 * 6.6 * note / max(80, WIDTH - left - 6.6 * note)
    axes.set_xlim(max(low - 0.06 * room, -2), high + 0.06 * room + text)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= 100 and tick <= high + 0.2 * room])
    axes.set_xlim(max(low - 0.06 * room, -2), high + 0.06 * room + text)
    axes.grid(axis="x", color=INK, alpha=0.14, linewidth=0.8)
    handles = []
    for place, (name, value) in enumerate((references or {}).items()):
        dashes = (0, (2 + 3 * place, 2))
        axes.axvline(100 * value, color=INK, alpha=0.7, linewidth=1.2, linestyle=dashes)
        handles.append(Line2D([], [], color=INK, alpha=0.7, linestyle=dashes, label=name))
    for y, row in enumerate(rows):
        first = COLOURS[0] if len(marks) == 1 else INK
        if row.low is not None and row.high is not None:
            strength = 0.5 if len(marks) == 1 else 0.35
            axes.plot([100 * row.low, 100 * row.high], [y, y], color=first, alpha=strength, linewidth=3)
        for place, mark in enumerate(marks):
            if mark in row.values:
                style: dict[str, Any] = {"color": COLOURS[place], "markeredgecolor": INK, "markeredgewidth": 0.5}
                size = 9 - 1.5 * place if len(marks) > 1 else 8
                axes.plot([100 * row.values[mark]], [y], MARKS[place], markersize=size, zorder=4, **style)
        if row.note:
            at = axes.get_yaxis_transform()
            axes.text(1.0, y, row.note, color=INK, fontsize=TEXT - 1, ha="right", va="center", transform=at)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], parse_math=False)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.strong else "normal")
    axes.set_xlabel(across, color=INK, fontsize=TEXT, loc="left")
    shown = [
        Line2D([], [], marker=MARKS[place], color=COLOURS[place], linestyle="", markersize=8, label=mark)
        for place, mark in enumerate(marks)
    ]
    if len(shown) > 1 or handles:
        key(figure, [*shown, *handles])
    return figure
