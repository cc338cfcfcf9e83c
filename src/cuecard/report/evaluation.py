"""The report of an evaluation: one page that needs no network and no scripts, its figures and its tables as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from cuecard.domain.errors import BadInput
from cuecard.report import categories, drawings, sentences, tables
from cuecard.report.chapters import CHAPTERS
from cuecard.report.evaluated import Evaluation
from cuecard.report.html import NO_OTHERS
from cuecard.report.parts import Drawing

STYLES = ("page.css", "evaluation.css")


@dataclass(frozen=True)
class Report:
    """The page and the files beside it."""

    page: str
    figures: tuple[Drawing, ...]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]

    def save(self, path: Path) -> list[Path]:
        """The page, `figures/` and `tables/` beside it: what was written. Raises BadInput."""
        written = [path]
        try:
            for folder in (path.parent / "figures", path.parent / "tables"):
                folder.mkdir(parents=True, exist_ok=True)
            path.write_text(self.page, encoding="utf-8")
            for each in self.figures:
                at = path.parent / "figures" / each.name
                at.with_suffix(".svg").write_text(each.svg, encoding="utf-8")
                at.with_suffix(".png").write_bytes(each.png)
            captions = "\n\n".join(f"{each.name}: {each.caption}" for each in self.figures)
            (path.parent / "figures" / "captions.txt").write_text(captions + "\n", encoding="utf-8")
            for name, rows in self.tables.items():
                at = path.parent / "tables" / f"{name}.csv"
                tables.write_csv(at, rows)
                written.append(at)
            if tables.write_parquet(at := path.parent / "tables" / "answers.parquet", self.tables["answers"]):
                written.append(at)
        except OSError as error:
            where = error.filename or path
            raise BadInput(f"cannot write {where}: {error.strerror}", "give another --out") from error
        return written


def report(shown: Evaluation) -> Report:
    """Drawn and put together."""
    drawn = drawings.all_of(shown.found, shown.requests)
    figures = tuple(each for some in drawn.values() for each in some)
    rows = {"categories": categories.rows(shown.summary["tasks"]), "answers": shown.answers}
    return Report(page(shown, drawn), figures, {**tables.tables(shown.found), **rows})


def page(shown: Evaluation, drawn: Mapping[str, Sequence[Drawing]]) -> str:
    """The whole report as one HTML document."""
    sections = [part for make in CHAPTERS if (part := make(shown, drawn))]
    css = "".join((files("cuecard.report") / name).read_text(encoding="utf-8") for name in STYLES)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{NO_OTHERS}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Evaluation: {escape(shown.name)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>Evaluation: {escape(shown.name)}</h1>\n<p class="lead">{escape(sentences.lead(shown.found))}</p>\n'
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


__all__ = ["Evaluation", "Report", "page", "report", "sentences"]
