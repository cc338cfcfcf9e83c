"""Questions of an attention run to look at one by one: the reasoning, each token shaded by what it is attended to.

The shades are in the page; a script of its own, the only one that the page's policy allows, changes which are shown.
Without scripts the first question is there, in the mean over layers and heads.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from cuecard.attention.analysis.examples import Look, Shades
from cuecard.attention.axes import QUERIES
from cuecard.domain.question import letter
from cuecard.report.page.html import thumbnail

MOST_BYTES = 12 * 2**20
"""Of the page: as many questions as fit are in it."""
ALL = QUERIES.index("all")


def script() -> str:
    return (files("cuecard.report.attention") / "attention.js").read_text(encoding="utf-8")


def policy() -> str:
    """The page's content policy: nothing from elsewhere, and no script but ours."""
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def browser(looks: Sequence[Look]) -> str:
    """The section's body; nothing where no question was kept."""
    if not looks:
        return ""
    packed: list[str] = []
    size = 0
    for look in looks:
        text = json.dumps(_packed(look), ensure_ascii=False).replace("<", "\\u003c")
        size += len(text)
        if packed and size > MOST_BYTES:
            break
        packed.append(text)
    controls = "".join(
        f'<label>{said}<select id="{name}"></select></label>'
        for name, said in (
            ("question", "question"),
            ("condition", "answer from"),
            ("queries", "queries"),
            ("layer", "layer"),
            ("head", "head"),
        )
    )
    first = looks[0]
    name, shades = next(iter(first.shades.items()))
    return (
        '<div id="browser" class="browser"><div class="controls" hidden>'
        f'<button id="before" type="button">← previous</button>{controls}'
        '<button id="after" type="button">next →</button></div>'
        f'<div class="case"><div id="images">{"".join(map(thumbnail, first.images[:4]))}</div><div>'
        f'<p id="asked" class="asked">{escape(_asked(first))}</p>'
        f'<p id="answered">{escape(_answered(first, name, shades))}</p></div></div>'
        f'<p id="card" class="shaded" tabindex="0">{_tokens(shades)}</p>'
        '<p id="told" class="soft" role="status"></p>'
        '<p class="soft scale"><span>none</span><span class="ramp"></span><span id="most">the token with most</span>'
        '<span class="key">carries the share</span></p>'
        "<noscript><p>Choosing a question, layer and head needs scripts; shown is the first question, mean over layers"
        " and heads.</p></noscript></div>"
        f'<script type="application/json" id="looks">[{",".join(packed)}]</script>'
        f"<script>{script()}</script>"
    )


def _asked(look: Look) -> str:
    options = "".join(f"\n{letter(n)}. {option}" for n, option in enumerate(look.meta["options"]))
    return f"{look.meta['text']}{options}"


def _answered(look: Look, name: str, shades: Shades) -> str:
    wrong = f", wrong (right: {look.meta['gold']})"
    verdict = "" if shades.right is None else ", right" if shades.right >= 1 else wrong
    return f"{name}: “{shades.answer.strip()}”{verdict}"


def _tokens(shades: Shades) -> str:
    """The mean over layers and heads."""
    row = shades.rows[ALL, 0, 0]
    most = float(row.max()) or 1.0
    return "".join(
        f'<span style="--s:{share / most:.2f}" title="{100 * share:.2f}%">{escape(piece)}</span>'
        for share, piece in zip(row, shades.pieces, strict=True)
    )


def _packed(look: Look) -> dict[str, Any]:
    return {
        "name": f"{look.meta['id']}: {look.meta['category'] or look.meta['kind']}",
        "asked": _asked(look),
        "images": [thumbnail(image) for image in look.images[:4]],
        "shades": {name: _shades(look, name, each) for name, each in look.shades.items()},
    }


def _shades(look: Look, name: str, shades: Shades) -> dict[str, Any]:
    """Rows as bytes, 255 for a row's largest, with that and the row's sum beside them."""
    most, total = shades.rows.max(-1), shades.rows.sum(-1)
    scaled = np.rint(255 * shades.rows / np.maximum(most, 1e-12)[..., None]).astype(np.uint8)
    return {
        "answered": _answered(look, name, shades),
        "pieces": list(shades.pieces),
        "shape": shades.rows.shape[:3],
        "rows": base64.b64encode(scaled.tobytes()).decode(),
        "most": [float(f"{value:.4g}") for value in most.ravel()],
        "mass": [float(f"{value:.4g}") for value in total.ravel()],
        "carrying": shades.carrying.ravel().tolist(),
    }
