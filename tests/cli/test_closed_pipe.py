"""A reader that closes the output pipe, like `head`: no traceback, and the usual exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "report"))
from runs import Pictured, run_directory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_directory(tmp_path_factory.mktemp("pipe") / "run", Pictured(4), ("short:large", "mutual"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    "words",
    ["--help", "--version", "ask --help", "tasks", "tasks --json", "compare RUN RUN", "compare RUN RUN --json"],
)
def test_a_closed_output_ends_a_command_quietly(words: str, run: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "cuecard", *words.replace("RUN", str(run)).split()]
        ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_error_keeps_its_exit_code_on_a_closed_output() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "cuecard", "tasks", "bords"]
        ended = subprocess.run(command, stdout=writer, stderr=writer, timeout=100, check=False)
    finally:
        os.close(writer)
    assert ended.returncode == 2
