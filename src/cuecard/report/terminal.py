"""The time line of one request, as figure 2(c) of the paper, with real times: as a figure, and for a terminal.

Calls are laid out in one row per role, with a further lane for overlapping calls of one role.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from rich.cells import set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from cuecard.domain.call import Call, FinishReason, Mode
from cuecard.domain.outcome import Outcome
from cuecard.report import formatting
from cuecard.report.canvas import INK, TEXT, WIDTH, Drawing, canvas, drawing, key, write

Lane = tuple[Call, ...]
HATCHES = ((FinishReason.CANCELLED, "////", "cancelled"), (FinishReason.ERROR, "xxxx", "failed"))
NOTED = {
    FinishReason.CANCELLED: ", cancelled",
    FinishReason.ERROR: ", failed",
    FinishReason.BUDGET: ", budget spent",
    FinishReason.REPETITION: ", repeats itself",
}


def requests(outcomes: Mapping[str, Outcome], name: str, verdicts: Mapping[str, str] | None = None) -> list[Drawing]:
    """A time line of one question under each arm, on one scale. `verdicts`: text after an arm's answer."""
    until_s = max(max(o.total_s, *(call.end_s for call in o.calls)) for o in outcomes.values())
    drawings = []
    for arm, outcome in outcomes.items():
        figure, label = timeline(outcome, until_s)
        band = handoff(outcome)
        handed = f" Hand-off {formatting.duration(band[1] - band[0])}." if band else ""
        caption = (
            f"{arm}: answer “{outcome.answer}”{(verdicts or {}).get(arm, '')}, after"
            f" {formatting.duration(outcome.total_s)} ({outcome.latency_kind})."
            f" {str(outcome.route).capitalize()}: {outcome.reason}.{handed}"
        )
        drawings.append(drawing(f"request-{arm}-{name}", figure, label, caption))
    return drawings


def timeline(outcome: Outcome, until_s: float | None = None) -> tuple[Figure, str]:
    """A row per model, a bar per call, and the hand-off: the figure, and its description in words.

    `until_s` ends the axis, to compare several outcomes.
    """
    laid_out = tracks(outcome.calls)
    lanes = sum(len(track.lanes) for track in laid_out)
    figure, axes = canvas(height=106 + 46 * lanes, left=92, top=48, bottom=58)
    end_s = until_s or max((outcome.total_s, *(call.end_s for call in outcome.calls)))
    scale, unit = (1000, "ms") if end_s < 1 else (1, "s")
    axes.set_xlim(0, end_s * scale * 1.02)
    axes.set_ylim(lanes - 0.4, -0.75)
    axes.set_yticks([])
    row = 0
    for track in laid_out:
        _draw_track(axes, track, row, scale)
        row += len(track.lanes)
    _totals(axes, outcome, lanes, scale)
    axes.set_xlabel(f"{unit} since the question was asked ({outcome.latency_kind})", loc="left")
    key(figure, [*_modes_of(outcome.calls)])
    took = formatting.duration(outcome.total_s)
    return figure, f"Time line of one request, {outcome.strategy}: {len(outcome.calls)} calls, answered after {took}."


def _draw_track(axes: Axes, track: Track, first: int, scale: float) -> None:
    """Draw the rows of one role: its name at the left, and its calls, a row per lane."""
    middle = first + (len(track.lanes) - 1) / 2
    at = axes.get_yaxis_transform()
    model = track.model if len(track.model) <= 12 else track.model[:11] + "…"
    write(axes, -0.015, middle, track.role, ha="right", va="bottom", weight="bold", transform=at)
    write(axes, -0.015, middle, model, ha="right", va="top", alpha=0.75, fontsize=TEXT - 1.5, transform=at)
    for y, lane in enumerate(track.lanes, start=first):
        for call in lane:
            _bar(axes, call, y, scale)
        _names(axes, lane, y, scale)


def _names(axes: Axes, lane: Lane, y: int, scale: float) -> None:
    """Draw labels of the calls above their bars if there is room; the legend of colours covers the others."""
    free_from = 0.0
    for call in lane:
        text = _label(call)
        width = 6.2 * len(text)
        start, end = (float(axes.transData.transform((s * scale, y))[0]) for s in (call.start_s, call.end_s))
        # a reader's bar is short, begins at the lines of the hand-off, and often ends at the margin
        x = start - width - 5 if call.mode is Mode.READ else max(start, free_from)
        fits = free_from <= x and x - start <= max(0.0, end - start - width) and x + width < WIDTH
        if fits and call.mode is not Mode.WARM:
            ends = call.mode is Mode.READ
            above = axes.transData.inverted().transform((x + width if ends else x, 0))[0]
            write(axes, above, y - 0.36, text, va="bottom", ha="right" if ends else "left", fontsize=TEXT - 1.5)
            free_from = x + width + 8


