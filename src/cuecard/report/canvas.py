"""The canvas of all figures: size, margins, ink, legend, and export to PNG and to SVG for inlining.

Also the scatter plot: accuracy against cost, a point per arm (figures 1(b) to (d) of the paper), and the Pareto front.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from cuecard.stats import Interval

WIDTH, TEXT = 640, 12
"""Pixels."""
INK = "#1f2328"
"""Drawn in this colour, displayed in the colour of the surrounding text."""

STYLE = (
    ".cuecard-figure{color:#1f2328}"
    ".cuecard-figure text{font-family:system-ui,-apple-system,'Segoe UI','Noto Sans',sans-serif!important}"
    "@media(prefers-color-scheme:dark){.cuecard-figure{color:#e6e9ee}}"
)


@dataclass(frozen=True)
class Drawing:
    """One figure: for the page, and as files named `name`. The caption states the origin of its values."""

    name: str
    svg: str
    png: bytes
    caption: str


def canvas(height: int, left: int, top: int, bottom: int) -> tuple[Figure, Axes]:
    """A transparent figure with one point per pixel, and its axes; margins in pixels."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    axes = figure.add_axes(
        (left / WIDTH, bottom / height, (WIDTH - left - 16) / WIDTH, (height - top - bottom) / height)
    )
    return figure, styled(axes)


def styled(axes: Axes) -> Axes:
    """The axes in ink, with labels and grid, spines at the left and the bottom only, and no background."""
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=TEXT - 0.5, length=3, grid_color=INK, grid_alpha=0.14, grid_linewidth=0.8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=INK, size=TEXT)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    return axes


def write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write a text in ink, without mathtext: a `$` in a name starts no formula."""
    axes.text(x, y, text, **{"color": INK, "fontsize": TEXT, "parse_math": False, **style})


def key(figure: Figure, handles: Sequence[Patch | Line2D], most: int = 6) -> None:
    """Draw the legend of colours and marks at the foot, with at most `most` entries in a row."""
    columns = max(1, min(len(handles), most))
    figure.legend(
        handles=list(handles),
        loc="lower left",
        ncols=columns,
        frameon=False,
        fontsize=TEXT - 0.5,
        labelcolor=INK,
        handlelength=1.2,
        columnspacing=1.2,
        borderaxespad=0.2,
    )


def png(figure: Figure, text: str) -> bytes:
    """A PNG on white, two pixels a point; `text` is the description in the file."""
    metadata = {"Software": None, "Description": text}
    return _saved(figure, format="png", dpi=144, facecolor="white", metadata=metadata)


def svg(figure: Figure, label: str) -> str:
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cuecard"}):
        return embeddable(_saved(figure, format="svg", transparent=True, metadata=nothing).decode(), label)


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # in SVG the font here only estimates widths: the page's font draws the text
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def embeddable(drawn: str, label: str) -> str:
    """An SVG file as markup to inline in a page, with `label` as its alternative text."""
    body = drawn[drawn.index("<svg") :]
    body = re.sub(r"#1f2328", "currentColor", body)
    body = _own_ids(body)
    head, rest = body.split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    text = escape(label)
    head += f' class="cuecard-figure" role="img" aria-label="{text}"'
    return f"{head}><title>{text}</title><style>{STYLE}</style>{rest}"


def _own_ids(body: str) -> str:
    """Drop ids without references, and make the others unique, as a page holds several figures."""
    used, mark = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body)), hashlib.sha256(body.encode()).hexdigest()[:8]
    body = re.sub(r' id="([^"]+)"', lambda match: f' id="f{mark}-{match[1]}"' if match[1] in used else "", body)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>f{mark}-", body)


def drawing(name: str, figure: Figure, label: str, caption: str) -> Drawing:
    """A figure as a `Drawing`; `label` is the alternative text."""
    return Drawing(file_name(name), svg(figure, f"{label} {caption}"), png(figure, caption), caption)


def file_name(name: str) -> str:
    """The name with letters, digits and dashes only."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:80] or "figure"


