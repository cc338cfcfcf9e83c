"""Every scorer gives the same score as the benchmark's authors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from files import item

from cuecard import answers
from cuecard.evals import scorers
from cuecard.evals.analysis.scores import ScoredTask, pope, sensitivity
from cuecard.evals.scorers import option_meant, score, scores

COLOURS = ("red", "green", "blue")


def mathvista_item(kind: str, gold: str, answer_type: str, precision: int = 0):
    extra = json.dumps({"answer_type": answer_type, "precision": precision})
    return item(kind, gold, scorer="mathvista", extra=extra)


@pytest.mark.parametrize(
    ("message", "asked", "value"),
    [
        ("B", item("choice", "B", options=COLOURS), 1),
        ("A", item("choice", "B", options=COLOURS), 0),
        ("B", item("choice", "green", options=COLOURS), 1),
        ("yes", item("yes_no", "yes"), 1),
        ("no", item("yes_no", "yes"), 0),
        ("The Red one", item("short_text", "red one"), 1),
        ("two", item("number", "2"), 1),
        ("20", item("number", "21"), 0),
        ("2021-05-12", item("short_text", "12 May 2021"), 1),
        ("blue", item("short_text", "red", "blue"), 1),
    ],
)
def test_exact_is_the_same_option_word_number_or_date(message, asked, value):
    assert score(message, asked) == value


@pytest.mark.parametrize(
    ("message", "gold", "value"),
    [
        ("104", "100", 1),
        ("105", "100", 1),
        ("106", "100", 0),
        ("95", "100", 1),
        ("45%", "0.45", 1),
        ("45%", "45", 0),
        ("0", "0", 1),
        ("0.01", "0", 0),
        ("Germany", "germany", 1),
        ("Germany.", "germany", 0),
        ("about 100", "100", 0),
        ("-3", "3", 0),
        ("1,250", "1250", 1),
        ("$1,250", "1250", 1),
        ("1,25", "125", 0),
    ],
)
def test_relaxed_accuracy_is_chartqas_with_its_edges(message, gold, value):
    assert score(message, item("short_text", gold, scorer="relaxed")) == value


def test_anls_is_nothing_from_half_the_distance_on_and_takes_the_nearest_gold():
    asked = item("short_text", "coca cola", "coke", scorer="anls")
    assert score("Coke", asked) == 1
    assert score("coca kola", asked) == pytest.approx(8 / 9)
    assert score("cola", asked) == pytest.approx(0.0, abs=1)
    assert score("lemonade", asked) == 0


@pytest.mark.parametrize(
    ("message", "asked", "value"),
    [
        ("14", mathvista_item("number", "14", "integer"), 1),
        ("14.0", mathvista_item("number", "14", "integer"), 1),
        ("fourteen", mathvista_item("number", "14", "integer"), 1),
        ("15", mathvista_item("number", "14", "integer"), 0),
        ("1.39999", mathvista_item("number", "1.4", "float", 1), 1),
        ("1.44", mathvista_item("number", "1.4", "float", 1), 1),
        ("1.45", mathvista_item("number", "1.45", "float", 2), 1),
        ("1.5", mathvista_item("number", "1.4", "float", 1), 0),
        ("[2007, 2008]", mathvista_item("short_text", "[2007, 2008]", "list"), 1),
        ("2007 and 2008", mathvista_item("short_text", "[2007, 2008]", "list"), 1),
        ("[2008, 2007]", mathvista_item("short_text", "[2007, 2008]", "list"), 0),
        ("a lot", mathvista_item("number", "14", "integer"), 0),
    ],
)
def test_mathvista_compares_by_the_type_of_answer_and_numbers_as_numbers(message, asked, value):
    assert score(message, asked) == value


def test_maths_takes_another_spelling_of_the_same_expression():
    asked = item("maths", r"\frac{1}{2}", scorer="maths")
    assert score("0.5", asked) == 1
    assert score(r"$\frac{2}{4}$", asked) == 1
    assert score("2x", item("maths", "x+x", scorer="maths")) == 1
    assert score("0.4", asked) == 0


def test_an_answer_not_found_is_wrong_and_an_unknown_gold_gives_no_score():
    assert score(None, item("yes_no", "yes")) == 0
    assert score("yes", item("yes_no")) is None


def test_a_gold_that_is_a_letter_goes_before_an_option_of_that_name():
    asked = item("choice", "A", options=("B", "A")).question
    assert option_meant("A", asked) == "A"
    assert option_meant("c", asked) is None


def test_a_circular_group_counts_only_when_all_of_its_rotations_are_right():
    scored = [("1", 1.0), ("2", 1.0), ("1", 1.0), ("2", 0.0), ("3", 0.5)]
    items = {str(place): {"group": group} for place, (group, _) in enumerate(scored)}
    answers = [{"id": str(place), "score": score} for place, (_, score) in enumerate(scored)]
    graded = ScoredTask("rotated", "circular", items, {}, {}).graded(answers)
    assert graded == {"group 1": 1.0, "group 2": 0.0, "group 3": 0.0}


def test_popes_figures_are_those_of_the_confusion_table():
    # 3 true positives, 1 false positive, 1 false negative, 4 true negatives, 1 unparsed with gold yes
    message = [*[("yes", "yes")] * 3, ("yes", "no"), ("no", "yes"), *[("no", "no")] * 4, (None, "yes")]
    f1 = pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert pope(message) == {"accuracy": 0.7, "precision": 0.75, "recall": 0.6, "f1": f1, "yes_ratio": 0.4}


def test_popes_figures_are_unknown_where_there_is_nothing_to_divide_by():
    none = {"precision": None, "recall": None, "f1": None}
    assert pope([("no", "no")]) == {"accuracy": 1.0, **none, "yes_ratio": 0.0}
    assert pope([("yes", "no"), ("no", "yes")])["f1"] == 0.0


def test_the_same_replies_span_an_interval_over_extractors():
    asked = item("choice", "D", options=("a red apple", "a banana", "clouds", "a dog"))
    replies = ["D", "The answer is clearly D because A, B and C are wrong.", "The final answer is D."]
    result = sensitivity([scores(reply, asked) for reply in replies])
    assert result["by_extractor"] == pytest.approx({"strict": 1 / 3, "vlmevalkit": 2 / 3, "ours": 1.0})
    assert (result["low"], result["high"]) == (result["by_extractor"]["strict"], 1.0)


def test_without_known_answers_there_is_no_interval():
    assert sensitivity([scores("yes", item("yes_no"))]) == {}


def test_the_version_of_scores_changes_with_the_tables_of_words(tmp_path, monkeypatch):
    before, copied = scorers.version(), tmp_path / "answers"
    shutil.copytree(Path(answers.__file__).parent, copied)
    monkeypatch.setattr(answers, "__file__", str(copied / "__init__.py"))
    assert scorers.version.__wrapped__() == before
    (copied / "text" / "languages.toml").write_text("dozen = 13")
    assert scorers.version.__wrapped__() != before
