"""`cuecard check` of a valid file, with reachable and unreachable servers."""

from __future__ import annotations

from typer.testing import CliRunner

from cuecard.cli import app

FILE = """\
version = 1
[small]
model = "http://127.0.0.1:9/v1#a"
[large]
model = "http://127.0.0.1:9/v1#b"
"""


def test_servers_that_cannot_be_reached_are_named(tmp_path):
    path = tmp_path / "cuecard.toml"
    path.write_text(FILE)
    done = CliRunner().invoke(app, ["check", str(path)])
    assert done.exit_code == 2
    last = done.stdout.replace("\n", " ")
    assert "but these servers cannot be reached: http://127.0.0.1:9/v1#a, http://127.0.0.1:9/v1#b" in last


def test_without_a_probe_no_server_is_asked(tmp_path):
    path = tmp_path / "cuecard.toml"
    path.write_text(FILE)
    done = CliRunner().invoke(app, ["check", str(path), "--no-probe"])
    assert done.exit_code == 0
    assert "cannot be reached" not in done.stdout


def test_engines_that_do_not_fit_into_one_device_are_refused(tmp_path):
    path = tmp_path / "cuecard.toml"
    path.write_text('version = 1\n[small]\nmodel = "vllm:a/b"\n[large]\nmodel = "vllm:a/c"\ngpu_memory = 0.8\n')
    done = CliRunner().invoke(app, ["check", str(path)])
    assert "reserve 1.25 of the device's memory together" in str(done.exception)
