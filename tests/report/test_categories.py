"""POPE's five figures and groups of rotations, over all questions and by category, in the summary and on the page."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from runs import Pictured, picture, run_directory
from typer.testing import CliRunner

from cuecard.cli import app
from cuecard.domain.call import Mode
from cuecard.domain.question import AnswerKind, Question
from cuecard.evals.item import Item
from cuecard.models.replay import Says, ScriptedModel
from cuecard.report.evaluation.report import benchmark_figures

CATEGORIES = ("random", "popular", "adversarial")
GOLDS = ("yes", "no")


@dataclass(frozen=True)
class Popes:
    """Four questions of each category; the gold answers alternate between yes and no."""

    count: int = 12
    name: str = "popes"
    revision: str = "1"
    aggregate: str = "pope"

    def items(self) -> Iterator[Item]:
        for number in range(self.count):
            asked = Question(f"Is there a dog in image {number}?", (picture(number),), kind=AnswerKind.YES_NO)
            yield Item(str(number), asked, (GOLDS[number % 2],), "exact", str(number), category=CATEGORIES[number // 4])


def says(prompt):
    """Right on the random ones; yes to all popular ones, in a sentence; no yes or no on the others."""
    number = int(prompt.turns[-1].text.split("image ")[1].split("?")[0])
    reasoning = "I look." if prompt.mode is Mode.REASON else ""
    return Says((GOLDS[number % 2], "Yes, there is a dog.", "a cat")[number // 4], reasoning, confidence_logprob=-0.1)


def reported(run):
    done = CliRunner().invoke(app, ["report", str(run)])
    assert done.exit_code == 0, done.output or done.exception
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return summary, (run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def popes(tmp_path_factory):
    models = {role: ScriptedModel(role, says) for role in ("small", "large")}
    run = run_directory(tmp_path_factory.mktemp("popes") / "run", Popes(), ("short:large", "mutual"), **models)
    return run, *reported(run)


def test_popes_five_figures_cover_all_questions_and_each_category(popes):
    _, summary, _ = popes
    arm = summary["tasks"]["popes"]["arms"]["short:large"]
    names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
    found = {name: [part["pope"][each] for each in names] for name, part in {**arm["by_category"], "all": arm}.items()}
    assert found["random"] == [1, 1, 1, 1, 0.5]
    assert found["popular"] == [0.5, 0.5, 1, pytest.approx(2 / 3), 1]
    assert found["adversarial"] == [0, None, 0, None, 0]
    assert found["all"] == [0.5, pytest.approx(4 / 6), pytest.approx(4 / 6), pytest.approx(4 / 6), 0.5]


def test_the_page_and_a_table_show_them(popes):
    run, summary, page = popes
    rows = benchmark_figures("pope", {"short:large": summary["tasks"]["popes"]["arms"]["short:large"]})
    assert list(rows[0])[3:] == ["accuracy", "precision", "recall", "f1", "yes ratio"]
    assert [row["questions"] for row in rows] == ["all", *sorted(CATEGORIES)]
    assert "By category" in page
    assert "yes ratio" in page
    with (run / "tables" / "categories.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * len(CATEGORIES)
    assert {line["yes_ratio"] for line in lines if line["category"] == "random"} == {"0.5"}


@dataclass(frozen=True)
class Rotated(Pictured):
    """Six groups of two rotations; the first three have one category, the others another."""

    aggregate: str = "circular"
    rotations: bool = True

    def items(self) -> Iterator[Item]:
        for item in super().items():
            name = "colours" if int(item.id) < 6 else "shapes"
            yield Item(item.id, item.question, item.golds, item.scorer, item.cluster, item.group, name)


def test_under_circular_evaluation_a_category_counts_groups_that_are_wholly_right(tmp_path):
    summary, page = reported(run_directory(tmp_path / "run", Rotated(), ("short:large",)))  # wrong on questions 0 to 3
    arm = summary["tasks"]["pictured"]["arms"]["short:large"]
    assert arm["circular"] == {"groups": 6, "accuracy": pytest.approx(4 / 6)}
    assert arm["by_category"]["colours"]["circular"] == {"groups": 3, "accuracy": pytest.approx(1 / 3)}
    assert arm["by_category"]["colours"]["accuracy"] == pytest.approx(2 / 6)
    assert arm["by_category"]["shapes"]["circular"] == {"groups": 3, "accuracy": 1}
    assert "by group of rotations" in page


@dataclass(frozen=True)
class Pairs(Popes):
    """Two questions about each of six images. Answered right: images 0 and 1 both, 2 and 3 one each, 4 and 5 none."""

    aggregate: str = "mme"

    def items(self) -> Iterator[Item]:
        for item in super().items():
            name = "color" if int(item.id) < 8 else "code_reasoning"
            pair = str(int(item.id) // 2)
            yield Item(item.id, item.question, item.golds, item.scorer, item.cluster, pair, name)


def test_mmes_points_stand_in_the_summary_and_on_the_page(tmp_path):
    run = run_directory(tmp_path / "run", Pairs(), ("short:large",), large=ScriptedModel("large", says))
    summary, page = reported(run)
    arm = summary["tasks"]["popes"]["arms"]["short:large"]
    # color: both questions right for images 0 and 1, one each for 2 and 3: 75 + 50; code_reasoning: 0
    assert arm["mme"] == {"accuracy_plus": pytest.approx(2 / 6), "perception": 125, "cognition": 0, "total": 125}
    assert arm["by_category"]["color"]["mme"]["accuracy_plus"] == 0.5
    rows = benchmark_figures("mme", summary["tasks"]["popes"]["arms"])
    assert (rows[0]["accuracy plus"], rows[0]["perception"]) == ("33.3%", "125.0")
    assert "points are 200 a task at most" in page
    with (run / "tables" / "categories.csv").open(encoding="utf-8", newline="") as file:
        assert [line["perception"] for line in csv.DictReader(file)] == ["", "125.0"]


def test_figures_over_categories_stand_beside_the_categories(tmp_path):
    @dataclass(frozen=True)
    class Tasks(Pairs):
        aggregate: str = "blink"

    run = run_directory(tmp_path / "run", Tasks(), ("short:large",), large=ScriptedModel("large", says))
    summary, page = reported(run)
    arm = summary["tasks"]["popes"]["arms"]["short:large"]
    assert arm["blink"] == {"mean_of_tasks": pytest.approx((6 / 8 + 0) / 2)}
    assert "blink" not in arm["by_category"]["color"]
    assert benchmark_figures("blink", summary["tasks"]["popes"]["arms"]) == [
        {"arm": "short:large", "mean of tasks": "37.5%"}
    ]
    assert page.index("mean of its tasks") < page.index("Right in each category")
