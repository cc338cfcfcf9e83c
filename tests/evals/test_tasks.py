"""Tasks by name, and their listing on the command line."""

from __future__ import annotations

import json

import pytest
from files import jsonl, png, tsv
from typer.testing import CliRunner

from cuecard.cli import app
from cuecard.cli.evals.tasks import check, open_named
from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind
from cuecard.evals.scorers import score, scores
from cuecard.evals.tasks.presets import PRESETS


def run(*words: str):
    return CliRunner().invoke(app, ["tasks", *words], env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("spec", "result", "hint"),
    [
        ("bords", "unknown task 'bords'", "did you mean boards?"),
        ("nothing-like-it", "unknown task", "there are: "),
        ("boards:sed=3", "no option 'sed'", "did you mean seed?"),
        ("boards:mix=jump", "mix=jump is not known", "did you mean jumps?"),
        ("boards:count=none", "count=none is not a whole number", "count="),
        ("boards:seed=-1", "seed=-1 is not a whole number", "seed="),
        ("boards:seed=", "seed has no value", "a whole number"),
        ("boards:split=train", "split=train is not known", "test, validation"),
        ("boards:file.tsv", "no option 'file.tsv'", "seed"),
        ("tsv", "tsv needs a file", "tsv:FILE"),
        ("gym", "gym needs the name of a generator", "gym:NAME"),
        ("gym:chain_sums", "no 'chain_sums'", "did you mean gym:chain_sum?"),
        ("mmstar:path=rows.txt", "not .parquet", "name one"),
        ("mmstar:path=rows.parquet,revision=main", "revision is for the hub", "one of the two"),
        ("tsv:x.tsv,kind=choise", "kind=choise is not known", "it is one of"),
    ],
)
def test_what_is_unknown_is_refused_with_the_nearest_that_there_is(spec, result, hint):
    with pytest.raises(BadInput) as caught:
        list(open_named(spec).items())
    assert result in str(caught.value)
    assert hint in caught.value.hint


def test_a_file_may_have_commas_and_equals_signs_in_its_name(tmp_path):
    path = jsonl(tmp_path / "a,b=c.jsonl", [{"question": "Why?"}])
    assert [item.question.text for item in open_named(f"jsonl:{path}").items()] == ["Why?"]


def test_boards_are_the_same_for_the_same_seed_and_others_for_another():
    first, again, other = (
        [(item.question.text, item.golds, item.cluster) for item in open_named(spec).items()]
        for spec in ("boards:count=5", "boards:count=5,seed=0", "boards:count=5,seed=1")
    )
    assert first == again
    assert first != other
    assert open_named("boards:count=5").revision != open_named("boards:count=5,seed=1").revision


def test_a_mix_of_boards_is_chosen_by_name():
    result = check(open_named("boards:count=20,mix=hard"))
    assert set(result.categories) <= {"jump-3", "jump-4", "jump-5"}
    assert result.items == 20


def test_every_board_is_scored_right_by_its_own_answer():
    assert all(score(item.golds[0], item) == 1 for item in open_named("boards:count=30,mix=even").items())


def test_easy_vqa_is_drawn_with_a_seed_and_clustered_by_image():
    task = open_named("easy-vqa:count=60,seed=4")
    items = list(task.items())
    assert len(items) == task.count == 60
    assert {item.question.kind for item in items} == {AnswerKind.YES_NO, AnswerKind.SHORT_TEXT}
    assert len({item.cluster for item in items}) < 61
    assert [item.id for item in items] == [item.id for item in open_named("easy-vqa:count=60,seed=4").items()]
    assert open_named("easy-vqa").count == 9673


def test_validation_questions_of_easy_vqa_are_about_images_that_training_leaves_out():
    from cuecard.demo import tasks

    task, learned = open_named("easy-vqa:split=validation,count=40"), tasks.scenes("train")
    items, every = list(task.items()), tasks.photo_questions("train")
    assert open_named("easy-vqa:split=validation").count == 3335
    assert all(every[int(item.id)].image_path not in learned for item in items)
    assert [item.golds for item in items] == [(every[int(item.id)].answer,) for item in items]
    assert "split=validation" in task.revision


@pytest.mark.parametrize(
    ("puzzle", "kind"),
    [("chain_sum", AnswerKind.NUMBER), ("propositional_logic", None), ("word_ladder", None), ("mini_sudoku", None)],
)
def test_reasoning_gyms_puzzles_are_judged_by_its_own_verifier(puzzle, kind):
    task = open_named(f"gym:{puzzle},seed=3,count=4")
    for item in task.items():
        assert kind in (None, item.question.kind)
        assert score("certainly not this", item) < 1
        answer = item.golds[0]
        assert answer.startswith("(any") or score(answer, item) == 1
    assert [item.question for item in task.items()] == [item.question for item in task.items()]


