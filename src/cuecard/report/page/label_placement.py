"""Labels of points: placed so that none covers another label, a point, or a leader line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from cuecard.report.page.canvas import INK, TEXT

LETTER, LINE, MARK = 6.0, 14.0, 6.0
"""Pixels: the width of a letter, the height of a line, and half the size of a point."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Spot:
    """A point in pixels, and its name."""

    x: float
    y: float
    text: str


def place(spots: Sequence[Spot], within: Box, avoid: Sequence[Box] = ()) -> list[tuple[float, float]]:
    """For each spot, where its label begins (left end, middle of the line). `avoid`: boxes to leave uncovered."""
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
    """Places around a spot: at its sides, and in lines over and under it, shifted left and right."""
    width, boxes = LETTER * len(spot.text), []
    for step in range(9):
        for y in (spot.y + step * LINE, spot.y - step * LINE):
            lefts = [spot.x + 10, spot.x - width - 10]
            lefts += [spot.x - width * share for share in (0.0, 0.25, 0.5, 0.75, 1.0)] if step else []
            boxes += [(left, y - LINE / 2, left + width, y + LINE / 2) for left in lefts]
    return boxes


def _cost(spot: Spot, box: Box, taken: Sequence[Box]) -> float:
    """Covered area weighs most, then what the leader line crosses, then the distance."""
    covered = sum(_overlap(box, other) for other in taken)
    crossed = sum(_overlap(dot, other) for dot in _way(spot, box) for other in taken)
    away = abs((box[1] + box[3]) / 2 - spot.y) + 0.2 * abs((box[0] + box[2]) / 2 - spot.x)
    return 10 * covered + 4 * crossed + away


def _way(spot: Spot, box: Box) -> list[Box]:
    """The leader line from a label to its point, as dots two pixels wide; none where they are side by side."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    shares = [i / 20 for i in range(1, 20)]
    dots = [(x + share * (spot.x - x), y + share * (spot.y - y)) for share in shares]
    # outside of the name itself and of the point, and of others drawn at the same place
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
    """`avoid`: boxes in pixels that stay uncovered."""
    left, bottom = axes.transAxes.transform((0, 0))
    right, top = axes.transAxes.transform((1, 1))
    for each, (x, y) in zip(spots, place(spots, (left, bottom, right, top), avoid), strict=True):
        axes.annotate(
            each.text,
            xy=(each.x, each.y),
            xytext=(x, y),
            # points, of which a sheet has one a pixel, so that a picture of any resolution has names in their places
            xycoords="figure points",
            textcoords="figure points",
            va="center",
            color=INK,
            fontsize=TEXT - 1,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 5},
        )
