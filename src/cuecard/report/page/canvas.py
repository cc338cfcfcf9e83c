"""The sheet that figures are drawn on: size, margins, ink, key, and the way to an SVG string."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cuecard.report.page.svg import INK, embeddable

WIDTH, TEXT = 640, 12
"""Pixels."""


def canvas(height: int, left: int, top: int, bottom: int) -> tuple[Figure, Axes]:
    """A transparent sheet on which one point is one pixel, and its axes; margins in pixels."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    axes = figure.add_axes(
        (left / WIDTH, bottom / height, (WIDTH - left - 16) / WIDTH, (height - top - bottom) / height)
    )
    return figure, styled(axes)


def styled(axes: Axes) -> Axes:
    """The axes in ink, left and bottom only, on nothing."""
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=TEXT - 0.5, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    return axes


def write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """A text in ink, taken as it is: a `$` in somebody's name is no formula."""
    axes.text(x, y, text, **{"color": INK, "fontsize": TEXT, "parse_math": False, **style})


def key(figure: Figure, handles: Sequence[Patch | Line2D], most: int = 6) -> None:
    """What colours and marks mean, along the foot, at most so many in a row."""
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


def png(figure: Figure, said: str) -> bytes:
    """On white, two pixels a point; `said` goes with the file as its description."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(
            buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None, "Description": said}
        )
    return buffer.getvalue()


def svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cuecard"}), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing"
        )  # only widths are estimated with it: the page's font draws the text
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return embeddable(buffer.getvalue(), label)
