"""Benchmarks by name, on small files of the very shape of their data sets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from files import b64, png, tsv

from cuecard.cli.evals.tasks import check
from cuecard.domain.errors import BadInput, MissingExtra
from cuecard.evals.tasks.presets import PRESETS
from cuecard.evals.tasks.registry import open_task

IMAGE = {"bytes": png(), "path": "1.png"}
MATHVISTA = {
    "question": "Which?",
    "image": "images/1.jpg",
    "decoded_image": IMAGE,
    "unit": None,
    "metadata": {"category": "math-targeted-vqa", "task": "geometry", "split": "testmini"},
}
ROWS = {
    "mmbench": [
        {"index": 241, "question": "Which is right?", "hint": "The passage.", "answer": "A", "A": "cat", "B": "dog",
         "C": "nan", "D": None, "category": "identity_reasoning", "image": IMAGE, "source": "scienceqa",
         "L2-category": "attribute_reasoning", "comment": "nan", "split": "dev"},
        {"index": 1_000_241, "question": "Which is right?", "hint": "nan", "answer": "B", "A": "dog", "B": "cat",
         "C": "nan", "D": None, "category": "identity_reasoning", "image": IMAGE, "source": "scienceqa",
         "L2-category": "attribute_reasoning", "comment": "nan", "split": "dev"},
    ],
    "mmstar": [
        {"index": 0, "question": "Which is right?\nOptions: A: a cat., B: a dog., C: two cats., D: none of them",
         "image": IMAGE, "answer": "B", "category": "coarse perception", "l2_category": "image scene and topic",
         "meta_info": {"source": "MMBench", "split": "val", "image_path": "images/0.jpg"}},
    ],
    "pope": [
        {"id": "0", "question_id": "1", "question": "Is there a dog in the image?", "answer": "yes",
         "image_source": "COCO_val2014_000000310196", "image": IMAGE, "category": "adversarial"},
    ],
    "chartqa": [
        {"type": "human_test", "question": "How many food items are shown in the bar graph?", "answer": "14",
         "image": IMAGE},
    ],
    "realworldqa": [
        {"image_path": "0.webp", "image": IMAGE, "answer": "C", "question": "In which direction does the wheel face?"
         "\n\nA. Left\nB. Straight\nC. Right\nPlease answer directly with only the letter of the correct option and "
         "nothing else."},
        {"image_path": "1.webp", "image": IMAGE, "answer": "4", "question": "How many cars are there?\n"
         "Please answer directly with a single word or number."},
    ],
    "infovqa": [
        {"questionId": "98313", "question": "Which country?", "answers": ["spain", "Spain"],
         "answer_type": ["single span"], "image": IMAGE, "image_url": "http://x", "operation/reasoning": [],
         "ocr": "[]", "data_split": "val"},
    ],
    "mathvista": [
        {**MATHVISTA, "pid": "1", "choices": ["3/11", "8/11"], "precision": None, "answer": "8/11",
         "question_type": "multi_choice", "answer_type": "text",
         "query": "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the "
         "end.\nQuestion: Which?\nChoices:\n(A) 3/11\n(B) 8/11"},
        {**MATHVISTA, "pid": "2", "choices": None, "precision": 1.0, "answer": "1.2", "question_type": "free_form",
         "answer_type": "float", "query": "Hint: Please answer the question requiring a floating-point number with "
         "one decimal place and provide the final value, e.g., 1.2, 1.3, 1.4, at the end.\nQuestion: Which?"},
    ],
    "scienceqa": [
        {"image": IMAGE, "question": "Which is farthest north?", "choices": ["Ohio", "Maine", "Iowa"], "answer": 1,
         "hint": "Look at the map.", "task": "closed choice", "grade": "grade2", "subject": "social science",
         "topic": "geography", "category": "Geography", "skill": "maps", "lecture": "", "solution": ""},
        {"image": None, "question": "Which is a fish?", "choices": ["cat", "cod"], "answer": 1, "hint": "",
         "task": "closed choice", "grade": "grade2", "subject": "natural science", "topic": "biology",
         "category": "Biology", "skill": "fish", "lecture": "", "solution": ""},
    ],
    "ai2d": [
        {"question": "What eats the grass?", "options": ["fox", "hare", "owl", "hawk"], "answer": "1", "image": IMAGE},
    ],
}  # fmt: skip
ASKED = {
    "mmbench": [("The passage.\nWhich is right?", ("cat", "dog"), "choice", ("A",)),
                ("Which is right?", ("dog", "cat"), "choice", ("B",))],
    "mmstar": [("Which is right?", ("a cat", "a dog", "two cats", "none of them"), "choice", ("B",))],
    "pope": [("Is there a dog in the image?", (), "yes_no", ("yes",))],
    "chartqa": [("How many food items are shown in the bar graph?", (), "short_text", ("14",))],
    "realworldqa": [("In which direction does the wheel face?", ("Left", "Straight", "Right"), "choice", ("C",)),
                    ("How many cars are there?", (), "number", ("4",))],
    "infovqa": [("Which country?", (), "short_text", ("spain", "Spain"))],
    "mathvista": [("Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the "
                   "end.\nQuestion: Which?", ("3/11", "8/11"), "choice", ("B",)),
                  (ROWS["mathvista"][1]["query"], (), "number", ("1.2",))],
    "scienceqa": [("Context: Look at the map.\nWhich is farthest north?", ("Ohio", "Maine", "Iowa"), "choice", ("B",))],
    "ai2d": [("What eats the grass?", ("fox", "hare", "owl", "hawk"), "choice", ("B",))],
}  # fmt: skip


def parquet(path: Path, rows: list[dict]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def shape(item) -> tuple:
    asked = item.question
    return asked.text, asked.options, str(asked.kind), item.golds


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_asks_and_scores_as_its_authors_do(tmp_path, name):
    path = parquet(tmp_path / "rows.parquet", ROWS[name])
    task = open_task(f"{name}:path={path}")
    items = list(task.items())
    assert [shape(item) for item in items] == ASKED[name]
    assert {item.scorer for item in items} == {PRESETS[name].scorer}
    assert all(image.data == png() for item in items for image in item.question.images)
    assert task.aggregate == PRESETS[name].aggregate
    assert task.revision.startswith("sha256:")
    assert list(task.items()) == items


def test_every_preset_has_rows_here():
    assert set(PRESETS) == set(ROWS) == set(ASKED)


def test_mmbenchs_rotations_share_a_group(tmp_path):
    path = parquet(tmp_path / "rows.parquet", ROWS["mmbench"])
    assert [item.group for item in open_task(f"mmbench:{path}").items()] == ["241", "241"]


def test_rows_without_an_image_are_left_out_of_scienceqa(tmp_path):
    path = parquet(tmp_path / "rows.parquet", ROWS["scienceqa"])
    result = check(open_task(f"scienceqa:{path}"))
    assert (result.items, result.faults, result.usable) == (1, {"dropped: no image": 1}, True)


def test_the_other_copy_of_chartqa_is_read_too(tmp_path):
    rows = [{"image": IMAGE, "query": "How high?", "label": ["14"], "human_or_machine": 1}]
    (item,) = open_task(f"chartqa:{parquet(tmp_path / 'rows.parquet', rows)}").items()
    assert (item.question.text, item.golds, item.category) == ("How high?", ("14",), "machine")


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_files_of_both_kinds_are_read(tmp_path, stream):
    import pyarrow

    path, table = tmp_path / "rows.arrow", pyarrow.Table.from_pylist(ROWS["pope"] * 40)
    made = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with made(str(path), table.schema) as writer:
        writer.write_table(table)
    result = check(open_task(f"pope:{path}"))
    assert (result.items, result.faults) == (40, {})


def test_jsonl_holds_images_as_base64_or_as_paths_beside_it(tmp_path):
    (tmp_path / "1.png").write_bytes(png("blue"))
    row = ROWS["pope"][0]
    lines = [
        {**row, "image": f"data:image/png;base64,{b64()}"},
        {**row, "id": "1", "image": "1.png"},
        {**row, "id": "2", "image": {"bytes": b64(), "path": None}},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [item.question.images[0].data for item in open_task(f"pope:{path}").items()] == [png(), png("blue"), png()]


def test_a_preset_reads_vlmevalkits_copy(tmp_path):
    row = {"index": 1, "image": b64(), "question": "What?", "A": "cat", "B": "dog", "answer": "A", "split": "dev"}
    path = tsv(tmp_path / "any_name.tsv", [row, {**row, "index": 1_000_001, "image": "1", "answer": "B"}])
    task = open_task(f"mmbench:{path}")
    assert (task.aggregate, [item.group for item in task.items()]) == ("circular", ["1", "1"])


@pytest.mark.parametrize(
    ("name", "rows", "result"),
    [
        ("pope", [{"question": "Is it?", "image": IMAGE}], "no column `answer` (it has: question, image)"),
        ("mmstar", [{**ROWS["mmstar"][0], "question": "Which is right?"}], "row 1: a choice with 0 options"),
        ("ai2d", [{**ROWS["ai2d"][0], "answer": "4"}], "row 1: the answer '4' is no place among 4 options"),
        ("pope", [{**ROWS["pope"][0], "image": {"bytes": b"no image", "path": None}}], "row 1: the image cannot"),
        ("pope", [{**ROWS["pope"][0], "image": {"bytes": None, "path": "no.png"}}], "row 1: there is no image no.png"),
    ],
)
def test_rows_of_another_shape_are_refused_in_one_line(tmp_path, name, rows, result):
    path = parquet(tmp_path / "rows.parquet", rows)
    with pytest.raises(BadInput) as caught:
        list(open_task(f"{name}:{path}").items())
    assert result in str(caught.value)


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "jsonl"])
def test_a_broken_file_is_refused_in_one_line(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(b"nothing of the sort\n")
    with pytest.raises(BadInput, match=r"cannot|not JSON"):
        list(open_task(f"pope:{path}").items())


def test_a_data_set_is_loaded_as_from_the_hub_and_its_images_stay_the_same_bytes(tmp_path, monkeypatch):
    import datasets

    folder = tmp_path / "copy" / "data"
    folder.mkdir(parents=True)
    features = {name: datasets.Value("string") for name in ROWS["pope"][0]} | {"image": datasets.Image()}
    made = datasets.Dataset.from_list(ROWS["pope"], features=datasets.Features(features))
    made.to_parquet(folder / "test-00000-of-00001.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    task = open_task(f"pope:dataset={tmp_path / 'copy'}")
    (item,) = task.items()
    assert (item.question.images[0].data, item.golds, task.count) == (png(), ("yes",), 1)
    assert "test@fingerprint:" in task.revision


def test_a_data_set_that_cannot_be_fetched_is_reported_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(BadInput) as caught:
        list(open_task(f"pope:dataset={tmp_path / 'nothing'}").items())
    assert "cannot be loaded" in str(caught.value)
    assert "path=FILE" in caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("package", "spec"),
    [("datasets", "pope"), ("pyarrow.parquet", "pope:{}"), ("reasoning_gym", "gym:chain_sum,count=1,seed=77")],
)
def test_a_missing_package_is_reported_with_the_extra_to_install(tmp_path, monkeypatch, package, spec):
    path = parquet(tmp_path / "rows.parquet", ROWS["pope"])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match="needs") as caught:
        list(open_task(spec.format(path)).items())
    assert ".[evals]" in caught.value.hint
