"""The time line of one request, as figure 2(c) of the paper draws it, with real times."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cuecard.domain.call import Call, FinishReason, Mode
from cuecard.domain.outcome import Outcome
from cuecard.report import wording
from cuecard.report.lanes import Track, handoff, tracks
from cuecard.report.sheet import TEXT, WIDTH, canvas, key, svg, write
from cuecard.report.svg import INK


def timeline(outcome: Outcome, until_s: float | None = None) -> str:
    """A row a model, a bar a call, and the hand-off. `until_s` ends the axis, to compare several outcomes."""
    laid_out = tracks(outcome.calls)
    lanes = sum(len(track.lanes) for track in laid_out)
    figure, axes = canvas(height=92 + 46 * lanes, left=92, top=34, bottom=58)
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
    axes.set_xlabel(
        f"{unit} since the question was asked ({outcome.latency_kind})", color=INK, fontsize=TEXT, loc="left"
    )
    key(figure, [*_modes_of(outcome.calls)])
    took = wording.duration(outcome.total_s)
    return svg(
        figure, f"Time line of one request, {outcome.strategy}: {len(outcome.calls)} calls, answered after {took}."
    )


def _track(axes: Axes, track: Track, first: int, scale: float) -> None:
    """The rows of one role: its name at the left, its calls, one lane under the other."""
    middle = first + (len(track.lanes) - 1) / 2
    at = axes.get_yaxis_transform()
    model = track.model if len(track.model) <= 12 else track.model[:11] + "…"
    write(axes, -0.015, middle, track.role, ha="right", va="bottom", weight="bold", transform=at)
    write(axes, -0.015, middle, model, ha="right", va="top", alpha=0.75, fontsize=TEXT - 1.5, transform=at)
    for y, lane in enumerate(track.lanes, start=first):
        taken_to = -1.0
        for call in lane:
            _bar(axes, call, y, scale)
            text = _said(call)
            x = axes.transData.transform((call.start_s * scale, y))[0]
            width = 6.2 * len(text)
            if call.mode is not Mode.WARM and x >= taken_to and x + width < WIDTH:
                write(axes, call.start_s * scale, y - 0.36, text, va="bottom", fontsize=TEXT - 1.5)
                taken_to = x + width + 6


def _bar(axes: Axes, call: Call, y: int, scale: float) -> None:
    """Pale until the first token, full from there; hatched if it was cancelled, crossed if it failed."""
    start, end, colour = call.start_s * scale, call.end_s * scale, wording.MODES[call.mode]
    first = end if call.first_token_s is None else call.first_token_s * scale
    hatch = {FinishReason.CANCELLED: "////", FinishReason.ERROR: "xxxx"}.get(call.finish_reason)
    axes.barh(
        y,
        first - start,
        0.56,
        left=start,
        color=colour,
        alpha=0.4 if call.first_token_s is not None else 0.8,
        linewidth=0,
    )
    axes.barh(y, end - first, 0.56, left=first, color=colour, linewidth=0)
    axes.barh(y, end - start, 0.56, left=start, fill=False, edgecolor=INK, linewidth=0.6, hatch=hatch)
    if call.first_token_s is not None:
        axes.plot([first, first], [y - 0.34, y + 0.34], color=INK, linewidth=1.6, solid_capstyle="butt", zorder=5)


def _said(call: Call) -> str:
    made = call.usage.completion_tokens
    ended = {
        FinishReason.CANCELLED: ", cancelled",
        FinishReason.ERROR: ", failed",
        FinishReason.BUDGET: ", budget spent",
    }.get(call.finish_reason, "")
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
    axes.annotate(
        said,
        (total, -0.75),
        (0, 6),
        textcoords="offset points",
        ha="right" if ends_right else "left",
        color=INK,
        fontsize=TEXT,
    )


def _modes_of(calls: Sequence[Call]) -> list[Patch | Line2D]:
    """The key: the modes that occur, then the marks that occur."""
    key: list[Patch | Line2D] = [
        Patch(color=wording.MODES[mode], label=str(mode)) for mode in Mode if any(c.mode is mode for c in calls)
    ]
    if any(call.first_token_s is not None for call in calls):
        key.append(
            Line2D([], [], marker="|", color=INK, linestyle="", markersize=12, markeredgewidth=1.6, label="first token")
        )
    if any(call.cancelled for call in calls):
        key.append(Patch(fill=False, edgecolor=INK, linewidth=0.6, hatch="////", label="cancelled"))
    if any(call.finish_reason is FinishReason.ERROR for call in calls):
        key.append(Patch(fill=False, edgecolor=INK, linewidth=0.6, hatch="xxxx", label="failed"))
    return key
