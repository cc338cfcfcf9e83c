"""`cuecard ask` and `cuecard models` on the command line."""

from __future__ import annotations

import json
import re
import shlex
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PilImage

from cuecard.cli.ask import remarks, shown, write
from cuecard.domain.call import Call, FinishReason, Mode, Usage
from cuecard.domain.outcome import Outcome, Route
from program import run as cuecard

COUNT = "How many red digits are there?"
JUMP = "Start at cell 2 and jump three times. Which digit do you reach?"


def refused(*arguments: object, stdin: bytes = b"", **settings: str) -> str:
    """Error output of a command that must fail with one line, exit code 2 and no traceback."""
    done = cuecard(*arguments, stdin=stdin, **settings)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_the_answer_goes_to_standard_output_and_the_rest_to_standard_error(board):
    done = cuecard("ask", COUNT, "--image", board)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().isdigit()
    assert re.search(r"\d m?s measured", done.stderr)


def test_reasoning_is_shown_while_it_is_written(board):
    done = cuecard("ask", JUMP, "--image", board, "--strategy", "transfer")
    assert "cell 2 shows a" in done.stderr
    assert "with reasoning (estimated)" in done.stderr


@pytest.mark.parametrize("schedule", ["thrifty", "overlap", "eager"])
def test_json_is_one_object_whose_tokens_are_those_of_its_calls(board, schedule):
    done = cuecard("ask", JUMP, "--image", board, "--schedule", schedule, "--json")
    printed = json.loads(done.stdout)
    assert set(printed) >= {"answer", "route", "strategy", "latency", "usage", "calls"}
    assert set(printed["latency"]) == {"total_s", "handoff_s", "kind"}
    for model, usage in printed["usage"].items():
        for name, total in usage.items():
            assert total == sum(call[name] or 0 for call in printed["calls"] if call["model"] == model)
    for call in printed["calls"]:
        assert set(call) >= {"model", "mode", "start_s", "first_token_s", "end_s", "finish_reason", "cancelled"}


def test_the_question_and_an_image_can_come_from_standard_input(board):
    assert cuecard("ask", "-", "--image", board, stdin=COUNT.encode()).returncode == 0
    assert cuecard("ask", COUNT, "--image", "-", stdin=board.read_bytes()).returncode == 0


def test_options_in_the_question_are_found(board):
    done = cuecard("ask", "What colour is the digit in cell 5? A. red B. green C. blue", "--image", board)
    assert done.stdout.strip() in {"A. red", "B. green", "C. blue"}


def test_a_pair_can_come_from_a_toml_file(board, tmp_path):
    file = tmp_path / "pair.toml"
    file.write_text('[small]\nmodel = "demo-small"\n[large]\nmodel = "demo-large"\n')
    assert cuecard("ask", COUNT, "--image", board, "--pair", file).returncode == 0


def test_a_budget_of_a_few_tokens_still_gives_an_answer(board):
    printed = json.loads(
        cuecard("ask", JUMP, "--image", board, "--strategy", "reason:small", "--budget", 5, "--json").stdout
    )
    assert printed["calls"][0]["finish_reason"] == "budget"
    assert printed["calls"][0]["reasoning_tokens"] == 5
    assert printed["answer"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--strategy", "mutal"], "did you mean mutual?"),
        (["--schedule", "egaer"], "unknown schedule"),
        (["--card", "postcard"], "unknown card format"),
        (["--accept", "always"], "unknown acceptance rule"),
        (["--small", "demo-smal"], "did you mean demo-small?"),
        (["--large", "http://127.0.0.1:9/v1"], "does not say which model"),
        (["--large", "http://127.0.0.1:9/v1#big", "--strict"], "127.0.0.1:9"),
        (["--small", "http://127.0.0.1:9/v1#a", "--large", "http://127.0.0.1:9/v1#b"], "no model is left to answer"),
        (["--budget", "0"], "at least 1 token"),
        (["--budget", "many"], "--budget"),
        (["--timeout", "0"], "time-out must be more than 0"),
        (["--timeout", "nan"], "time-out must be more than 0"),
        (["--seed", "9" * 30], "64 bits"),
        (["--kind", "poem"], "kinds are"),
        (["--kind", "choice"], "2 to 26 options"),
        (["--choice", "5"], "2 to 26 options"),
        (["--temperature", "9"], "between 0 and 2"),
        (["--bogus"], "No such option: --bogus (see cuecard ask --help)"),
        (["--pair", "nowhere.toml"], "cannot read nowhere.toml"),
        (["--image", "nowhere.png"], "cannot read the image nowhere.png"),
        (["--image", ""], "without a name"),
        (["--image", "https://example.invalid/a.png"], "fetching is off"),
    ],
)
def test_bad_input_gets_one_clear_line(board, flags, message):
    assert message in refused("ask", COUNT, "--image", board, *flags)


def test_broken_empty_and_huge_images_are_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    PilImage.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    assert "is empty" in refused("ask", COUNT, "--image", tmp_path / "empty.png")
    assert "cannot be read" in refused("ask", COUNT, "--image", tmp_path / "broken.png")
    assert "megapixels" in refused("ask", COUNT, "--image", tmp_path / "huge.png")


def test_an_unknown_command_and_a_missing_question_get_one_clear_line():
    assert "No such command 'aks'" in refused("aks")
    assert "Missing argument" in refused("ask")


def test_standard_input_that_is_no_text_or_never_ends_is_refused():
    for encoding in ("utf-8:strict", "utf-8:surrogateescape"):
        assert "not text in UTF-8" in refused("ask", "-", stdin=b"\xff\xfe", PYTHONIOENCODING=encoding)
    assert "more than 1 MiB" in refused("ask", "-", stdin=b"a" * 2**21)
    assert "more than 32 MiB" in refused("ask", COUNT, "--image", "-", stdin=bytes(33 * 2**20))


