"""`cuecard ask --estimate` prints the latencies of strategies from fits, and calls no model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from made_up import profiled
from PIL import Image
from typer.testing import CliRunner

from cuecard.cli import app
from cuecard.domain.errors import BadInput
from cuecard.latency import latency_model

NAMES = ["--small", "tiny-2b", "--large", "http://nowhere.invalid/v1#tiny-8b"]


def asked(path: Path, *args: str) -> dict[str, Any]:
    result = CliRunner().invoke(
        app, ["ask", "How many red digits are there?", "--estimate", str(path), "--json", *args]
    )
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.output)
    return found


def test_strategies_are_estimated_for_the_image_and_the_text_of_the_question(tmp_path: Path) -> None:
    profiled(tmp_path / "run")
    picture = io.BytesIO()
    Image.new("RGB", (448, 448)).save(picture, "PNG")
    (tmp_path / "q.png").write_bytes(picture.getvalue())
    found = asked(tmp_path / "run", *NAMES, "--image", str(tmp_path / "q.png"), "--budget", "100")
    assert (found["label"], found["visual"]) == ("estimated", 196)
    large = latency_model.plainest(latency_model.read_all(tmp_path / "run"), "tiny-8b")
    assert found["seconds"]["short:large"]["100"] == pytest.approx(large.profile.call_s(196, found["prompt"], 4))
    assert found["seconds"]["transfer, overlap"]["100"] < found["seconds"]["reason:large"]["100"]


def test_without_a_budget_several_lengths_are_estimated_on_the_given_schedule(tmp_path: Path) -> None:
    found = asked(profiled(tmp_path), *NAMES, "--schedule", "eager")
    assert list(found["seconds"]["mutual, eager, not accepted"]) == ["32", "128", "512"]
    assert any("extrapolated" in line for line in found["notes"])


def test_a_person_reads_a_table_that_calls_itself_estimated(tmp_path: Path) -> None:
    args = ["ask", "How many?", "--estimate", str(profiled(tmp_path)), *NAMES]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0
    assert "estimated" in result.output


def test_a_model_without_a_fit_is_refused_with_those_that_have_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["ask", "How many?", "--estimate", str(profiled(tmp_path)), "--small", "other"])
    assert isinstance(result.exception, BadInput)
    assert "tiny-2b" in result.exception.hint
