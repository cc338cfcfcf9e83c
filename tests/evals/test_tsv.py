"""VLMEvalKit's TSV format and its special cases."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest
from files import b64, png, tsv

from cuecard.cli.evals.tasks import check
from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind
from cuecard.evals.tasks.registry import open_task
from cuecard.evals.tasks.rows import Fault
from cuecard.evals.tasks.tsv import TsvTask

ROW = {"index": 1, "image": b64(), "question": "What is it?", "A": "cat", "B": "dog", "answer": "B"}


def task_of(path: Path, **settings: object) -> TsvTask:
    return TsvTask(f"tsv:{path}", path, **settings)


def items_of(tmp_path: Path, *rows: dict, name: str = "Set.tsv", **settings: object) -> list:
    return list(task_of(tsv(tmp_path / name, list(rows)), **settings).items())


def test_a_row_is_asked_in_vlmevalkits_words_and_its_options_are_apart(tmp_path):
    (item,) = items_of(tmp_path, {**ROW, "hint": "Look closely.", "category": "pets", "split": "dev"})
    assert item.question.text == "Hint: Look closely.\nQuestion: What is it?\nOptions:"
    assert item.question.options == ("cat", "dog")
    assert item.question.kind is AnswerKind.CHOICE
    assert item.question.images[0].data == png()
    assert (item.id, item.golds, item.scorer, item.category, item.split) == ("1", ("B",), "exact", "pets", "dev")
    assert item.cluster == item.question.images[0].digest


def test_a_short_image_value_points_to_another_row_before_or_behind_it(tmp_path):
    rows = [
        {**ROW, "index": 1, "image": "3"},
        {**ROW, "index": 2, "image": b64("blue")},
        {**ROW, "index": 3, "image": b64("green")},
        {**ROW, "index": 4, "image": "2.0"},
    ]
    found = [item.question.images[0].data for item in items_of(tmp_path, *rows)]
    assert found == [png("green"), png("blue"), png("green"), png("blue")]


def test_indices_may_be_texts_and_pointers_to_them_too(tmp_path):
    rows = [{**ROW, "index": "pet_one"}, {**ROW, "index": "pet_two", "image": "pet_one"}]
    first, second = items_of(tmp_path, *rows)
    assert (first.id, second.id) == ("pet_one", "pet_two")
    assert first.cluster == second.cluster


@pytest.mark.parametrize(
    ("pointer", "result"),
    [("99", "no row has that index"), ("2", "holds no image itself"), ("1", "holds no image itself")],
)
def test_a_pointer_that_leads_nowhere_is_refused_with_its_row(tmp_path, pointer, result):
    rows = [{**ROW, "index": 1, "image": pointer}, {**ROW, "index": 2, "image": "3"}, {**ROW, "index": 3}]
    with pytest.raises(BadInput, match="row 1") as caught:
        items_of(tmp_path, *rows)
    assert result in str(caught.value)


def test_several_images_stand_in_a_list_written_as_text(tmp_path):
    (item, other) = items_of(
        tmp_path,
        {**ROW, "image": str([b64("red"), b64("blue")])},
        {**ROW, "index": 2, "image": "['1', '1']"},
    )
    assert [image.data for image in item.question.images] == [png("red"), png("blue")]
    assert item.cluster not in {image.digest for image in item.question.images}
    assert [image.data for image in other.question.images] == [png("red"), png("blue")] * 2


def test_options_vary_by_row_and_a_gap_moves_the_letters(tmp_path):
    rows = [
        {**ROW, "C": "cow", "D": "hen", "answer": "D"},
        {**ROW, "index": 2, "C": "", "D": "nan", "answer": "A"},
        {**ROW, "index": 3, "C": "", "D": "hen", "answer": "D"},
    ]
    full, two, gap = items_of(tmp_path, *rows)
    assert full.question.options == ("cat", "dog", "cow", "hen")
    assert two.question.options == ("cat", "dog")
    assert (gap.question.options, gap.golds) == (("cat", "dog", "hen"), ("C",))


def test_the_letter_of_an_empty_option_is_no_right_answer(tmp_path):
    flaw = next(
        iter(task_of(tsv(tmp_path / "Set.tsv", [{**ROW, "B": "", "C": "hen", "D": "cow", "answer": "B"}])).read())
    )
    assert (flaw.fault, flaw.what) == (Fault.UNSCORABLE, "the answer is option B, which is empty")


def test_an_option_called_none_is_an_option(tmp_path):
    (item,) = items_of(tmp_path, {**ROW, "B": "None", "answer": "B"})
    assert (item.question.options, item.golds) == (("cat", "None"), ("B",))


def test_rotations_are_a_group_of_their_base_and_the_task_is_circular(tmp_path):
    rows = [
        {**ROW, "index": 7},
        {**ROW, "index": 1_000_007, "image": "7", "A": "dog", "B": "cat", "answer": "A"},
        {**ROW, "index": 8, "image": b64("blue")},
    ]
    path = tsv(tmp_path / "Set.tsv", rows)
    task = task_of(path)
    assert task.aggregate == "circular"
    assert [item.group for item in task.items()] == ["7", "7", "8"]
    plain = task_of(path, circular=False)
    assert plain.aggregate == "mean"
    assert [item.group for item in plain.items()] == [None, None, None]


def test_sets_that_are_circular_by_name_are_so_without_rotations(tmp_path):
    path = tsv(tmp_path / "MMBench_DEV_EN.tsv", [ROW])
    assert task_of(path).aggregate == "circular"


def test_rows_without_an_image_are_left_out_as_vlmevalkit_does(tmp_path):
    rows = [ROW, {**ROW, "index": 2, "image": ""}, {**ROW, "index": 3, "image": "nan"}]
    path = tsv(tmp_path / "Set.tsv", rows)
    assert [item.id for item in task_of(path).items()] == ["1"]
    result = check(task_of(path))
    assert result.faults == {Fault.DROPPED: 2}
    assert result.usable


def test_a_set_without_image_columns_asks_in_text(tmp_path):
    (item,) = items_of(tmp_path, {"index": 1, "question": "How many legs has a dog?", "answer": "4"})
    assert (item.question.images, item.question.kind, item.cluster) == ((), AnswerKind.NUMBER, "1")


def test_images_may_be_paths_beside_the_file_or_below_lmudata(tmp_path, monkeypatch):
    beside, below = tmp_path / "here", tmp_path / "lmu" / "images" / "Set"
    beside.mkdir()
    below.mkdir(parents=True)
    (beside / "a.png").write_bytes(png("red"))
    (below / "b.png").write_bytes(png("blue"))
    monkeypatch.setenv("LMUData", str(tmp_path / "lmu"))
    rows = [
        {**ROW, "index": 1, "image": "", "image_path": "a.png"},
        {**ROW, "index": 2, "image": "", "image_path": "b.png"},
        {**ROW, "index": 3, "image": "", "image_path": str(["a.png", "b.png"])},
        {**ROW, "index": 4, "image": "", "image_path": str(below / "b.png")},
    ]
    found = [[image.data for image in item.question.images] for item in items_of(beside, *rows)]
    assert found == [[png("red")], [png("blue")], [png("red"), png("blue")], [png("blue")]]


def test_cells_may_hold_tabs_line_breaks_and_quotes(tmp_path):
    text = 'Which word says "5\t6"?\nLook at the sign.'
    rows = [{**ROW, "question": text}, {**ROW, "index": 2, "image": "1"}]
    first, second = items_of(tmp_path, *rows)
    assert text in first.question.text
    assert second.question.images[0].data == png()


@pytest.mark.parametrize(
    ("name", "kind", "scorer", "aggregate"),
    [
        ("POPE.tsv", AnswerKind.YES_NO, "exact", "pope"),
        ("ChartQA_TEST.tsv", AnswerKind.SHORT_TEXT, "relaxed", "mean"),
        ("InfoVQA_VAL.tsv", AnswerKind.SHORT_TEXT, "anls", "mean"),
        ("Mine.tsv", AnswerKind.YES_NO, "exact", "mean"),
    ],
)
def test_sets_without_options_are_scored_by_what_they_are_known_for(tmp_path, name, kind, scorer, aggregate):
    path = tsv(tmp_path / name, [{"index": 1, "image": b64(), "question": "Is there a dog?", "answer": "Yes"}])
    task = task_of(path)
    (item,) = task.items()
    assert (item.question.kind, item.scorer, task.aggregate) == (kind, scorer, aggregate)


def test_the_kind_of_a_question_is_never_taken_from_its_answer(tmp_path):
    rows = [{"index": 1, "image": b64(), "question": "Name the sign.", "answer": "yes"}]
    assert items_of(tmp_path, *rows)[0].question.kind is AnswerKind.SHORT_TEXT


def test_several_right_answers_may_stand_in_a_list(tmp_path):
    rows = [{"index": 1, "image": b64(), "question": "Which drink?", "answer": "['coke', 'coca cola']"}]
    assert items_of(tmp_path, *rows, name="InfoVQA_VAL.tsv")[0].golds == ("coke", "coca cola")


def test_without_an_answer_a_row_is_asked_and_not_scored(tmp_path):
    (item,) = items_of(tmp_path, {**ROW, "answer": ""})
    assert item.golds == ()


def test_mathvistas_columns_are_scored_its_way(tmp_path):
    query = "Hint: Please provide the correct option letter.\nQuestion: Which is it?\nChoices:\n(A) 3/11\n(B) 8/11"
    rows = [
        {
            "index": 1, "image": b64(), "question": query, "question_type": "multi_choice", "answer_type": "text",
            "choices": "['3/11', '8/11']", "answer": "8/11", "answer_option": "B", "precision": "",
        },
        {
            "index": 2, "image": "1", "question": "How high?", "question_type": "free_form", "answer_type": "float",
            "choices": "[]", "answer": "1.4", "answer_option": "", "precision": "1.0",
        },
    ]  # fmt: skip
    choice, free = items_of(tmp_path, *rows, name="MathVista_MINI.tsv")
    assert choice.question.text.endswith("Question: Which is it?")
    assert (choice.question.options, choice.golds) == (("3/11", "8/11"), ("B",))
    assert (free.question.kind, free.scorer, free.extra) == (
        AnswerKind.NUMBER,
        "mathvista",
        '{"answer_type": "float", "precision": 1}',
    )


def test_a_split_can_be_chosen(tmp_path):
    rows = [{**ROW, "split": "dev"}, {**ROW, "index": 2, "split": "test"}]
    assert [item.id for item in items_of(tmp_path, *rows, split="test")] == ["2"]


@pytest.mark.parametrize(
    ("row", "result", "hint"),
    [
        ({"image": "!" * 80}, "neither base64", "base64"),
        ({"image": base64.b64encode(b"no image" * 20).decode()}, "cannot be read", "PNG"),
        ({"image": "", "image_path": "gone.png"}, "there is no image gone.png", "looked for"),
        ({"B": ""}, "a choice with 1 options", "2 to 26"),
        ({"answer": "E"}, "'E' is none of the options A, B", "letter"),
        ({"question": ""}, "the question is empty", "question"),
        (
            {"question_type": "free_form", "answer_type": "float", "precision": "some"},
            "the precision 'some'",
            "write 1",
        ),
        ({"index": 1}, "the id '1' stands in row 1 too", "an id of its own"),
    ],
)
def test_a_bad_row_is_refused_with_its_number_and_a_hint(tmp_path, row, result, hint):
    first = {**ROW, "image_path": "", "question_type": "", "answer_type": "", "precision": ""}
    path = tsv(tmp_path / "Set.tsv", [first, {**first, "index": 2, **row}])
    with pytest.raises(BadInput) as caught:
        list(task_of(path).items())
    assert "row 2: " in str(caught.value)
    assert result in str(caught.value)
    assert hint in caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "result"),
    [
        (b"", "no column `question`"),
        (b"index,question\n1,2\n", "no column `question`"),
        (b"index\tquestion\tquestion\n", "has the column 'question' twice"),
        (b"index\tquestion\n1\twhat?\textra\n", "row 1: 3 cells for 2 columns"),
        (b"index\tquestion\n1\t\xff\xfe\n", "row 1: the text is not UTF-8"),
        (b'index\tquestion\n1\t"what?\n2\twhy?\n', "row 1: a quote that begins here is never closed"),
    ],
)
def test_a_file_that_is_no_such_tsv_is_refused_in_one_line(tmp_path, data, result):
    path = tmp_path / "Set.tsv"
    path.write_bytes(data)
    with pytest.raises(BadInput) as caught:
        list(task_of(path).items())
    assert result in str(caught.value)


def test_a_missing_file_is_refused():
    with pytest.raises(BadInput, match="cannot read"):
        list(open_task("tsv:gone.tsv").items())


def test_a_last_line_without_an_end_is_a_row(tmp_path):
    path = tmp_path / "Set.tsv"
    path.write_bytes(b'index\tquestion\tanswer\n1\tHow many?\t"3"')
    assert [item.golds for item in task_of(path).items()] == [("3",)]


def test_windows_line_ends_and_a_byte_order_mark_are_no_matter(tmp_path):
    path = tmp_path / "Set.tsv"
    text = f"index\timage\tquestion\tA\tB\tanswer\r\n1\t{b64()}\tWhat?\tcat\tdog\tA\r\n2\t1\tWhat?\tcat\tdog\tB\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [item.golds for item in task_of(path).items()] == [("A",), ("B",)]


def test_the_revision_is_the_hash_of_the_file_and_reading_twice_gives_the_same(tmp_path):
    path = tsv(tmp_path / "Set.tsv", [ROW])
    task = task_of(path)
    assert list(task.items()) == list(task.items())
    first = task.revision
    tsv(path, [{**ROW, "answer": "A"}])
    assert task_of(path).revision != first


READ_A_LARGE_FILE = """
import resource, sys, time
from pathlib import Path
from cuecard.evals.tasks.tsv import TsvTask
task = TsvTask("t", Path(sys.argv[1]))
small = TsvTask("s", Path(sys.argv[2]))
list(small.items())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(1 for _ in task.items())
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_file_of_200_megabytes_is_read_row_by_row(tmp_path):
    from PIL import Image as PilImage

    picture = tmp_path / "large.png"
    PilImage.effect_noise((900, 900), 50).convert("RGB").save(picture, compress_level=0)
    body = base64.b64encode(picture.read_bytes()).decode()
    rows = 200 * 2**20 // len(body) + 1
    large = tmp_path / "Large.tsv"
    with large.open("w", encoding="utf-8") as file:
        file.write("index\timage\tquestion\tA\tB\tanswer\n")
        for index in range(rows):
            file.write(f"{2 * index}\t{body}\tWhat?\tcat\tdog\tA\n{2 * index + 1}\t{2 * index}\tWhat?\tcat\tdog\tA\n")
    small = tsv(tmp_path / "Small.tsv", [{**ROW, "image": body}])
    assert large.stat().st_size >= 200 * 2**20
    done = subprocess.run(
        [sys.executable, "-c", READ_A_LARGE_FILE, str(large), str(small)], capture_output=True, text=True, timeout=110
    )
    large.unlink()
    assert done.returncode == 0, done.stderr
    count, grown_mib = map(int, done.stdout.split())
    assert count == 2 * rows
    assert grown_mib < 32, grown_mib


