"""Unparsed replies: listed, and read by a judge; the judge's answers are kept separately."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cuecard.cli.evals.runs import unparsed as command
from cuecard.cli.report import report
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput, ModelRefused
from cuecard.evals import judging as listing
from cuecard.evals import run_folder
from cuecard.evals.judging import Judge, asked, judged_arms
from cuecard.evals.scorers import item_of
from cuecard.models import spec
from cuecard.models.replay import Says, ScriptedModel

sys.path.append(str(Path(__file__).parents[1] / "report"))
import typer
from runs import model, run_directory

UNCLEAR = "It could be red or blue, I cannot decide."


def muttering(name: str) -> ScriptedModel:
    """Right on even questions; its short replies to odd ones cannot be parsed."""

    def says(prompt):
        odd = any(f"Question {number}:" in prompt.turns[-1].text for number in range(1, 12, 2))
        return Says(UNCLEAR if odd and prompt.mode is Mode.SHORT else "A")

    return ScriptedModel(name, says)


@pytest.fixture
def run(tmp_path):
    arms = ("short:small", "short:large", "reason:large")
    return run_directory(tmp_path / "run", arms=arms, small=muttering("tiny"), large=model("huge", {}, 0.001))


def listed(run):
    _, store = run_folder.opened(run)
    try:
        return listing.unparsed(store, listing.read(run, listing.READ)), list(store.answers())
    finally:
        store.close()


def judged(run, judge):
    _, store = run_folder.opened(run)
    known = listing.read(run, listing.READ)
    items = {(each["task"], each["id"]): item_of(each) for each in store.items()}
    try:
        failures = asyncio.run(Judge(judge, "r1").read(listing.unparsed(store, known), items, known.__setitem__))
    finally:
        store.close()
    listing.write(run, listing.READ, known)
    return failures


def test_every_reply_without_an_answer_is_listed_with_its_arms(run):
    replies, _ = listed(run)
    assert [each.id for each in replies] == ["1", "3", "5", "7", "9", "11"]
    assert {(each.reply, each.arms, each.golds, each.judged) for each in replies} == {
        (UNCLEAR, ("short:small",), ("A",), None)
    }


def test_a_judge_is_asked_what_the_reply_says_and_never_what_is_right(run):
    heard = []

    def says(prompt):
        heard.append(prompt.turns[-1].text)
        return Says("A" if len(heard) % 2 else "none")

    assert judged(run, ScriptedModel("judge", says)) == []
    assert UNCLEAR in heard[0]
    assert "A. red" in heard[0]
    replies, answers = listed(run)
    assert [(each.judged.answer, each.judged.score) for each in replies] == [("A", 1.0), (None, 0.0)] * 3
    assert {each.judged.judge for each in replies} == {"judge"}
    (arm,) = judged_arms(answers, replies, "pictured")
    assert (arm.arm, arm.scored, arm.unparsed, arm.judged) == ("short:small", 12, 6, 6)
    assert (arm.read, arm.with_judge) == (pytest.approx(0.5), pytest.approx(0.75))


def test_what_a_judge_reads_is_in_no_score_of_the_run(run):
    judged(run, ScriptedModel("judge", lambda prompt: Says("A")))
    _, answers = listed(run)
    assert sum(answer["score"] for answer in answers if answer["arm"] == "short:small") == 6


def test_a_judges_failed_call_judges_nothing_and_is_counted(run):
    failures = judged(run, ScriptedModel("judge", lambda prompt: Says(error=ModelRefused("no"))))
    assert len(failures) == 6
    replies, _ = listed(run)
    assert all(each.judged is None for each in replies)


def test_a_long_reply_is_judged_by_its_end():
    question = item_of({"text": "Which?", "options": ["red", "blue"], "kind": "choice", "system": None, "golds": ["A"],
                        "id": "1", "scorer": "exact", "cluster": "c", "extra": None}).question  # fmt: skip
    text = asked(question, "x" * 9000 + "the end")
    assert text.endswith("the end")
    assert len(text) < 9000


def test_a_file_of_judgements_that_is_broken_is_one_clear_error(run):
    (run / listing.READ).write_text("{")
    with pytest.raises(BadInput, match=r"judged\.json cannot be read"):
        listing.read(run, listing.READ)


def test_the_command_lists_judges_and_says_that_it_is_kept_apart(run, monkeypatch):
    app = typer.Typer()
    app.command()(command)
    shown = CliRunner().invoke(app, [str(run)])
    assert shown.exit_code == 0, shown.output
    assert "6 replies of 6 answers were not parsed" in shown.output
    monkeypatch.setattr(spec, "load", lambda given, role: ScriptedModel("judge", lambda prompt: Says("A")))
    done = CliRunner().invoke(app, [str(run), "--judge", "demo-large", "--json"])
    assert {each["judged"]["judge"] for each in json.loads(done.stdout)} == {"judge"}
    assert "kept apart" in CliRunner().invoke(app, [str(run)]).output


def test_the_report_lists_them_and_shows_the_judge_apart(run):
    judged(run, ScriptedModel("the judge", lambda prompt: Says("A")))
    app = typer.Typer()
    app.command()(report)
    done = CliRunner().invoke(app, [str(run)])
    assert done.exit_code == 0, done.output
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Replies that were not parsed" in page
    assert "Judged by the judge" in page
    assert "right, with the judge" in page
    assert (run / "tables" / "unparsed.csv").read_text(encoding="utf-8").count("the judge@r1") == 6
