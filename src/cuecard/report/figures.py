"""Figures as SVG strings, 640 px wide, for light and dark pages. The only place that knows matplotlib."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cuecard.domain.call import Call, FinishReason, Mode
from cuecard.domain.outcome import Outcome, Route
from cuecard.report import wording
from cuecard.report.lanes import Track, handoff, tracks
from cuecard.report.placing import Spot, place
from cuecard.report.records import NEITHER, Row
from cuecard.report.svg import INK, embeddable

WIDTH, TEXT = 640, 12
FAMILIES = (
    ("one model", "o", "#0072b2", ("short", "reason")),
    ("both, as in the paper", "s", "#c14e00", ("transfer", "mutual")),
    ("baselines", "D", "#b0568a", ()),
)


def timeline(outcome: Outcome, until_s: float | None = None) -> str:
    """Figure 2(c) of one real request: a row a model, a bar a call, the hand-off. `until_s` ends the axis, to compare several."""
    laid_out = tracks(outcome.calls)
    lanes = sum(len(track.lanes) for track in laid_out)
    figure, axes = _canvas(height=92 + 46 * lanes, left=92, top=34, bottom=58)
    end_s = until_s or max((outcome.total_s, *(call.end_s for call in outcome.calls)))
    scale, unit = (1000, "ms") if end_s < 2 else (1, "s")
    axes.set_xlim(0, end_s * scale * 1.02)
    axes.set_ylim(lanes - 0.4, -0.75)
    axes.set_yticks([])
    row = 0
    for track in laid_out:
        _track(axes, track, row, scale)
        row += len(track.lanes)
    _handed_over(axes, outcome, lanes, scale)
    axes.axvline(outcome.total_s * scale, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.set_xlabel(f"{unit} since the question was asked ({outcome.latency_kind})", color=INK, fontsize=TEXT, loc="left")
    _key(figure, [*_modes_of(outcome.calls)])
    said = f"Time line of one request, {outcome.strategy}: {len(outcome.calls)} calls, answered after {wording.duration(outcome.total_s)}."
    return _svg(figure, said)


def accuracy_against_tokens(rows: Sequence[Row]) -> str:
    """Each strategy a labelled point with its 95% interval; rows that coincide share a label."""
    figure, axes = _canvas(height=400, left=56, top=16, bottom=84)
    most = max(row.all_tokens for row in rows)
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    axes.set_xlim(-0.04 * most, 1.12 * most)
    axes.set_ylim(100 * max(-0.02, low - 0.04), 100 * min(1.06, high + 0.05))
    axes.grid(color=INK, alpha=0.14, linewidth=0.8)
    spots = []
    for same in _coinciding(rows):
        row, (_, marker, colour, _) = same[0], _family(same[0])
        x, y = row.all_tokens, 100 * row.accuracy
        axes.plot([x, x], [100 * row.low, 100 * row.high], color=colour, alpha=0.45, linewidth=2.5, solid_capstyle="round")
        axes.plot([x], [y], marker, color=colour, markeredgecolor=INK, markeredgewidth=0.5, markersize=8, zorder=4)
        spots.append(Spot(*axes.transData.transform((x, y)), text=_shared_name(same)))
    _labels(axes, spots)
    axes.set_xlabel("generated tokens a question, all models together", color=INK, fontsize=TEXT)
    axes.set_ylabel("right, %", color=INK, fontsize=TEXT)
    shown = [family for family in FAMILIES if any(_family(row) == family for row in rows)]
    _key(figure, [Line2D([], [], marker=marker, color=colour, linestyle="", markersize=8, label=name) for name, marker, colour, _ in shown])
    return _svg(figure, "Accuracy against generated tokens: " + "; ".join(f"{row.name} {wording.percent(row.accuracy)}" for row in rows))


def latency_bars(rows: Sequence[Row]) -> str:
    """Mean latency of each strategy, split by who worked meanwhile, with the speed-up over the large model's reasoning."""
    figure, axes = _canvas(height=84 + 30 * len(rows), left=132, top=8, bottom=70)
    scale, unit = (1000, "ms") if max(row.mean_s for row in rows) < 2 else (1, "s")
    axes.set_xlim(0, 1.3 * scale * max(row.mean_s for row in rows))
    axes.set_ylim(len(rows) - 0.45, -0.6)
    order = [*wording.PARTS, *sorted({part for row in rows for part in row.parts_s} - set(wording.PARTS))]
    order = [part for part in order if part != NEITHER] + [NEITHER]
    for y, row in enumerate(rows):
        left = 0.0
        for part in order:
            length = scale * row.parts_s.get(part, 0.0)
            axes.barh(y, length, 0.62, left=left, color=wording.PARTS.get(part, wording.OTHER_PART), linewidth=0)
            left += length
        axes.barh(y, scale * row.mean_s, 0.62, fill=False, edgecolor=INK, linewidth=0.6)
        said = f"{wording.duration(row.mean_s)}, {row.speed_up:.2f}×"
        axes.annotate(said, (scale * row.mean_s, y), (6, 0), textcoords="offset points", va="center", color=INK, fontsize=TEXT)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], parse_math=False)
    kinds = ", ".join(dict.fromkeys(row.latency for row in rows))
    axes.set_xlabel(f"mean {unit} a question ({kinds})", color=INK, fontsize=TEXT, loc="left")
    present = [part for part in order if any(row.parts_s.get(part, 0) > 0.002 * row.mean_s for row in rows)]
    _key(figure, [Patch(color=wording.PARTS.get(part, wording.OTHER_PART), label=f"{part} at work") for part in present])
    return _svg(figure, "Mean latency: " + "; ".join(f"{row.name} {wording.duration(row.mean_s)}" for row in rows))


