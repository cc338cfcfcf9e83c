"""Accuracy against what it costs, a point an arm: figures 1(b) to (d) of the paper, and the front of the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from cuecard.report.page.canvas import INK, TEXT, canvas, key
from cuecard.report.page.label_placement import Box, name_points, spot

FAMILIES = {
    "small": ("small model alone", "o", "#0072b2"),
    "large": ("large model alone", "D", "#008060"),
    "paper": ("both, the paper's", "s", "#c14e00"),
    "baseline": ("baselines", "^", "#b0568a"),
}
WIDE = 20
"""Costs that differ by more than this factor are drawn on a logarithmic scale, where one is asked for."""


@dataclass(frozen=True)
class ScatterPoint:
    """One arm: what it costs, its accuracy with its interval, 0 to 1; `on_front`: drawn full, else pale."""

    name: str
    family: str
    cost: float
    accuracy: float
    low: float
    high: float
    on_front: bool = True


def scatter(
    points: Sequence[ScatterPoint],
    cost: str,
    *,
    joined: Sequence[tuple[str, str]] = (),
    front: bool = False,
    may_be_log: bool = False,
) -> Figure:
    """`joined`: pairs of names with a line between them. `front`: the points on it with steps between them."""
    figure, axes = canvas(height=420, left=60, top=16, bottom=92)
    _scales(axes, points, may_be_log)
    axes.grid(color=INK, alpha=0.14, linewidth=0.8)
    avoid: list[Box] = []
    by_name = {point.name: point for point in points}
    for one, other in joined:
        ends = [by_name[name] for name in (one, other) if name in by_name]
        colour = FAMILIES[ends[0].family][2] if ends else INK
        axes.plot([each.cost for each in ends], [100 * each.accuracy for each in ends], color=colour, alpha=0.45)
        avoid += _along(axes, ends)
    if front:
        _steps(axes, [point for point in points if point.on_front])
    spots = []
    for same in _coinciding(points):
        point = same[0]
        _, mark, colour = FAMILIES[point.family]
        strength = 1.0 if point.on_front else 0.45
        x, y, low, high = point.cost, 100 * point.accuracy, 100 * point.low, 100 * point.high
        axes.plot([x, x], [low, high], color=colour, alpha=0.6 * strength, linewidth=2, solid_capstyle="round")
        style: dict[str, Any] = {
            "color": colour,
            "markeredgecolor": INK,
            "markeredgewidth": 0.5,
            "markersize": 8,
            "zorder": 4,
        }
        axes.plot([x], [y], mark, alpha=strength, **style)
        foot, head = (spot(axes, x, at, "") for at in (low, high))
        avoid.append((foot.x - 2, foot.y, head.x + 2, head.y))
        spots.append(spot(axes, x, y, _shared(same)))
    name_points(axes, spots, avoid)
    axes.set_xlabel(cost, color=INK, fontsize=TEXT)
    axes.set_ylabel("right, %", color=INK, fontsize=TEXT)
    _key(figure, points, front)
    return figure


def _scales(axes: Axes, points: Sequence[ScatterPoint], may_be_log: bool) -> None:
    costs = [point.cost for point in points]
    least, most = min(costs), max(costs)
    if may_be_log and least > 0 and most > WIDE * least:
        axes.set_xscale("log")
        axes.set_xlim(least / 1.6, most * 2.4)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    else:
        axes.set_xlim(-0.04 * most, 1.14 * (most or 1))
    low, high = 100 * min(point.low for point in points), 100 * max(point.high for point in points)
    room = max(high - low, 5)
    limits = (low - 0.14 * room, high + 0.24 * room)  # room for names over and under the points
    axes.set_ylim(*limits)
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 100])
    axes.set_ylim(*limits)


def _along(axes: Axes, ends: Sequence[ScatterPoint]) -> list[Box]:
    """A line between two points as boxes that names keep clear of."""
    if len(ends) < 2:
        return []
    one, other = (spot(axes, each.cost, 100 * each.accuracy, "") for each in ends)
    shares = [step / 40 for step in range(1, 40)]
    middles = [(one.x + share * (other.x - one.x), one.y + share * (other.y - one.y)) for share in shares]
    return [(x - 4, y - 2, x + 4, y + 2) for x, y in middles]


def _steps(axes: Axes, front: Sequence[ScatterPoint]) -> None:
    """What accuracy is to be had for at most so much."""
    ordered = sorted(front, key=lambda point: (point.cost, point.accuracy))
    if len(ordered) > 1:
        x, y = [point.cost for point in ordered], [100 * point.accuracy for point in ordered]
        axes.step(x, y, where="post", color=INK, alpha=0.5, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)


def _coinciding(points: Sequence[ScatterPoint]) -> list[list[ScatterPoint]]:
    """Arms that make the same point share one label."""
    groups: dict[tuple[str, str, str], list[ScatterPoint]] = {}
    for point in points:
        groups.setdefault((point.family, f"{point.cost:.4g}", f"{point.accuracy:.6f}"), []).append(point)
    return list(groups.values())


def _shared(same: Sequence[ScatterPoint]) -> str:
    names = [point.name for point in same]
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more"


def _key(figure: Figure, points: Sequence[ScatterPoint], front: bool) -> None:
    present = [each for name, each in FAMILIES.items() if any(point.family == name for point in points)]
    marks = [
        Line2D([], [], marker=mark, color=colour, linestyle="", markersize=8, label=name)
        for name, mark, colour in present
    ]
    if front:
        marks.append(Line2D([], [], color=INK, alpha=0.5, linestyle=(0, (4, 3)), label="front"))
    key(figure, marks, most=5)
