"""The report of a comparison at equal budgets: its text, tables, figures, and the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cuecard.evals.analysis.comparisons import p_value, signed
from cuecard.evals.analysis.matched_budgets import (
    MEASURES,
    ORACLE,
    FrontPoint,
    MatchedBudgets,
    MatchedTask,
    MeasureResults,
    Scheme,
    SchemeAtBudget,
)
from cuecard.report import formatting, html
from cuecard.report.canvas import Drawing, ScatterPoint, drawing, scatter
from cuecard.report.evaluation.figures import IntervalRow, interval_rows
from cuecard.report.evaluation.sentences import between, share
from cuecard.report.html import KeyResult, Report, Row, Rows, interval_columns
from cuecard.stats import Interval

FAMILIES = {"short:small": "small", "reason:small": "small", "force:small": "small"}
FAMILIES |= {"short:large": "large", "reason:large": "large", "force:large": "large"}
FAMILIES |= {"transfer": "paper", "mutual": "paper"}

SPENT: Mapping[str, str] = {
    "tokens": "generated tokens",
    "price": "money",
    "time": "time (composed)",
    "live": "time (measured)",
}
"""Name of each measure, after "the same"."""
MARKS = {1: " +", 0: "", -1: " −"}
LEGEND = (
    "+ and −: significantly more or less accurate than {against} at the same budget (Holm over the schemes at one"
    " budget, 0.05). –: every setting of the scheme costs more."
)


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
            lead(found),
            [verdict(task, each, found.against) for task in found.tasks for each in task.measures],
            about,
        ),
        found=found,
        schemes=[{"scheme": each.name, "settings": ", ".join(each.arms)} for each in schemes],
        drawings=drawings,
        by_scheme=by_scheme,
        front_table=front_table,
        summary=summary,
        spent=SPENT,
        legend=LEGEND.format(against=found.against),
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
        ScatterPoint.of(
            point.arm, FAMILIES.get(point.scheme, "baseline"), point.cost.estimate, point.accuracy, point.on_front
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
        IntervalRow.of(
            each.scheme,
            "right",
            each.accuracy,
            "" if each.regret is None else f"regret {signed(100 * each.regret.estimate)}",
            FAMILIES.get(each.scheme) == "paper",
        )
        for each in ordered
    ]
    figure = interval_rows(rows, "right, %", {} if budget.oracle is None else {ORACLE: budget.oracle})
    spent = f"{amount(measure.measure, budget.amount)} ({MEASURES[measure.measure]})"
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
            "settings": mixed(each.settings),
            "spent": each.spent,
            **_intervals(each, "accuracy", "difference", "regret"),
            "p": each.p,
            "p_adjusted": each.p_adjusted,
            "oracle": budget.oracle,
        }
        for task in found.tasks
        for measure in task.measures
        for budget in measure.budgets
        for each in budget.schemes
    ]


def _intervals(value: Any, *names: str) -> Row:
    """The columns of those intervals that there are."""
    known = [interval_columns(name, interval) for name in names if (interval := getattr(value, name)) is not None]
    return {column: value for columns in known for column, value in columns.items()}


def _front_rows(found: MatchedBudgets) -> list[Row]:
    return [
        {
            "task": task.task,
            "measure": measure.measure,
            **{name: value for name, value in asdict(point).items() if not isinstance(value, dict)},
            **_intervals(point, "cost", "accuracy", "difference"),
        }
        for task in found.tasks
        for measure in task.measures
        for point in measure.front
    ]


# --- cells of tables, and the text of the first screen ----------------------------------------------------------------


def amount(measure: str, value: float) -> str:
    """A cost formatted for display."""
    if measure in ("time", "live"):
        return formatting.duration(value)
    return f"{value:.1f}" if measure == "tokens" else f"{value:.3g}"


def heads(measure: MeasureResults) -> list[str]:
    """Column heads like `0.5× (30.4)`: each budget as a share of the reference, and its amount."""
    return [f"{each.share:g}× ({amount(measure.measure, each.amount)})" for each in measure.budgets]


def title(task: MatchedTask, measure: MeasureResults) -> str:
    return f"{task.task}: right, %, for the same {SPENT[measure.measure]}, {task.units:,} questions"


def points_between(interval: Interval | None) -> str:
    """`+1.2 (0.3 to 2.2)`, in points."""
    return "" if interval is None else f"{signed(100 * interval.estimate)} ({between(interval)})"


def mixed(settings: tuple[tuple[str, float], ...]) -> str:
    """`mutual`, or `60% cascade/confidence=0.9, 40% cascade/confidence=0.99`."""
    if len(settings) == 1:
        return settings[0][0]
    return ", ".join(f"{100 * part:.0f}% {arm}" for arm, part in settings)


def lead(found: MatchedBudgets) -> str:
    """Explanation of the page in one paragraph."""
    return (
        f"At a budget, a share of what {found.reference} costs, each scheme plays the settings that are most accurate"
        " at no more than the budget in the mean. They are chosen on other questions than those that they are judged"
        f" by, in {found.folds} folds. Every arm is composed of the same stored calls."
    )


def verdict(task: MatchedTask, measure: MeasureResults, against: str) -> KeyResult:
    """The most accurate scheme at the budget nearest to the reference's cost."""
    budget = min(measure.budgets, key=lambda each: abs(each.share - 1))
    question = f"{task.task}: most accurate at {amount(measure.measure, budget.amount)} ({SPENT[measure.measure]})?"
    if not budget.schemes:
        return KeyResult(question, "None", "Every scheme costs more.", "")
    best = max(budget.schemes, key=lambda each: each.accuracy.estimate)
    gain = f"{share(best.accuracy.estimate)} right at {amount(measure.measure, best.spent)}"
    if best.difference is None or best.p_adjusted is None:
        return KeyResult(
            question, best.scheme, f"{gain}.", f"It is what the others are compared with ({against}).", "good"
        )
    sure = f"{points_between(best.difference)} points against {against}, adjusted {p_value(best.p_adjusted)}."
    return KeyResult(question, best.scheme, f"{gain}.", sure, "good" if best.verdict > 0 else "open")