def _bar(axes: Axes, call: Call, y: int, scale: float) -> None:
    """Draw a call: pale until the first token, full from there; hatched if cancelled, crossed if failed."""
    start, end, colour = call.start_s * scale, call.end_s * scale, formatting.MODES[call.mode]
    first = end if call.first_token_s is None else call.first_token_s * scale
    hatch = next((hatch for reason, hatch, _ in HATCHES if reason is call.finish_reason), None)
    paleness = 0.8 if call.first_token_s is None else 0.4
    axes.barh(y, first - start, 0.56, left=start, color=colour, alpha=paleness, linewidth=0)
    axes.barh(y, end - first, 0.56, left=first, color=colour, linewidth=0)
    axes.barh(y, end - start, 0.56, left=start, fill=False, edgecolor=INK, linewidth=0.6, hatch=hatch)
    if call.first_token_s is not None:
        axes.plot([first, first], [y - 0.34, y + 0.34], color=INK, linewidth=1.6, solid_capstyle="butt", zorder=5)


def _label(call: Call) -> str:
    tokens = call.usage.completion_tokens
    written = "" if tokens is None else f", {tokens} token{'' if tokens == 1 else 's'}"
    return f"{call.mode}{written}{NOTED.get(call.finish_reason, '')}"


def _totals(axes: Axes, outcome: Outcome, lanes: int, scale: float) -> None:
    """Draw the time of the answer, and the hand-off as a band over all rows, with its duration."""
    axes.axvline(outcome.total_s * scale, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    band = handoff(outcome)
    _above(
        axes, outcome.total_s * scale, 4 if band is None else 19, f"answered: {formatting.duration(outcome.total_s)}"
    )
    if band is not None:
        start, end = (seconds * scale for seconds in band)
        axes.axvspan(start, end, color=INK, alpha=0.16, linewidth=0)
        for x in (start, end):
            axes.plot([x, x], [-0.75, lanes - 0.4], color=INK, linewidth=0.8)
        _above(axes, end, 4, f"hand-off: {formatting.duration(band[1] - band[0])}")


def _above(axes: Axes, x: float, up: int, text: str) -> None:
    """Write a text that ends at `x`, or begins there in the left half of the figure; `up` pixels above the rows."""
    ends = axes.transData.transform((x, 0))[0] > WIDTH / 2
    side: dict[str, Any] = {"ha": "right" if ends else "left", "color": INK, "fontsize": TEXT}
    axes.annotate(text, (x, -0.75), (2 if ends else -2, up), textcoords="offset points", **side)


def _modes_of(calls: Sequence[Call]) -> list[Patch | Line2D]:
    """The legend: the modes that occur, then the marks that occur."""
    band = [mode for mode in Mode if any(call.mode is mode for call in calls)]
    shown: list[Patch | Line2D] = [Patch(color=formatting.MODES[mode], label=str(mode)) for mode in band]
    if any(call.first_token_s is not None for call in calls):
        tick: dict[str, Any] = {"marker": "|", "linestyle": "", "markersize": 12, "markeredgewidth": 1.6}
        shown.append(Line2D([], [], color=INK, label="first token", **tick))
    for reason, hatch, name in HATCHES:
        if any(call.finish_reason is reason for call in calls):
            shown.append(Patch(fill=False, edgecolor=INK, linewidth=0.6, hatch=hatch, label=name))
    return shown


# --- lanes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Track:
    """The calls of one role, in lanes without overlap, each ordered by start."""

    role: str
    model: str
    lanes: tuple[Lane, ...]


def ordered(calls: Sequence[Call]) -> list[Call]:
    """Sort by start, then by end."""
    return sorted(calls, key=lambda call: (call.start_s, call.end_s))


def tracks(calls: Sequence[Call]) -> list[Track]:
    """One track per role: the large model last, since it reads what the others write."""
    in_time = ordered(calls)
    roles = sorted(dict.fromkeys(call.role for call in in_time), key=lambda role: (role == "large", role != "small"))
    return [_track(role, [call for call in in_time if call.role == role]) for role in roles]


def _track(role: str, calls: Sequence[Call]) -> Track:
    lanes: list[list[Call]] = []
    for call in calls:
        free = next((lane for lane in lanes if lane[-1].end_s <= call.start_s), None)
        if free is None:
            lanes.append([call])
        else:
            free.append(call)
    return Track(role, calls[0].model, tuple(map(tuple, lanes)))


def handoff(outcome: Outcome) -> tuple[float, float] | None:
    """(from, to): the last reasoning token and the reader's first answer token, in seconds; None without a reader."""
    took = outcome.handoff_s
    read = next((c for c in outcome.calls if c.mode is Mode.READ and c.first_token_s is not None), None)
    if took is None or read is None or read.first_token_s is None:
        return None
    return read.first_token_s - took, read.first_token_s


ENDED = {
    FinishReason.CANCELLED: "cancelled",
    FinishReason.ERROR: "failed",
    FinishReason.BUDGET: "budget",
    FinishReason.REPETITION: "repeats",
    FinishReason.LENGTH: "cut",
}
STYLES = {
    Mode.SHORT: "blue",
    Mode.REASON: "yellow",
    Mode.READ: "green",
    Mode.PROBE: "bright_green",
    Mode.REPAIR: "red",
    Mode.WARM: "bright_black",
    Mode.GRADE: "bright_magenta",
    Mode.SCORE: "magenta",
    Mode.WEIGH: "cyan",
}


@dataclass(frozen=True)
class Glyphs:
    """Characters of a bar: no call, before the first token, after it, a call that was cancelled or failed."""

    empty: str
    pale: str
    full: str
    broken: str


BLOCKS, ASCII = Glyphs(" ", "░", "█", "▒"), Glyphs(" ", ".", "#", "/")


@dataclass(frozen=True)
class Legend:
    """A one-line legend of the characters in the bars of a time line."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = ASCII if options.ascii_only else BLOCKS
        meanings = (
            (glyphs.pale, "prefill, until the first token"),
            (glyphs.full, "decode"),
            (glyphs.broken, "cancelled or failed"),
        )
        yield Text("   ".join(f"{glyph} {meaning}" for glyph, meaning in meanings), style="dim", overflow="fold")


@dataclass(frozen=True)
class Timeline:
    """A line per call, in order of time: role, mode, bar, start to end, tokens. At most as wide as the terminal."""

    outcome: Outcome
    until_s: float | None = None
    """End of the bars' scale, to compare several outcomes; None: the end of this outcome's last call."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        calls = ordered(self.outcome.calls)
        end_s = self.until_s or max((self.outcome.total_s, *(call.end_s for call in calls)))
        facts = [_facts(call, end_s) for call in calls]
        right = max(map(len, facts), default=0)
        name = min(max((len(formatting.plain(call.role)) for call in calls), default=0), 12)
        bar = max(8, options.max_width - name - right - 10)
        glyphs = ASCII if options.ascii_only else BLOCKS
        for call, fact in zip(calls, facts, strict=True):
            line = Text(set_cell_size(formatting.plain(call.role), name) + " ")
            line.append(f"{call.mode:<6} ", STYLES[call.mode])
            line.append(bar_of(call, bar, end_s, glyphs), STYLES[call.mode])
            line.append(f" {fact:>{right}}")
            yield _fitted(line, options.max_width)
        for text in _closing(self.outcome):
            yield _fitted(Text(text), options.max_width, wrap=True)


def bar_of(call: Call, width: int, end_s: float, glyphs: Glyphs) -> str:
    """`width` characters from 0 to `end_s`: pale until the first token, full from there; at least one is filled."""
    scale = width / end_s if end_s else 0.0
    start = min(int(call.start_s * scale), width - 1)
    end = max(start + 1, min(round(call.end_s * scale), width))
    first = end if call.first_token_s is None else min(max(start, round(call.first_token_s * scale)), end)
    if call.finish_reason in (FinishReason.CANCELLED, FinishReason.ERROR):
        body = glyphs.broken * (end - start)
    elif call.mode is Mode.WARM:
        body = glyphs.pale * (end - start)
    else:
        first = min(first, end - 1) if call.first_token_s is not None else end
        body = glyphs.pale * (first - start) + glyphs.full * (end - first)
    return glyphs.empty * start + body + glyphs.empty * (width - end)


def _facts(call: Call, end_s: float) -> str:
    """Start and end of a call, in the unit of a scale that ends at `end_s`, and the number of generated tokens."""
    count = call.usage.completion_tokens
    ended = f"{ENDED[call.finish_reason]} " if call.finish_reason in ENDED else ""
    tokens = "   - tok" if count is None else f"{count:>4} tok"
    if end_s >= 1:
        return f"{ended}{call.start_s:.2f}-{call.end_s:.2f} s {tokens}"
    return f"{ended}{call.start_s * 1000:.0f}-{call.end_s * 1000:.0f} ms {tokens}"


def _closing(outcome: Outcome) -> list[str]:
    """The latency of the request, its route and the reason for it."""
    parts = [f"answered after {formatting.duration(outcome.total_s)} ({outcome.latency_kind})"]
    if (band := handoff(outcome)) is not None:
        parts.append(f"hand-off {formatting.duration(band[1] - band[0])}")
    return [", ".join(parts), f"{outcome.route}: {formatting.plain(outcome.reason)}"]


def _fitted(line: Text, width: int, wrap: bool = False) -> Text:
    if wrap:
        line.overflow = "fold"
    else:
        line.truncate(width)
        line.no_wrap = True
    return line
