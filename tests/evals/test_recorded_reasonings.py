"""Recorded reasonings are found by the id of their question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cuecard.cli import app
from cuecard.domain.errors import BadInput
from cuecard.evals.interop import reasonings_digest, recorded_reasonings

TASK = "boards:seed=3,count=2"


def test_a_file_has_a_reasoning_a_line(tmp_path: Path) -> None:
    lines = [{"id": 0, "reasoning": "2 + 2 = 4"}, {"id": "b", "reasoning": "so 5", "answer": "5"}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert recorded_reasonings(tmp_path / "r.jsonl", TASK) == {"0": "2 + 2 = 4", "b": "so 5"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"id": "a"}', "r.jsonl, line 1 has no reasoning"),
        ("[]", "r.jsonl, line 1 is not an object"),
        ("{", "r.jsonl, line 1 is not JSON"),
        ("", "r.jsonl has no reasonings of boards"),
    ],
)
def test_what_is_no_reasoning_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(BadInput, match=words):
        recorded_reasonings(tmp_path / "r.jsonl", TASK)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read"):
        recorded_reasonings(tmp_path / "r.jsonl", TASK)


def test_attention_looks_at_the_reasonings_of_a_run(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "attention"
    arguments = ["eval", TASK, "--out", str(run), "--strategies", "reason:large"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    found = recorded_reasonings(run, TASK)
    assert list(found) == ["0", "1"]
    assert reasonings_digest(found) != reasonings_digest({**found, "0": "other"})

    arguments = ["attention", "--task", TASK, "--model", "demo-large", "--reasonings", str(run), "--out", str(out)]
    message = CliRunner().invoke(app, [*arguments, "--json"])
    assert message.exit_code == 0, message.output
    own = json.loads(message.stdout)["conditions"]["large: own reasoning"]
    assert (own["answers"], own["as_decoded"]) == (2, 0)
    assert own["tokens"]["mean"] > 10
    assert json.loads((out / "run.json").read_text())["config"]["reasonings"] == reasonings_digest(found)

    other = ["attention", "--task", "boards:seed=4,count=2", "--model", "demo-large", "--reasonings", str(run)]
    refused = CliRunner().invoke(app, [*other, "--out", str(tmp_path / "b")])
    assert "has no reasonings of boards:seed=4,count=2" in str(refused.exception)
