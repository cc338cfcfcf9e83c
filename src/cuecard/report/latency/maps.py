"""Break-even points as a surface over output tokens and agreement; components under the roofs of their device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from cuecard.latency.analysis.measured import Roof
from cuecard.latency.analysis.roofline import Device
from cuecard.latency.simulate.breakeven import Crossing, PairBreakEven
from cuecard.report.latency.figures import PARTS
from cuecard.report.page import formatting
from cuecard.report.page.canvas import TEXT, canvas, key, write
from cuecard.report.page.html import Drawing, drawing
from cuecard.report.page.svg import INK
from cuecard.strategies.policy import Schedule

# from few tokens to many: read in any colour vision, and on both pages
SHADES = LinearSegmentedColormap.from_list("cuecard", ["#f2d7b0", "#e69f00", "#c14e00", "#5b2400"])
NONE, ANY = "#c9ced6", "#00694f"
MARKS = ("o", "s", "D", "^", "v", "P")


def surface(pair: PairBreakEven, schedule: Schedule) -> Drawing:
    """Tokens of reasoning up to which `mutual` is as fast as the large model by itself: a row a rate of agreement."""
    own = {
        (each.agree, each.output): each.crossing
        for each in pair.together
        if each.strategy == "mutual" and each.schedule is schedule and each.agree is not None
    }
    rates = sorted({rate for rate, _ in own if rate is not None})
    outputs = sorted({output for _, output in own})
    figure, axes = canvas(height=92 + 34 * len(rates), left=76, top=8, bottom=72)
    most = max(1.0, *(c.tokens for c in own.values() if math.isfinite(c.tokens)))
    axes.set_xlim(0, len(outputs))
    axes.set_ylim(0, len(rates))
    for (rate, output), crossing in own.items():
        if rate is not None:
            _cell(axes, outputs.index(output), rates.index(rate), crossing, most)
    axes.set_xticks([place + 0.5 for place in range(len(outputs))], [f"{output:,}" for output in outputs])
    axes.set_yticks([place + 0.5 for place in range(len(rates))], [formatting.percent(rate) for rate in rates])
    for label, rate in zip(axes.get_yticklabels(), rates, strict=True):
        label.set_fontweight("bold" if rate == pair.agree else "normal")
    axes.tick_params(length=0)
    axes.set_xlabel(f"tokens that {pair.large} writes by itself", color=INK, fontsize=TEXT)
    axes.set_ylabel("short answers accepted", color=INK, fontsize=TEXT)
    shades = [Patch(color=SHADES(share), label=name) for share, name in ((0.1, "few tokens"), (0.9, "many"))]
    key(figure, [Patch(color=NONE, label="0: never as fast"), *shades, Patch(color=ANY, label="any number")])
    caption = (
        f"Break-even surface of mutual verification, {schedule}: up to so many tokens of reasoning of {pair.small} it"
        f" is as fast as {pair.large} writing so many tokens by itself. {_asked(pair)} Estimated, from strategies run"
        " in virtual time by the fits, each model on a device of its own."
    )
    values = "; ".join(
        f"{formatting.percent(rate or 0)}, {output}: {formatting.amount(c.tokens)}" for (rate, output), c in own.items()
    )
    return drawing(
        f"break-even-{schedule}-{pair.small}-{pair.large}", figure, f"Break-even surface: {values}.", caption
    )


def _asked(pair: PairBreakEven) -> str:
    work = pair.workload
    said = f"{work.visual} visual of {work.prompt} prompt tokens, answers of {work.answer}"
    return (
        f"{said}; {formatting.percent(pair.confirm)} of what is not accepted is confirmed."
        if pair.confirm
        else f"{said}."
    )


def _cell(axes: Axes, x: int, y: int, crossing: Crossing, most: float) -> None:
    share = math.log1p(crossing.tokens) / math.log1p(most) if math.isfinite(crossing.tokens) else 1.0
    colour: Any = NONE if crossing.tokens < 1 else ANY if math.isinf(crossing.tokens) else SHADES(share)
    axes.add_patch(Rectangle((x + 0.02, y + 0.03), 0.96, 0.94, color=colour, linewidth=0))
    dark = math.isinf(crossing.tokens) or (crossing.tokens >= 1 and share > 0.55)
    style = {"ha": "center", "va": "center", "color": "white" if dark else "#14181d", "fontsize": TEXT - 1.5}
    write(axes, x + 0.5, y + 0.5, "0" if crossing.tokens < 1 else formatting.amount(crossing.tokens), **style)


# --- roofline ---------------------------------------------------------------------------------------------------------


def roofline(roofs: Sequence[Roof], devices: Mapping[str, Mapping[str, Device]], dtype: str) -> Drawing:
    """FLOP/s against FLOP a byte: the device's limit, and what each component reaches."""
    figure, axes = canvas(height=400, left=74, top=16, bottom=96)
    axes.set_xscale("log")
    axes.set_yscale("log")
    left = min(roof.flops / roof.bytes for roof in roofs) / 2
    right = max(roof.flops / roof.bytes for roof in roofs) * 4
    reached = [roof.flops / roof.measured_s for roof in roofs]
    known = devices[dtype]
    axes.set_xlim(left, right)
    axes.set_ylim(min(reached) / 3, 3 * max(*reached, *(device.flops_per_s for device in known.values())))
    for kind, device in known.items():
        ridge = min(max(device.flops_per_s / device.bytes_per_s, left), right)
        places = [left, ridge, right]
        height = [min(device.flops_per_s, place * device.bytes_per_s) for place in places]
        dashes = "-" if kind == "measured" else (0, (5, 3))
        axes.plot(places, height, color=INK, linewidth=1.4, linestyle=dashes)
    models = list(dict.fromkeys(roof.model for roof in roofs))
    for roof in roofs:
        mark = MARKS[models.index(roof.model) % len(MARKS)]
        style: dict[str, Any] = {"color": PARTS[roof.component], "markeredgecolor": INK, "markeredgewidth": 0.5}
        axes.plot([roof.flops / roof.bytes], [roof.flops / roof.measured_s], mark, markersize=8, zorder=4, **style)
    axes.grid(color=INK, alpha=0.14, linewidth=0.8)
    axes.set_xlabel("FLOP a byte that must be moved", color=INK, fontsize=TEXT)
    axes.set_ylabel("FLOP/s", color=INK, fontsize=TEXT)
    present = [name for name in PARTS if any(roof.component == name for roof in roofs)]
    marks: list[Patch | Line2D] = [Patch(color=PARTS[name], label=name) for name in present]
    marks += [
        Line2D([], [], marker=MARKS[place % len(MARKS)], color=INK, linestyle="", markersize=7, label=model)
        for place, model in enumerate(models)
    ]
    marks += [
        Line2D([], [], color=INK, linestyle="-" if kind == "measured" else (0, (5, 3)), label=f"limit, {kind}")
        for kind in known
    ]
    key(figure, marks, most=5)
    point = roofs[0].point
    caption = (
        f"Roofline, {dtype}: what each component reaches (medians, measured) under what {known['measured'].name} can"
        f" do, with {point.visual_tokens or 0} visual of {point.prompt_tokens} prompt tokens and {point.output_tokens}"
        " output tokens. FLOP and bytes are the least that the dimensions ask for, computed."
    )
    said = "; ".join(f"{roof.model} {roof.component} {roof.times:.1f} times its bound" for roof in roofs)
    return drawing(f"roofline-{dtype}", figure, f"Roofline. {said}.", caption)
