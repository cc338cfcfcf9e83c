"""Figures besides the mean, for scores that can be worked out by hand."""

from __future__ import annotations

import json

import pytest

from cuecard.evals.analysis.scores import AGGREGATES, ScoredReply


def figures(name, *scored):
    """Figures of the aggregate `name` for replies (category, score, further fields of the item)."""
    replies = [
        ScoredReply({"category": category, "group": None, "extra": None, **more}, "", float(score))
        for category, score, more in scored
    ]
    rule = AGGREGATES[name]
    result = rule.compute(replies)
    assert tuple(result) == rule.figures
    return result


def pair(category, image, *scores):
    return [(category, score, {"group": image}) for score in scores]


def test_mmes_points_are_accuracy_and_accuracy_plus_of_each_task_added_up():
    result = figures(
        "mme",
        *pair("color", "1", 1, 1),  # color: 75 + 50
        *pair("color", "2", 1, 0),
        *pair("code_reasoning", "1", 1, 1),  # 100 + 100
        *pair("existence", "1", 1),  # the image's other question was not answered
    )
    assert result == {"accuracy_plus": pytest.approx(2 / 3), "perception": 125, "cognition": 200, "total": 325}


def test_without_cognition_there_are_no_points_of_it():
    assert figures("mme", *pair("color", "1", 0, 0)) == {
        "accuracy_plus": 0,
        "perception": 0,
        "cognition": None,
        "total": 0,
    }


def at(score, figure, question):
    where = {"figure": None if figure is None else f"VD_0_{figure}", "question": f"VD_0_{question}"}
    return "VD", score, {"extra": json.dumps(where)}


def test_hallusionbenchs_figures_and_questions_count_when_they_are_wholly_right():
    result = figures("hallusion", at(1, 0, 0), at(1, 0, 1), at(1, 1, 0), at(0, 1, 1))
    assert result == {"aAcc": 0.75, "fAcc": 0.5, "qAcc": 0.5}


def test_a_question_without_a_figure_counts_for_its_question_only():
    assert figures("hallusion", at(1, 1, 0), at(0, None, 0)) == {"aAcc": 0.5, "fAcc": 1, "qAcc": 0}


def test_blinks_tasks_weigh_alike_however_many_questions_they_have():
    assert figures("blink", ("Counting", 1, {}), ("Counting", 1, {}), ("Jigsaw", 0, {})) == {"mean_of_tasks": 0.5}


def source(name, *scores):
    return [("Count", score, {"extra": json.dumps({"source": name})}) for score in scores]


def test_cv_benchs_score_is_the_mean_of_two_dimensions_and_three():
    result = figures("cv-bench", *source("ADE20K", 1, 0), *source("COCO", 1), *source("Omni3D", 0, 0, 1))
    assert result == {"two_d": 0.75, "three_d": pytest.approx(1 / 3), "mean": pytest.approx((0.75 + 1 / 3) / 2)}
    assert figures("cv-bench", *source("COCO", 1)) == {"two_d": 1, "three_d": None, "mean": None}


def test_vmcbenchs_groups_are_means_over_sets_and_mmmus_over_questions():
    sets = [("TextVQA", 1, {}), ("TextVQA", 1, {}), ("TextVQA", 0, {}), ("OCRVQA", 0, {})]
    assert figures("vmcbench", *sets)["ocr"] == pytest.approx(1 / 3)
    subjects = [("Accounting", 1, {}), ("Accounting", 1, {}), ("Accounting", 1, {}), ("Finance", 0, {})]
    result = figures("mmmu", *subjects)
    assert (result["business"], result["science"]) == (0.75, None)


def test_ocrbenchs_six_kinds_of_text_make_up_its_recognition():
    kinds = [("Handwriting Recognition", 0, {}), ("Digit String Recognition", 1, {}), ("Doc-oriented VQA", 1, {})]
    result = figures("ocrbench", *kinds)
    assert (result["text_recognition"], result["document_vqa"], result["scene_vqa"]) == (0.5, 1, None)


def test_of_no_answers_no_figure_is_known():
    for name in AGGREGATES:
        assert set(figures(name).values()) == {None}
