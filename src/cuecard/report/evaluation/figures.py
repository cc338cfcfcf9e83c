"""The figures of an evaluation, by task, from its results; nothing is computed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cuecard.evals.analysis.comparisons import NO_CARD
from cuecard.evals.analysis.examples import Request
from cuecard.evals.analysis.results import ArmResults, RunResults, TaskResults
from cuecard.evals.arm import LIVE
from cuecard.evals.scorers import EXTRACTORS
from cuecard.report import terminal
from cuecard.report.canvas import INK, TEXT, WIDTH, Drawing, ScatterPoint, canvas, drawing, key, scatter
from cuecard.report.evaluation import sentences
from cuecard.report.evaluation.cut_cards import cut_cards
from cuecard.report.evaluation.sentences import between, kinds, share
from cuecard.stats.bootstrap import Interval

COLOURS = ("#0072b2", "#c14e00", "#008060", "#b0568a")
MARKS = ("o", "s", "D", "^")
COUNTED = "Tokens are counted, those of cancelled calls included."
COSTS = {
    "latency": "mean seconds a question",
    "tokens": "prompt and generated tokens a question, all models together",
    "price": "price a question",
}


def accuracy_against_tokens(task: TaskResults) -> list[Drawing]:
    """As figures 1(b) to (d) of the paper: each model short and with reasoning, joined, and the strategies."""
    arms = [arm for arm in task.arms.values() if arm.competes and arm.generated is not None]
    if not arms:
        return []
    figure = scatter(
        [
            ScatterPoint.of(arm.arm, arm.family, arm.generated.estimate, arm.accuracy)
            for arm in arms
            if arm.generated is not None
        ],
        "generated tokens a question, all models together",
        joined=[("short:small", "reason:small"), ("short:large", "reason:large")],
    )
    caption = (
        f"{task.task}: accuracy against generated tokens, as figures 1(b) to (d) of the paper. A point is one arm on"
        f" {_asked(task)}, with its 95% interval; a line joins a model's short answers and its reasoning. {COUNTED}"
        " Accuracy is measured."
    )
    return [drawing(f"accuracy-tokens-{task.task}", figure, _values(arms), caption)]


def fronts(task: TaskResults) -> list[Drawing]:
    """Accuracy against latency, tokens, and price if prices are known."""
    drawings = []
    for measure, cost in COSTS.items():
        arms = [arm for arm in task.arms.values() if arm.competes and arm.cost(measure) is not None]
        if not arms:
            continue
        points = [
            ScatterPoint.of(arm.arm, arm.family, arm.cost(measure) or 0.0, arm.accuracy, measure in arm.fronts)
            for arm in arms
        ]
        how = f", {', '.join(dict.fromkeys(str(arm.kind) for arm in arms))}" if measure == "latency" else ""
        figure = scatter(points, cost + how, front=True, may_be_log=True)
        source = f"Seconds are {kinds(arms)}." if measure == "latency" else COUNTED
        caption = (
            f"{task.task}: accuracy against {cost}. On the front (full colour, joined by steps) are arms that no other"
            f" one beats in both. With 95% intervals; a front of estimates is an estimate too. {source}"
        )
        drawings.append(drawing(f"front-{measure}-{task.task}", figure, _values(arms), caption))
    return drawings


def placebos(task: TaskResults) -> list[Drawing]:
    """For every arm with placebos: its accuracy with each card."""
    drawings = []
    of: dict[str, list[str]] = {}
    for each in task.differences:
        if each.family == "placebos":
            of.setdefault(each.against, []).append(each.arm)
    references = {name: sentences.accuracy(task.arms[name]) for name in (NO_CARD, "reason:large") if name in task.arms}
    for genuine, changed in of.items():
        rows = [_interval_row(task, genuine, "the card as it was written", strong=True)]
        rows += [_interval_row(task, arm, _placebo(arm)) for arm in changed]
        figure = interval_rows(rows, "right, %", references)
        caption = (
            f"{task.task}: {genuine} with other cards than the small model wrote (placebos), 95% intervals. At the"
            " right the difference from the real card, in points, with Holm-adjusted p. Accuracy is measured."
        )
        values = "; ".join(f"{row.name} {row.note}" for row in rows)
        drawings.append(drawing(f"placebos-{genuine}-{task.task}", figure, values, caption))
    return drawings


def extractors(task: TaskResults) -> list[Drawing]:
    """How much each accuracy depends on the extractor."""
    arms = [arm for arm in task.arms.values() if arm.extractors and not arm.arm.endswith(LIVE)]
    if all(low == high for low, high in (arm.span for arm in arms)):
        return []  # the table shows as much
    rows = []
    for arm in arms:
        low, high = arm.span
        rows.append(IntervalRow(arm.arm, arm.extractors, low, high, f"{100 * (high - low):.1f} points"))
    figure = interval_rows(rows, "right, %, the same replies read by each extractor")
    caption = (
        f"{task.task}: accuracy by {len(EXTRACTORS)} extractors, and the interval between them. A difference of two"
        " arms that is smaller than their intervals may be the parser's. Accuracy is measured."
    )
    values = "; ".join(f"{row.name} {row.note}" for row in rows)
    return [drawing(f"extractors-{task.task}", figure, values, caption)]


def false_accepts(task: TaskResults) -> list[Drawing]:
    """Falsely accepted answers of each acceptance rule."""
    rules = [rule for rule in task.rules if rule.accepted]
    if not rules:
        return []
    rows = [
        IntervalRow.of(rule.rule, "wrong among the accepted", rule.false_accepts, f"{rule.wrong} of {rule.accepted}")
        for rule in rules
    ]
    figure = interval_rows(rows, "wrong, % of the short answers that the rule accepts")
    caption = (
        f"{task.task}: false accepts of every acceptance rule, with Wilson's 95% interval, on {rules[0].questions:,}"
        " questions that both models answered short. Measured, from answers that are stored."
    )
    values = "; ".join(f"{row.name} {row.note}" for row in rows)
    return [drawing(f"false-accepts-{task.task}", figure, values, caption)]


def request(asked: Request) -> list[Drawing]:
    """A time line of every arm on one scale, as figure 2(c) of the paper."""
    scores = {arm: asked.example.answers[arm].score for arm in asked.outcomes}
    verdicts = {arm: ", right" if score >= 1 else ", wrong" for arm, score in scores.items() if score is not None}
    return terminal.requests(asked.outcomes, asked.example.task, verdicts)


def _interval_row(task: TaskResults, name: str, shown: str, strong: bool = False) -> IntervalRow:
    arm, each = task.arms[name], task.difference(name, "placebos")
    note = share(sentences.accuracy(arm))
    if each is not None:
        note = f"{sentences.signed(100 * each.accuracy.difference.estimate)}, {sentences.p_value(each.p_adjusted)}"
    return IntervalRow.of(shown, "right", arm.accuracy, note, strong)


def _placebo(arm: str) -> str:
    return next((part.removeprefix("placebo=") for part in arm.split("/") if part.startswith("placebo=")), arm)


def _asked(task: TaskResults) -> str:
    return f"the same {sentences.units(task)}"


def _values(arms: Iterable[ArmResults]) -> str:
    note = (f"{arm.arm} {share(sentences.accuracy(arm))}, {between(arm.accuracy)}" for arm in arms if arm.accuracy)
    return "; ".join(note) + "."


def figures(results: RunResults, asked: Sequence[Request]) -> dict[str, list[Drawing]]:
    """Every figure of the report, by part of the report and task."""
    drawings: dict[str, list[Drawing]] = {}
    for task in results.tasks:
        drawings[f"tokens {task.task}"] = accuracy_against_tokens(task)
        drawings[f"fronts {task.task}"] = fronts(task)
        drawings[f"placebos {task.task}"] = placebos(task)
        drawings[f"cuts {task.task}"] = cut_cards(task)
        drawings[f"extractors {task.task}"] = extractors(task)
        drawings[f"rules {task.task}"] = false_accepts(task)
    for each in asked:
        drawings[f"request {each.example.task}"] = request(each)
    return drawings


# --- values with intervals, a row each --------------------------------------------------------------------------------


@dataclass(frozen=True)
class IntervalRow:
    """One row: values by their mark, and the ends of its interval (None: no line), all shares of 1."""

    name: str
    values: Mapping[str, float]
    low: float | None
    high: float | None
    note: str = ""
    """Text at the right end of the row."""
    strong: bool = False

    @classmethod
    def of(cls, name: str, mark: str, value: Interval | None, note: str, strong: bool = False) -> IntervalRow:
        """The row of one value; 0 if there is none."""
        if value is None:
            return cls(name, {mark: 0.0}, None, None, note, strong)
        return cls(name, {mark: value.estimate}, value.low, value.high, note, strong)


def interval_rows(rows: Sequence[IntervalRow], across: str, references: Mapping[str, float] | None = None) -> Figure:
    """A figure of rows, in per cent. `references` are dashed lines across all rows, named in the legend."""
    letters = max(len(row.name) for row in rows)
    left, note = min(300, 24 + int(6.6 * letters)), max(len(row.note) for row in rows)
    marks = list(dict.fromkeys(mark for row in rows for mark in row.values))
    bottom = 72 if len(marks) > 1 or references else 44
    figure, axes = canvas(height=14 + bottom + 27 * len(rows), left=left, top=10, bottom=bottom)
    ends = [end for row in rows for end in (row.low, row.high, *row.values.values()) if end is not None]
    ends += (references or {}).values()
    low, high = 100 * min(ends), 100 * max(ends)
    room = max(high - low, 2)
    text = room * 1.2 * 6.6 * note / max(80, WIDTH - left - 6.6 * note)
    axes.set_xlim(max(low - 0.06 * room, -2), high + 0.06 * room + text)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= 100 and tick <= high + 0.2 * room])
    axes.set_xlim(max(low - 0.06 * room, -2), high + 0.06 * room + text)
    axes.grid(axis="x")
    handles = []
    for place, (name, value) in enumerate((references or {}).items()):
        dashes = (0, (2 + 3 * place, 2))
        axes.axvline(100 * value, color=INK, alpha=0.7, linewidth=1.2, linestyle=dashes)
        handles.append(Line2D([], [], color=INK, alpha=0.7, linestyle=dashes, label=name))
    for y, row in enumerate(rows):
        first = COLOURS[0] if len(marks) == 1 else INK
        if row.low is not None and row.high is not None:
            strength = 0.5 if len(marks) == 1 else 0.35
            axes.plot([100 * row.low, 100 * row.high], [y, y], color=first, alpha=strength, linewidth=3)
        for place, mark in enumerate(marks):
            if mark in row.values:
                style: dict[str, Any] = {"color": COLOURS[place], "markeredgecolor": INK, "markeredgewidth": 0.5}
                size = 9 - 1.5 * place if len(marks) > 1 else 8
                axes.plot([100 * row.values[mark]], [y], MARKS[place], markersize=size, zorder=4, **style)
        if row.note:
            at = axes.get_yaxis_transform()
            axes.text(1.0, y, row.note, color=INK, fontsize=TEXT - 1, ha="right", va="center", transform=at)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], parse_math=False)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.strong else "normal")
    axes.set_xlabel(across, loc="left")
    shown = [
        Line2D([], [], marker=MARKS[place], color=COLOURS[place], linestyle="", markersize=8, label=mark)
        for place, mark in enumerate(marks)
    ]
    if len(shown) > 1 or handles:
        key(figure, [*shown, *handles])
    return figure
