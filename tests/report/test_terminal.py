"""Output for terminals of any width."""

from __future__ import annotations

import io
from contextlib import closing
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType
from runs import run_directory
from stock import CALLS, OUTCOME, call

from cuecard.domain.call import FinishReason, Mode
from cuecard.domain.outcome import Outcome, Route
from cuecard.evals import run_folder
from cuecard.evals.analysis.results import RunResults, TaskResults, run_results
from cuecard.report import arm_table, formatting, terminal


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> TaskResults:
    about, store = run_folder.opened(run_directory(tmp_path_factory.mktemp("terminal") / "run"))
    with closing(store):
        return run_results(about["config"], store).tasks[0]


def shown(what: RenderableType, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(what)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 80, 140])
def test_no_line_is_wider_than_the_terminal(width: int, task: TaskResults) -> None:
    wordy = replace(OUTCOME, reason="a long story " * 30, calls=tuple(replace(c, role="名前" * 20) for c in CALLS))
    long = {name: replace(arm, arm=arm.arm * 12) for name, arm in task.arms.items()}
    long_names = replace(task, arms=long)
    drawn = [
        terminal.Timeline(OUTCOME),
        terminal.Timeline(wordy),
        terminal.Legend(),
        arm_table.results(RunResults("reason:large", 0.01, (long_names,))),
        arm_table.results(RunResults("reason:large", 0.01, (task, replace(task, task="other")))),
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


@pytest.mark.parametrize(("encoding", "glyphs"), [("utf-8", "░█▒"), ("ascii", ".#/")])
def test_the_legend_names_each_character_of_a_bar(encoding: str, glyphs: str) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=80)
    console.print(terminal.Legend())
    file.flush()
    text = file.buffer.getvalue().decode(encoding)
    assert [part[0] for part in text.strip().split("   ")] == list(glyphs)
    assert [part[2:].split(",")[0] for part in text.strip().split("   ")] == [
        "prefill",
        "decode",
        "cancelled or failed",
    ]


def test_figures_are_whole_in_a_narrow_terminal(task: TaskResults) -> None:
    lines = shown(arm_table.results(RunResults("reason:large", 0.01, (task,))), 40)
    assert not any("…" in line for line in lines)
    assert sum("×" in line and "%" in line for line in lines) == 6


@pytest.mark.parametrize("width", [60, 80])
def test_the_table_gives_accuracy_latency_and_speed_up_of_each_arm_on_each_task(width: int, task: TaskResults) -> None:
    other = replace(task, task="other", arms={name: replace(arm, accuracy=None) for name, arm in task.arms.items()})
    lines = shown(arm_table.results(RunResults("reason:large", 0.01, (task, other))), width)
    rows: dict[str, list[str]] = {}
    for line in (line for line in lines if "×" in line):
        rows.setdefault(line.split()[0], []).extend(line.split()[1:])
    assert list(rows) == ["short:small", "short:large", "reason:small", "reason:large", "transfer", "mutual"]
    took = formatting.duration(task.arms["mutual"].latency.estimate)
    assert rows["mutual"][:3] == ["83%", *took.split()]
    assert "–" in rows["mutual"][4:]
    assert rows["reason:large"][-1] == "1.00×"
    assert ("pictured" in lines[0] and "other" in lines[0]) is (width == 80)
    assert "reasoning for itself (reason:large)" in " ".join(" ".join(lines).split())
