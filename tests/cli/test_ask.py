"""`cuecard ask` and `cuecard models`, run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as PilImage

COUNT = "How many red digits are there?"
JUMP = "Start at cell 2 and jump three times. Which digit do you reach?"


def cuecard(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "cuecard", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=90,
        env=environment,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def refused(*arguments: object, stdin: bytes = b"") -> str:
    """What a user reads when the command refuses: one clear line, exit code 2, no traceback."""
    done = cuecard(*arguments, stdin=stdin)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def test_the_answer_goes_to_standard_output_and_the_rest_to_standard_error(board):
    done = cuecard("ask", COUNT, "--image", board)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().isdigit()
    assert "ms measured" in done.stderr


def test_reasoning_is_shown_while_it_is_written(board):
    done = cuecard("ask", JUMP, "--image", board, "--strategy", "transfer")
    assert "cell 2 shows a" in done.stderr
    assert "ms estimated" in done.stderr


@pytest.mark.parametrize("schedule", ["thrifty", "overlap", "eager"])
def test_json_is_one_object_whose_tokens_are_those_of_its_calls(board, schedule):
    done = cuecard("ask", JUMP, "--image", board, "--schedule", schedule, "--json")
    told = json.loads(done.stdout)
    assert set(told) >= {"answer", "route", "strategy", "latency", "usage", "calls"}
    assert set(told["latency"]) == {"total_s", "handoff_s", "kind"}
    for model, usage in told["usage"].items():
        for name, total in usage.items():
            assert total == sum(call[name] or 0 for call in told["calls"] if call["model"] == model)
    for call in told["calls"]:
        assert set(call) >= {"model", "mode", "start_s", "first_token_s", "end_s", "finish_reason", "cancelled"}


def test_the_question_and_an_image_can_come_from_standard_input(board):
    assert cuecard("ask", "-", "--image", board, stdin=COUNT.encode()).returncode == 0
    assert cuecard("ask", COUNT, "--image", "-", stdin=board.read_bytes()).returncode == 0


def test_options_in_the_question_are_found(board):
    done = cuecard("ask", "What colour is the digit in cell 5? A. red B. green C. blue", "--image", board)
    assert done.stdout.strip() in {"A", "B", "C"}


def test_a_pair_can_come_from_a_toml_file(board, tmp_path):
    file = tmp_path / "pair.toml"
    file.write_text('[small]\nmodel = "demo-small"\n[large]\nmodel = "demo-large"\n')
    assert cuecard("ask", COUNT, "--image", board, "--pair", file).returncode == 0


def test_a_budget_of_a_few_tokens_still_gives_an_answer(board):
    told = json.loads(
        cuecard("ask", JUMP, "--image", board, "--strategy", "reason:small", "--budget", 5, "--json").stdout
    )
    assert told["calls"][0]["finish_reason"] == "budget"
    assert told["calls"][0]["reasoning_tokens"] == 5
    assert told["answer"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--strategy", "mutal"], "did you mean mutual?"),
        (["--schedule", "egaer"], "unknown schedule"),
        (["--card", "postcard"], "unknown card format"),
        (["--accept", "always"], "unknown acceptance rule"),
        (["--small", "demo-smal"], "did you mean demo-small?"),
        (["--large", "http://127.0.0.1:9/v1"], "does not say which model"),
        (["--large", "http://127.0.0.1:9/v1#big", "--strict"], "127.0.0.1:9"),
        (["--budget", "0"], "at least 1 token"),
        (["--budget", "many"], "--budget"),
        (["--timeout", "0"], "--timeout"),
        (["--kind", "poem"], "kinds are"),
        (["--kind", "choice"], "2 to 26 options"),
        (["--temperature", "9"], "between 0 and 2"),
        (["--bogus"], "No such option"),
        (["--pair", "nowhere.toml"], "cannot read nowhere.toml"),
        (["--image", "nowhere.png"], "cannot read the image nowhere.png"),
        (["--image", "https://example.invalid/a.png"], "fetching is off"),
    ],
)
def test_bad_input_gets_one_clear_line(board, flags, said):
    assert said in refused("ask", COUNT, "--image", board, *flags)


def test_broken_empty_and_huge_images_are_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    PilImage.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    assert "is empty" in refused("ask", COUNT, "--image", tmp_path / "empty.png")
    assert "cannot be read" in refused("ask", COUNT, "--image", tmp_path / "broken.png")
    assert "megapixels" in refused("ask", COUNT, "--image", tmp_path / "huge.png")


def test_an_empty_question_is_refused(board):
    assert "question is empty" in refused("ask", "  ", "--image", board)


def test_models_shows_what_each_can_do():
    done = cuecard("models")
    assert done.returncode == 0
    assert "demo-small" in done.stdout
    assert "thinking, notes, turn" in done.stdout


def test_models_names_what_does_not_load(tmp_path: Path):
    done = cuecard("models", "demo-small", tmp_path)
    assert done.returncode == 2
    assert "without a config.json" in " ".join(done.stdout.split())