def test_a_puzzles_yes_or_no_is_right_in_any_letter_case():
    for item in open_named("gym:syllogism,seed=11,count=20").items():
        assert item.question.kind is AnswerKind.YES_NO
        gold, other = item.golds[0], {"Yes": "No", "No": "Yes"}[item.golds[0]]
        assert [scores(reply, item)["ours"] for reply in (gold, gold.lower(), f"{gold}.")] == [1, 1, 1]
        assert scores(other, item)["ours"] < 1


def test_puzzles_with_answers_of_several_lines_are_free_text():
    assert next(open_named("gym:mini_sudoku,count=2").items()).question.kind is AnswerKind.FREE_TEXT


def test_the_list_names_every_task_with_its_kinds_and_its_scorer():
    shown = run()
    assert shown.exit_code == 0
    assert all(
        name in shown.output
        for name in (*PRESETS, "boards", "easy-vqa", "tsv:FILE", "jsonl:FILE", "gym:NAME", "hf:NAME")
    )
    result = json.loads(run("--json").output)
    assert result["chartqa"]["scorer"] == "relaxed"
    assert set(result["boards"]["options"]) == {"seed", "count", "split", "mix", "look"}


def test_samples_are_shown_exactly_as_they_are_asked(tmp_path):
    (tmp_path / "a.png").write_bytes(png(size=20))
    question = "Which of these is it? " + "It is not easy to say. " * 20
    row = {"question": question, "image": "a.png", "options": ["cat", "dog"], "answer": "dog"}
    shown = run(f"jsonl:{jsonl(tmp_path / 'mine.jsonl', [row])}")
    assert shown.exit_code == 0
    assert question.strip() in shown.output
    assert "A. cat" in shown.output
    assert "Answer with the letter of the option only." in shown.output
    assert "20x20 png" in shown.output
    (sample,) = json.loads(run(f"jsonl:{tmp_path / 'mine.jsonl'}", "--json").output)["samples"]
    assert sample["golds"] == ["B"]
    assert sample["turns"][-1]["text"].startswith(question.strip())


def test_a_check_reads_everything_and_ends_with_2_on_problems(tmp_path):
    good = {"index": 1, "image": "", "image_path": "a.png", "question": "What?", "A": "cat", "B": "dog", "answer": "A"}
    (tmp_path / "a.png").write_bytes(png())
    rows = [good, {**good, "index": 2, "image_path": "gone.png"}, {**good, "index": 1}, {**good, "index": 4, "B": ""}]
    assert run(f"tsv:{tsv(tmp_path / 'Good.tsv', rows[:1])}", "--check").exit_code == 0
    shown = run(f"tsv:{tsv(tmp_path / 'Bad.tsv', rows)}", "--check")
    assert shown.exit_code == 2
    assert "row 2: there is no image gone.png" in shown.output
    assert "row 3: the id '1' stands in row 1 too" in shown.output
    assert "row 4: a choice with 1 options" in shown.output
    result = json.loads(run(f"tsv:{tmp_path / 'Bad.tsv'}", "--check", "--json").output)
    assert result["faults"] == {"missing image": 1, "duplicate id": 1, "cannot be scored": 1}
    assert (result["items"], result["usable"]) == (1, False)


def test_a_file_without_rows_is_not_usable(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("")
    assert run(f"jsonl:{path}", "--check").exit_code == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("jsonl:{}/mine.jsonl", ""),
        ("jsonl:{}/mine.jsonl", "\n  \n"),
        ("jsonl:{}/mine.jsonl,split=test", '{"question": "How many?", "answer": 3, "split": "train"}\n'),
        ("tsv:{}/mine.tsv", "index\tquestion\tanswer\n"),
        ("tsv:{}/mine.tsv", ""),
        ("jsonl:{}/mine.jsonl", "not JSON\n[]\n"),
    ],
)
def test_a_file_without_questions_is_refused_by_eval_before_anything_is_made(tmp_path, name, text):
    spec = name.format(tmp_path)
    (tmp_path / spec.partition(",")[0].rpartition("/")[2]).write_text(text)
    for words in (["tasks", spec], ["eval", spec, "--out", str(tmp_path / "run")]):
        with pytest.raises(BadInput, match=r"has no questions|no column|not JSON"):
            CliRunner().invoke(app, words, catch_exceptions=False)
    assert not (tmp_path / "run").exists()


def test_a_benchmark_that_a_judge_grades_says_so(tmp_path):
    (tmp_path / "1.png").write_bytes(png())
    row = {"question_id": "v1_0", "question": "What is it?", "answer": "a cat", "capability": "rec", "image": "1.png"}
    path = jsonl(tmp_path / "rows.jsonl", [row])
    shown = run(f"mmvet:{path}")
    assert "a judge model grades them" in shown.output
    assert "judged" in shown.output
    checked = run(f"mmvet:{path}", "--check")
    assert (checked.exit_code, "a judge model grades them" in checked.output) == (0, True)
