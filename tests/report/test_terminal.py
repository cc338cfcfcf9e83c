"""What a terminal shows, however narrow."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType
from stock import CALLS, OUTCOME, ROWS, call, row

from cuecard.domain.call import FinishReason, Mode
from cuecard.domain.outcome import Outcome, Route
from cuecard.report.showcase import terminal


def shown(what: RenderableType, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(what)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 80, 140])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    wordy = replace(OUTCOME, reason="a long story " * 30, calls=tuple(replace(c, role="名前" * 20) for c in CALLS))
    long_names = [row("strategy" * 12, "overlap"), *ROWS]
    drawn = [
        terminal.Timeline(OUTCOME),
        terminal.Timeline(wordy),
        terminal.results(long_names),
        terminal.routes(long_names),
    ]
    for what in drawn:
        assert max(map(cell_len, shown(what, width))) <= width


def test_calls_come_in_order_of_time_with_their_times_and_tokens() -> None:
    lines = shown(terminal.Timeline(replace(OUTCOME, calls=tuple(reversed(CALLS)))))
    assert [line.split()[:2] for line in lines[:5]] == [
        ["small", "short"],
        ["large", "short"],
        ["small", "reason"],
        ["large", "warm"],
        ["large", "read"],
    ]
    assert lines[2].endswith("0-200 ms   58 tok")
    assert "hand-off 5.0 ms" in lines[5]


def test_a_bar_is_pale_until_the_first_token_and_full_from_there() -> None:
    assert terminal.bar_of(call("small", Mode.SHORT, 0.2, 0.6), 10, 1.0, terminal.BLOCKS) == "  ░███    "


def test_the_shortest_call_still_shows() -> None:
    assert terminal.bar_of(call("small", Mode.SHORT, 0.9999, 1.0), 10, 1.0, terminal.ASCII) == "         #"


def test_a_cancelled_call_says_so() -> None:
    cancelled = call("small", Mode.REASON, 0.0, 0.1, finish_reason=FinishReason.CANCELLED)
    line = shown(terminal.Timeline(Outcome("3", Route.AGREED, "mutual", (cancelled,), 0.1, "agreed")))[0]
    assert "▒" in line
    assert "cancelled" in line


def test_a_role_or_reason_cannot_steer_the_terminal() -> None:
    steering = replace(
        OUTCOME, reason="\x1b[31mred\x07 [bold]markup[/]", calls=tuple(replace(c, role="\x1b]0;x") for c in CALLS)
    )
    text = "\n".join(shown(terminal.Timeline(steering)))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]markup[/]" in text


def test_the_table_gives_accuracy_tokens_latency_and_speed_up_of_each_strategy() -> None:
    line = next(line for line in shown(terminal.results(ROWS)) if "mutual, overlap" in line)
    assert line.split() == ["mutual,", "overlap", "90%", "60%-98%", "40.0", "1.5", "200", "ms", "1.80×"]
