"""The report of an evaluation: one page that needs no network and no scripts, its figures and its tables as files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuecard.domain.question import Image
from cuecard.evals.analysis import examples
from cuecard.evals.analysis.examples import Example, Gallery, Request
from cuecard.evals.analysis.results import RunResults, TaskResults
from cuecard.evals.analysis.scores import AGGREGATES
from cuecard.evals.database import Store
from cuecard.evals.judging import JudgedRun, ListedReply, judged_run
from cuecard.evals.run_folder import unfinished
from cuecard.report import html
from cuecard.report.evaluation import sentences
from cuecard.report.evaluation import tables as html_tables
from cuecard.report.evaluation.figures import figures
from cuecard.report.html import Report, Row, interval_columns

MOST_UNPARSED = 40
"""Maximum number of replies of a task that the page lists."""


@dataclass(frozen=True)
class Evaluation:
    """The content of a report. `questions`: those shown in detail; `answers`: every answer, for the tables."""

    name: str
    results: RunResults
    summary: Mapping[str, Any]
    requests: Sequence[Request]
    galleries: Sequence[Gallery]
    questions: Mapping[str, Sequence[Example]]
    answers: Sequence[Mapping[str, Any]]
    picture: Callable[[str], Image | None]
    """Look an image up by its digest."""
    about: Sequence[tuple[str, str]]
    unfinished: str | None
    """What is missing from an unfinished run."""
    judging: JudgedRun


def evaluation(
    name: str,
    of: tuple[RunResults, Mapping[str, Any]],
    known: Mapping[str, Sequence[Example]],
    store: Store,
    about: Sequence[tuple[str, str]],
    most: int,
    requests: Iterable[Request],
    run: Path | None = None,
) -> Evaluation:
    """The content of a report. `of`: results and summary; `most`: maximum number of questions shown of a task.

    `run`: the directory with the results of judges, if there are any.
    """
    results, summary = of
    telling = {
        task.task: examples.most_telling(known[task.task], [arm.arm for arm in task.plain], most)
        for task in results.tasks
    }
    return Evaluation(
        name,
        results,
        summary,
        [*requests],
        examples.galleries(results, known),
        telling,
        examples.rows(store),
        store.image,
        about,
        unfinished(summary["config"], store),
        judged_run(store, [task.task for task in results.tasks], run),
    )


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
            shown.unfinished,
        ),
        shown=shown,
        drawings=drawings,
        sentences=sentences,
        tables=html_tables,
        most=MOST_UNPARSED,
        stale=sentences.stale(shown.summary["scorer"]),
    )
    rows = {"categories": categories(shown.summary["tasks"]), "answers": shown.answers}
    rows["unparsed"] = [_listed(each) for each in shown.judging.unparsed]
    if shown.judging.grades:
        rows["graded"] = [_listed(each) for each in shown.judging.grades]
    return Report(page, [each for some in drawings.values() for each in some], {**tables(shown.results), **rows})


# --- tables as rows of values, for files ------------------------------------------------------------------------------


def tables(found: RunResults) -> dict[str, list[Row]]:
    """Every table but the answers, by name."""
    return {name: [row for task in found.tasks for row in rows_of(task)] for name, rows_of in TABLES.items()}


def _arms(task: TaskResults) -> list[Row]:
    return [
        {
            "task": task.task,
            **_fields(arm, "arm", "family", "answered", "errors", "units"),
            **interval_columns("accuracy", arm.accuracy),
            "unresolved": arm.unresolved,
            "bounds_low": arm.bounds and arm.bounds[0],
            "bounds_high": arm.bounds and arm.bounds[1],
            **interval_columns("generated_tokens", arm.generated),
            "all_tokens": arm.spent,
            **interval_columns("seconds", arm.latency),
            **_fields(arm, "p50_s", "p90_s"),
            "handoff_s": arm.handoff_mean_s,
            "latency": arm.kind and str(arm.kind),
            **_fields(arm, "price", "unparsed", "truncated"),
            "on_front": " ".join(arm.fronts),
        }
        for arm in task.arms.values()
    ]


def _differences(task: TaskResults) -> list[Row]:
    return [
        {
            "task": task.task,
            **_fields(each, "family", "arm", "against", "pairs"),
            **interval_columns("difference", each.interval),
            **_fields(each.accuracy, "better", "worse", "test", "p"),
            **_fields(each, "p_adjusted", "significant"),
            "margin": each.not_worse.margin,
            "not_worse_p": each.not_worse.p,
            "not_worse_shown": each.not_worse.shown,
            "survives_extractors": each.survives,
            **{f"difference_{name}": one.difference for name, one in each.extractors.items()},
            **interval_columns("times_faster", each.times_faster),
            "latency": each.kind and str(each.kind),
            **interval_columns("times_faster_live", each.times_faster_live),
            **interval_columns("generated_tokens", each.tokens),
        }
        for each in task.differences
    ]


def _routes(task: TaskResults) -> list[Row]:
    return [
        {
            "task": task.task,
            "arm": arm.arm,
            **_fields(route, "route", "questions", "share", "accuracy"),
            **{f"generated_{role}": route.tokens.get(role, 0.0) for role in arm.by_role},
            "mean_s": route.mean_s,
            "latency": arm.kind and str(arm.kind),
        }
        for arm in task.arms.values()
        for route in arm.routes
    ]


def _extractors(task: TaskResults) -> list[Row]:
    return [{"task": task.task, "arm": arm.arm, **arm.extractors} for arm in task.arms.values() if arm.extractors]


def _rules(task: TaskResults) -> list[Row]:
    return [
        {
            "task": task.task,
            **_fields(rule, "rule", "questions", "accepted", "wrong", "shared"),
            **interval_columns("false_accepts", rule.false_accepts if rule.accepted else None),
        }
        for rule in task.rules
    ]


def _ledger(task: TaskResults) -> list[Row]:
    return [
        {"task": task.task, "arm": arm.arm, **row}
        for arm in task.arms.values()
        if arm.ledger is not None
        for row in arm.ledger.as_object()["rows"]
    ]


TABLES: Mapping[str, Callable[[TaskResults], list[Row]]] = {
    "arms": _arms,
    "differences": _differences,
    "routes": _routes,
    "extractors": _extractors,
    "acceptance": _rules,
    "ledger": _ledger,
}


def _listed(reply: ListedReply) -> Row:
    judged = reply.judged
    return {
        **_fields(reply, "task", "id", "reply", "truncated"),
        "arms": " ".join(reply.arms),
        "right": " | ".join(reply.golds),
        "judge": judged and f"{judged.judge}@{judged.revision}",
        "judged_answer": judged and judged.answer,
        "judged_score": judged and judged.score,
    }


def _fields(value: Any, *names: str) -> Row:
    return {name: getattr(value, name) for name in names}


def categories(tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per arm and category of every task of `summary.json`."""
    return [
        {
            "task": task,
            "arm": arm,
            "category": name,
            "answered": part["n"],
            "scored": part["scored"],
            "accuracy": part["accuracy"],
            **(
                {"groups": part["circular"]["groups"], "circular": part["circular"]["accuracy"]}
                if part.get("circular")
                else {}
            ),
            **(part.get(of_task["aggregate"]) or {} if of_task["aggregate"] in AGGREGATES else {}),
        }
        for task, of_task in tasks.items()
        for arm, of_arm in of_task["arms"].items()
        for name, part in of_arm["by_category"].items()
    ]


__all__ = ["Evaluation", "Report", "evaluation", "report", "sentences"]
