"""Benchmarks by name, on small files in the format of their data sets."""

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
BLUE = {"bytes": png("blue"), "path": None}
NO_IMAGES = {f"image_{number}": None for number in range(3, 8)}
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
    "mme": [
        {"question_id": "color/000000012120.png", "image": IMAGE, "answer": "Yes", "category": "color",
         "question": "Is there a red coat in the image? Please answer yes or no."},
        {"question_id": "color/000000012120.png", "image": IMAGE, "answer": "No", "category": "color",
         "question": "Is there a yellow coat in the image? Please answer yes or no."},
    ],
    "hallusionbench": [
        {"category": "VD", "subcategory": "illusion", "visual_input": "1", "set_id": "0", "figure_id": "0",
         "sample_note": "circle", "question_id": "1", "question": "Are both circles of the same size?",
         "gt_answer_details": "They are.", "gt_answer": "1", "filename": "./0.png", "image": IMAGE},
        {"category": "VS", "subcategory": "chart", "visual_input": "0", "set_id": "2", "figure_id": "0",
         "sample_note": "chart", "question_id": "0", "question": "Did it grow?", "gt_answer_details": "No.",
         "gt_answer": "0", "filename": None, "image": None},
    ],
    "blink": [
        {"idx": "val_Visual_Similarity_1", "sub_task": "Visual_Similarity", "question": "Which is most similar?",
         "image_1": IMAGE, "image_2": BLUE, "image_3": IMAGE, "image_4": None, "choices": ["the second", "the third"],
         "answer": "(B)", "prompt": "Take the first image as reference. Which is most similar to it?\nSelect from the "
         "following choices.\n(A) the second\n(B) the third", "explanation": ""},
    ],
    "cv-bench": [
        {"idx": 0, "type": "2D", "task": "Count", "image": IMAGE, "question": "How many cats are there?",
         "choices": ["1", "0", "3"], "answer": "(C)", "prompt": "How many cats are there? Select from ...",
         "filename": "0.png", "source": "ADE20K"},
    ],
    "vmcbench": [
        {"index": 7, "image": IMAGE, "question": "What does the sign say?", "answer": "D", "category": "TextVQA",
         "A": "go", "B": "wait", "C": "turn", "D": "stop"},
    ],
    "mmvet": [
        {"question_id": "v1_0", "image": IMAGE, "question": "What is x in the equation?", "answer": "-1<AND>-5",
         "image_source": "v1_0.png", "capability": "ocr,math"},
    ],
    "docvqa": [
        {"questionId": "49153", "question": "What is the date?", "question_types": ["form"], "image": IMAGE,
         "docId": 14465, "ucsf_document_id": "pybv0228", "ucsf_document_page_no": "81",
         "answers": ["1/8/93", "January 8, 1993"], "data_split": "val"},
    ],
    "textvqa": [
        {"image_id": "003a8ae2ef43b901", "question_id": 34602, "question": "what is the brand of this camera?",
         "image": IMAGE, "answers": ["nous les gosses", "dakota", "", *["dakota"] * 7], "set_name": "val",
         "ocr_tokens": ["DAKOTA"]},
    ],
    "ocrbench": [
        {"dataset": "IIIT5K", "question": "what is written in the image?", "answer": ["CENTRE"], "image": IMAGE,
         "question_type": "Regular Text Recognition"},
        {"dataset": "HME100k", "question": "Write out the expression of the formula.", "answer": ["a ^ { 2 }"],
         "image": IMAGE, "question_type": "Handwritten Mathematical Expression Recognition"},
    ],
    "mmmu": [
        {"id": "validation_Art_Theory_2", "question": "Who painted <image 2>?", "options": "['<image 1>', 'Klee']",
         "explanation": "", "image_1": IMAGE, "image_2": BLUE, **NO_IMAGES, "img_type": "['Paintings']", "answer": "A",
         "topic_difficulty": "Easy", "question_type": "multiple-choice", "subfield": "History"},
        {"id": "validation_Accounting_3", "question": "<image 2> What is the ratio?", "options": "[]",
         "explanation": "", "image_1": None, "image_2": BLUE, **NO_IMAGES, "img_type": "['Tables']",
         "answer": "['24/7', '3.429']", "topic_difficulty": "Hard", "question_type": "open", "subfield": "Finance"},
    ],
    "mmmu-pro": [
        {"id": "test_History_98", "question": "Which war does <image 1> show?", "explanation": "?", "image_1": IMAGE,
         "options": "['one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten']",
         "image_2": None, **NO_IMAGES, "img_type": "['Photographs']", "answer": "J", "topic_difficulty": "Easy",
         "subject": "History"},
    ],
    "mathverse": [
        {"sample_index": "1", "problem_index": "1", "problem_version": "Text Dominant", "image": IMAGE, "answer": "A",
         "question": "Angle 1 is 55°. Then angle 2 is ()\nChoices:\nA:145°\nB:125°\nC:90°\nD:55°",
         "question_type": "multi-choice", "metadata": {"split": "testmini", "subject": "Plane Geometry"},
         "query_wo": "Please directly answer the question ...", "query_cot": "..."},
        {"sample_index": "5", "problem_index": "1", "problem_version": "Vision Only", "image": IMAGE, "answer": "A",
         "question": "", "question_type": "multi-choice", "metadata": {"split": "testmini", "subject": "Functions"},
         "query_wo": "According to the question shown in the image, please answer it.", "query_cot": "..."},
        {"sample_index": "9", "problem_index": "2", "problem_version": "Text Lite", "image": IMAGE, "answer": "2x",
         "question": "What is the slope?", "question_type": "free-form", "query_wo": "...", "query_cot": "...",
         "metadata": {"split": "testmini", "subject": "Functions"}},
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
    "mme": [("Is there a red coat in the image?", (), "yes_no", ("yes",)),
            ("Is there a yellow coat in the image?", (), "yes_no", ("no",))],
    "hallusionbench": [("Are both circles of the same size?", (), "yes_no", ("yes",)),
                       ("Did it grow?", (), "yes_no", ("no",))],
    "blink": [("Take the first image as reference. Which is most similar to it?", ("the second", "the third"),
               "choice", ("B",))],
    "cv-bench": [("How many cats are there?", ("1", "0", "3"), "choice", ("C",))],
    "vmcbench": [("What does the sign say?", ("go", "wait", "turn", "stop"), "choice", ("D",))],
    "mmvet": [("What is x in the equation?", (), "free_text", ("-1<AND>-5",))],
    "docvqa": [("What is the date?", (), "short_text", ("1/8/93", "January 8, 1993"))],
    "textvqa": [("what is the brand of this camera?", (), "short_text",
                 ("nous les gosses", "dakota", "", *["dakota"] * 7))],
    "ocrbench": [("what is written in the image?", (), "short_text", ("CENTRE",)),
                 ("Write out the expression of the formula.", (), "short_text", ("a ^ { 2 }",))],
    "mmmu": [("Who painted <image 2>?", ("<image 1>", "Klee"), "choice", ("A",)),
             ("<image 1> What is the ratio?", (), "short_text", ("24/7", "3.429"))],
    "mmmu-pro": [("Which war does <image 1> show?", ("one", "two", "three", "four", "five", "six", "seven", "eight",
                  "nine", "ten"), "choice", ("J",))],
    "mathverse": [("Angle 1 is 55°. Then angle 2 is ()", ("145°", "125°", "90°", "55°"), "choice", ("A",)),
                  ("According to the question shown in the image, please answer it.",
                   tuple(f"{each} in the image" for each in "ABCD"), "choice", ("A",)),
                  ("What is the slope?", (), "maths", ("2x",))],
}  # fmt: skip
SHOWN = {
    "hallusionbench": [["red"], []],
    "blink": [["red", "blue", "red"]],
    "mmmu": [["red", "blue"], ["blue"]],
}
"""The images of each question, for benchmarks with other images than one red one per question."""


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
    assert {item.scorer for item in items} == set(PRESETS[name].scorer.split(", "))
    shown = [[png(colour) for colour in each] for each in SHOWN.get(name, [["red"]] * len(items))]
    assert [[image.data for image in item.question.images] for item in items] == shown
    assert task.aggregate == PRESETS[name].aggregate
    assert task.revision.startswith("sha256:")
    assert list(task.items()) == items


