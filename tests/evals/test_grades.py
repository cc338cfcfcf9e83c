"""Open answers graded by a judge: grades are shown with an interval, and kept apart from all scores."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cuecard.cli import LoadedCommands
from cuecard.cli.evals.runs import grade as command
from cuecard.cli.report import report
from cuecard.domain.errors import BadInput, ModelRefused
from cuecard.domain.question import AnswerKind, Question
from cuecard.evals.item import Aggregate, Item
from cuecard.evals.judging import GRADED
from cuecard.models import spec
from cuecard.models.replay import Says, ScriptedModel

sys.path.append(str(Path(__file__).parents[1] / "report"))
import typer
from runs import model, picture, rewritten, run_directory

ARMS = ("short:small", "short:large")


@dataclass(frozen=True)
class OpenQuestions:
    """Questions whose answer has two elements. Category of even ones: `ocr,rec`; of odd ones: `rec`."""

    name: str = "open"
    revision: str = "1"
    count: int = 6
    aggregate: Aggregate = "mean"

    def items(self) -> Iterator[Item]:
        for number in range(self.count):
            image = picture(number)
            asked = Question(f"Question {number}: what is on the sign?", (image,), kind=AnswerKind.FREE_TEXT)
            category = "rec" if number % 2 else "ocr,rec"
            yield Item(str(number), asked, ("a cat<AND>a hat",), "judged", image.digest, category=category)


def cats(name: str, reply: str) -> ScriptedModel:
    return ScriptedModel(name, lambda prompt: Says(reply))


@pytest.fixture
def run(tmp_path):
    small, large = cats("tiny", "a cat"), cats("huge", "a cat in a hat")
    return run_directory(tmp_path / "run", OpenQuestions(), ARMS, small=small, large=large)


def graded(monkeypatch, run, grades, *words, exit_code=0):
    """The command's result with a judge that replies `grades(text)`, and the texts that it was sent."""
    heard = []

    def says(prompt):
        heard.append(prompt.turns[-1].text)
        return grades(heard[-1])

    monkeypatch.setattr(spec, "load", lambda given, role: ScriptedModel("the judge", says))
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, [str(run), "--judge", "demo-large", *words])
    assert done.exit_code == exit_code, done.output
    return done, heard


def halves(text):
    return Says("1.0" if "in a hat" in text else "0.5")


def test_a_judge_is_given_the_right_answer_and_each_arm_gets_a_mean_grade(run, monkeypatch):
    done, heard = graded(monkeypatch, run, halves, "--json")
    assert all("a cat<AND>a hat" in text and "what is on the sign?" in text for text in heard)
    large, small = json.loads(done.stdout)
    assert (small["arm"], small["mean"]["estimate"], small["graded"], small["answered"]) == ("short:small", 0.5, 6, 6)
    assert (large["arm"], large["mean"]["estimate"]) == ("short:large", 1.0)
    assert large["mean"]["low"] < 0.7  # six right answers are no certainty
    assert small["by_category"] == {"ocr": 0.5, "rec": 0.5}


def test_equal_replies_are_graded_once_and_graded_ones_not_again(run, monkeypatch):
    _, heard = graded(monkeypatch, run, halves)
    assert len(heard) == 12  # two replies to each of six questions
    _, heard = graded(monkeypatch, run, halves)
    assert heard == []
    _, heard = graded(monkeypatch, run, halves, "--again")
    assert len(heard) == 12


def test_grades_are_in_no_score_of_the_run_and_the_report_shows_them_apart(run, monkeypatch):
    done, _ = graded(monkeypatch, run, halves)
    assert "graded by the judge: kept apart" in done.output
    app = typer.Typer()
    app.command()(report)
    assert CliRunner().invoke(app, [str(run)]).exit_code == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Open answers, graded by a judge" in page
    assert "50.0%" in page
    assert (run / "tables" / "graded.csv").read_text(encoding="utf-8").count("the judge@") == 12
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["tasks"]["open"]["arms"]["short:small"]["accuracy"] is None


@pytest.mark.parametrize("says", [Says("7"), Says("good"), Says(error=ModelRefused("no"))])
def test_what_is_no_grade_from_0_to_1_grades_nothing_and_is_counted(run, monkeypatch, says):
    done, _ = graded(monkeypatch, run, lambda text: says if "in a hat" in text else Says("0.5"))
    assert "6 of 12 replies could not be judged" in done.output
    kept = json.loads((run / GRADED).read_text(encoding="utf-8"))["replies"]
    assert len(kept) == 6


def test_a_judge_that_grades_no_reply_ends_the_command_with_an_error(run, monkeypatch):
    done, _ = graded(monkeypatch, run, lambda text: Says("good"), exit_code=1)
    assert "no reply is graded" in done.output


def test_failed_answers_have_no_grade_and_are_counted(run, monkeypatch):
    def fail(record):
        if record["arm"] == "short:small" and record["id"] == "0":
            record |= {"status": "error", "reply": None, "score": None}

    rewritten(run, fail)
    done, _ = graded(monkeypatch, run, halves, "--json")
    _, small = json.loads(done.stdout)
    assert (small["answered"], small["failed"], small["graded"]) == (5, 1, 5)


def test_a_run_without_open_questions_names_what_to_do(tmp_path, monkeypatch):
    run = run_directory(tmp_path / "run", arms=ARMS, small=model("tiny", {}, 0.001), large=model("huge", {}, 0.001))
    app = typer.Typer()
    app.command()(command)
    with pytest.raises(BadInput, match="no replies to open questions"):
        CliRunner().invoke(app, [str(run), "--judge", "demo-large"], catch_exceptions=False)
    done, heard = graded(monkeypatch, run, lambda text: Says("1"), "--task", "pictured")
    assert len(heard) == 12
    assert "100.0%" in done.output


def test_the_command_is_listed():
    assert "grade" in LoadedCommands()


def test_an_item_may_have_several_right_answers():
    from cuecard.evals.judging import asked_to_grade

    item = next(OpenQuestions().items())
    text = asked_to_grade(replace(item, golds=("a cat", "a kitten")).question, ("a cat", "a kitten"), "kitten")
    assert "a cat <OR> a kitten" in text
