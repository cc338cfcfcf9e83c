"""Figures of cut cards: accuracy against the share of words kept, by selector; and answers with tokens hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cuecard.evals.analysis.results import ArmResults, TaskResults
from cuecard.evals.arm import FILE, LIVE, parse
from cuecard.report.canvas import INK, WIDTH, Drawing, drawing, key, styled, write
from cuecard.report.evaluation import sentences
from cuecard.strategies.card_selection import CardCut, Ending

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
MASKED: Mapping[str, tuple[str, str, str]] = {
    "key": ("most attended to", "#0072b2", "o"),
    "last": ("last", "#c14e00", "D"),
    "other": ("others by chance", "#767d88", "x"),
    "least": ("least attended to", "#8a6d00", "v"),
}
"""For masking experiments: name, colour and mark of each choice of tokens."""
TALL, TOP, FOOT = 330, 30, 96
"""Pixels."""
DASHED, DOTTED = (4, 3), (1, 2)
ENDS = ("", "_low", "_high")
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
        axes = _axes(figure, (place, len(panels)), title, ("words kept, %", "right, %"), 100)
        _panel(axes, task, base, [each for each in cuts if each.cut.select in (*selectors, BOTH)])
    _key(figure, {name: style for name, style in STYLES.items() if any(each.cut.select == name for each in cuts)})
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
            _reference(axes, sentences.accuracy(arm), dashes)
    for select in dict.fromkeys(each.cut.select for each in cuts):
        line = sorted((each for each in cuts if each.cut.select == select), key=lambda each: each.cut.keep)
        points = []
        for each in line:
            sides = each.arm.accuracy
            ends = (None, None) if sides is None else (sides.low, sides.high)
            points.append((each.cut.keep, sentences.accuracy(each.arm), *ends))
        _line(axes, STYLES[select], points, linewidth=1.6)


# --- shared by both panels; all values are shares of 1 ----------------------------------------------------------------


def _axes(figure: Figure, panel: tuple[int, int], title: str, labels: tuple[str, str], most: float) -> Axes:
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


def _line(axes: Axes, style: tuple[str, str], points: Sequence[Point], **more: Any) -> None:
    """Draw a line through points, each with its interval."""
    colour, mark = style
    x, y = [100 * point[0] for point in points], [100 * point[1] for point in points]
    axes.plot(x, y, color=colour, marker=mark, markersize=5, **more)
    for at, (_, _, low, high) in zip(x, points, strict=True):
        if low is not None and high is not None:
            axes.plot([at, at], [100 * low, 100 * high], color=colour, alpha=0.35, linewidth=2)


def _reference(axes: Axes, value: float, dashes: tuple[int, int]) -> None:
    axes.axhline(100 * value, color=INK, alpha=0.6, linewidth=1, linestyle=(0, dashes))


def _key(figure: Figure, styles: Mapping[str, tuple[str, str]]) -> None:
    marks = [
        Line2D([], [], color=colour, marker=mark, markersize=6, label=name) for name, (colour, mark) in styles.items()
    ]
    key(figure, marks, most=4)


# --- experiments of the attention laboratory --------------------------------------------------------------------------


def masking(rows: Sequence[Mapping[str, Any]], what: str) -> Drawing:
    """From `masking_table` (studies/attention/ablation.py): share of unchanged answers by share of tokens masked."""
    figure = Figure(figsize=(WIDTH / 72, TALL / 72), dpi=72)
    nothing = next(row for row in rows if row["tokens"] not in MASKED)
    labels = ("share of the card's tokens, %", "answers unchanged, %")
    for place, (way, title) in enumerate((("hidden", "these tokens hidden"), ("alone", "all of the card but these"))):
        axes = _axes(figure, (place, 2), title, labels, 55)
        _reference(axes, nothing["unchanged"], DOTTED)
        for choice, (_, *style) in MASKED.items():
            line = [row for row in rows if (row["tokens"], row["way"]) == (choice, way)]
            points = [(row["share"], *(row[f"unchanged{end}"] for end in ENDS)) for row in line]
            _line(axes, (style[0], style[1]), points)
    _key(figure, {name: (colour, mark) for name, colour, mark in MASKED.values()})
    caption = (
        f"{what}: the large model's answer behind the small one's card, computed again while some of the card's"
        " tokens are hidden from it; with 95% intervals. Dotted: none of the card is seen. Measured."
    )
    values = "; ".join(f"{row['tokens']} {row['share']:.0%} {row['way']}: {row['unchanged']:.0%}" for row in rows)
    return drawing("masking", figure, values + ".", caption)


def kept_words(rows: Sequence[Mapping[str, Any]], what: str) -> Drawing:
    """From `cut_table` (studies/attention/ablation.py): shares of right and of unchanged answers by share kept."""
    figure = Figure(figsize=(WIDTH / 72, TALL / 72), dpi=72)
    by_card = {row["card"]: row for row in rows}
    lines = {select: _shares(by_card, select) for select in STYLES}
    for place, (measure, title) in enumerate((("right", "right answers"), ("same", "the whole card's answer"))):
        axes = _axes(figure, (place, 2), title, ("words kept, %", "answers, %"), 80)
        for card, dashes in (("whole", DASHED), ("none", DOTTED)):
            _reference(axes, by_card[card][measure], dashes)
        for count, (select, line) in enumerate(lines.items()):
            if line:
                aside = 0.008 * (count % 4 - 1.5)
                points = [(share + aside, *(row[f"{measure}{end}"] for end in ENDS)) for share, row in line]
                _line(axes, STYLES[select], points)
    _key(figure, {select: STYLES[select] for select, line in lines.items() if line})
    caption = (
        f"{what}: answers by the share of the card's words that is kept, with 95% intervals (Wilson; moved sideways to"
        " stay distinct). Dashed: the whole card; dotted: no card. Measured."
    )
    values = "; ".join(f"{row['card']}: {row['right']:.0%} right, {row['same']:.0%} the same" for row in rows)
    return drawing("kept-words", figure, values + ".", caption)


def _shares(by_card: Mapping[str, Mapping[str, Any]], select: str) -> list[tuple[float, Mapping[str, Any]]]:
    """Shares and results of the cards cut by one selector with a plain share."""
    named = ((card.partition(" "), row) for card, row in by_card.items())
    return [
        (float(share), row) for (name, _, share), row in named if name == select and share.replace(".", "", 1).isdigit()
    ]
