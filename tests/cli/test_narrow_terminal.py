"""Tables and progress of runs with long arm names, on narrow terminals and in pipes: no number is cut."""

from __future__ import annotations

import io
import re
import sys
from contextlib import closing
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from cuecard.cli import report
from cuecard.cli.evals import runs, study
from cuecard.cli.evals import study as progresses
from cuecard.cli.evals.study import RunBar
from cuecard.evals import run_folder
from cuecard.evals.analysis.results import compare_runs, run_results
from cuecard.evals.analysis.summary import summary
from cuecard.evals.runner import RunProgress
from cuecard.report.arm_table import ArmTable, folded, routes_table, shortened
from cuecard.report.evaluation import report as evaluation

sys.path.append(str(Path(__file__).parents[1] / "report"))
from runs import Pictured, run_directory

LONG = [f"mutual/notes/eager/accept=agree+confidence(0.{each})/budget={each}" for each in range(51, 60)]
ARMS = ("short:small", "short:large", "reason:large", *LONG)
FIGURE = re.compile(r"(?<![\w.=(])[+−-]?\d[\d.,%×]*(?: m?s\b)?")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[ArmTable]]:
    """Command -> the tables that it prints for a run."""
    about, store = run_folder.opened(run_directory(tmp_path_factory.mktemp("narrow") / "run", Pictured(6), ARMS))
    with closing(store):
        (summed,) = summary(about["config"], store)["tasks"].values()
        compared = compare_runs((about["config"], store), (about["config"], store)).arms
        found = run_results(about["config"], store)
    routes = routes_table({arm: each["routes"] for arm, each in summed["arms"].items()})
    assert routes is not None
    return {
        "eval": [study._arms("pictured", summed), routes],
        "report": [report._table(found.tasks[0], evaluation)],
        "compare": [runs._accuracies(list(compared)), runs._costs(list(compared), "composed")],
    }


def drawn(table: ArmTable, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 60, 40])
@pytest.mark.parametrize("command", ["eval", "report", "compare"])
def test_a_narrow_terminal_shows_every_figure_whole(
    command: str, width: int, tables: dict[str, list[ArmTable]]
) -> None:
    for table in tables[command]:
        whole = FIGURE.findall("\n".join(drawn(table, 400)))
        narrow = drawn(table, width)
        assert len(whole) > 2 * len(table.rows) > 0
        assert FIGURE.findall("\n".join(narrow)) == whole
        assert max(map(cell_len, narrow)) <= width


def test_names_fold_at_slashes_beside_their_figures() -> None:
    table = ArmTable(("right", "latency"), [("short:small", ["9%", "9 ms"]), (LONG[0], ["100%", "1.20 s"])])
    assert drawn(table, 50) == [
        "arm                                 right  latency",
        "short:small                            9%     9 ms",
        "mutual/notes/eager/                  100%   1.20 s",
        "accept=agree+confidence(0.51)/",
        "budget=51",
    ]


def test_names_stand_above_their_figures_where_there_is_no_room() -> None:
    table = ArmTable(("right", "latency"), [(LONG[0], ["100%", "1.20 s"])])
    assert drawn(table, 32) == [
        "  right  latency",
        "mutual/notes/eager/",
        "accept=agree+confidence(0.51)/",
        "budget=51",
        "   100%   1.20 s",
    ]


def test_folding_and_shortening_keep_to_the_width_whatever_the_name() -> None:
    for name in (*LONG, "x" * 100, "名前" * 40, "/", ""):
        for width in range(2, 70):
            assert max(map(cell_len, folded(name, width))) <= width
            assert "".join(folded(name, width)) == name
            assert cell_len(shortened(name, width)) <= width
    assert shortened(LONG[0], 30) == "mutual/not…nce(0.51)/budget=51"


RECORDS = [{"arm": arm, "score": 0.25, "status": "ok", "route": "agreed"} for arm in ARMS]


@pytest.mark.parametrize("width", [80, 60])
def test_progress_on_a_narrow_terminal_shows_each_arms_accuracy_on_a_line(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=40, force_terminal=True, color_system=None)
    with RunBar(console, 40) as bar:
        bar.listen(RunProgress(40, answered=4), RECORDS)
        bar.refresh()
        text = re.sub(r"\x1b\[[?\d]*\w", "", console.file.getvalue())
    lines = text.rpartition("questions")[2].splitlines()
    assert "4/40" in lines[0]
    assert [line.split()[-2:] for line in lines[2 : 2 + len(ARMS)]] == [["25%", "1"]] * len(ARMS)
    assert len({line.split()[0] for line in lines[2 : 2 + len(ARMS)]}) == len(ARMS)
    assert lines[2 + len(ARMS)] == f"agreed {len(ARMS)}"
    assert max(map(cell_len, lines)) <= width


def test_progress_in_a_pipe_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progresses, "LINE_S", -1)
    console = Console(file=io.StringIO(), width=80)
    with RunBar(console, 40) as bar:
        bar.listen(RunProgress(40, answered=4), RECORDS)
    with RunBar(console, None) as bar:
        bar.listen(RunProgress(None, answered=5), RECORDS)
    with RunBar(console, 40) as bar:
        bar.listen(RunProgress(40, answered=40, live=6), [])
    assert console.file.getvalue().splitlines() == [
        "4 of 40 questions are answered",
        "5 questions are answered",
        "6 of 40 questions are answered live",
    ]
