"""Figures of a latency profile: latency against tokens (figure 1(a) of the paper), components, break-even, roofline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from cuecard.latency.breakeven import Crossing, PairBreakEven
from cuecard.latency.latency_model import Fit, bounds
from cuecard.latency.readings import Found
from cuecard.latency.roofline import Device, Roof
from cuecard.latency.simulation import RequestSize
from cuecard.report import formatting
from cuecard.report.canvas import INK, TEXT, WIDTH, Drawing, canvas, drawing, key, styled, write
from cuecard.strategies.policy import Schedule

COMPONENTS = {
    "vision": "#0072b2",
    "prefill": "#008060",
    "first token": "#008060",
    "decode": "#c14e00",
    "rest": "#767d88",
}
"""Colours of a fit's components."""
PARTS = {
    "preprocess": "#56b4e9",
    "vision": "#0072b2",
    "projector": "#6f5bb0",
    "prefill": "#008060",
    "ttft": "#008060",
    "decode": "#c14e00",
    "detokenise": "#b0568a",
    "tail": "#b0568a",
    "gap": "#767d88",
}
"""Colours of a reading's parts."""
STEPS = 60
LABELLED_FROM = 0.09
"""Minimum share of a bar that has room for a number."""
# from few tokens to many: readable with any colour vision, and on light and dark pages
SHADES = LinearSegmentedColormap.from_list("cuecard", ["#f2d7b0", "#e69f00", "#c14e00", "#5b2400"])
NONE, ANY = "#c9ced6", "#00694f"
MARKS = ("o", "s", "D", "^", "v", "P")