def routes(counts: Mapping[str, Mapping[Route, int]]) -> str:
    """How the answers of each strategy came about: {strategy: {route: questions}}."""
    figure, axes = _canvas(height=84 + 32 * len(counts), left=132, top=8, bottom=70)
    most = max(sum(count.values()) for count in counts.values())
    axes.set_xlim(0, most)
    axes.set_ylim(len(counts) - 0.45, -0.6)
    room = (WIDTH - 132 - 16) / most
    for y, count in enumerate(counts.values()):
        left = 0
        for route in Route:
            if number := count.get(route, 0):
                axes.barh(y, number, 0.66, left=left, color=wording.ROUTES[route], edgecolor=INK, linewidth=0.6)
                if room * number > 9 * len(str(number)):
                    axes.text(left + number / 2, y, str(number), ha="center", va="center", color="white", fontsize=TEXT, weight="bold")
                left += number
    axes.set_yticks(range(len(counts)), list(counts), parse_math=False)
    axes.set_xlabel("questions", color=INK, fontsize=TEXT, loc="left")
    present = [route for route in Route if any(count.get(route) for count in counts.values())]
    _key(figure, [Patch(color=wording.ROUTES[route], label=str(route)) for route in present])
    return _svg(figure, "Routes: " + "; ".join(f"{name}: {wording.counted(count)}" for name, count in counts.items()))


# --- parts of a time line -----------------------------------------------------------------------------------------------


def _track(axes: Axes, track: Track, first: int, scale: float) -> None:
    """The rows of one role: its name at the left, its calls, one lane under the other."""
    middle = first + (len(track.lanes) - 1) / 2
    at = axes.get_yaxis_transform()
    axes.text(-0.015, middle, track.role, ha="right", va="bottom", weight="bold", transform=at, color=INK, fontsize=TEXT, parse_math=False)
    model = track.model if len(track.model) <= 12 else track.model[:11] + "…"
    axes.text(-0.015, middle, model, ha="right", va="top", transform=at, color=INK, alpha=0.75, fontsize=TEXT - 1.5, parse_math=False)
    for y, lane in enumerate(track.lanes, start=first):
        taken_to = -1.0
        for call in lane:
            _bar(axes, call, y, scale)
            text = _said(call)
            x = axes.transData.transform((call.start_s * scale, y))[0]
            width = 6.2 * len(text)
            if call.mode is not Mode.WARM and x >= taken_to and x + width < WIDTH:
                axes.text(call.start_s * scale, y - 0.36, text, color=INK, fontsize=TEXT - 1.5, va="bottom", parse_math=False)
                taken_to = x + width + 6


def _bar(axes: Axes, call: Call, y: int, scale: float) -> None:
    """Pale until the first token, full from there; hatched if it was cancelled, crossed if it failed."""
    start, end, colour = call.start_s * scale, call.end_s * scale, wording.MODES[call.mode]
    first = end if call.first_token_s is None else call.first_token_s * scale
    hatch = {FinishReason.CANCELLED: "////", FinishReason.ERROR: "xxxx"}.get(call.finish_reason)
    axes.barh(y, first - start, 0.56, left=start, color=colour, alpha=0.4 if call.first_token_s is not None else 0.8, linewidth=0)
    axes.barh(y, end - first, 0.56, left=first, color=colour, linewidth=0)
    axes.barh(y, end - start, 0.56, left=start, fill=False, edgecolor=INK, linewidth=0.6, hatch=hatch)
    if call.first_token_s is not None:
        axes.plot([first, first], [y - 0.34, y + 0.34], color=INK, linewidth=1.6, solid_capstyle="butt", zorder=5)


