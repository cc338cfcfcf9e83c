"""Figures of cut cards: accuracy against the share of words kept, by selector; and answers with tokens hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cuecard.evals.analysis.results import ArmFound, TaskFound
from cuecard.evals.arm import LIVE, parse
from cuecard.report.evaluation import sentences
from cuecard.report.page.canvas import INK, TEXT, WIDTH, Drawing, drawing, key, styled, write
from cuecard.strategies.card_selection import CardCut, Ending

PANELS = (
    ("words that a model chooses", ("attention", "reader", "surprise")),
    ("words chosen by the text alone", ("first", "last", "content", "sentences")),
)
BOTH = "random"
"""Drawn in both panels, to compare with."""
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


@dataclass(frozen=True)
class Kept:
    """One arm with a cut."""

    cut: CardCut
    arm: ArmFound

    @property
    def base(self) -> str:
        """The arm that does the same with the whole card."""
        parts = (part for part in self.arm.arm.split("/") if not part.startswith(("keep=", "select=", "ending=")))
        return "/".join(parts)


def cut_cards(task: TaskFound) -> list[Drawing]:
    """One for each arm that a run has with several shares of its card."""
    shown = [each for each in kept(task) if each.cut.ending is Ending.FREE and each.cut.select in STYLES]
    drawings = []
    for base in dict.fromkeys(each.base for each in shown):
        cuts = [each for each in shown if each.base == base]
        if len({each.cut.keep for each in cuts}) > 1:
            drawings.append(_drawn(task, base, cuts))
    return drawings


def kept(task: TaskFound) -> list[Kept]:
    """A task's arms with cut cards, placebos and what was run end to end left out."""
    named = [arm for arm in task.arms.values() if arm.family != "placebo" and LIVE not in arm.arm and "=" in arm.arm]
    cuts = [(parse(arm.arm).policy.cut, arm) for arm in named]
    return [Kept(cut, arm) for cut, arm in cuts if cut is not None]


def _drawn(task: TaskFound, base: str, cuts: Sequence[Kept]) -> Drawing:
    figure, panels = Figure(figsize=(WIDTH / 72, TALL / 72), dpi=72), []
    for title, selectors in PANELS:
        if any(each.cut.select in selectors for each in cuts):
            panels.append((title, [each for each in cuts if each.cut.select in (*selectors, BOTH)]))
    for place, (title, some) in enumerate(panels):
        axes = _axes(figure, place, len(panels), title)
        _panel(axes, task, base, some)
        axes.set_xlim(0, 100)
        axes.set_xlabel("words kept, %", color=INK, fontsize=TEXT)
        if not place:
            axes.set_ylabel("right, %", color=INK, fontsize=TEXT)
    names = [name for name in STYLES if any(each.cut.select == name for each in cuts)]
    marks = [Line2D([], [], color=STYLES[name][0], marker=STYLES[name][1], markersize=6, label=name) for name in names]
    key(figure, marks, most=4)
    caption = (
        f"{task.task}: accuracy of {base} by the share of the card's words that its reader gets, with 95% intervals, on"
        f" the same {task.units:,} questions. Dashed: the whole card; dotted: the large model without a card. Accuracy"
        " is measured."
    )
    return drawing(f"cut-cards-{base}-{task.task}", figure, _values(cuts), caption)


def _axes(figure: Figure, place: int, count: int, title: str) -> Axes:
    """One of `count` panels side by side, 0 to 100% up; only the first says its numbers."""
    wide = (WIDTH - 76 - 24 * (count - 1)) / count
    box = ((60 + place * (wide + 24)) / WIDTH, FOOT / TALL, wide / WIDTH, (TALL - TOP - FOOT) / TALL)
    axes = styled(figure.add_axes(box))
    axes.set_ylim(0, 102)
    axes.grid(color=INK, alpha=0.14, linewidth=0.8)
    if place:
        axes.tick_params(labelleft=False)
    write(axes, 0, 1.04, title, transform=axes.transAxes)
    return axes


def _panel(axes: Axes, task: TaskFound, base: str, cuts: Sequence[Kept]) -> None:
    whole, none = task.arms.get(base), task.arms.get("short:large")
    for arm, dashes in ((whole, (4, 3)), (none, (1, 2))):
        if arm is not None:
            axes.axhline(100 * sentences.accuracy(arm), color=INK, alpha=0.6, linewidth=1, linestyle=(0, dashes))
    for select in dict.fromkeys(each.cut.select for each in cuts):
        line = sorted((each for each in cuts if each.cut.select == select), key=lambda each: each.cut.keep)
        colour, mark = STYLES[select]
        x, y = [100 * each.cut.keep for each in line], [100 * sentences.accuracy(each.arm) for each in line]
        axes.plot(x, y, color=colour, marker=mark, markersize=5, linewidth=1.6)
        for at, each in zip(x, line, strict=True):
            if (sides := each.arm.accuracy) is not None and sides.low is not None and sides.high is not None:
                axes.plot([at, at], [100 * sides.low, 100 * sides.high], color=colour, alpha=0.35, linewidth=2)