def test_every_preset_has_rows_here_and_stands_in_the_docs():
    assert set(PRESETS) == set(ROWS) == set(ASKED)
    page = (Path(__file__).parents[2] / "docs" / "reference" / "tasks.md").read_text(encoding="utf-8")
    assert [name for name, preset in PRESETS.items() if f"\n| `{name}` | `{preset.dataset}`" not in page] == []


def test_mmbenchs_rotations_share_a_group(tmp_path):
    path = parquet(tmp_path / "rows.parquet", ROWS["mmbench"])
    assert [item.group for item in open_task(f"mmbench:{path}").items()] == ["241", "241"]


def items_of(tmp_path, name, rows=None):
    return list(open_task(f"{name}:{parquet(tmp_path / 'rows.parquet', rows or ROWS[name])}").items())


def test_mmes_questions_about_one_image_and_hallusionbenchs_of_one_set_are_asked_together(tmp_path):
    assert [item.group for item in items_of(tmp_path, "mme")] == ["color/000000012120.png"] * 2
    shown, unseen = items_of(tmp_path, "hallusionbench")
    assert (shown.id, shown.group, unseen.group) == ("VD_illusion_0_0_1", "VD_illusion_0", "VS_chart_2")
    assert json.loads(shown.extra) == {"question": "VD_illusion_0_1", "figure": "VD_illusion_0_0"}
    assert json.loads(unseen.extra) == {"question": "VS_chart_2_0", "figure": None}


