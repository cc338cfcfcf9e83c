"""A profile's directory: one writer, appended readings, an incomplete last line, versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cuecard.domain.errors import BadInput
from cuecard.latency import readings
from cuecard.latency.readings import Point, ProfileConfig, Reading, Readings

ASKED = ProfileConfig(
    {"source": "in-process", "models": {"a": {}}, "grid": {"output_tokens": [1, 8]}}, {"date": "2026-11-25"}
)
POINT = Point(batch=1, image_px=128, output_tokens=8, dtype="float32")
READING = Reading(
    model="a",
    source="in-process",
    round=0,
    position=0,
    warmup=False,
    point=POINT,
    parts_s={"vision": 0.25, "prefill": 0.25, "decode": 0.5},
    total_s=1.0,
    observed={"visual_tokens": 16, "prompt_tokens": 45},
    token_times_s=(0.5, 0.75, 1.0),
)


def test_a_reading_comes_back_as_it_was_written(tmp_path: Path) -> None:
    with Readings(tmp_path, ASKED) as held:
        held.append(READING)
    assert list(readings.read(tmp_path)) == [READING]
    assert readings.about(tmp_path)["date"] == "2026-11-25"


def test_observed_values_take_precedence_over_requested_ones() -> None:
    cut = replace(READING, observed={"output_tokens": 5, "prompt_tokens": 45})
    assert cut.seen == replace(POINT, output_tokens=5, prompt_tokens=45)
    assert cut.point.output_tokens == 8


def test_a_resumed_profile_knows_what_is_done_of_each_round(tmp_path: Path) -> None:
    with Readings(tmp_path, ASKED) as held:
        held.append(replace(READING, warmup=True))
        assert not held.done("a", POINT, 0)
        held.append(READING)
    with Readings(tmp_path, ASKED) as held:
        assert held.resumed
        assert held.count() == 2
        assert held.done("a", POINT, 0)
        assert not held.done("a", POINT, 0, of=2)
        assert not held.done("a", POINT, 1)
        assert not held.done("b", POINT, 0)
        assert not held.done("a", replace(POINT, batch=2), 0)


def test_an_incomplete_last_line_is_dropped_and_noted(tmp_path: Path) -> None:
    with Readings(tmp_path, ASKED) as held:
        held.append(READING)
        held.append(replace(READING, round=1))
    lines = tmp_path / readings.LINES
    lines.write_bytes(lines.read_bytes()[:-20])
    assert [each.round for each in readings.read(tmp_path)] == [0]
    with Readings(tmp_path, ASKED) as held:
        assert "cut off" in held.notes[0]
        assert not held.done("a", POINT, 1)
        held.append(replace(READING, round=1))
    assert [each.round for each in readings.read(tmp_path)] == [0, 1]


def test_a_broken_line_in_the_middle_is_reported_with_its_number(tmp_path: Path) -> None:
    with Readings(tmp_path, ASKED) as held:
        held.append(READING)
    lines = tmp_path / readings.LINES
    lines.write_text("{\n" + lines.read_text())
    with pytest.raises(BadInput, match="line 1 is no reading"):
        list(readings.read(tmp_path))


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with Readings(tmp_path, ASKED), pytest.raises(BadInput, match="another process"):
        Readings(tmp_path, ASKED)
    Readings(tmp_path, ASKED).close()


def test_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    Readings(tmp_path, ASKED).close()
    other = ProfileConfig({**ASKED.config, "grid": {"output_tokens": [1, 16]}})
    with pytest.raises(BadInput, match=r"grid\.output_tokens"):
        Readings(tmp_path, other)
    Readings(tmp_path, ASKED).close()


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / readings.ABOUT).write_text(json.dumps({"version": 2, "config": {}}))
    with pytest.raises(BadInput, match="version 2"):
        readings.about(tmp_path)


def test_a_field_that_a_newer_cuecard_wrote_is_refused_by_name(tmp_path: Path) -> None:
    with Readings(tmp_path, ASKED) as held:
        held.append(READING)
    lines = tmp_path / readings.LINES
    data = json.loads(lines.read_text())
    lines.write_text(json.dumps(data | {"point": {**data["point"], "temperature": 1}}) + "\n")
    with pytest.raises(BadInput, match="temperature"):
        list(readings.read(tmp_path))


def test_a_directory_without_a_profile_is_refused(tmp_path: Path) -> None:
    assert not readings.is_profile(tmp_path)
    with pytest.raises(BadInput, match="not the directory of a profile"):
        readings.about(tmp_path)


def test_parts_that_exceed_the_total_are_refused() -> None:
    with pytest.raises(ValueError, match="exceed"):
        replace(READING, total_s=0.9)
