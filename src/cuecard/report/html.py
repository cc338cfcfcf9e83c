"""Pages from the Jinja2 templates of this package, and a report as files: its page, figures and tables.

Autoescape is on: all text is escaped, except SVG that this package draws. A page needs no network, and runs no script
but its own, which its content policy names by digest.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image as Pictures
from PIL import UnidentifiedImageError

from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image, letter
from cuecard.report import formatting
from cuecard.report.canvas import Drawing, file_name
from cuecard.stats import Interval

Rows = Sequence[Mapping[str, str]]
"""A table of a page: rows of texts by column heads; the first column names the row."""
Row = Mapping[str, Any]
"""A row of a table as a file: values by column."""
THUMBNAIL = 320
"""Pixels of the longer side."""


@dataclass(frozen=True)
class KeyResult:
    """One result of the first screen: a question, its answer, the effect size, and the certainty."""

    question: str
    answer: str
    amount: str
    certainty: str
    tone: Literal["good", "bad", "open"] = "open"


@dataclass(frozen=True)
class Heading:
    """The first screen of a page. `about`: facts about the run; models, task and date are repeated under the title."""

    title: str
    lead: str
    verdicts: Sequence[KeyResult]
    about: Sequence[tuple[str, str]]
    warning: str | None = None
    """Shown above all results."""


@dataclass(frozen=True)
class Thumbnail:
    """A small copy of an image as a data URL, with its alternative text; or the reason why there is none."""

    text: str
    source: str | None = None


def page(template: str, heading: Heading, *, script: str | None = None, **shown: Any) -> str:
    """A whole HTML document. `script`: the name of its only script."""
    source = (files("cuecard.report") / "templates" / script).read_text(encoding="utf-8") if script else None
    return (
        environment()
        .get_template(template)
        .render(heading=heading, policy=policy(source), script=source and Markup(source), sections=[], **shown)
    )


def policy(script: str | None = None) -> str:
    """The content policy of a page: nothing from other origins, and no script but this one."""
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
    """An image of at most 320 pixels a side, so that a page with many stays small."""
    if image is None:
        return Thumbnail("(image not kept)")
    try:
        with Pictures.open(io.BytesIO(image.data)) as opened:
            opened.thumbnail((THUMBNAIL, THUMBNAIL))
            buffer = io.BytesIO()
            opened.convert("RGB").save(buffer, "PNG", optimize=True)
    except (UnidentifiedImageError, OSError, ValueError, Pictures.DecompressionBombError):
        return Thumbnail("(image cannot be shown)")
    return Thumbnail("the image that the question is about", Image(buffer.getvalue()).data_url)


def clipped(text: str, length: int) -> str:
    """At most `length` characters, with an ellipsis if text is left out."""
    return text if len(text) <= length else text[: length - 1] + "…"


# --- terms ------------------------------------------------------------------------------------------------------------

TERMS = {
    "accuracy": "The share of questions answered right; the mean score where scores are between 0 and 1.",
    "agreed": "Route: the large model's short answer was accepted without reasoning, by the acceptance rule.",
    "arm": "One strategy with its options, run on every question of a task.",
    "attention": "The weights, summing to 1, with which a token reads the tokens before it.",
    "baseline": "The arm that all others are compared with; reason:large unless another is named.",
    "break-even": "The number of tokens that the small model can write until the large model alone is as fast.",
    "card": "The small model's reasoning, as the large model reads it.",
    "cascade": "Strategy: the small model answers short; unless it is confident, the large model reasons.",
    "composed": "A latency put together from calls that were made once and are shared by all arms.",
    "confirmed": "Route: the small model's reasoning came to the large model's short answer.",
    "decode": "The steps that generate tokens after the first, one at a time.",
    "degraded": "Route: a model failed, and the answer is what the other one gave.",
    "direct": "Route: one model answered alone, as its strategy prescribes.",
    "eager": "Schedule: as overlap, and reasoning starts at once; cancelled where the short answers are accepted.",
    "escalated": "Route: the cheap way was not sure enough, and the more expensive one answered.",
    "estimated": "A latency from simulated or fitted models, not timed.",
    "extractor": "The parser that reads an answer out of a reply; several show what depends on the parser.",
    "front": "The arms that no other arm beats in both accuracy and cost (Pareto).",
    "hand-off": "The time from the small model's last reasoning token to the large model's first answer token.",
    "key tokens": "The fewest tokens that carry the given share (delta) of the attention to the reasoning.",
    "measured": "A latency timed live in this run.",
    "mutual": "Strategy: both models answer short; where they agree that is the answer, else the card decides.",
    "overlap": "Schedule: independent calls run at once; the reader computes the card while it is written.",
    "pace": "The speed of a call while another runs beside it, as a share of its speed alone.",
    "placebo": "A card that was replaced, to see what of the real card helps.",
    "prefill": "The pass that computes the prompt, before the first token.",
    "roofline": "The least time that a device's measured compute and bandwidth allow for a component.",
    "route": "The way in which an answer came about; each question has exactly one.",
    "small, large": "The two roles of a pair: small writes the reasoning, large answers.",
    "sparsity": "The smallest share of the reasoning's tokens that carries delta of the attention to it.",
    "thrifty": "Schedule: one call after the other, and none that is not needed.",
    "TPOT": "Time per output token after the first.",
    "TTFT": "Time to first token.",
    "transfer": "Strategy: the large model answers from the card.",
    "transferred": "Route: the large model answered from the card.",
    "unparsed": "A reply in which no answer was recognised.",
}


def terms_in(html: str) -> list[tuple[str, str]]:
    """The terms that occur in the text of a page, each with its meaning."""
    text = re.sub(r"<[^>]*>", " ", html)
    return [
        (term, meaning)
        for term, meaning in TERMS.items()
        if re.search(rf"(?<!\w)(?:{term.replace(', ', '|')})s?(?!\w)", text, re.IGNORECASE)
    ]


# --- a report as files: figures as SVG and PNG, tables as CSV and Parquet ---------------------------------------------


@dataclass(frozen=True)
class Report:
    """A page and the files beside it: figures as SVG and PNG, tables as CSV, `answers` as Parquet too."""

    page: str
    figures: Sequence[Drawing]
    tables: Mapping[str, Sequence[Row]]

    def save(self, path: Path) -> list[Path]:
        """Write the page, and `figures/` and `tables/` beside it; return page and tables. Raises BadInput."""
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.page, encoding="utf-8")
        return [path, *save_files(self.figures, self.tables, path.parent)[len(self.figures) :]]


def save_files(figures: Sequence[Drawing], tables: Mapping[str, Sequence[Row]], folder: Path) -> list[Path]:
    """Write `figures/` with captions, and `tables/`; return the SVG files, then the tables. Raises BadInput."""
    written = []
    with _writing(folder):
        for name in ("figures", "tables"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for each in figures:
            path = folder / "figures" / each.name
            path.with_suffix(".png").write_bytes(each.png)
            path.with_suffix(".svg").write_text(each.svg, encoding="utf-8")
            written.append(path.with_suffix(".svg"))
        captions = "\n\n".join(f"{each.name}: {each.caption}" for each in figures)
        (folder / "figures" / "captions.txt").write_text(captions + "\n", encoding="utf-8")
        for name, rows in tables.items():
            write_csv(path := folder / "tables" / f"{name}.csv", rows)
            written.append(path)
        if write_parquet(path := folder / "tables" / "answers.parquet", tables.get("answers", ())):
            written.append(path)
    return written


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(f"cannot write {error.filename or path}: {error.strerror}", "give another --out") from error


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write all columns that occur in any row. A quote precedes a text that a spreadsheet would read as a formula."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        written = csv.DictWriter(file, columns, restval="")
        written.writeheader()
        written.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)


def interval_columns(name: str, interval: Interval | None) -> Row:
    """Estimate and ends of an interval, each in a column of its own; None: no interval."""
    ends = asdict(interval) if interval is not None else {}
    return {name: ends.get("estimate"), f"{name}_low": ends.get("low"), f"{name}_high": ends.get("high")}


def _harmless(value: Any) -> Any:
    if not isinstance(value, str) or not value or value[0] not in "=+-@\t\r":
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def write_parquet(path: Path, rows: Sequence[Row]) -> bool:
    """Write rows as Parquet; False without pyarrow or without rows."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return False
    if rows:
        parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    return bool(rows)