KNOWN = [
    ("TextVQA_VAL", "short_text", "vqa", "mean"),
    ("DocVQA_VAL", "short_text", "anls", "mean"),
    ("OCRBench", "short_text", "ocrbench", "ocrbench"),
    ("OCRBench_v2", "yes_no", "exact", "mean"),
    ("MME", "yes_no", "exact", "mme"),
    ("MMERealWorld", "yes_no", "exact", "mean"),
    ("HallusionBench", "yes_no", "exact", "hallusion"),
    ("MMMU_DEV_VAL", "short_text", "mmmu", "mmmu"),
    ("MMMU_Pro_10c", "short_text", "mmmu", "mmmu"),
    ("BLINK", "short_text", "exact", "blink"),
    ("CV-Bench-2D", "short_text", "exact", "cv-bench"),
    ("VMCBench_DEV", "short_text", "exact", "vmcbench"),
    ("MMVet", "free_text", "judged", "mean"),
    ("MathVerse_MINI", "maths", "maths", "mean"),
]


@pytest.mark.parametrize(("name", "kind", "scorer", "aggregate"), KNOWN)
def test_vlmevalkits_sets_are_known_by_the_names_of_their_files(tmp_path, name, kind, scorer, aggregate):
    row = {"index": 1, "image": b64(), "question": "Is there a dog?", "answer": "Yes", "question_type": "free-form"}
    task = task_of(tsv(tmp_path / f"{name}.tsv", [row]))
    (item,) = task.items()
    assert (str(item.question.kind), item.scorer, task.aggregate) == (kind, scorer, aggregate)