def _said(call: Call) -> str:
    made = call.usage.completion_tokens
    ended = {FinishReason.CANCELLED: ", cancelled", FinishReason.ERROR: ", failed", FinishReason.BUDGET: ", budget spent"}.get(call.finish_reason, "")
    return f"{call.mode}{'' if made is None else f', {made} token' + 's' * (made != 1)}{ended}"


def _handed_over(axes: Axes, outcome: Outcome, lanes: int, scale: float) -> None:
    """The hand-off as a band over all rows, and what it and the whole took, above them."""
    total = outcome.total_s * scale
    x, _ = axes.transData.transform((total, 0))
    ends_right = x > WIDTH / 2
    said = f"answered: {wording.duration(outcome.total_s)}"
    if (found := handoff(outcome)) is not None:
        start_s, end_s = found
        axes.axvspan(start_s * scale, end_s * scale, color=INK, alpha=0.16, linewidth=0)
        axes.plot([start_s * scale] * 2, [-0.75, lanes - 0.4], color=INK, linewidth=0.8)
        axes.plot([end_s * scale] * 2, [-0.75, lanes - 0.4], color=INK, linewidth=0.8)
        said = f"hand-off: {wording.duration(end_s - start_s)}   {said}"
    axes.annotate(said, (total, -0.75), (0, 6), textcoords="offset points", ha="right" if ends_right else "left", color=INK, fontsize=TEXT)


def _modes_of(calls: Sequence[Call]) -> list[Patch | Line2D]:
    """The key: the modes that occur, then the marks that occur."""
    key: list[Patch | Line2D] = [Patch(color=wording.MODES[mode], label=str(mode)) for mode in Mode if any(c.mode is mode for c in calls)]
    if any(call.first_token_s is not None for call in calls):
        key.append(Line2D([], [], marker="|", color=INK, linestyle="", markersize=12, markeredgewidth=1.6, label="first token"))
    if any(call.cancelled for call in calls):
        key.append(Patch(fill=False, edgecolor=INK, linewidth=0.6, hatch="////", label="cancelled"))
    if any(call.finish_reason is FinishReason.ERROR for call in calls):
        key.append(Patch(fill=False, edgecolor=INK, linewidth=0.6, hatch="xxxx", label="failed"))
    return key


# --- parts of the scatter -----------------------------------------------------------------------------------------------


def _family(row: Row) -> tuple[str, str, str, tuple[str, ...]]:
    return next((family for family in FAMILIES if row.strategy.split(":")[0] in family[3]), FAMILIES[-1])


def _coinciding(rows: Sequence[Row]) -> list[list[Row]]:
    """Schedules of one strategy that give the same point, together."""
    groups: dict[tuple[str, int, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.strategy, row.right, round(row.all_tokens, 1)), []).append(row)
    return list(groups.values())


def _shared_name(same: Sequence[Row]) -> str:
    schedules = [row.schedule for row in same if row.schedule]
    return same[0].name if len(same) == 1 else f"{same[0].strategy} ({', '.join(schedules)})"


def _labels(axes: Axes, spots: Sequence[Spot]) -> None:
    """Every point's name beside it, with a thin line where it had to move away."""
    left, bottom = axes.transAxes.transform((0, 0))
    right, top = axes.transAxes.transform((1, 1))
    for spot, (x, y) in zip(spots, place(spots, (left, bottom, right, top)), strict=True):
        axes.annotate(
            spot.text,
            xy=(spot.x, spot.y),
            xytext=(x, y),
            xycoords="figure pixels",
            textcoords="figure pixels",
            va="center",
            color=INK,
            fontsize=TEXT - 1,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 5},
        )


# --- the sheet ----------------------------------------------------------------------------------------------------------


def _canvas(height: int, left: int, top: int, bottom: int) -> tuple[Figure, Axes]:
    """A transparent sheet on which one point is one pixel, and its axes; margins in pixels."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    axes = figure.add_axes((left / WIDTH, bottom / height, (WIDTH - left - 16) / WIDTH, (height - top - bottom) / height))
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=TEXT - 0.5, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    return figure, axes


def _key(figure: Figure, handles: Sequence[Patch | Line2D]) -> None:
    """What colours and marks mean, along the foot."""
    columns = max(1, min(len(handles), 6))
    figure.legend(handles=list(handles), loc="lower left", ncols=columns, frameon=False, fontsize=TEXT - 0.5, labelcolor=INK, handlelength=1.2, columnspacing=1.2, borderaxespad=0.2)


def _svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cuecard"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # only widths are estimated with it: the page's font draws the text
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return embeddable(buffer.getvalue(), label)
