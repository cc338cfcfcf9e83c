"""The tables of a comparison at equal budgets as the page shows them: rows of texts by column heads."""

from __future__ import annotations

from collections.abc import Callable

from cuecard.evals.budgets.matched import MatchedTask, MeasureResults, SchemeAtBudget
from cuecard.report.budgets import sentences
from cuecard.report.evaluation.sentences import between, share
from cuecard.report.page.html import Rows


def accuracies(task: MatchedTask, measure: MeasureResults) -> Rows:
    """Accuracy of every scheme and of the oracle at every budget."""
    heads = sentences.heads(measure)
    return [
        {"scheme": name, **dict(zip(heads, cells, strict=True))} for name, cells in sentences.accuracies(task, measure)
    ]


def differences(task: MatchedTask, measure: MeasureResults) -> Rows:
    """Difference of every scheme from the scheme that all are compared with."""
    rows = _by_scheme(task, measure, lambda each: sentences.points_between(each.difference))
    return [row for row in rows if any(cell not in ("–", "") for cell in list(row.values())[1:])]


def regrets(task: MatchedTask, measure: MeasureResults) -> Rows:
    """Regret: accuracy of the oracle minus that of every scheme."""
    return _by_scheme(task, measure, lambda each: sentences.points_between(each.regret))


def settings(task: MatchedTask, measure: MeasureResults) -> Rows:
    """The settings of every scheme at every budget."""
    return _by_scheme(task, measure, lambda each: sentences.mixed(each.settings))


def _by_scheme(task: MatchedTask, measure: MeasureResults, cell: Callable[[SchemeAtBudget], str]) -> Rows:
    heads, rows = sentences.heads(measure), []
    for name in task.schemes:
        at = [budget.of(name) for budget in measure.budgets]
        cells = ["–" if each is None else cell(each) for each in at]
        rows.append({"scheme": name, **dict(zip(heads, cells, strict=True))})
    return rows


def front(measure: MeasureResults) -> Rows:
    """Every setting, cheapest first."""
    return [
        {
            "setting": point.arm,
            "cost": sentences.amount(measure.measure, point.cost.estimate),
            "right": share(point.accuracy.estimate),
            "95% interval": between(point.accuracy),
            "front": "yes" if point.on_front else "no",
            "of draws": share(point.draws_on_front),
            "points, 95% interval": sentences.points_between(point.difference),
            "against": point.against or "",
        }
        for point in measure.front
    ]