def test_a_preset_reads_its_tsv_file_by_the_rules_of_its_set(tmp_path):
    rows = [
        {"index": number, "image": image, "question": "Is it red?", "answer": answer, "category": "color",
         "image_path": "color/1.png"}
        for number, image, answer in ((1, b64(), "Yes"), (2, "1", "No"))
    ]  # fmt: skip
    path = tsv(tmp_path / "any_name.tsv", rows)
    task = open_task(f"mme:{path}")
    assert (task.aggregate, [item.group for item in task.items()]) == ("mme", ["color/1.png"] * 2)
    assert {item.scorer for item in open_task(f"mme:path={path},scorer=mme").items()} == {"mme"}


def test_hallusionbenchs_figures_and_questions_stand_in_the_index(tmp_path):
    row = {"index": "hb_VD_chart_0_1_2", "image": b64(), "question": "Is it?", "answer": "No", "category": "VD"}
    (item,) = items_of(tmp_path, row, name="HallusionBench.tsv")
    assert (item.category, item.group) == ("VD", "hb_VD_chart_0")
    assert item.extra == '{"question": "hb_VD_chart_0_2", "figure": "hb_VD_chart_0_1"}'


def test_handwritten_formulas_of_ocrbench_and_sources_of_cv_bench_are_kept(tmp_path):
    formula = {"index": 1, "image": b64(), "question": "Write it.", "answer": "['a ^ { 2 }']",
               "category": "Handwritten Mathematical Expression Recognition"}  # fmt: skip
    (item,) = items_of(tmp_path, formula, name="OCRBench.tsv")
    assert (item.golds, item.extra) == (("a ^ { 2 }",), '{"without_spaces": true}')
    (item,) = items_of(tmp_path, {**ROW, "source": "COCO"}, name="CV-Bench-2D.tsv")
    assert item.extra == '{"source": "COCO"}'


def test_mathverses_options_stand_in_its_question(tmp_path):
    row = {"index": 1, "image": b64(), "question": "Angle 2 is ()\nChoices:\nA:145°\nB:125°", "answer": "B",
           "question_type": "multi-choice", "problem_version": "Text Lite"}  # fmt: skip
    (item,) = items_of(tmp_path, row, name="MathVerse_MINI.tsv")
    assert (item.question.text, item.question.options, item.golds) == ("Angle 2 is ()", ("145°", "125°"), ("B",))
