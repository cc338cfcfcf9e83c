"""`--out`: a new or empty folder or an earlier run; a folder with other files is rejected at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cuecard import disk
from cuecard.cli import app
from cuecard.domain.errors import BadInput
from cuecard.evals import run_folder

sys.path.append(str(Path(__file__).parents[1] / "report"))
from runs import run_directory

COMMANDS = {
    "eval": ["eval", "boards"],
    "profile": ["profile", "demo-small"],
    "attention": ["attention", "--task", "boards:count=1", "--model", "demo-large"],
    "import": ["import", "lmms-eval", "--task", "boards", "--small-short", "none.jsonl"],
}
DEMO = ("report.html", "results.json", "figures", "tables")


def refused(command: str, out: Path) -> str:
    with pytest.raises(BadInput) as error:
        CliRunner().invoke(app, [*COMMANDS[command], "--out", str(out)], catch_exceptions=False)
    return str(error.value)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(command: str, tmp_path: Path) -> None:
    for name in DEMO:
        (tmp_path / name).write_text("")
    assert "holds other files: figures, report.html and 2 more" in refused(command, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(DEMO)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_is_refused(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refused(command, tmp_path / "file")


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    run, other, profile = (tmp_path / name for name in ("run", "attention", "profile"))
    run_directory(run)
    for folder in (other, profile):
        folder.mkdir()
    disk.save(other / "run.json", {"version": 1, "kind": "attention", "config": {}})
    disk.save(profile / "profile.json", {"version": 1, "config": {}})
    assert "holds other files: profile.json" in refused("eval", profile)
    assert "holds other files: run.json" in refused("profile", other)
    assert "is a run of cuecard attention" in refused("eval", other)
    assert "not the directory of an attention run" in refused("attention", run)


def test_an_empty_folder_and_what_a_killed_run_left_are_fine(tmp_path: Path) -> None:
    disk.check_folder(tmp_path / "new", run_folder.ABOUT)
    for name in ("run.lock", "run.json.12-34.new", ".DS_Store"):
        disk.check_folder(tmp_path, run_folder.ABOUT)
        (tmp_path / name).write_text("")
    disk.check_folder(tmp_path, run_folder.ABOUT)
    (tmp_path / "run.json").write_text(json.dumps({"version": 1, "config": {}}))
    (tmp_path / "report.html").write_text("")
    disk.check_folder(tmp_path, run_folder.ABOUT)
