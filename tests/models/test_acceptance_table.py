"""Acceptance tables: formula, files, and the table in a checkpoint's folder."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from dataclasses import replace
from typing import Any

import pytest

from cuecard.domain.errors import BadInput
from cuecard.evals.requests import model_revision
from cuecard.models import spec
from cuecard.models.acceptance_table import FILE, LEAST, SHARED, AcceptanceTable, KindWeights
from cuecard.models.replay import RecordedModel, RecordingModel, Says, ScriptedModel

TABLE = AcceptanceTable(
    "demo-small",
    "demo-large",
    0.4,
    0.9,
    0.3,
    -0.5,
    ((SHARED, KindWeights(-1.0, 0.6, 800, 0.72, 0.09, 0.03)), ("number", KindWeights(-0.7, 1.0, 500, 0.7, 0.1, 0.04))),
    tasks=("boards:split=validation",),
    run="validation",
    small_revision="aa",
    large_revision="bb",
)


def test_the_probability_is_the_logistic_function_of_the_weights():
    score = -0.7 + 1.0 + 0.4 * math.log(0.8) - 0.9 * math.log(0.2) + 0.3 * math.log(0.6 / 0.4)
    assert TABLE.probability("number", True, 0.8, 0.6) == pytest.approx(1 / (1 + math.exp(-score)))
    score = -1.0 + 0.4 * math.log(0.8) - 0.9 * math.log(0.2) - 0.5
    assert TABLE.probability("choice", False, 0.8, None) == pytest.approx(1 / (1 + math.exp(-score)))


def test_probabilities_are_clipped_and_no_answer_is_surer_than_the_questions_allow():
    assert TABLE.probability("number", True, 0.0, 1.0) == TABLE.probability("number", True, LEAST, 1 - LEAST)
    sure = replace(TABLE, kinds=((SHARED, KindWeights(900.0, 0.0, 98)),))
    assert sure.probability("number", True, 1.0, 1.0) == 99 / 100
    unsure = replace(TABLE, kinds=((SHARED, KindWeights(-900.0, 0.0, 98)),))
    assert unsure.probability("number", True, 0.5, 0.5) == pytest.approx(0)


def test_a_table_is_read_as_it_is_written(tmp_path):
    path = tmp_path / FILE
    for table in (TABLE, replace(TABLE, tasks=(), run=None, small_revision=None, large_revision=None)):
        path.write_text(json.dumps(table.as_object()))
        assert AcceptanceTable.read(path) == table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "of version 2"),
        ({"version": None}, "of version None"),
        ({"kinds": {}}, "without kinds.shared"),
        ({"kinds": 3}, "without kinds.shared"),
        ({"kinds": {SHARED: {"intercept": 1.0}}}, "kinds.shared.agree is missing"),
        ({"kinds": {SHARED: {"intercept": 1.0, "agree": "x"}}}, "kinds.shared.agree is not a number"),
        ({"kinds": {SHARED: {"intercept": 1.0, "agree": 1.0}, "number": 3}}, "kinds.number is not a table"),
        ({"kinds": {SHARED: {"intercept": math.inf, "agree": 1.0}}}, "a number that is none"),
        ({"log_large": math.nan}, "a number that is none"),
        ({"log_large": None}, "log_large is not a number"),
        ({"small": 3}, "small is not a text"),
        ({"log_lage": 3.0}, "unknown key log_lage"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_one_line(tmp_path, change: dict[str, Any], message):
    path = tmp_path / FILE
    path.write_text(json.dumps(TABLE.as_object() | change))
    with pytest.raises(BadInput) as refused:
        AcceptanceTable.read(path)
    assert str(path) in refused.value.message
    assert message in refused.value.message


@pytest.mark.parametrize("text", ["", "[]", "{", "3", "\x00"])
def test_what_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(BadInput):
        AcceptanceTable.read(tmp_path / FILE)
    with pytest.raises(BadInput, match="cannot read"):
        AcceptanceTable.read(tmp_path / "none.json")


def test_a_checkpoint_has_the_table_in_its_folder_and_stays_the_same_model(tmp_path):
    folder = tmp_path / "copied"
    shutil.copytree(spec.Embedded("demo-large").folder, folder)
    (folder / FILE).unlink(missing_ok=True)
    before = model_revision(str(folder))
    bare = spec.load(str(folder))
    assert bare.abilities.acceptance is None
    (folder / FILE).write_text(json.dumps(TABLE.as_object()))
    loaded = spec.load(str(folder))
    assert loaded.abilities.acceptance == replace(TABLE, large="copied")
    assert model_revision(str(folder)) == before
    (folder / FILE).write_text("{}")
    with pytest.raises(BadInput, match=FILE):
        spec.load(str(folder))
    for model in (bare, loaded):
        asyncio.run(model.aclose())


@pytest.mark.parametrize("name", spec.EMBEDDED)
def test_a_table_that_ships_is_of_the_weights_that_ship(name):
    file = spec.Embedded(name).folder / FILE
    if file.is_file():
        table = AcceptanceTable.read(file)
        assert (table.small, table.large) == spec.EMBEDDED
        revisions = tuple(map(model_revision, spec.EMBEDDED))
        assert (table.small_revision, table.large_revision) == revisions


def test_a_recording_keeps_the_table_of_its_model(tmp_path):
    model = ScriptedModel("huge", [Says("3")])
    model.abilities = replace(model.abilities, acceptance=TABLE)
    RecordingModel(model, tmp_path / "huge.jsonl")
    assert RecordedModel(tmp_path / "huge.jsonl").abilities.acceptance == TABLE
