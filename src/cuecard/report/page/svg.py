"""From a drawn figure to an SVG string that can stand in a page: no prolog, no fixed size, ink in the page's colour."""

from __future__ import annotations

import hashlib
import re
from html import escape

INK = "#1f2328"
"""Drawn in this colour, shown in the colour of the text around it."""

STYLE = (
    ".cuecard-figure{color:#1f2328}"
    ".cuecard-figure text{font-family:system-ui,-apple-system,'Segoe UI','Noto Sans',sans-serif!important}"
    "@media(prefers-color-scheme:dark){.cuecard-figure{color:#e6e9ee}}"
)


def embeddable(drawn: str, label: str) -> str:
    """What a plotting library saved, for inlining: `label` is read to those who cannot see it."""
    body = drawn[drawn.index("<svg") :]
    body = re.sub(r"#1f2328", "currentColor", body)
    body = _own_ids(body)
    head, rest = body.split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    said = escape(label)
    head += f' class="cuecard-figure" role="img" aria-label="{said}"'
    return f"{head}><title>{said}</title><style>{STYLE}</style>{rest}"


def _own_ids(body: str) -> str:
    """Ids that nothing points to are dropped; the others are made this figure's own, as a page holds several."""
    used, mark = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body)), hashlib.sha256(body.encode()).hexdigest()[:8]
    body = re.sub(r' id="([^"]+)"', lambda found: f' id="f{mark}-{found[1]}"' if found[1] in used else "", body)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>f{mark}-", body)