FAMILIES = {
    "small": ("small model alone", "o", "#0072b2"),
    "large": ("large model alone", "D", "#008060"),
    "paper": ("both, the paper's", "s", "#c14e00"),
    "baseline": ("baselines", "^", "#b0568a"),
}
LETTER, LINE, MARK = 6.2, 14.0, 6.0
"""Pixels: the width of a letter, the height of a line, and half the size of a point."""
Box = tuple[float, float, float, float]
WIDE = 20
"""A range of costs with more than this ratio is drawn on a logarithmic scale, if `may_be_log`."""


@dataclass(frozen=True)
class ScatterPoint:
    """One arm: its cost, its accuracy with its interval, 0 to 1; `on_front`: drawn in full colour, else pale."""

    name: str
    family: str
    cost: float
    accuracy: float
    low: float
    high: float
    on_front: bool = True

    @classmethod
    def of(cls, name: str, family: str, cost: float, accuracy: Interval | None, on_front: bool = True) -> ScatterPoint:
        """An interval without ends is drawn as the point; without an accuracy the point is at 0."""
        if accuracy is None:
            return cls(name, family, cost, 0.0, 0.0, 0.0, on_front)
        low, high = (accuracy.estimate if end is None else end for end in (accuracy.low, accuracy.high))
        return cls(name, family, cost, accuracy.estimate, low, high, on_front)


def scatter(
    points: Sequence[ScatterPoint],
    cost: str,
    *,
    joined: Sequence[tuple[str, str]] = (),
    front: bool = False,
    may_be_log: bool = False,
) -> Figure:
    """Draw the points. `joined`: pairs of names joined by a line. `front`: join the points on the front by steps."""
    figure, axes = canvas(height=420, left=60, top=16, bottom=92)
    _scales(axes, points, may_be_log)
    axes.grid()
    avoid: list[Box] = []
    by_name = {point.name: point for point in points}
    for one, other in joined:
        ends = [by_name[name] for name in (one, other) if name in by_name]
        colour = FAMILIES[ends[0].family][2] if ends else INK
        axes.plot([each.cost for each in ends], [100 * each.accuracy for each in ends], color=colour, alpha=0.45)
        avoid += _along(axes, ends)
    if front:
        avoid += _steps(axes, [point for point in points if point.on_front])
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
    axes.set_xlabel(cost)
    axes.set_ylabel("right, %")
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
    limits = (low - 0.14 * room, high + 0.24 * room)  # room for names above and below the points
    axes.set_ylim(*limits)
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 100])
    axes.set_ylim(*limits)


def _along(axes: Axes, ends: Sequence[ScatterPoint]) -> list[Box]:
    """Draw a line between two points; return boxes that names keep clear of."""
    if len(ends) < 2:
        return []
    one, other = (spot(axes, each.cost, 100 * each.accuracy, "") for each in ends)
    shares = [step / 40 for step in range(1, 40)]
    middles = [(one.x + share * (other.x - one.x), one.y + share * (other.y - one.y)) for share in shares]
    return [(x - 4, y - 2, x + 4, y + 2) for x, y in middles]


