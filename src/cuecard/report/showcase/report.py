"""The page of a demo run: every strategy on the same questions, live."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.patches import Patch

from cuecard.domain.outcome import Route
from cuecard.report.page import formatting, html, timeline
from cuecard.report.page.canvas import INK, TEXT, WIDTH, Drawing, canvas, drawing, key
from cuecard.report.page.html import KeyResult
from cuecard.report.page.scatter import ScatterPoint, scatter
from cuecard.report.showcase.records import NEITHER, Showcase, StrategyRow, roles_of

TITLE = "Cuecard: a small model reasons, a large one answers"
FAMILIES = {
    "short:small": "small",
    "reason:small": "small",
    "short:large": "large",
    "reason:large": "large",
    "transfer": "paper",
    "mutual": "paper",
}
"""By strategy; all others are baselines."""
PARTS = {"small": "#56b4e9", "small + large": "#cc79a7", "large": "#e69f00", NEITHER: "#9aa0a6"}
OTHER_PART = "#009e73"


def page(shown: Showcase) -> str:
    """The whole report as one HTML document."""
    choosing = [row for row in shown.rows if set(row.routes) != {Route.DIRECT}]
    figures = [("Accuracy against tokens", accuracy_against_tokens(shown.rows)), ("Latency", latency_bars(shown.rows))]
    if choosing:
        figures.append(("Routes", routes({row.name: row.routes for row in choosing})))
    return html.page(
        "demo.html",
        html.Heading(TITLE, _lead(shown), [_verdict(shown)], shown.about),
        shown=shown,
        results=results(shown.rows),
        how=_how(shown.rows),
        figures=figures,
        lines=timeline.requests(shown.sample.outcomes, "sample") if shown.sample else [],
    )


def _lead(shown: Showcase) -> str:
    """The result in one sentence."""
    ours, alone = shown.row(shown.headline), shown.row("reason:large")
    return (
        f"On {shown.questions} held-out questions, mutual verification ({ours.schedule}) was right {ours.right} times"
        f" ({formatting.percent(ours.accuracy)}) in {formatting.duration(ours.mean_s)} a question; the large model with"
        f" its own reasoning {alone.right} times ({formatting.percent(alone.accuracy)}) in"
        f" {formatting.duration(alone.mean_s)}: {ours.speed_up:.2f} times the speed."
    )


def _verdict(shown: Showcase) -> KeyResult:
    """The pair against the most accurate single model that takes no longer; a demo asks too few questions for more."""
    ours = shown.row(shown.headline)
    single = [row for row in shown.rows if FAMILIES.get(row.strategy) in ("small", "large")]
    best = max((row for row in single if row.mean_s <= ours.mean_s), key=lambda row: row.accuracy, default=None)
    question = "Does the pair pay on these questions?"
    if best is None:
        return KeyResult(question, "It is the fastest", "No single model takes no longer.", "", "good")
    gain = ours.right - best.right
    answer = "More right answers" if gain > 0 else "No more right answers"
    amount = (
        f"{ours.name}: {ours.right} of {shown.questions} right ({_between(ours)}); {best.name}, the most accurate"
        f" single model that takes no longer: {best.right} ({_between(best)})."
    )
    sure = "95% intervals (Wilson); so few questions show only large differences. `cuecard eval` tests them, paired."
    return KeyResult(question, answer, amount, sure)  # too few questions for a verdict


def results(rows: Sequence[StrategyRow]) -> tuple[list[str], list[list[str]]]:
    """A row a strategy."""
    roles = roles_of(rows)
    heads = ["right", "95% interval", *(f"tokens, {role}" for role in roles), "latency", "speed-up", "routes"]
    return ["strategy", *heads], [
        [
            row.name,
            f"{row.right} ({formatting.percent(row.accuracy)})",
            _between(row),
            *(formatting.tokens(row.tokens.get(role, 0.0)) for role in roles),
            formatting.duration(row.mean_s),
            f"{row.speed_up:.2f}×",
            formatting.counted(row.routes),
        ]
        for row in rows
    ]


def _between(row: StrategyRow) -> str:
    return f"{formatting.percent(row.low)}–{formatting.percent(row.high)}"


def _how(rows: Iterable[StrategyRow]) -> str:
    kinds = dict.fromkeys(row.latency for row in rows)
    return "; ".join(f"{kind} ({formatting.HOW[kind]})" for kind in kinds)


# --- figures ----------------------------------------------------------------------------------------------------------


def accuracy_against_tokens(rows: Sequence[StrategyRow]) -> Drawing:
    """Each strategy a labelled point with its 95% interval; rows that coincide share a label."""
    points = [
        ScatterPoint(row.name, FAMILIES.get(row.strategy, "baseline"), row.all_tokens, row.accuracy, row.low, row.high)
        for row in rows
    ]
    caption = (
        f"Each point is one strategy on the same {rows[0].questions} questions, with the 95% interval (Wilson) of its"
        " accuracy. Tokens are counted, those of cancelled calls included."
    )
    values = "; ".join(f"{row.name} {formatting.percent(row.accuracy)}" for row in rows)
    figure = scatter(points, "generated tokens a question, all models together")
    return drawing("accuracy-tokens", figure, f"Accuracy against generated tokens: {values}", caption)


def latency_bars(rows: Sequence[StrategyRow]) -> Drawing:
    """Mean latency of each strategy, split by the models at work; its speed-up over the large model's reasoning."""
    figure, axes = canvas(height=84 + 30 * len(rows), left=132, top=8, bottom=70)
    scale, unit = (1000, "ms") if max(row.mean_s for row in rows) < 2 else (1, "s")
    axes.set_xlim(0, 1.3 * scale * max(row.mean_s for row in rows))
    axes.set_ylim(len(rows) - 0.45, -0.6)
    order = [*PARTS, *sorted({part for row in rows for part in row.parts_s} - set(PARTS))]
    order = [part for part in order if part != NEITHER] + [NEITHER]
    for y, row in enumerate(rows):
        left = 0.0
        for part in order:
            length = scale * row.parts_s.get(part, 0.0)
            axes.barh(y, length, 0.62, left=left, color=PARTS.get(part, OTHER_PART), linewidth=0)
            left += length
        axes.barh(y, scale * row.mean_s, 0.62, fill=False, edgecolor=INK, linewidth=0.6)
        label = f"{formatting.duration(row.mean_s)}, {row.speed_up:.2f}×"
        axes.annotate(
            label, (scale * row.mean_s, y), (6, 0), textcoords="offset points", va="center", color=INK, fontsize=TEXT
        )
    axes.set_yticks(range(len(rows)), [row.name for row in rows], parse_math=False)
    kinds = ", ".join(dict.fromkeys(row.latency for row in rows))
    axes.set_xlabel(f"mean {unit} a question ({kinds})", color=INK, fontsize=TEXT, loc="left")
    present = [part for part in order if any(row.parts_s.get(part, 0) > 0.01 * row.mean_s for row in rows)]
    key(
        figure,
        [Patch(color=PARTS.get(part, OTHER_PART), label=f"{part} at work") for part in present],
    )
    caption = (
        f"Mean latency of a question, {_how(rows)}; split by which model worked meanwhile. The factor is the speed-up"
        " over the large model's own reasoning in the same run."
    )
    values = "; ".join(f"{row.name} {formatting.duration(row.mean_s)}" for row in rows)
    return drawing("latency", figure, f"Mean latency: {values}", caption)


def routes(counts: Mapping[str, Mapping[Route, int]]) -> Drawing:
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
    caption = f"How each answer came about, counted. Every question ends in exactly one route: each bar sums to {most}."
    values = "; ".join(f"{name}: {formatting.counted(count)}" for name, count in counts.items())
    return drawing("routes", figure, f"Routes: {values}", caption)
