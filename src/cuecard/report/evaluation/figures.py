"""The figures of an evaluation, by task, from its results; nothing is computed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cuecard.evals.analysis.comparisons import NO_CARD, p_value, signed
from cuecard.evals.analysis.examples import Request
from cuecard.evals.analysis.results import ArmResults, RunResults, TaskResults
from cuecard.evals.arm import FILE, LIVE, parse
from cuecard.evals.scorers import EXTRACTORS
from cuecard.report import terminal
from cuecard.report.canvas import INK, TEXT, WIDTH, Drawing, ScatterPoint, canvas, drawing, key, scatter, styled, write
from cuecard.report.evaluation import sentences
from cuecard.report.evaluation.sentences import between, kinds, share
from cuecard.stats import Interval
from cuecard.strategies.card_selection import CardCut, Ending

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
    scores = {arm: asked.example.answers[arm]["score"] for arm in asked.outcomes}
    verdicts = {arm: ", right" if score >= 1 else ", wrong" for arm, score in scores.items() if score is not None}
    return terminal.requests(asked.outcomes, asked.example.task, verdicts)


def _interval_row(task: TaskResults, name: str, shown: str, strong: bool = False) -> IntervalRow:
    arm, each = task.arms[name], task.difference(name, "placebos")
    note = share(sentences.accuracy(arm))
    if each is not None:
        note = f"{signed(100 * each.accuracy.difference.estimate)}, {p_value(each.p_adjusted)}"
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


PANELS = (
    ("words that a model chooses", ("attention", "reader", "surprise")),
    ("words chosen by the text alone", ("first", "last", "content", "sentences")),
)
BOTH = "random"
"""Drawn in both panels, for comparison."""
STYLES: Mapping[str, tuple[str, str]] = {
    "attention": ("#0072b2", "o"),
    "reader": ("#008060", "s"),
    "surprise": ("#b0568a", "^"),
    "first": ("#8a6d00", "v"),
    "last": ("#c14e00", "D"),
    "content": ("#6f5bb0", "o"),
    "sentences": ("#56b4e9", "s"),
    "random": ("#767d88", "x"),
}
TALL, TOP, FOOT = 330, 30, 96
"""Pixels."""
DASHED, DOTTED = (4, 3), (1, 2)
Point = tuple[float, float, float | None, float | None]
"""x, y, and the ends of the interval of y."""


@dataclass(frozen=True)
class Kept:
    """One arm with a cut."""

    cut: CardCut
    arm: ArmResults

    @property
    def base(self) -> str:
        """The name of the same arm with the whole card."""
        parts = (part for part in self.arm.arm.split("/") if not part.startswith(("keep=", "select=", "ending=")))
        return "/".join(parts)


def cut_cards(task: TaskResults) -> list[Drawing]:
    """One figure for each arm that was run with several shares of its card."""
    shown = [each for each in kept(task) if each.cut.ending is Ending.FREE and each.cut.select in STYLES]
    drawings = []
    for base in dict.fromkeys(each.base for each in shown):
        cuts = [each for each in shown if each.base == base]
        if len({each.cut.keep for each in cuts}) > 1:
            drawings.append(_drawn(task, base, cuts))
    return drawings


def kept(task: TaskResults) -> list[Kept]:
    """A task's arms with cut cards, without placebos and arms run end to end."""
    own = [arm for arm in task.arms.values() if arm.family != "placebo" and LIVE not in arm.arm]
    named = [arm for arm in own if "=" in arm.arm and not arm.arm.startswith(FILE)]
    cuts = [(parse(arm.arm).policy.cut, arm) for arm in named]
    return [Kept(cut, arm) for cut, arm in cuts if cut is not None]


def _drawn(task: TaskResults, base: str, cuts: Sequence[Kept]) -> Drawing:
    figure = Figure(figsize=(WIDTH / 72, TALL / 72), dpi=72)
    panels = [(title, own) for title, own in PANELS if any(each.cut.select in own for each in cuts)]
    for place, (title, selectors) in enumerate(panels):
        axes = panel_axes(figure, (place, len(panels)), title, ("words kept, %", "right, %"), 100)
        _panel(axes, task, base, [each for each in cuts if each.cut.select in (*selectors, BOTH)])
    draw_key(figure, {name: style for name, style in STYLES.items() if any(each.cut.select == name for each in cuts)})
    caption = (
        f"{task.task}: accuracy of {base} by the share of the card's words that its reader gets, with 95% intervals, on"
        f" the same {task.units:,} questions. Dashed: the whole card; dotted: the large model without a card. Accuracy"
        " is measured."
    )
    values = (f"{each.cut} {sentences.share(sentences.accuracy(each.arm))}" for each in cuts)
    return drawing(f"cut-cards-{base}-{task.task}", figure, "; ".join(values) + ".", caption)


def _panel(axes: Axes, task: TaskResults, base: str, cuts: Sequence[Kept]) -> None:
    whole, none = task.arms.get(base), task.arms.get("short:large")
    for arm, dashes in ((whole, DASHED), (none, DOTTED)):
        if arm is not None:
            draw_reference(axes, sentences.accuracy(arm), dashes)
    for select in dict.fromkeys(each.cut.select for each in cuts):
        line = sorted((each for each in cuts if each.cut.select == select), key=lambda each: each.cut.keep)
        points = []
        for each in line:
            sides = each.arm.accuracy
            ends = (None, None) if sides is None else (sides.low, sides.high)
            points.append((each.cut.keep, sentences.accuracy(each.arm), *ends))
        draw_line(axes, STYLES[select], points, linewidth=1.6)


# --- panels side by side; all values are shares of 1 ------------------------------------------------------------------


def panel_axes(figure: Figure, panel: tuple[int, int], title: str, labels: tuple[str, str], most: float) -> Axes:
    """Axes of one of several panels side by side, 0 to `most`% in x and to 100% in y; only the first has y labels."""
    place, count = panel
    wide = (WIDTH - 76 - 24 * (count - 1)) / count
    box = ((60 + place * (wide + 24)) / WIDTH, FOOT / TALL, wide / WIDTH, (TALL - TOP - FOOT) / TALL)
    axes = styled(figure.add_axes(box))
    axes.set_xlim(0, most)
    axes.set_ylim(0, 102)
    axes.grid()
    axes.set_xlabel(labels[0])
    if place:
        axes.tick_params(labelleft=False)
    else:
        axes.set_ylabel(labels[1])
    write(axes, 0, 1.04, title, transform=axes.transAxes)
    return axes


def draw_line(axes: Axes, style: tuple[str, str], points: Sequence[Point], **more: Any) -> None:
    """Draw a line through points, each with its interval."""
    colour, mark = style
    x, y = [100 * point[0] for point in points], [100 * point[1] for point in points]
    axes.plot(x, y, color=colour, marker=mark, markersize=5, **more)
    for at, (_, _, low, high) in zip(x, points, strict=True):
        if low is not None and high is not None:
            axes.plot([at, at], [100 * low, 100 * high], color=colour, alpha=0.35, linewidth=2)


def draw_reference(axes: Axes, value: float, dashes: tuple[int, int]) -> None:
    axes.axhline(100 * value, color=INK, alpha=0.6, linewidth=1, linestyle=(0, dashes))


def draw_key(figure: Figure, styles: Mapping[str, tuple[str, str]]) -> None:
    marks = [
        Line2D([], [], color=colour, marker=mark, markersize=6, label=name) for name, (colour, mark) in styles.items()
    ]
    key(figure, marks, most=4)