def _steps(axes: Axes, front: Sequence[ScatterPoint]) -> list[Box]:
    """Draw the best accuracy for at most each cost, as steps; return boxes that names keep clear of."""
    ordered = sorted(front, key=lambda point: (point.cost, point.accuracy))
    if len(ordered) < 2:
        return []
    x, y = [point.cost for point in ordered], [100 * point.accuracy for point in ordered]
    axes.step(x, y, where="post", color=INK, alpha=0.5, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    spots = [spot(axes, *at, "") for at in zip(x, y, strict=True)]
    pairs = list(pairwise(spots))
    level = [(one.x, one.y - 2, other.x, one.y + 2) for one, other in pairs]
    upright = [(other.x - 2, min(one.y, other.y), other.x + 2, max(one.y, other.y)) for one, other in pairs]
    return [*level, *upright]


def _coinciding(points: Sequence[ScatterPoint]) -> list[list[ScatterPoint]]:
    """Group arms with the same point, which share one label."""
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


# --- labels, placed so that none covers another label, a point, or a leader line --------------------------------------


@dataclass(frozen=True)
class Spot:
    """A point in pixels, and its name."""

    x: float
    y: float
    text: str


def place(spots: Sequence[Spot], within: Box, avoid: Sequence[Box] = ()) -> list[tuple[float, float]]:
    """For each spot, the start of its label (left end, middle of the line). `avoid`: boxes to leave uncovered."""
    taken: list[Box] = [*avoid, *((s.x - MARK, s.y - MARK, s.x + MARK, s.y + MARK) for s in spots)]
    placed = []
    for spot in spots:
        boxes = _candidates(spot)
        inside = [
            b for b in boxes if within[0] <= b[0] and b[2] <= within[2] and within[1] <= b[1] and b[3] <= within[3]
        ]
        best = min(inside or boxes, key=lambda box: _cost(spot, box, taken))
        taken += [best, *_way(spot, best)]
        placed.append((best[0], (best[1] + best[3]) / 2))
    return placed


def _candidates(spot: Spot) -> list[Box]:
    """Boxes around a spot: beside it, and in lines above and below it, shifted left and right."""
    width, boxes = LETTER * len(spot.text), []
    for step in range(9):
        for y in (spot.y + step * LINE, spot.y - step * LINE):
            lefts = [spot.x + 10, spot.x - width - 10]
            lefts += [spot.x - width * share for share in (0.0, 0.25, 0.5, 0.75, 1.0)] if step else []
            boxes += [(left, y - LINE / 2, left + width, y + LINE / 2) for left in lefts]
    return boxes


def _cost(spot: Spot, box: Box, taken: Sequence[Box]) -> float:
    """Weighted sum of the covered area, the area crossed by the leader line, and the distance; heaviest first."""
    covered = sum(_overlap(box, other) for other in taken)
    crossed = sum(_overlap(dot, other) for dot in _way(spot, box) for other in taken)
    away = abs((box[1] + box[3]) / 2 - spot.y) + 0.2 * abs((box[0] + box[2]) / 2 - spot.x)
    return 10 * covered + 6 * crossed + away


def _way(spot: Spot, box: Box) -> list[Box]:
    """The leader line from a label to its point, as dots two pixels wide; none if they are side by side."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    shares = [i / 20 for i in range(1, 20)]
    dots = [(x + share * (spot.x - x), y + share * (spot.y - y)) for share in shares]
    # only dots outside of the name and of the point (and of others at the same position)
    far = [(a, b) for a, b in dots if abs(b - y) > LINE / 2 and max(abs(a - spot.x), abs(b - spot.y)) > MARK + 1]
    return [(a - 1, b - 1, a + 1, b + 1) for a, b in far]


def _overlap(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return across * down if across > 0 and down > 0 else 0.0


def spot(axes: Axes, x: float, y: float, text: str) -> Spot:
    """A point of the data in pixels, and its name."""
    across, up = axes.transData.transform((x, y))
    return Spot(float(across), float(up), text)


def name_points(axes: Axes, spots: Sequence[Spot], avoid: Sequence[Box]) -> None:
    """Label the points. `avoid`: boxes in pixels to leave uncovered."""
    left, bottom = axes.transAxes.transform((0, 0))
    right, top = axes.transAxes.transform((1, 1))
    for each, (x, y) in zip(spots, place(spots, (left, bottom, right, top), avoid), strict=True):
        axes.annotate(
            each.text,
            xy=(each.x, each.y),
            xytext=(x, y),
            # one point is one pixel of the canvas, so that labels keep their positions at any resolution
            xycoords="figure points",
            textcoords="figure points",
            va="center",
            color=INK,
            fontsize=TEXT - 1,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 5},
        )
