"""Figures of the experiments of `ablation`: masked tokens of a card, and cut cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from cuecard.report.canvas import WIDTH, Drawing, drawing
from cuecard.report.evaluation.figures import (
    DASHED,
    DOTTED,
    STYLES,
    TALL,
    draw_key,
    draw_line,
    draw_reference,
    panel_axes,
)

MASKED: Mapping[str, tuple[str, str, str]] = {
    "key": ("most attended to", "#0072b2", "o"),
    "last": ("last", "#c14e00", "D"),
    "other": ("others by chance", "#767d88", "x"),
    "least": ("least attended to", "#8a6d00", "v"),
}
"""Name, colour and mark of each choice of tokens."""
ENDS = ("", "_low", "_high")


def masking(rows: Sequence[Mapping[str, Any]], what: str) -> Drawing:
    """From `ablation.masking_table`: share of unchanged answers by share of tokens masked."""
    figure = Figure(figsize=(WIDTH / 72, TALL / 72), dpi=72)
    nothing = next(row for row in rows if row["tokens"] not in MASKED)
    labels = ("share of the card's tokens, %", "answers unchanged, %")
    for place, (way, title) in enumerate((("hidden", "these tokens hidden"), ("alone", "all of the card but these"))):
        axes = panel_axes(figure, (place, 2), title, labels, 55)
        draw_reference(axes, nothing["unchanged"], DOTTED)
        for choice, (_, *style) in MASKED.items():
            line = [row for row in rows if (row["tokens"], row["way"]) == (choice, way)]
            points = [(row["share"], *(row[f"unchanged{end}"] for end in ENDS)) for row in line]
            draw_line(axes, (style[0], style[1]), points)
    draw_key(figure, {name: (colour, mark) for name, colour, mark in MASKED.values()})
    caption = (
        f"{what}: the large model's answer behind the small one's card, computed again while some of the card's"
        " tokens are hidden from it; with 95% intervals. Dotted: none of the card is seen. Measured."
    )
    values = "; ".join(f"{row['tokens']} {row['share']:.0%} {row['way']}: {row['unchanged']:.0%}" for row in rows)
    return drawing("masking", figure, values + ".", caption)


def kept_words(rows: Sequence[Mapping[str, Any]], what: str) -> Drawing:
    """From `ablation.cut_table`: shares of right and of unchanged answers by share kept."""
    figure = Figure(figsize=(WIDTH / 72, TALL / 72), dpi=72)
    by_card = {row["card"]: row for row in rows}
    lines = {select: _shares(by_card, select) for select in STYLES}
    for place, (measure, title) in enumerate((("right", "right answers"), ("same", "the whole card's answer"))):
        axes = panel_axes(figure, (place, 2), title, ("words kept, %", "answers, %"), 80)
        for card, dashes in (("whole", DASHED), ("none", DOTTED)):
            draw_reference(axes, by_card[card][measure], dashes)
        for count, (select, line) in enumerate(lines.items()):
            if line:
                aside = 0.008 * (count % 4 - 1.5)
                points = [(share + aside, *(row[f"{measure}{end}"] for end in ENDS)) for share, row in line]
                draw_line(axes, STYLES[select], points)
    draw_key(figure, {select: STYLES[select] for select, line in lines.items() if line})
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