def latency_against_tokens(fits: Sequence[Fit], points: Sequence[Found], pair: PairBreakEven) -> Drawing:
    """Figure 1(a): a panel per model, its latency by component, and the break-even point with its interval."""
    work, shown = pair.workload, [fit for fit in fits if fit.model in (pair.small, pair.large)]
    own = {fit.model: [p for p in points if _of(p, fit) and _alike(p, work)] for fit in shown}
    crossing = at_answer(pair)
    most = _most_tokens([point for some in own.values() for point in some], shown, crossing)
    text = work.prompt - work.visual
    large = next(fit for fit in shown if fit.model == pair.large)
    short_s = large.profile.call_s(work.visual, work.prompt, work.answer)
    highest = max(
        *(fit.profile.call_s(work.visual, work.prompt, most) for fit in shown),
        *(point.most_s for some in own.values() for point in some if point.output <= most),
    )
    scale, unit = (1000, "ms") if highest < 2 else (1, "s")
    figure, first = canvas(height=330, left=62, top=34, bottom=74)
    panels = _side_by_side(figure, first, len(shown))
    for axes, fit in zip(panels, shown, strict=True):
        _areas(axes, fit, work.visual, work.visual + text, most, scale)
        _measured(axes, [point for point in own[fit.model] if point.output <= most], scale)
        axes.axhline(scale * short_s, color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
        axes.set_xlim(0, most)
        axes.set_ylim(0, 1.06 * scale * highest)
        axes.set_title(fit.model, color=INK, fontsize=TEXT, loc="left", parse_math=False, weight="bold")
        axes.set_xlabel("output tokens")
        axes.grid(axis="y")
    _break_even(panels[0], crossing, scale * short_s, most, 1.06 * scale * highest)
    panels[0].set_ylabel(f"latency, {unit}")
    names = dict.fromkeys(name for fit in shown for name in fit.parts)
    handles: list[Patch | Line2D] = [Patch(color=COMPONENTS[name], alpha=0.75, label=name) for name in names]
    if any(own.values()):
        handles.append(Line2D([], [], marker="o", color=INK, linestyle="", markersize=5, label="measured"))
    handles.append(Line2D([], [], color=INK, linestyle=(0, (5, 3)), label=f"{pair.large}, answer of {work.answer}"))
    key(figure, handles, most=7)
    caption = (
        f"Latency against output tokens, with {work.visual} visual of {work.prompt} prompt tokens, as figure 1(a) of"
        f" the paper. Areas: by component, estimated by the fit. {_points_said(own)}Dashed: a short answer"
        f" of {pair.large} ({work.answer} tokens), {formatting.duration(short_s)}, estimated."
        f" {crossing_said(pair, crossing)}"
    )
    return drawing(f"latency-{pair.small}-{pair.large}", figure, "Latency against output tokens.", caption)


def at_answer(pair: PairBreakEven) -> Crossing:
    """Break-even of the small model alone against the large model's short answer."""
    work = pair.workload
    return next(each.crossing for each in pair.alone if (each.visual, each.output) == (work.visual, work.answer))


def crossing_said(pair: PairBreakEven, crossing: Crossing) -> str:
    """The break-even point in words."""
    short = f"{pair.large} answering short ({pair.workload.answer} tokens)"
    if crossing.tokens < 1:
        return f"{short} is faster than {pair.small} from its first token on (estimated)."
    if math.isinf(crossing.tokens):
        return f"{pair.small} is faster than {short}, however much it writes (estimated)."
    return (
        f"{pair.small} writes {formatting.crossing(crossing)} tokens while {pair.large} answers short (estimated, 95%)."
    )


def _of(point: Found, fit: Fit) -> bool:
    return point.model == fit.model and point.setting == fit.setting and not point.cached


def _alike(point: Found, work: RequestSize) -> bool:
    return point.visual == work.visual and abs(point.prompt - work.prompt) <= 0.02 * work.prompt


def _most_tokens(points: Sequence[Found], fits: Sequence[Fit], crossing: Crossing) -> int:
    """The end of the axis: the measured range, or a little beyond the break-even point."""
    measured = max((p.output for p in points), default=max(fit.ranges["output_tokens"][1] for fit in fits))
    return max(8, measured, math.ceil(1.3 * crossing.tokens) if crossing.tokens < 3 * measured else 0)


def _side_by_side(figure: Figure, first: Axes, count: int) -> list[Axes]:
    """Panels side by side, one per model, on one scale."""
    box, between = first.get_position(), 26 / WIDTH
    width = (box.width - between * (count - 1)) / count
    first.set_position((box.x0, box.y0, width, box.height))
    others = [
        styled(figure.add_axes((box.x0 + place * (width + between), box.y0, width, box.height)))
        for place in range(1, count)
    ]
    for axes in others:
        axes.tick_params(labelleft=False)
    return [first, *others]


def _areas(axes: Axes, fit: Fit, visual: int, prompt: int, most: int, scale: float) -> None:
    places = [1 + (most - 1) * step / STEPS for step in range(STEPS + 1)]
    split = [fit.parts_s(visual, prompt, place) for place in places]
    below = [0.0] * len(places)
    for name in fit.parts:
        above = [low + scale * parts[name] for low, parts in zip(below, split, strict=True)]
        axes.fill_between(places, below, above, color=COMPONENTS[name], alpha=0.75, linewidth=0)
        below = above
    ends = [bounds([draw.call_s(visual, prompt, place) for draw in fit.drawn]) for place in places]
    sure = [(end[0] * scale, end[1] * scale) for end in ends if end is not None]
    if len(sure) == len(places):
        for side in zip(*sure, strict=True):
            axes.plot(places, side, color=INK, linewidth=0.7, alpha=0.8)


def _measured(axes: Axes, points: Iterable[Found], scale: float) -> None:
    for point in points:
        x, ends = point.output, [scale * point.least_s, scale * point.most_s]
        axes.plot([x, x], ends, color=INK, linewidth=1.2, zorder=4, clip_on=False)
        axes.plot([x], [scale * point.total_s], "o", color=INK, markersize=4, zorder=5, clip_on=False)


def _break_even(axes: Axes, crossing: Crossing, y: float, most: int, top: float) -> None:
    """Mark where the small model's latency crosses that of the large model's short answer, with its interval."""
    if not 1 <= crossing.tokens <= most:
        text = "slower from the first token" if crossing.tokens < 1 else "no break-even point in reach"
        write(axes, 0.03 * most, y + 0.03 * top, text, fontsize=TEXT - 1)
        return
    x = crossing.tokens
    if crossing.low is not None and crossing.high is not None:
        axes.plot([crossing.low, min(crossing.high, most)], [y, y], color=INK, linewidth=5, alpha=0.45, zorder=5)
    axes.plot([x, x], [0, y], color=INK, linewidth=1, linestyle=":", zorder=5)
    style = {"markerfacecolor": "white", "markeredgecolor": INK, "markersize": 8, "zorder": 6}
    axes.plot([x], [y], "D", **style)  # type: ignore[arg-type]
    side = "left" if x < 0.3 * most else "center" if x < 0.6 * most else "right"
    place = max(x, 0.03 * most)
    above = y + (0.32 if y < 0.5 * top else 0.08) * top
    axes.plot([x, x], [y, above - 0.01 * top], color=INK, linewidth=0.8, zorder=5)
    text = f"break-even: {formatting.crossing(crossing)} tokens"
    write(axes, place, above, text, ha=side, va="bottom", fontsize=TEXT - 1)


def _points_said(own: Mapping[str, Sequence[Found]]) -> str:
    kinds = {point.kind: point.readings for some in own.values() for point in some}
    if not kinds:
        return "No readings at this image size. "
    least = min(point.readings for some in own.values() for point in some)
    how = "measured" if set(kinds) == {"measured"} else "estimated from slices of the layers"
    return f"Dots: medians of {least} readings or more, {how}, with the least and the most. "


# --- stacked components -----------------------------------------------------------------------------------------------


def components(points: Sequence[Found], fits: Sequence[Fit]) -> list[Drawing]:
    """Latency by component: a stacked bar per model, image size and length."""
    models = dict.fromkeys(fit.model for fit in fits)
    own = _least_text([point for fit in fits for point in points if _of(point, fit)])
    ends = (
        {p.output for p in own if p.output in (min(q.output for q in own), max(q.output for q in own))} if own else ()
    )
    bars = [point for point in own if point.output in ends]
    bars.sort(key=lambda point: (point.output, point.visual, list(models).index(point.model)))
    if not bars:
        return []
    names = [f"{point.model}, {point.visual} visual" for point in bars]
    left = min(260, 40 + int(6.6 * max(map(len, names))))
    rows, places = len(bars), []
    for place, point in enumerate(bars):  # a gap before each number of output tokens
        places.append(place + 0.9 * (1 + sorted(ends).index(point.output)))
    figure, axes = canvas(height=int(96 + 26 * (rows + 0.9 * len(ends))), left=left, top=8, bottom=68)
    axes.set_xlim(0, 118)
    axes.set_ylim(places[-1] + 0.6, -0.2)
    for y, point in zip(places, bars, strict=True):
        _bar(axes, y, point)
    for output in sorted(ends):
        first = next(y for y, point in zip(places, bars, strict=True) if point.output == output)
        text = "1 output token" if output == 1 else f"{output:,} output tokens"
        write(axes, 0, first - 0.55, text, va="bottom", weight="bold")
    axes.set_yticks(places, names, parse_math=False)
    axes.set_xticks(range(0, 101, 20))
    kinds = ", ".join(dict.fromkeys(point.kind for point in bars))
    axes.set_xlabel(f"% of the time of a request ({kinds})", loc="left")
    present = [name for name in PARTS if any(point.parts_s.get(name, 0) > 0.005 * point.total_s for point in bars)]
    key(figure, [Patch(color=PARTS[name], label=name) for name in present], most=7)
    caption = (
        "Where the time goes: the parts of a request by model and visual tokens, with the shortest text; medians of all"
        f" readings of a point, {kinds}; at the right the whole. Gap is what lies between the components."
    )
    text = "; ".join(
        f"{name}, {p.output} tokens: {formatting.duration(p.total_s)}" for name, p in zip(names, bars, strict=True)
    )
    return [drawing("components", figure, f"Components of the latency. {text}.", caption)]


def _least_text(points: Sequence[Found]) -> list[Found]:
    """The shortest of the points that differ in the text only."""
    best: dict[tuple[str, int, int], Found] = {}
    for point in points:
        key = (point.model, point.visual, point.output)
        if point.prompt <= best.setdefault(key, point).prompt:
            best[key] = point
    return list(best.values())


def _bar(axes: Axes, y: float, point: Found) -> None:
    whole, left = sum(point.parts_s.get(name, 0.0) for name in PARTS) or 1.0, 0.0
    for name, colour in PARTS.items():
        share = point.parts_s.get(name, 0.0) / whole
        axes.barh(y, 100 * share, 0.7, left=left, color=colour, linewidth=0)
        if share > LABELLED_FROM:
            ink = "#14181d" if name == "preprocess" else "white"
            style = {"ha": "center", "va": "center", "color": ink, "fontsize": TEXT - 1, "weight": "bold"}
            write(axes, left + 50 * share, y, f"{100 * share:.0f}", **style)
        left += 100 * share
    write(axes, 101, y, formatting.duration(point.total_s), va="center", fontsize=TEXT - 1)


# --- break-even surface and roofline ----------------------------------------------------------------------------------


def surface(pair: PairBreakEven, schedule: Schedule) -> Drawing:
    """Tokens of reasoning up to which `mutual` is as fast as the large model alone: a row per rate of agreement."""
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
    axes.set_xlabel(f"tokens that {pair.large} writes by itself")
    axes.set_ylabel("short answers accepted")
    shades = [Patch(color=SHADES(share), label=name) for share, name in ((0.1, "few tokens"), (0.9, "many"))]
    key(figure, [Patch(color=NONE, label="0: never as fast"), *shades, Patch(color=ANY, label="any number")])
    caption = (
        f"Break-even surface of mutual verification, {schedule}: up to this many tokens of reasoning of {pair.small} it"
        f" is as fast as {pair.large} writing this many tokens by itself. {_asked(pair)} Estimated, from strategies run"
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
    text = f"{work.visual} visual of {work.prompt} prompt tokens, answers of {work.answer}"
    return (
        f"{text}; {formatting.percent(pair.confirm)} of what is not accepted is confirmed."
        if pair.confirm
        else f"{text}."
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
    """FLOP/s against FLOP per byte: the device's limit, and the rate that each component reaches."""
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
    axes.grid()
    axes.set_xlabel("FLOP a byte that must be moved")
    axes.set_ylabel("FLOP/s")
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
    text = "; ".join(f"{roof.model} {roof.component} {roof.times:.1f} times its bound" for roof in roofs)
    return drawing(f"roofline-{dtype}", figure, f"Roofline. {text}.", caption)
