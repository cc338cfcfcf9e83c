"""The report of an evaluation: one page that needs no network and no scripts, its figures and its tables as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cuecard.domain.question import Image
from cuecard.evals.analysis.examples import Example, Gallery, Request
from cuecard.evals.analysis.results import RunResults
from cuecard.report.evaluation import csv_tables, html_tables, sentences
from cuecard.report.evaluation.figures import figures
from cuecard.report.page import html
from cuecard.report.page.report_files import Report


@dataclass(frozen=True)
class Evaluation:
    """The content of a report. `questions`: those shown one by one; `answers`: every answer, for the tables."""

    name: str
    results: RunResults
    summary: Mapping[str, Any]
    requests: Sequence[Request]
    galleries: Sequence[Gallery]
    questions: Mapping[str, Sequence[Example]]
    answers: Sequence[Mapping[str, Any]]
    picture: Callable[[str], Image | None]
    """An image by its digest."""
    about: Sequence[tuple[str, str]]


def report(shown: Evaluation) -> Report:
    """The page, its figures, and its tables as rows."""
    drawings = figures(shown.results, shown.requests)
    page = html.page(
        "evaluation.html",
        html.Heading(
            f"Evaluation: {shown.name}",
            sentences.lead(shown.results),
            [sentences.verdict(task) for task in shown.results.tasks],
            shown.about,
        ),
        shown=shown,
        drawings=drawings,
        sentences=sentences,
        tables=html_tables,
        stale=sentences.stale(shown.summary["scorer"]),
    )
    rows = {"categories": csv_tables.categories(shown.summary["tasks"]), "answers": shown.answers}
    return Report(
        page, [each for some in drawings.values() for each in some], {**csv_tables.tables(shown.results), **rows}
    )


__all__ = ["Evaluation", "Report", "report", "sentences"]
