"""`cuecard profile`, and the script that runs it on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cuecard.cli import app
from cuecard.domain.errors import BadInput
from cuecard.latency import readings
from cuecard.latency.inside import profile as profiles

ROOT = Path(__file__).parents[2]
TINY = ["profile", "qwen3-vl-tiny", "--random-weights", "--output-tokens", "1,2", "--image-size", "0,64", "--out"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the hardware probe, which takes seconds."""
    monkeypatch.setattr(profiles, "probe", lambda *_: {"device": "cpu", "dtypes": {}})


def invoked(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


@pytest.mark.usefixtures("quick")
def test_a_profile_prints_how_it_ended_and_the_next_command(tmp_path: Path) -> None:
    ended = invoked(*TINY, str(tmp_path / "p"), "--repeats", "2")
    assert ended.exit_code == 0
    assert "12 readings made" in ended.stderr
    assert "4 points have a wider interval" in ended.stderr
    assert "cuecard fit" in ended.stderr
    again = json.loads(invoked(*TINY, str(tmp_path / "p"), "--repeats", "2", "--json").stdout)
    assert (again["readings"], again["out_of_time"]) == (0, False)


@pytest.mark.usefixtures("quick")
def test_ways_to_decode_are_points_of_one_profile(tmp_path: Path) -> None:
    invoked(*TINY, str(tmp_path / "p"), "--attention", "sdpa,eager,fused", "--repeats", "1")
    found = {each.point.attention for each in readings.read(tmp_path / "p")}
    assert found == {"sdpa", "eager", "fused"}
    invoked(*TINY, str(tmp_path / "q"), "--repeats", "1")
    assert {each.point.attention for each in readings.read(tmp_path / "q")} == {"fused"}


@pytest.mark.usefixtures("quick")
def test_an_interrupted_profile_keeps_its_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(profiles, "_measure", interrupted)
    ended = invoked(*TINY, str(tmp_path / "p"))
    assert ended.exit_code == 130
    assert "goes on from there" in ended.stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--output-tokens", "0", "whole numbers from 1"),
        ("--batch", "two", "whole numbers from 1"),
        ("--attention", "flash", "unknown attention"),
    ],
)
def test_a_wrong_option_is_refused(option: str, value: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        invoked(*TINY, str(tmp_path / "p"), option, value)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="bash")
def test_the_script_for_a_gpu_runs_to_its_report_with_tiny_sizes(tmp_path: Path) -> None:
    small = {"OUTPUTS": "1,3", "IMAGES": "64,96", "REPEATS": "1", "DRAWS": "2", "ATTENTION": "fused", "MINUTES": "1"}
    out = tmp_path / "p"
    done = subprocess.run(
        ["bash", ROOT / "benchmarks" / "gpu_profile.sh", out],
        env={**os.environ, **small, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (out / "report.html").exists()
    assert (out / "breakeven.json").exists()
    assert len(list((out / "fits").glob("*.json"))) == 2
