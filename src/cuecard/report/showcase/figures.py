"""Figures as SVG strings, 640 px wide, for light and dark pages: results, and one request as a time line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cuecard.domain.outcome import Route
from cuecard.report.page import formatting
from cuecard.report.page.canvas import TEXT, WIDTH, canvas, key, svg
from cuecard.report.page.labels import name_points, spot
from cuecard.report.page.records import NEITHER, Row
from cuecard.report.page.svg import INK
from cuecard.report.page.timeline import timeline

__all__ = ["accuracy_against_tokens", "latency_bars", "routes", "timeline"]

FAMILIES = (
    ("one model", "o", "#0072b2", ("short", "reason")),
    ("both, as in the paper", "s", "#c14e00", ("transfer", "mutual")),
    ("baselines", "D", "#b0568a", ()),
)


def accuracy_against_tokens(rows: Sequence[Row]) -> str:
    """Each strategy a labelled point with its 95% interval; rows that coincide share a label."""
    figure, axes = canvas(height=400, left=56, top=16, bottom=84)
    most = max(1.0, *(row.all_tokens for row in rows))
    low, high = 100 * min(row.low for row in rows), 100 * max(row.high for row in rows)
    axes.set_xlim(-0.04 * most, 1.12 * most)
    axes.set_ylim(low - 0.08 * (high - low), high + 0.3 * (high - low))  # room for names over the points
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 100])
    axes.set_ylim(low - 0.08 * (high - low), high + 0.3 * (high - low))
    axes.grid(color=INK, alpha=0.14, linewidth=0.8)
    spots, whiskers = [], []
    for same in _coinciding(rows):
        row, (_, marker, colour, _) = same[0], _family(same[0])
        x, y = row.all_tokens, 100 * row.accuracy
        axes.plot([x, x], [100 * row.low, 100 * row.high], color=colour, alpha=0.7, linewidth=2, solid_capstyle="round")
        axes.plot([x], [y], marker, color=colour, markeredgecolor=INK, markeredgewidth=0.5, markersize=8, zorder=4)
        whiskers.append((spot(axes, x, 100 * row.low, ""), spot(axes, x, 100 * row.high, "")))
        spots.append(spot(axes, x, y, _shared_name(same)))
    name_points(axes, spots, [(low.x - 2, low.y, low.x + 2, high.y) for low, high in whiskers])
    axes.set_xlabel("generated tokens a question, all models together", color=INK, fontsize=TEXT)
    axes.set_ylabel("right, %", color=INK, fontsize=TEXT)
    shown = [family for family in FAMILIES if any(_family(row) == family for row in rows)]
    key(
        figure,
        [
            Line2D([], [], marker=marker, color=colour, linestyle="", markersize=8, label=name)
            for name, marker, colour, _ in shown
        ],
    )
    return svg(
        figure,
        "Accuracy against generated tokens: "
        + "; ".join(f"{row.name} {formatting.percent(row.accuracy)}" for row in rows),
    )


def latency_bars(rows: Sequence[Row]) -> str:
    """Mean latency of each strategy, split by who worked meanwhile; its speed-up over the large model's reasoning."""
    figure, axes = canvas(height=84 + 30 * len(rows), left=132, top=8, bottom=70)
    scale, unit = (1000, "ms") if max(row.mean_s for row in rows) < 2 else (1, "s")
    axes.set_xlim(0, 1.3 * scale * max(row.mean_s for row in rows))
    axes.set_ylim(len(rows) - 0.45, -0.6)
    order = [*formatting.PARTS, *sorted({part for row in rows for part in row.parts_s} - set(formatting.PARTS))]
    order = [part for part in order if part != NEITHER] + [NEITHER]
    for y, row in enumerate(rows):
        left = 0.0
        for part in order:
            length = scale * row.parts_s.get(part, 0.0)
            axes.barh(y, length, 0.62, left=left, color=formatting.PARTS.get(part, formatting.OTHER_PART), linewidth=0)
            left += length
        axes.barh(y, scale * row.mean_s, 0.62, fill=False, edgecolor=INK, linewidth=0.6)
        said = f"{formatting.duration(row.mean_s)}, {row.speed_up:.2f}×"
        axes.annotate(
            said, (scale * row.mean_s, y), (6, 0), textcoords="offset points", va="center", color=INK, fontsize=TEXT
        )
    axes.set_yticks(range(len(rows)), [row.name for row in rows], parse_math=False)
    kinds = ", ".join(dict.fromkeys(row.latency for row in rows))
    axes.set_xlabel(f"mean {unit} a question ({kinds})", color=INK, fontsize=TEXT, loc="left")
    present = [part for part in order if any(row.parts_s.get(part, 0) > 0.01 * row.mean_s for row in rows)]
    key(
        figure,
        [Patch(color=formatting.PARTS.get(part, formatting.OTHER_PART), label=f"{part} at work") for part in present],
    )
    return svg(figure, "Mean latency: " + "; ".join(f"{row.name} {formatting.duration(row.mean_s)}" for row in rows))


def routes(counts: Mapping[str, Mapping[Route, int]]) -> str:
    """How the answers of each strategy came about: {strategy: {route: questions}}."""
    figure, axes = canvas(height=84 + 32 * len(counts), left=132, top=8, bottom=70)
    most = max(sum(count.values()) for count in counts.values())
    axes.set_xlim(0, most)
    axes.set_ylim(len(counts) - 0.45, -0.6)
    room = (WIDTH - 132 - 16) / most
    for y, count in enumerate(counts.values()):
        left = 0
        for route in Route:
            if number := count.get(route, 0):
                axes.barh(y, number, 0.66, left=left, color=formatting.ROUTES[route], edgecolor=INK, linewidth=0.6)
                if room * number > 9 * len(str(number)):
                    axes.text(
                        left + number / 2,
                        y,
                        str(number),
                        ha="center",
                        va="center",
                        color="white",
                        fontsize=TEXT,
                        weight="bold",
                    )
                left += number
    axes.set_yticks(range(len(counts)), list(counts), parse_math=False)
    axes.set_xlabel("questions", color=INK, fontsize=TEXT, loc="left")
    present = [route for route in Route if any(count.get(route) for count in counts.values())]
    key(figure, [Patch(color=formatting.ROUTES[route], label=str(route)) for route in present])
    return svg(figure, "Routes: " + "; ".join(f"{name}: {formatting.counted(count)}" for name, count in counts.items()))


# --- parts of the scatter ------------------------------------------------------------------------------------------


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
