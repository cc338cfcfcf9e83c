"""Ctrl-C: one line about the stored results, exit code 130, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cuecard import cli
from cuecard.cli.options import telling_what_is_kept

MAIN = "from cuecard.cli import main; main()"


def interrupted(arguments: list[str], *, until: str, tmp_path: Path) -> tuple[int, str]:
    """(exit code, standard error) of a command that is interrupted when standard error contains `until`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    errors = tmp_path / "stderr"
    with errors.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-c", MAIN, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=file
        )
        while until not in errors.read_text() and child.poll() is None:
            time.sleep(0.005)
        child.send_signal(signal.SIGINT)
        return child.wait(90), errors.read_text()


def test_a_question_that_is_interrupted_says_that_there_is_no_answer(board: Path, tmp_path: Path) -> None:
    long = "Start at cell 1 and jump twelve times. Which digit do you reach?"
    ask = ["ask", long, "--image", str(board), "--strategy", "reason:small"]
    code, text = interrupted(ask, until="Let us", tmp_path=tmp_path)
    assert (code, text.splitlines()[-1]) == (130, "stopped: there is no answer, and nothing is kept")
    assert "Traceback" not in text


def test_a_gateway_that_is_interrupted_says_that_requests_have_ended(tmp_path: Path) -> None:
    serve = ["serve", "--port", "0", "--small", "http://127.0.0.1:9/v1#a", "--large", "http://127.0.0.1:9/v1#b"]
    code, text = interrupted([*serve, "--no-probe"], until="dashboard", tmp_path=tmp_path)
    assert code == 130
    assert text.splitlines()[-1].startswith("stopped: requests under way have ended; nothing is kept")
    assert "Traceback" not in text


def test_a_report_that_is_interrupted_says_that_the_run_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(run: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cuecard.evals.run_folder.opened", interrupt)
    result = CliRunner().invoke(cli.app, ["report", str(tmp_path)])
    assert result.exit_code == 130
    assert result.stderr.startswith("stopped: the run is as it was")
    assert result.stderr.count("\n") == 1


def test_any_other_command_says_that_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cuecard.cli.evals.tasks.open_named", interrupt)
    result = CliRunner().invoke(cli.app, ["tasks", "boards"])
    assert (result.exit_code, result.stderr) == (130, "stopped\n")


def test_a_terminated_command_ends_with_the_code_of_its_signal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, telling_what_is_kept(lambda: "nothing is kept"):
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.exit_code == 143
    assert capsys.readouterr().err == "stopped: nothing is kept\n"
