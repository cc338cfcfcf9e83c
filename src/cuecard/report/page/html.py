"""Pages from the Jinja2 templates of this package.

Autoescape is on: every text that a template prints is escaped, apart from SVG that this package draws. A page needs no
network, and runs no script but its own, which its content policy names by its digest.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image as Pictures
from PIL import UnidentifiedImageError

from cuecard.domain.question import Image, letter
from cuecard.report.page import formatting
from cuecard.report.page.canvas import file_name
from cuecard.report.page.glossary import terms_in

THUMBNAIL = 320
"""Pixels of the longer side."""


@dataclass(frozen=True)
class KeyResult:
    """One result of the first screen: a question, its answer, by how much, and how certain that is."""

    question: str
    answer: str
    amount: str
    certainty: str
    tone: Literal["good", "bad", "open"] = "open"


@dataclass(frozen=True)
class Heading:
    """The first screen of a page. `about`: facts about the run; models, task and date stand under the title too."""

    title: str
    lead: str
    verdicts: Sequence[KeyResult]
    about: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Thumbnail:
    """A small copy of an image as a data URL, with its alternative text; or why there is none."""

    text: str
    source: str | None = None


def page(template: str, heading: Heading, *, script: str | None = None, **shown: Any) -> str:
    """A whole HTML document. `script`: the name of the one script that runs on it."""
    source = (files("cuecard.report") / "templates" / script).read_text(encoding="utf-8") if script else None
    return (
        environment()
        .get_template(template)
        .render(heading=heading, policy=policy(source), script=source and Markup(source), sections=[], **shown)
    )


def policy(script: str | None = None) -> str:
    """The content policy of a page: nothing from elsewhere, and no script but this one."""
    allowed = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script is None:
        return allowed
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"{allowed}; script-src 'sha256-{digest}'"


@cache
def environment() -> Environment:
    """Templates with autoescape; an undefined name is an error."""
    jinja = Environment(
        loader=PackageLoader("cuecard.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    jinja.filters |= {"slug": file_name, "thumbnail": thumbnail, "clipped": clipped}
    jinja.globals |= {"letter": letter, "formatting": formatting, "glossary": terms_in}
    return jinja


def thumbnail(image: Image | None) -> Thumbnail:
    """At most 320 pixels long, so that a page of many stays small."""
    if image is None:
        return Thumbnail("(image not kept)")
    try:
        with Pictures.open(io.BytesIO(image.data)) as opened:
            opened.thumbnail((THUMBNAIL, THUMBNAIL))
            buffer = io.BytesIO()
            opened.convert("RGB").save(buffer, "PNG", optimize=True)
    except (UnidentifiedImageError, OSError, ValueError, Pictures.DecompressionBombError):
        return Thumbnail("(image cannot be shown)")
    data = base64.b64encode(buffer.getvalue()).decode()
    return Thumbnail("the image that the question is about", f"data:image/png;base64,{data}")


def clipped(text: str, length: int) -> str:
    """At most so many characters, with an ellipsis where some are left out."""
    return text if len(text) <= length else text[: length - 1] + "…"
