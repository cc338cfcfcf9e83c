"""The published rules of benchmarks, on cases worked by hand; each test names the source of its rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
from files import item

from cuecard.evals import published
from cuecard.evals.scorers import score, scores

COLOURS = ("a red rose", "a green leaf", "a blue sky")


@pytest.mark.parametrize(("people", "value"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_an_answer_that_three_of_ten_people_gave_is_right_nine_times_in_ten(people, value):
    """visualqa.org/evaluation: the mean of min(matches / 3, 1) over the ten sets of nine."""
    golds = ["dakota"] * people + [f"other {number}" for number in range(10 - people)]
    assert published.vqa_accuracy("Dakota", golds) == pytest.approx(value)
    assert score("dakota", item("short_text", *golds, scorer="vqa")) == pytest.approx(value)


def test_people_who_gave_no_answer_count_among_the_ten():
    assert published.vqa_accuracy("stop", ["stop"] * 3 + [""] * 7) == pytest.approx(0.9)


def test_one_right_answer_alone_is_compared_as_such():
    assert (published.vqa_accuracy("Stop.", ["stop"]), published.vqa_accuracy("go", ["stop"])) == (1, 0)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The Two dogs!", "2 dogs"),
        ("none", "0"),
        ("1,000", "1000"),
        ("3.5.", "3.5"),
        ("7 p.m.", "7 pm"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("john's", "john 's"),
        ("half-time", "half time"),
        ("half - time", "half time"),
        ("12/05", "12 05"),
        ("(left)", "left"),
        ("an  apple\nand a pear", "apple and pear"),
    ],
)
def test_answers_are_normalised_as_the_vqa_server_does(text, normalised):
    """VQA's `vqaEval.py`: punctuation, number words, articles, contractions."""
    assert published.vqa_normalised(text) == normalised


@pytest.mark.parametrize(
    ("reply", "golds", "without_spaces", "value"),
    [
        ("The sign says CENTRE.", ("centre",), False, True),
        ("the\ncentre", ("The Centre",), False, True),
        ("cent re", ("centre",), False, False),
        (r"$a^{2}$", ("a ^ { 2 }",), True, True),
        (r"$A^{2}$", ("a ^ { 2 }",), True, False),
        ("31 December", ("30 December", "31 December"), False, True),
    ],
)
def test_ocrbench_wants_the_answer_within_the_reply(reply, golds, without_spaces, value):
    """OCRBench's `example.py`: lower case, line breaks as spaces; HME100k: original case, without spaces."""
    assert published.contained(reply, golds, without_spaces) is value


def test_ocrbench_reads_the_whole_reply_by_every_extractor():
    asked = item("short_text", "a ^ { 2 }", scorer="ocrbench", extra='{"without_spaces": true}')
    assert set(scores("I see two lines:\n\n$a^{2}$\nand more.", asked).values()) == {1.0}


@pytest.mark.parametrize(
    ("reply", "gold", "value"),
    [
        ("So the ratio is 24/7.", "24/7", True),
        ("The answer is 3.43", "3.429", True),
        ("The answer is 3.42", "3.429", False),
        ("Profit = 1250", "1,250", True),
        ("The cause is a mutation of DNA.", "Mutation", True),
        ("mutation", "mutation of DNA", False),
        ("It is b", "B", True),
        ("It is about", "B", False),
        ("x = 5\nso y = 7", "5", False),
        ("x = 5\nso y = 7", "7", True),
        ("1.2e3", "1200", True),
        ("", "7", False),
    ],
)
def test_mmmus_open_answers_are_looked_for_behind_is_so_answer_and_the_last_equals_sign(reply, gold, value):
    """MMMU's `eval_utils.py`: `parse_open_response` and `eval_open`."""
    assert published.mmmu_open(reply, [gold]) is value


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("The answer is B.", "B"),
        ("(A) is wrong, so it is (C)", "C"),
        ("A or maybe B then", "B"),
        ("What I see in it is a green leaf", "B"),
        ("It is the sky", None),
        ("Banana", None),
    ],
)
def test_mmmus_choices_are_the_last_letter_in_brackets_else_alone_else_the_option_itself(reply, letter):
    """MMMU's `parse_multi_choice_response`, except the random option that it returns if it finds none."""
    assert published.mmmu_letter(reply, COLOURS) == letter


def test_mmmus_own_reading_is_a_scorer():
    chosen = item("choice", "C", options=COLOURS, scorer="mmmu")
    assert set(scores("First I thought of (A), but then of (C) because of (B).", chosen).values()) == {0.0}
    assert scores("not a letter", chosen) == dict.fromkeys(scores("", chosen), 0.0)
    open_ended = item("short_text", "24/7", "3.429", scorer="mmmu")
    assert set(scores("Sales over stock.\nSo it is 3.43", open_ended).values()) == {1.0}


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("No, there is none.", "no"),
        ("There is no dog. Yes.", "no"),
        ("Yes, and it is not alone.", "no"),
        ("Yes.", "yes"),
        ("Nope", "yes"),
        ("I cannot say", "yes"),
        ("no.", "no"),
    ],
)
def test_pope_takes_every_reply_for_a_yes_whose_first_sentence_has_no_no(reply, answer):
    """POPE's `evaluate.py`."""
    assert published.pope_reading(reply) == answer
    assert set(scores(reply, item("yes_no", "yes", scorer="pope")).values()) == {float(answer == "yes")}


@pytest.mark.parametrize(
    ("reply", "answer"), [("Yes, it is.", "yes"), ("NO", "no"), (" yes", "yes"), ("Nothing", "no"), ("It is no", None)]
)
def test_mme_reads_the_first_four_characters(reply, answer):
    """MME's `calculation.py`: `parse_pred_ans`."""
    assert published.mme_reading(reply) == answer
    assert set(scores(reply, item("yes_no", "no", scorer="mme")).values()) == {float(answer == "no")}


@pytest.mark.parametrize(
    ("question", "gold", "asks"),
    [
        ("In which year was it highest?", "2010", True),
        ("When did sales begin to fall?", "1998", True),
        ("What is the value in the year 2010?", "1500", False),
        ("How many people a year are there?", "2000", False),
        ("In which year was it highest?", "20100", False),
        ("Which bar is highest?", "2010", False),
    ],
)
def test_a_question_that_wants_a_year_is_known_by_its_words_and_its_answer(question, gold, asks):
    assert published.asks_for_year(question, gold) is asks


@pytest.mark.parametrize(
    ("answer", "relaxed", "strict"), [("2010", 1, 1), ("2010.", 1, 1), ("2011", 1, 0), ("about 2010", 0, 0)]
)
def test_years_are_right_to_the_year_or_by_five_percent(answer, relaxed, strict):
    """ChartQAPro's `evaluate_predictions.py` compares years exactly; ChartQA's rule takes 2011 for 2010."""
    asked = item("short_text", "2010", scorer="relaxed")
    asked = replace(asked, question=replace(asked.question, text="In which year was it highest?"))
    assert score(answer, asked) == relaxed
    assert score(answer, replace(asked, scorer="relaxed_years")) == strict
    amount = replace(asked, question=replace(asked.question, text="How high is it?"), scorer="relaxed_years")
    assert score(answer, amount) == relaxed


def test_what_a_judge_grades_has_no_score():
    assert set(scores("x = -1 or x = -5", item("free_text", "-1<AND>-5", scorer="judged")).values()) == {None}
    assert score(None, item("free_text", "-1<AND>-5", scorer="judged")) is None
