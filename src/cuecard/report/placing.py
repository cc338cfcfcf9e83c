"""Where to write the names of points so that none covers another name or point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LETTER, LINE, MARK = 6.0, 14.0, 6.0
"""Pixels: the width of a letter, the height of a line, and half the size of a point."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Spot:
    """A point in pixels, and its name."""

    x: float
    y: float
    text: str


def place(spots: Sequence[Spot], within: Box) -> list[tuple[float, float]]:
    """For each spot, where its name begins (left end, middle of the line): the nearest free place, tried outwards."""
    taken: list[Box] = [(s.x - MARK, s.y - MARK, s.x + MARK, s.y + MARK) for s in spots]
    placed = []
    for spot in spots:
        width = LETTER * len(spot.text)
        boxes = [_box(x, y, width) for x, y in _candidates(spot, width)]
        inside = [
            box
            for box in boxes
            if within[0] <= box[0] and box[2] <= within[2] and within[1] <= box[1] and box[3] <= within[3]
        ]
        best = min(inside or boxes, key=lambda box: (sum(_overlap(box, other) for other in taken), boxes.index(box)))
        taken.append(best)
        placed.append((best[0], (best[1] + best[3]) / 2))
    return placed


def _candidates(spot: Spot, width: float) -> list[tuple[float, float]]:
    """(left end, middle) of places around a spot, the nearest first."""
    found = []
    for away in range(7):
        step = away * LINE
        for y in (spot.y + step, spot.y - step):
            found += [(spot.x + 10 + step / 2, y), (spot.x - width - 10 - step / 2, y)]
        found += [(spot.x - width / 2, spot.y + 16 + step), (spot.x - width / 2, spot.y - 16 - step)]
    return found


def _box(x: float, y: float, width: float) -> Box:
    return (x, y - LINE / 2, x + width, y + LINE / 2)


def _overlap(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return across * down if across > 0 and down > 0 else 0.0
