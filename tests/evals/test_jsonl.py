"""A user's own question sets: JSONL and a folder of images."""

from __future__ import annotations

import pytest
from files import jsonl, png

from cuecard.cli.evals.tasks import check
from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind
from cuecard.evals.tasks.registry import open_task


def items_of(path, options=""):
    return list(open_task(f"jsonl:{path}" if not options else f"jsonl:path={path},{options}").items())


def test_a_line_is_a_question_with_its_images_beside_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(png("red"))
    (tmp_path / "b.png").write_bytes(png("blue"))
    path = jsonl(
        tmp_path / "mine.jsonl",
        [
            {"id": "x", "question": "Which?", "image": "a.png", "options": ["red", "blue"], "answer": "red"},
            {"question": "How many signs are there?", "images": ["a.png", "b.png"], "answer": 2, "category": "signs"},
            {"question": "Name it.", "answer": ["a sign", "sign"], "kind": "short_text", "scorer": "anls"},
            {"question": "Describe it.", "metadata": {"anything": [1]}},
        ],
    )
    choice, number, text, free = items_of(path)
    assert (choice.id, choice.question.kind, choice.golds) == ("x", AnswerKind.CHOICE, ("A",))
    assert (number.id, number.question.kind, number.golds, number.category) == ("2", AnswerKind.NUMBER, ("2",), "signs")
    assert [image.data for image in number.question.images] == [png("red"), png("blue")]
    assert (text.golds, text.scorer) == (("a sign", "sign"), "anls")
    assert (free.question.kind, free.golds) == (AnswerKind.FREE_TEXT, ())


def test_ids_and_a_single_option_are_taken_as_they_stand(tmp_path):
    row = {"id": " q ", "question": "Which?", "options": "red", "answer": "red", "kind": "short_text"}
    (item,) = items_of(jsonl(tmp_path / "mine.jsonl", [row]))
    assert (item.id, item.question.options) == (" q ", ("red",))


def test_images_may_lie_in_another_folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png())
    path = jsonl(tmp_path / "mine.jsonl", [{"question": "Is it red?", "image": "a.png", "answer": "Yes"}])
    (item,) = items_of(path, f"images={tmp_path / 'pictures'}")
    assert (item.question.images[0].data, item.golds) == (png(), ("yes",))


def test_groups_make_a_task_circular_and_questions_about_groups_do_not(tmp_path):
    grouped = jsonl(tmp_path / "a.jsonl", [{"question": "Why?", "group": "g"}])
    plain = jsonl(tmp_path / "b.jsonl", [{"question": 'What is a "group"?'}])
    assert open_task(f"jsonl:{grouped}").aggregate == "circular"
    assert open_task(f"jsonl:{plain}").aggregate == "mean"


@pytest.mark.parametrize(
    ("line", "result", "hint"),
    [
        ("{", "it is not JSON", "one JSON object a line"),
        ("[1]", "it is not a JSON object", "one JSON object a line"),
        ('{"question": "Why?", "anwser": "x"}', "unknown key 'anwser'", "did you mean 'answer'?"),
        ('{"answer": "x"}', "there is no question", "question"),
        ('{"question": "Why?", "kind": "yesno"}', "unknown kind 'yesno'", "yes_no"),
        ('{"question": "Why?", "scorer": "exakt"}', "there is no scorer 'exakt'", "exact"),
        ('{"question": "Why?", "image": "no.png"}', "there is no image no.png", "looked for"),
        ('{"question": "Why?", "images": [3]}', "there is no image 3", "looked for"),
        ('{"question": "Why?", "options": ["a", "b"], "answer": "c"}', "none of the options A, B", "letter"),
        ('{"question": "Is it?", "answer": "perhaps"}', "'perhaps' is not yes or no", "yes or no"),
        ('{"question": "\\ud800?"}', "half a character", "UTF-8"),
        ('{"question": ["Why?"]}', "'question' is not a text", "text"),
        ('{"question": "Why?", "id": "1"}', "the id '1' stands in row 1 too", "an id of its own"),
    ],
)
def test_a_bad_line_is_refused_with_its_number_and_a_hint(tmp_path, line, result, hint):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "Why?"}\n\n' + line + "\n")
    with pytest.raises(BadInput) as caught:
        items_of(path)
    assert "row 3: " in str(caught.value)
    assert result in str(caught.value)
    assert hint in caught.value.hint


def test_a_check_continues_after_a_bad_line_and_counts(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "Why?"}\n{\n{"question": "Why?", "image": "no.png"}\n{"question": "Why?"}\n')
    result = check(open_task(f"jsonl:{path}"))
    assert (result.items, result.unscored, result.repeated) == (2, 2, 1)
    assert result.faults == {"malformed": 1, "missing image": 1}
    assert [flaw.row for flaw in result.flaws] == [2, 3]
    assert not result.usable
