"""The report of a comparison at equal budgets: tables, figures, and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from cuecard.evals.budgets.matched import MEASURES, ORACLE, FrontPoint, MatchedBudgets, MatchedTask, MeasureResults
from cuecard.evals.budgets.schemes import Scheme
from cuecard.report import budget_sentences as sentences
from cuecard.report.evaluation.figures import IntervalRow, interval_rows
from cuecard.report.evaluation.sentences import share, signed
from cuecard.report.page import html
from cuecard.report.page.canvas import Drawing, ScatterPoint, drawing, scatter
from cuecard.report.page.report_files import Report, Row

FAMILIES = {"short:small": "small", "reason:small": "small", "force:small": "small"}
FAMILIES |= {"short:large": "large", "reason:large": "large", "force:large": "large"}
FAMILIES |= {"transfer": "paper", "mutual": "paper"}


def report(name: str, found: MatchedBudgets, schemes: Sequence[Scheme], about: Sequence[tuple[str, str]]) -> Report:
    """The page, its figures, and its tables as rows."""
    drawings = {
        (task.task, measure.measure): [*front(task, measure), *regrets(task, measure)]
        for task in found.tasks
        for measure in task.measures
    }
    page = html.page(
        "matched_budget.html",
        html.Heading(
            f"Equal budgets: {name}",
            sentences.lead(found),
            [sentences.verdict(task, each, found.against) for task in found.tasks for each in task.measures],
            about,
        ),
        found=found,
        schemes=[{"scheme": each.name, "settings": ", ".join(each.arms)} for each in schemes],
        drawings=drawings,
        sentences=sentences,
    )
    tables = {"budgets": _budget_rows(found), "fronts": _front_rows(found)}
    return Report(page, [each for some in drawings.values() for each in some], tables)


# --- figures ----------------------------------------------------------------------------------------------------------


def front(task: MatchedTask, measure: MeasureResults) -> list[Drawing]:
    """Accuracy against cost: all settings on the front, and the most accurate setting of every other scheme."""
    best: dict[str, FrontPoint] = {}
    for point in measure.front:
        if point.scheme not in best or point.accuracy.estimate > best[point.scheme].accuracy.estimate:
            best[point.scheme] = point
    shown = [point for point in measure.front if point.on_front or point is best[point.scheme]]
    points = [
        ScatterPoint(
            point.arm,
            FAMILIES.get(point.scheme, "baseline"),
            point.cost.estimate,
            point.accuracy.estimate,
            point.accuracy.estimate if point.accuracy.low is None else point.accuracy.low,
            point.accuracy.estimate if point.accuracy.high is None else point.accuracy.high,
            point.on_front,
        )
        for point in shown
    ]
    figure = scatter(points, MEASURES[measure.measure], front=True, may_be_log=True)
    caption = (
        f"{task.task}: accuracy against {MEASURES[measure.measure]}, {task.units:,} questions, 95% intervals. In full"
        " colour and joined by steps: the settings that no other one beats in both; pale: the most accurate setting of"
        " each other scheme."
    )
    values = "; ".join(f"{point.arm} {share(point.accuracy.estimate)}" for point in shown)
    return [drawing(f"front-{measure.measure}-{task.task}", figure, values, caption)]


def regrets(task: MatchedTask, measure: MeasureResults) -> list[Drawing]:
    """A row per scheme: its accuracy at the budget nearest to the reference's cost; the oracle's as a line."""
    budget = min(measure.budgets, key=lambda each: abs(each.share - 1))
    ordered = sorted(budget.schemes, key=lambda each: -each.accuracy.estimate)
    if not ordered:
        return []
    rows = [
        IntervalRow(
            each.scheme,
            {"right": each.accuracy.estimate},
            each.accuracy.low,
            each.accuracy.high,
            "" if each.regret is None else f"regret {signed(100 * each.regret.estimate)}",
            FAMILIES.get(each.scheme) == "paper",
        )
        for each in ordered
    ]
    figure = interval_rows(rows, "right, %", {} if budget.oracle is None else {ORACLE: budget.oracle})
    spent = f"{sentences.amount(measure.measure, budget.amount)} ({MEASURES[measure.measure]})"
    caption = (
        f"{task.task}: each scheme at a budget of {spent}, with 95% intervals; dashed: the oracle, which routes each"
        " question with knowledge of the right answer. Regret: points less than the oracle."
    )
    values = "; ".join(f"{row.name} {share(row.values['right'])} {row.note}" for row in rows)
    return [drawing(f"regret-{measure.measure}-{task.task}", figure, values, caption)]


# --- tables as rows of values, for files ------------------------------------------------------------------------------


def _budget_rows(found: MatchedBudgets) -> list[Row]:
    return [
        {
            "task": task.task,
            "measure": measure.measure,
            "share": budget.share,
            "budget": budget.amount,
            "scheme": each.scheme,
            "settings": sentences.mixed(each.settings),
            "spent": each.spent,
            **{
                f"{what}{end}": getattr(interval, field)
                for what in ("accuracy", "difference", "regret")
                if (interval := getattr(each, what)) is not None
                for end, field in (("", "estimate"), ("_low", "low"), ("_high", "high"))
            },
            "p": each.p,
            "p_adjusted": each.p_adjusted,
            "oracle": budget.oracle,
        }
        for task in found.tasks
        for measure in task.measures
        for budget in measure.budgets
        for each in budget.schemes
    ]


def _front_rows(found: MatchedBudgets) -> list[Row]:
    return [
        {
            "task": task.task,
            "measure": measure.measure,
            **{name: value for name, value in asdict(point).items() if not isinstance(value, dict)},
            **{
                f"{what}{end}": getattr(interval, field)
                for what in ("cost", "accuracy", "difference")
                if (interval := getattr(point, what)) is not None
                for end, field in (("", "estimate"), ("_low", "low"), ("_high", "high"))
            },
        }
        for task in found.tasks
        for measure in task.measures
        for point in measure.front
    ]