def test_an_unreachable_hub_is_an_error_without_retries(tmp_path):
    connections = []

    class Dropped(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connections.append(self.client_address)

    with socketserver.TCPServer(("127.0.0.1", 0), Dropped) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        hub = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        problem = refused("ask", COUNT, "--small", "hf:nobody/nothing", **hub)
        server.shutdown()
    assert "cannot ask the Hugging Face hub for nobody/nothing" in problem
    assert len(connections) <= 3  # Transformers alone tries more often, with pauses


def test_an_empty_question_is_refused(board):
    assert "question is empty" in refused("ask", "  ", "--image", board)


def test_models_shows_what_each_can_do():
    done = cuecard("models")
    assert done.returncode == 0
    assert "demo-small" in done.stdout
    assert "thinking, notes, turn" in done.stdout


def test_models_names_models_that_fail_to_load(tmp_path: Path):
    done = cuecard("models", "demo-small", tmp_path)
    assert done.returncode == 2
    assert "without a config.json" in " ".join(done.stdout.split())


def test_ask_shows_the_assumed_kind_and_the_text_of_a_choice(board):
    asked = "What colour is the digit in cell 5? 1) red 2) green 3) blue"
    done = cuecard("ask", asked, "--image", board)
    assert done.stdout.strip() in {"1. red", "2. green", "3. blue"}
    assert "answer taken as choice" in done.stderr
    printed = json.loads(cuecard("ask", asked, "--image", board, "--json").stdout)
    assert printed["answer"] in {"A", "B", "C"}
    assert (printed["kind"], printed["answer_text"]) == ("choice", done.stdout.strip())


def test_a_question_within_the_scope_of_the_pair_gets_no_warning(board):
    done = cuecard("ask", COUNT, "--image", board)
    assert "trained on" not in done.stderr


def test_a_question_outside_the_scope_of_the_pair_gets_one(board, tmp_path):
    PilImage.new("RGB", (640, 480)).save(tmp_path / "receipt.png")
    PilImage.effect_noise((128, 128), 50).save(tmp_path / "noise.png")
    for arguments, why in (
        ([COUNT], "no image"),
        (["Describe the image.", "--image", board], "a word that it was not trained on: 'Describe'"),
        ([COUNT, "--image", tmp_path / "receipt.png"], "an image of 640x480"),
        (["Which digit is in cell 99?", "--image", board], "cell '99', where it knows 1 to 16"),
        ([COUNT, "--image", tmp_path / "noise.png"], "an image unlike those that it was trained on"),
    ):
        done = cuecard("ask", *arguments, "--answer-tokens", 4)
        (warning,) = [line for line in done.stderr.splitlines() if "trained on" in line]
        assert warning.startswith("outside what demo-small and demo-large were trained on (boards of handwritten")
        assert warning.endswith(f"{why}; the answer is a guess")


def test_a_degraded_answer_has_an_exit_code_of_its_own(board):
    gone = ["--small", "http://127.0.0.1:9/v1#gone"]
    done = cuecard("ask", COUNT, "--image", board, *gone)
    assert done.returncode == 3
    assert done.stdout.strip().isdigit()
    assert cuecard("ask", COUNT, "--image", board, *gone, "--allow-degraded").returncode == 0


def test_models_prints_json(tmp_path):
    done = cuecard("models", "demo-small", tmp_path, "--json")
    assert done.returncode == 2
    works, fails = json.loads(done.stdout)
    assert works["images"] is True
    assert works["trained_on"] == "boards of handwritten digits and coloured shapes"
    assert "config.json" in fails["error"]


def test_an_unset_environment_variable_gets_a_hint(tmp_path):
    (tmp_path / "pair.toml").write_text(
        '[small]\nmodel = "demo-small"\n[large]\nmodel = "http://127.0.0.1:9/v1#a"\napi_key = "${NOT_SET_AT_ALL}"\n'
    )
    assert "export NOT_SET_AT_ALL=…" in refused("ask", COUNT, "--pair", tmp_path / "pair.toml")


def test_an_unknown_kind_gets_a_suggestion():
    message = refused("ask", COUNT, "--kind", "numbr")
    assert "unknown kind 'numbr'" in message
    assert "did you mean number?" in message


def outcome(answer: str, **more: Any) -> Outcome:
    call = Call("large", "large", Mode.SHORT, 0, 0.1, 0.2, Usage(9, 0, 4, 0), FinishReason.LENGTH, None, answer)
    return Outcome(answer, Route.DIRECT, "short", (call,), 0.2, "it was asked alone", **more)


@pytest.mark.parametrize("answer", ["s[:x:2] [bold]", "word " * 60, "a\n\n  b\ttab", "half \ud83d", "[/] :smile:"])
def test_the_answer_is_written_byte_for_byte(answer, capsysbinary):
    write(shown(outcome(answer)))
    assert capsysbinary.readouterr().out == (answer + "\n").encode("utf-8", "replace")


def test_a_cut_answer_is_marked_as_cut():
    assert remarks(outcome("half of", truncated=True))[0] == "the answer was cut at 4 tokens; raise --answer-tokens"
    assert not any("cut" in line for line in remarks(outcome("whole")))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_is_one_line_and_code_2(board):
    command = [sys.executable, "-m", "cuecard", "ask", COUNT, "--image", str(board)]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: the output cannot be written")


def test_a_closed_standard_output_is_no_error(board):
    command = f"{shlex.quote(sys.executable)} -m cuecard ask {shlex.quote(COUNT)} --image {shlex.quote(str(board))} >&-"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