def _values(cuts: Sequence[Kept]) -> str:
    values = (f"{each.cut} {sentences.share(sentences.accuracy(each.arm))}" for each in cuts)
    return "; ".join(values) + "."


MASKED: Mapping[str, tuple[str, str]] = {
    "key": ("#0072b2", "o"),
    "last": ("#c14e00", "D"),
    "other": ("#767d88", "x"),
    "least": ("#8a6d00", "v"),
}


def masking(rows: Sequence[Mapping[str, Any]], what: str) -> Drawing:
    """Rows of `attention.masking.table`: answers that stay as they were, by the share masked."""
    figure = Figure(figsize=(WIDTH / 72, TALL / 72), dpi=72)
    nothing = next(row for row in rows if row["tokens"] not in MASKED)
    for place, (way, title) in enumerate((("hidden", "these tokens hidden"), ("alone", "all of the card but these"))):
        axes = _axes(figure, place, 2, title)
        axes.axhline(100 * nothing["unchanged"], color=INK, alpha=0.6, linewidth=1, linestyle=(0, (1, 2)))
        for choice, (colour, mark) in MASKED.items():
            line = [row for row in rows if (row["tokens"], row["way"]) == (choice, way)]
            x = [100 * row["share"] for row in line]
            axes.plot(x, [100 * row["unchanged"] for row in line], color=colour, marker=mark, markersize=5)
            for at, row in zip(x, line, strict=True):
                sides = [100 * row["unchanged_low"], 100 * row["unchanged_high"]]
                axes.plot([at, at], sides, color=colour, alpha=0.35, linewidth=2)
        axes.set_xlim(0, 55)
        axes.set_xlabel("share of the card's tokens, %", color=INK, fontsize=TEXT)
        if not place:
            axes.set_ylabel("answers unchanged, %", color=INK, fontsize=TEXT)
    names = {"key": "most attended to", "last": "last", "other": "others by chance", "least": "least attended to"}
    marks = [
        Line2D([], [], color=colour, marker=mark, markersize=6, label=names[name])
        for name, (colour, mark) in MASKED.items()
    ]
    key(figure, marks, most=4)
    caption = (
        f"{what}: the large model's answer behind the small one's card, computed again while some of the card's"
        " tokens are hidden from it; with 95% intervals. Dotted: none of the card is seen. Measured."
    )
    values = "; ".join(f"{row['tokens']} {row['share']:.0%} {row['way']}: {row['unchanged']:.0%}" for row in rows)
    return drawing("masking", figure, values + ".", caption)


def kept_words(rows: Sequence[Mapping[str, Any]], what: str) -> Drawing:
    """Rows of `attention.card_cuts.table`: answers that stay right, and the same, by the share kept."""
    figure, names = Figure(figsize=(WIDTH / 72, TALL / 72), dpi=72), list[str]()
    by_card = {row["card"]: row for row in rows}
    for place, (figured, title) in enumerate((("right", "right answers"), ("same", "the whole card's answer"))):
        axes = _axes(figure, place, 2, title)
        for card, dashes in (("whole", (4, 3)), ("none", (1, 2))):
            axes.axhline(100 * by_card[card][figured], color=INK, alpha=0.6, linewidth=1, linestyle=(0, dashes))
        for count, select in enumerate(STYLES):
            line = [(float(share), row) for card, row in by_card.items() for share in _share(card, select)]
            if line:
                names += [select] if select not in names else []
                _kept_line(axes, [(100 * share + 0.8 * (count % 4 - 1.5), row) for share, row in line], select, figured)
        axes.set_xlim(0, 80)
        axes.set_xlabel("words kept, %", color=INK, fontsize=TEXT)
        if not place:
            axes.set_ylabel("answers, %", color=INK, fontsize=TEXT)
    marks = [Line2D([], [], color=STYLES[name][0], marker=STYLES[name][1], markersize=6, label=name) for name in names]
    key(figure, marks, most=4)
    caption = (
        f"{what}: answers by the share of the card's words that is kept, with 95% intervals (Wilson; moved sideways to"
        " stay distinct). Dashed: the whole card; dotted: no card. Measured."
    )
    values = "; ".join(f"{row['card']}: {row['right']:.0%} right, {row['same']:.0%} the same" for row in rows)
    return drawing("kept-words", figure, values + ".", caption)


def _share(card: str, select: str) -> list[str]:
    """The share in a card's name, where it is a plain share of this selector."""
    name, _, share = card.partition(" ")
    return [share] if name == select and share.replace(".", "", 1).isdigit() else []


def _kept_line(axes: Axes, line: Sequence[tuple[float, Mapping[str, Any]]], select: str, figured: str) -> None:
    colour, mark = STYLES[select]
    axes.plot([x for x, _ in line], [100 * row[figured] for _, row in line], color=colour, marker=mark, markersize=5)
    for x, row in line:
        sides = [100 * row[f"{figured}_low"], 100 * row[f"{figured}_high"]]
        axes.plot([x, x], sides, color=colour, alpha=0.35, linewidth=2)
