"""Data sets with any columns, by a file that maps them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from files import b64, jsonl, png
from test_hub import parquet
from typer.testing import CliRunner

from cuecard.cli import app
from cuecard.domain.errors import BadInput
from cuecard.evals.tasks.registry import open_task

IMAGE = {"bytes": png(), "path": None}
ROW = {"uid": 7, "problem": "Which sign is it?", "choices": ["stop", "yield"], "solution": 1, "picture": IMAGE,
       "second": None, "topic": "roads"}  # fmt: skip
MAP = """
kind = "choice"
first = 0

[columns]
question = "problem"
options = "choices"
answer = "solution"
images = ["picture", "second"]
id = "uid"
category = "topic"
"""


def opened(tmp_path: Path, rows, text: str = MAP, **changed: str):
    for old, new in changed.items():
        text = text.replace(old, new)
    (tmp_path / "map.toml").write_text(text, encoding="utf-8")
    return open_task(f"hf:{parquet(tmp_path / 'rows.parquet', rows)},map={tmp_path / 'map.toml'}")


def test_columns_become_a_question_as_the_file_says(tmp_path):
    (item,) = opened(tmp_path, [ROW]).items()
    asked = item.question
    assert (item.id, asked.text, asked.options, item.golds) == ("7", "Which sign is it?", ("stop", "yield"), ("B",))
    assert (str(asked.kind), item.scorer, item.category) == ("choice", "exact", "roads")
    assert [image.data for image in asked.images] == [png()]


@pytest.mark.parametrize(
    ("solution", "first", "golds"),
    [("B", "", ("B",)), ("(B)", "", ("B",)), ("yield", "", ("B",)), (2, "first = 1", ("B",)), (None, "", ())],
)
def test_right_answers_of_a_choice_are_letters_words_or_places(tmp_path, solution, first, golds):
    (item,) = opened(tmp_path, [{**ROW, "solution": solution}], MAP.replace("first = 0", first)).items()
    assert item.golds == golds


def test_options_may_stand_in_columns_of_their_own_and_close_up(tmp_path):
    row = {"question": "Which?", "one": "stop", "two": "", "three": "yield", "right": "C"}
    text = '[columns]\nquestion = "question"\noptions = ["one", "two", "three"]\nanswer = "right"\n'
    (item,) = opened(tmp_path, [row], text).items()
    assert (item.question.options, item.golds, str(item.question.kind)) == (("stop", "yield"), ("B",), "choice")


def test_kind_and_scorer_may_stand_in_columns_and_answers_be_several(tmp_path):
    row = {"q": "What is written?", "a": ["stop", "STOP"], "k": "short_text", "s": "anls", "images": [IMAGE, IMAGE]}
    text = '[columns]\nquestion = "q"\nanswer = "a"\nkind = "k"\nscorer = "s"\nimages = "images"\n'
    (item,) = opened(tmp_path, [row], text).items()
    assert (str(item.question.kind), item.scorer, item.golds) == ("short_text", "anls", ("stop", "STOP"))
    assert len(item.question.images) == 2


def test_images_of_a_jsonl_file_are_paths_beside_it_or_base64(tmp_path):
    (tmp_path / "1.png").write_bytes(png("blue"))
    rows = [
        {"q": "Is it red?", "a": True, "i": "1.png"},
        {"q": "Is it?", "a": False, "i": f"data:image/png;base64,{b64()}"},
    ]
    (tmp_path / "map.toml").write_text('kind = "yes_no"\n[columns]\nquestion = "q"\nanswer = "a"\nimage = "i"\n')
    task = open_task(f"hf:{jsonl(tmp_path / 'rows.jsonl', rows)},map={tmp_path / 'map.toml'}")
    assert [(item.golds, item.question.images[0].data) for item in task.items()] == [
        (("yes",), png("blue")),
        (("no",), png()),
    ]


def test_a_folder_is_loaded_as_from_the_hub_with_lists_of_images(tmp_path, monkeypatch):
    import datasets

    (tmp_path / "copy").mkdir()
    image = datasets.Image()
    features = datasets.Features({"q": datasets.Value("string"), "images": [image], "a": datasets.Value("string")})
    made = datasets.Dataset.from_list([{"q": "Which?", "images": [IMAGE, IMAGE], "a": "red"}], features=features)
    made.to_parquet(tmp_path / "copy" / "test-00000-of-00001.parquet")
    (tmp_path / "map.toml").write_text('[columns]\nquestion = "q"\nanswer = "a"\nimages = "images"\n')
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    task = open_task(f"hf:{tmp_path / 'copy'},map={tmp_path / 'map.toml'}")
    (item,) = task.items()
    assert [each.data for each in item.question.images] == [png(), png()]
    assert "/test@fingerprint:" in task.revision


def test_the_revision_changes_with_the_mapping(tmp_path):
    first = opened(tmp_path, [ROW]).revision
    assert first != opened(tmp_path, [ROW], MAP + "\n# once more\n").revision
    assert "+map:" in first


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        (MAP.replace('"problem"', '"problm"'), "has no column `problm`", "did you mean `problem`?"),
        (MAP.replace("id =", "idd ="), "unknown key columns.idd", "did you mean id?"),
        (MAP.replace("kind", "kinds"), "unknown key kinds", "did you mean kind?"),
        (MAP.replace('"choice"', '"choise"'), "unknown kind 'choise'", "did you mean choice?"),
        (f'scorer = "exat"\n{MAP}', "there is no scorer 'exat'", "did you mean exact?"),
        ('[columns]\nanswer = "solution"\n', "columns.question is missing", "under [columns]"),
        ('kind = "choice"\n', "columns.question is missing", "under [columns]"),
        (MAP.replace('"solution"', "3"), "columns.answer is not a text", "as a text"),
        (MAP.replace("first = 0", "first = 2"), "the answer '1' is no place among 2 options", "counted from 2"),
        ("columns = ", "is not valid TOML", ""),
    ],
)
def test_what_does_not_fit_is_named_with_the_nearest_that_there_is(tmp_path, text, what, hint):
    with pytest.raises(BadInput) as caught:
        list(opened(tmp_path, [ROW], text).items())
    assert what in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_without_a_mapping_or_with_none_that_is_there_it_does_not_begin(tmp_path):
    with pytest.raises(BadInput, match="what the columns are"):
        open_task("hf:acme/capitals")
    with pytest.raises(BadInput, match="cannot read"):
        open_task(f"hf:acme/capitals,map={tmp_path / 'none.toml'}")


def test_the_command_checks_a_mapped_file(tmp_path):
    task = opened(tmp_path, [ROW, {**ROW, "uid": 8, "picture": None}])
    done = CliRunner().invoke(app, ["tasks", task.name, "--check", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.output)
    assert (result["items"], result["faults"], result["usable"]) == (1, {"dropped: no image": 1}, True)
