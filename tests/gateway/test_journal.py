"""The decision log."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from gateways import COUNT, THOUGHT, disagreeing
from PIL import Image as PilImage

from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Outcome
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.gateway.records import Journal
from cuecard.gateway.wire.request import ParsedRequest
from cuecard.strategies.run import answer

ASKED = ParsedRequest(model="cuecard", question=Question(COUNT, kind=AnswerKind.NUMBER, system="Secret orders."))


@pytest.fixture
async def outcome() -> Outcome:
    return await answer(ASKED.question, disagreeing())


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_request_leaves_its_decision_and_no_text(outcome, tmp_path):
    journal = Journal(tmp_path / "log.jsonl")
    journal.write(ASKED, outcome)
    journal.write(ASKED, outcome)
    journal.close()
    one, other = lines(tmp_path / "log.jsonl")
    assert (one["route"], one["id"]) == ("transferred", ASKED.id)
    assert (
        one["usage"]["total_tokens"]
        == one["charged_tokens"]
        == sum(c["prompt_tokens"] + c["completion_tokens"] for c in one["calls"])
    )
    assert one["question"] == other["question"]  # equal within one run
    text = (tmp_path / "log.jsonl").read_text()
    assert not any(secret in text for secret in (COUNT, THOUGHT, "Secret orders"))


async def test_hashes_of_two_runs_cannot_be_joined(outcome, tmp_path):
    for name in ("one", "two"):
        journal = Journal(tmp_path / name)
        journal.write(ASKED, outcome)
        journal.close()
    assert lines(tmp_path / "one")[0]["question"] != lines(tmp_path / "two")[0]["question"]


async def test_texts_are_kept_with_content(outcome, tmp_path):
    journal = Journal(tmp_path / "log.jsonl", content=True)
    journal.write(ASKED, outcome)
    journal.close()
    (reply,) = lines(tmp_path / "log.jsonl")
    assert (reply["question"]["text"], reply["answer"]) == (COUNT, "3")
    assert THOUGHT in [call["reasoning"] for call in reply["calls"]]


async def test_a_full_file_is_put_aside_and_the_oldest_thrown_away(outcome, tmp_path):
    journal = Journal(tmp_path / "log.jsonl", most_mib=0.01, keep=2)
    for _ in range(60):
        journal.write(ASKED, outcome)
    journal.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "log.jsonl.1", "log.jsonl.2"]
    assert all(path.stat().st_size <= 0.01 * 2**20 for path in tmp_path.iterdir())


async def test_only_its_owner_may_read_it_and_its_images(outcome, tmp_path):
    data = io.BytesIO()
    PilImage.new("RGB", (4, 4)).save(data, "PNG")
    asked = replace(ASKED, question=replace(ASKED.question, images=(Image(data.getvalue()),)))
    (tmp_path / "log.jsonl").touch(0o644)
    journal = Journal(tmp_path / "log.jsonl", content=True, most_mib=0.002)
    for _ in range(5):
        journal.write(asked, outcome)
    journal.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "log.jsonl.images").stat().st_mode & 0o777 == 0o700


async def test_a_full_disk_stops_no_request_and_shows_nothing(outcome, capfd, caplog):
    journal = Journal(Path("/dev/full"), content=True)
    for _ in range(20):
        journal.write(ASKED, outcome)
    journal.close()
    shown = "".join(capfd.readouterr()) + caplog.text
    assert shown.count("the journal cannot be written") <= 2  # logged once; stderr and caplog may both hold it
    assert "No space left" in shown
    assert not any(secret in shown for secret in (COUNT, THOUGHT, "Secret orders", "Traceback"))


async def test_a_request_that_ends_after_the_journal_is_closed_is_left_out(outcome, tmp_path):
    journal = Journal(tmp_path / "log.jsonl", content=True)
    journal.close()
    journal.write(ASKED, outcome)
    assert lines(tmp_path / "log.jsonl") == []


async def test_when_there_is_room_again_lines_are_written_whole(outcome, tmp_path, monkeypatch, caplog):
    journal = Journal(tmp_path / "log.jsonl")
    journal.write(ASKED, outcome)
    journal._writers.submit(_half_a_line, journal).result()
    journal.write(ASKED, outcome)
    journal.close()
    texts = (tmp_path / "log.jsonl").read_text().split("\n")
    assert [text[:1] + text[-1:] for text in texts] == ["{}", "{x", "{}", ""]
    assert "written again" in caplog.text


def _half_a_line(journal: Journal) -> None:
    """Write half a line, as a full disk does."""
    stream = journal._lines.stream
    stream.write('{"x')
    stream.flush()
    try:
        raise OSError(28, "No space left on device")
    except OSError:
        journal._lines.handleError(logging.LogRecord("", 0, "", 0, "", None, None))


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(BadInput, match="cannot write the journal"):
        Journal(tmp_path / "nowhere" / "log.jsonl")
