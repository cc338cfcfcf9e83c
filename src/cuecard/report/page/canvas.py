"""The canvas of all figures: size, margins, ink, legend, and export to PNG and to SVG for inlining."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

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
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(
            buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None, "Description": text}
        )
    return buffer.getvalue()


def svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cuecard"}), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing"
        )  # only for estimating widths: the page's font draws the text
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return embeddable(buffer.getvalue(), label)


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