def summary(task: MatchedTask, against: str) -> list[str]:
    """Summary of the comparison, one line per measure."""
    lines = []
    for measure in task.measures:
        better, worse = (
            sorted({each.scheme for budget in measure.budgets for each in budget.schemes if each.verdict == sign})
            for sign in (1, -1)
        )
        points = [point for point in reversed(measure.front) if point.on_front]
        front = {(point.cost.estimate, point.accuracy.estimate): point.arm for point in points}  # the first of equals
        lines.append(
            f"for the same {SPENT[measure.measure]}: more accurate than {against} at some budget:"
            f" {', '.join(better) or 'none'}; less accurate: {', '.join(worse) or 'none'};"
            f" on the front: {', '.join(list(front.values())[::-1])}"
        )
    shared = f"{task.calls_stored:,} stored calls stand for {task.calls_used:,} calls of all arms"
    return [*lines, shared]


# --- tables of the page: rows of texts by column heads ----------------------------------------------------------------


CELLS: Mapping[str, Callable[[SchemeAtBudget], str]] = {
    "accuracy": lambda each: f"{100 * each.accuracy.estimate:.1f}{MARKS[each.verdict]}",
    "difference": lambda each: points_between(each.difference),
    "regret": lambda each: points_between(each.regret),
    "settings": lambda each: mixed(each.settings),
}


def by_scheme(task: MatchedTask, measure: MeasureResults, what: str) -> Rows:
    """A row per scheme, a column per budget. `what`: a key of `CELLS`.

    With the accuracies the oracle is last; differences are of the schemes that have one.
    """
    rows: list[dict[str, str]] = []
    for name in task.schemes:
        at = [budget.of(name) for budget in measure.budgets]
        cells = ["–" if each is None else CELLS[what](each) for each in at]
        if what != "difference" or any(cell not in ("–", "") for cell in cells):
            rows.append({"scheme": name, **dict(zip(heads(measure), cells, strict=True))})
    if what == "accuracy":
        best = ["–" if budget.oracle is None else f"{100 * budget.oracle:.1f}" for budget in measure.budgets]
        rows.append({"scheme": ORACLE, **dict(zip(heads(measure), best, strict=True))})
    return rows


def front_table(measure: MeasureResults) -> Rows:
    """Every setting, cheapest first."""
    return [
        {
            "setting": point.arm,
            "cost": amount(measure.measure, point.cost.estimate),
            "right": share(point.accuracy.estimate),
            "95% interval": between(point.accuracy),
            "front": "yes" if point.on_front else "no",
            "of draws": share(point.draws_on_front),
            "points, 95% interval": points_between(point.difference),
            "against": point.against or "",
        }
        for point in measure.front
    ]
