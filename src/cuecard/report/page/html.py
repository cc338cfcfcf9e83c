"""What pages are made of: figures with captions, tables, thumbnails. Every text that is not ours is escaped here."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from matplotlib.figure import Figure
from PIL import Image as Pictures
from PIL import UnidentifiedImageError

from cuecard.domain.question import Image
from cuecard.report.page.canvas import png, svg

STYLES = ("page.css", "evaluation.css")
NO_OTHERS = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
THUMBNAIL = 320
"""Pixels of the longer side."""


@dataclass(frozen=True)
class Drawing:
    """One figure: for the page, and as files called `name`. The caption says whether it is measured or composed."""

    name: str
    svg: str
    png: bytes
    caption: str


def drawing(name: str, figure: Figure, label: str, caption: str) -> Drawing:
    """`label` is read to those who cannot see it."""
    return Drawing(file_name(name), svg(figure, f"{label} {caption}"), png(figure, caption), caption)


def file_name(name: str) -> str:
    """Letters, digits and dashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:80] or "figure"


def document(title: str, lead: str, sections: Sequence[str]) -> str:
    """A whole page that needs no network and no scripts."""
    css = "".join((files("cuecard.report.page") / name).read_text(encoding="utf-8") for name in STYLES)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{NO_OTHERS}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n' + "\n".join(sections) + "\n</main>\n"
        "</body>\n</html>\n"
    )


def figure(drawn: Drawing) -> str:
    return wide(drawn.svg, drawn.caption)


def wide(html: str, caption: str) -> str:
    """What may be wider than a narrow screen scrolls by itself; the caption does not."""
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="wide" tabindex="0">{html}</div>{said}</figure>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int] = (), total: bool = False) -> str:
    """Plain texts; those columns of `texts` that are words stand at the left. `total`: the last row is a sum."""
    left = {0, *texts}

    def cells(row: Sequence[str], head: bool) -> str:
        return "".join(_cell(cell, place in left, head, place == 0) for place, cell in enumerate(row))

    marked = [' class="total"' if total and row is rows[-1] else "" for row in rows]
    body = [f"<tr{mark}>{cells(row, False)}</tr>" for mark, row in zip(marked, rows, strict=True)]
    return f"<table><thead><tr>{cells(heads, True)}</tr></thead>\n<tbody>\n" + "\n".join(body) + "\n</tbody></table>"


def _cell(text: str, words: bool, head: bool, first: bool) -> str:
    tag = "th" if head or first else "td"
    scope = (' scope="col"' if head else ' scope="row"') if tag == "th" else ""
    kind = ' class="words"' if words else ""
    return f"<{tag}{scope}{kind}>{escape(text)}</{tag}>"


def bullets(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def section(title: str, *parts: str, soft: str = "") -> str:
    """Nothing where there are no parts."""
    body = "\n".join(filter(None, parts))
    said = f'<p class="soft">{escape(soft)}</p>\n' if soft else ""
    return f'<section><h2 id="{file_name(title)}">{escape(title)}</h2>\n{said}{body}</section>' if body else ""


def of_task(name: str, several: bool) -> str:
    """A heading, where the run has more than one task."""
    return f"<h3>{escape(name)}</h3>" if several else ""


def thumbnail(image: Image | None) -> str:
    """At most 320 pixels long, so that a page of many stays small; a word where there is none to show."""
    if image is None:
        return '<span class="soft">(image not kept)</span>'
    try:
        with Pictures.open(io.BytesIO(image.data)) as opened:
            opened.thumbnail((THUMBNAIL, THUMBNAIL))
            buffer = io.BytesIO()
            opened.convert("RGB").save(buffer, "PNG", optimize=True)
    except (UnidentifiedImageError, OSError, ValueError, Pictures.DecompressionBombError):
        return '<span class="soft">(image cannot be shown)</span>'
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="the image that the question is about" loading="lazy">'
