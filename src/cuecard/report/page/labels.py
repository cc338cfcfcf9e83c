"""Names beside the points of a plot, with a thin line where one had to move away from its point."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from cuecard.report.page.canvas import TEXT
from cuecard.report.page.label_placement import Box, Spot, place
from cuecard.report.page.svg import INK


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
