"""The report of an evaluation: one page that needs no network and no scripts, its figures and its tables as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuecard.domain.errors import BadInput
from cuecard.report.evaluation import (
    categories,
    csv_tables,
    sentences,
)
from cuecard.report.evaluation import (
    figures as evaluation_figures,
)
from cuecard.report.evaluation.inputs import Evaluation
from cuecard.report.evaluation.sections import CHAPTERS
from cuecard.report.page.html import Drawing, document


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
                csv_tables.write_csv(at, rows)
                written.append(at)
            answers = self.tables.get("answers", ())
            if csv_tables.write_parquet(at := path.parent / "tables" / "answers.parquet", answers):
                written.append(at)
        except OSError as error:
            where = error.filename or path
            raise BadInput(f"cannot write {where}: {error.strerror}", "give another --out") from error
        return written


def report(shown: Evaluation) -> Report:
    """Drawn and put together."""
    drawn = evaluation_figures.all_of(shown.found, shown.requests)
    figures = tuple(each for some in drawn.values() for each in some)
    rows = {"categories": categories.rows(shown.summary["tasks"]), "answers": shown.answers}
    return Report(page(shown, drawn), figures, {**csv_tables.tables(shown.found), **rows})


def page(shown: Evaluation, drawn: Mapping[str, Sequence[Drawing]]) -> str:
    """The whole report as one HTML document."""
    sections = [part for make in CHAPTERS if (part := make(shown, drawn))]
    return document(f"Evaluation: {shown.name}", sentences.lead(shown.found), sections)


__all__ = ["Evaluation", "Report", "page", "report", "sentences"]
