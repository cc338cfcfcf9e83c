"""The time line of a request for a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from cuecard.domain.call import Call, FinishReason, Mode
from cuecard.domain.outcome import Outcome
from cuecard.report.page import formatting
from cuecard.report.page.timeline import handoff, ordered

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