def test_categories_are_the_parts_that_authors_report(tmp_path):
    found = {
        name: items_of(tmp_path, name)[0].category for name in ("mmmu", "mmmu-pro", "blink", "mathverse", "docvqa")
    }
    assert list(found.values()) == ["Art_Theory", "History", "Visual_Similarity", "Text Dominant", "form"]
    (counted,) = items_of(tmp_path, "cv-bench")
    assert (counted.category, counted.extra) == ("Count", '{"source": "ADE20K"}')
    read, formula = items_of(tmp_path, "ocrbench")
    assert (read.extra, formula.extra) == (None, '{"without_spaces": true}')


def test_an_image_that_is_asked_about_has_to_be_there(tmp_path):
    row = {**ROWS["mmmu"][0], "question": "Who painted <image 3>?"}
    with pytest.raises(BadInput, match=r"`<image 3>` is asked about, and `image_3` is empty"):
        items_of(tmp_path, "mmmu", [row])


def test_answers_of_the_test_split_are_not_known(tmp_path):
    (item,) = items_of(tmp_path, "mmmu", [{**ROWS["mmmu"][0], "answer": "?"}])
    assert item.golds == ()


@pytest.mark.parametrize(("name", "scorer"), [("pope", "pope"), ("chartqa", "relaxed_years"), ("mmmu", "mmmu")])
def test_another_way_to_score_can_be_named(tmp_path, name, scorer):
    path = parquet(tmp_path / "rows.parquet", ROWS[name])
    assert {item.scorer for item in open_task(f"{name}:path={path},scorer={scorer}").items()} == {scorer}
    with pytest.raises(BadInput, match="is not known"):
        open_task(f"{name}:path={path},scorer=exakt")


def test_several_configurations_are_read_one_after_the_other(tmp_path, monkeypatch):
    import datasets

    for config, count in (("one", 2), ("two", 1)):
        (tmp_path / "copy" / config).mkdir(parents=True)
        rows = [{**ROWS["vmcbench"][0], "index": f"{config}{at}"} for at in range(count)]
        parquet(tmp_path / "copy" / config / "dev.parquet", rows)
    head = "configs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: dev\n    path: {name}/dev.parquet\n"
        for name in ("one", "two")
    )
    (tmp_path / "copy" / "README.md").write_text(f"---\n{head}---\n")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    task = open_task(f"vmcbench:dataset={tmp_path / 'copy'},config=one+two")
    assert ([item.id for item in task.items()], task.count) == (["one0", "one1", "two0"], 3)
    assert "/one+two/dev@fingerprint:" in task.revision


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
