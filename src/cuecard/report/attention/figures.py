"""Figures 3, 4 and 5 of the paper, from findings: attention to reasoning by layer, and head by head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cuecard.attention.results import REASONING, ConditionResults, Findings
from cuecard.attention.store import LARGE_CARD, LARGE_OWN, QUERIES, SMALL_OWN
from cuecard.report.page.canvas import INK, TEXT, WIDTH, Drawing, canvas, drawing, key, styled, write
from cuecard.stats.bootstrap import Array, Band

COLOURS = {LARGE_OWN: "#008060", LARGE_CARD: "#c14e00", SMALL_OWN: "#0072b2"}
DASHES: dict[str, tuple[float, Sequence[float]]] = {
    LARGE_OWN: (0, (1, 0)),
    LARGE_CARD: (0, (4, 2)),
    SMALL_OWN: (0, (1, 0)),
}
FIRST, ALL = map(QUERIES.index, ("first", "all"))
TALL = 490
"""Pixels of figure 3."""
NUMBERED = 16
"""Most layers of a heat map whose cells say their number."""


def figures(results: Findings, wanted: Sequence[int] = (3, 4, 5)) -> list[Drawing]:
    """Those that are wanted, of the conditions with reasoning."""
    shown = [each for each in results.conditions.values() if each.name in COLOURS]
    draw: dict[int, Callable[[], Drawing]] = {
        3: lambda: by_layer(results, shown),
        4: lambda: by_head(results, shown, 4, "attention to the reasoning", [each.head_mass for each in shown]),
        5: lambda: by_head(results, shown, 5, _sparsity(results), [each.head_sparsity for each in shown]),
    }
    return [draw[number]() for number in wanted]


def _sparsity(results: Findings) -> str:
    return f"reasoning tokens that carry {100 * results.config['delta']:g}% of it"


def by_layer(results: Findings, shown: Sequence[ConditionResults]) -> Drawing:
    """As figure 3: total mass on the reasoning, and sparsity, by layer, averaged over heads."""
    figure, top = canvas(height=TALL, left=60, top=28, bottom=290)
    low = styled(figure.add_axes((60 / WIDTH, 76 / TALL, (WIDTH - 76) / WIDTH, 172 / TALL)))
    write(top, 0, 1.05, "attention to the reasoning, % of a row", transform=top.transAxes)
    write(low, 0, 1.05, f"{_sparsity(results)}, %", transform=low.transAxes)
    delta = 100 * results.config["delta"]
    low.axhline(delta, color=INK, alpha=0.5, linewidth=1, linestyle=(0, (1, 2)))
    for each in shown:
        _line(top, each, each.layer_mass)
        _line(low, each, each.layer_sparsity)
    for axes in (top, low):
        axes.set_ylim(0, 100)
        axes.grid(color=INK, alpha=0.14, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    low.set_xlabel("layer", color=INK, fontsize=TEXT)
    key(figure, [Line2D([], [], color=COLOURS[e.name], linestyle=DASHES[e.name], label=e.name) for e in shown], most=3)
    caption = (
        f"{_what(results)}, as figure 3 of the paper: by layer, averaged over heads, mean over questions with 95%"
        " intervals (cluster bootstrap). Lines: all of the answer's queries; dots: the one that predicts its first"
        f" token. Even attention would need {delta:g}% of the tokens (dotted). Measured."
    )
    return drawing("attention-3", figure, _label(shown), caption)


def _line(axes: Axes, of: ConditionResults, band: Band) -> None:
    """(layers, sets) as a line with its interval, and dots for the first query."""
    layers, colour = range(len(of.windows)), COLOURS[of.name]
    mean, low, high = (100 * side[:, ALL] for side in (band.mean, band.low, band.high))
    axes.plot(layers, mean, color=colour, linestyle=DASHES[of.name], linewidth=2)
    axes.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(layers, 100 * band.mean[:, FIRST], "o", color=colour, alpha=0.7, markersize=3.5)


def by_head(
    results: Findings, shown: Sequence[ConditionResults], number: int, what: str, bands: Sequence[Band]
) -> Drawing:
    """As figures 4 and 5: a heat map a condition, heads up, layers across, 0 to 100%."""
    values = [100 * band.mean[:, ALL].T for band in bands]  # (heads, layers)
    cell = [26 if len(each) <= 8 else 16 if len(each) <= 16 else 9 for each in values]
    heights = [size * len(each) for size, each in zip(cell, values, strict=True)]
    height = sum(heights) + 62 * len(shown) + 44
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    above = 26
    for each, shares, tall in zip(shown, values, heights, strict=True):
        box = (56 / WIDTH, 1 - (above + tall) / height, (WIDTH - 76) / WIDTH, tall / height)
        _heat(styled(figure.add_axes(box)), each, shares)
        above += tall + 62
    _scale(figure, height)
    caption = (
        f"{_what(results)}, as figure {number} of the paper: {what}, head by head and layer by layer, in %, mean over"
        " the questions and the answer's queries. Measured; the intervals are in the table."
    )
    return drawing(f"attention-{number}", figure, _label(shown), caption)


def _heat(axes: Axes, of: ConditionResults, shares: Array) -> None:
    heads, layers = shares.shape
    axes.pcolormesh(shares, cmap="viridis", vmin=0, vmax=100, linewidth=0, rasterized=False)
    axes.set_xlim(0, layers)
    axes.set_ylim(heads, 0)
    step = 1 if layers <= NUMBERED else 4
    axes.set_xticks([layer + 0.5 for layer in range(0, layers, step)], [str(layer) for layer in range(0, layers, step)])
    rows = range(0, heads, 1 if heads <= 8 else 4 if heads <= 16 else 8)
    axes.set_yticks([head + 0.5 for head in rows], [str(head) for head in rows])
    axes.set_ylabel("head", color=INK, fontsize=TEXT)
    axes.set_xlabel("layer", color=INK, fontsize=TEXT, labelpad=1)
    write(axes, 0, 1, f"{of.name}, {of.answers} answers", transform=axes.transAxes, va="bottom")
    if layers <= NUMBERED and heads <= 8:
        for head in range(heads):
            for layer in range(layers):
                if (share := shares[head, layer]) == share:
                    colour = "#ffffff" if share < 60 else "#101418"
                    write(axes, layer + 0.5, head + 0.52, f"{share:.0f}", color=colour, ha="center", va="center")


def _scale(figure: Figure, height: int) -> None:
    """0 to 100%, along the foot."""
    axes = styled(figure.add_axes((56 / WIDTH, 26 / height, 220 / WIDTH, 10 / height)))
    axes.pcolormesh([[step / 60 for step in range(61)]], cmap="viridis", edgecolors="face")
    axes.set_yticks([])
    axes.set_xticks([0, 30.5, 61], ["0", "50", "100%"])


def _what(results: Findings) -> str:
    models = ", ".join(f"{role} {name}" for role, name in results.config["models"].items())
    return f"{results.config['task']}, {results.questions} questions, {models}"


def _label(shown: Sequence[ConditionResults]) -> str:
    """The alternative text."""
    return "; ".join(
        f"{each.name}: {each.spans.at(ALL, REASONING).text()}% of attention on the reasoning, sparsity"
        f" {each.sparsity.at(ALL).text()}%"
        for each in shown
    )
