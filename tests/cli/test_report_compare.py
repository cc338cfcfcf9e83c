"""`cuecard report` and `cuecard compare` on the command line."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import pytest
from test_ask import cuecard, refused

sys.path.append(str(Path(__file__).parents[1] / "report"))
from runs import Pictured, rewritten, run_directory

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_directory(tmp_path_factory.mktemp("result") / "run")


def test_a_report_is_summed_up_and_its_files_are_named(run, tmp_path):
    done = cuecard("report", run, "--out", tmp_path / "page" / "index.html")
    assert done.returncode == 0, done.stderr
    assert "right most often" in done.stdout
    assert str(tmp_path / "page" / "index.html") in done.stdout
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == [
        "figures",
        "findings.json",
        "index.html",
        "summary.json",
        "tables",
    ]


def test_a_folder_of_the_demo_is_refused_with_the_path_of_its_page(tmp_path):
    assert "report.html" not in refused("report", tmp_path)
    (tmp_path / "report.html").touch()
    assert f"it has no run.json; {tmp_path / 'report.html'} is its page" in refused("report", tmp_path)


def test_the_findings_are_printed_as_one_json_object(run, tmp_path):
    done = cuecard("report", run, "--against", "short", "--json", "--out", tmp_path / "report.html")
    result = json.loads(done.stdout)
    assert result["baseline"] == "short:large"
    assert result["tasks"][0]["arms"]["mutual"]["answered"] == 12


def test_a_run_that_lacks_answers_says_so_first_on_the_terminal_and_on_the_page(tmp_path):
    run = run_directory(tmp_path / "run")
    with sqlite3.connect(run / "run.sqlite") as rows:
        rows.execute("DELETE FROM answers WHERE arm = 'mutual' AND id IN ('0', '1')")
    done = cuecard("report", run)
    assert done.returncode == 0, done.stderr
    lacks = "Unfinished: on pictured 10 of 12 questions are answered by all 7 arms; fewer than 12 by mutual 10."
    assert done.stdout.startswith(lacks)
    assert "Not answered yet: mutual 2." in done.stdout
    html = (run / "report.html").read_text(encoding="utf-8")
    assert html.index(lacks) < html.index('class="verdicts"')
    assert json.loads((run / "findings.json").read_text(encoding="utf-8"))["unfinished"] == lacks
    assert f"{run}: {lacks}" in cuecard("compare", run, run).stdout


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    assert "is not the directory of a run" in refused("report", tmp_path)
    assert "is not the directory of a run" in refused("compare", tmp_path, tmp_path)


def test_an_unknown_baseline_a_price_of_nothing_and_a_margin_of_nothing_are_refused(run):
    assert "cascade" in refused("report", run, "--against", "cascade")
    assert "is no price" in refused("report", run, "--price", "tiny")
    assert "margin" in refused("report", run, "--margin", "0")
    assert "--questions" in refused("report", run, "--questions", "-1")


def test_a_page_that_cannot_be_written_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused("report", run, "--out", tmp_path / "file" / "report.html")


def test_two_runs_are_compared_arm_by_arm_with_what_differs(run, tmp_path):
    other = run_directory(tmp_path / "run", Pictured(8), ("short:large", "mutual"))
    done = cuecard("compare", run, other)
    assert done.returncode == 0, done.stderr
    assert "pictured, 8 questions" in done.stdout
    assert "only in the first: pictured reason:large" in done.stdout
    assert "arms" in done.stdout


def test_a_comparison_is_printed_as_one_json_object(run):
    result = json.loads(cuecard("compare", run, run, "--json").stdout)
    assert result["configuration"] == []
    assert {each["arm"] for each in result["arms"]} >= {"mutual", "transfer"}
    assert all(each["accuracy"]["p"] == 1.0 for each in result["arms"])


def test_a_run_scored_by_an_earlier_version_is_stale_until_it_is_scored_again(tmp_path):
    run = run_directory(tmp_path / "run")

    def earlier(record):
        if (record["arm"], record["id"]) == ("mutual", "0"):
            record["scorer"] = "earlier"

    rewritten(run, earlier)
    done = cuecard("report", run)
    assert "Scores are stale" in done.stdout
    assert "1 by earlier" in (run / "report.html").read_text(encoding="utf-8")
    message = cuecard("rescore", run, "--dry-run").stdout
    assert "no score changes" in message
    result = json.loads(cuecard("rescore", run, "--json").stdout)
    assert result["earlier"]["earlier"] == 1
    assert "Scores are stale" not in cuecard("report", run).stdout
