"""Score stored replies again: no call is made, changes are listed, and a run not yet rescored is reported as stale."""

from __future__ import annotations

import pytest
from laboratory import LARGE, Laboratory, says

from cuecard.domain.call import Mode
from cuecard.evals import scorers
from cuecard.evals.analysis.summary import summary
from cuecard.evals.database import AnswerRow
from cuecard.evals.scorers import NOT_KNOWN, rescored
from cuecard.models.replay import ScriptedModel


@pytest.fixture
def laboratory(tmp_path):
    large = ScriptedModel("large", says({**LARGE, Mode.SHORT: "It might be A"}))
    made = Laboratory(tmp_path, large=large)
    made.run()
    return made


def result(laboratory):
    store = laboratory.store()
    try:
        return summary(laboratory.config, store)
    finally:
        store.close()


def again(laboratory):
    store = laboratory.store()
    try:
        found, rows = rescored(store)
        store.replace(rows)
        return found, rows
    finally:
        store.close()


def test_scoring_again_with_the_same_scorers_changes_nothing(laboratory):
    before = laboratory.answers()
    found, rows = again(laboratory)
    assert (found.changed, rows) == ((), [])
    assert found.earlier == {scorers.version(): len(before)}
    assert laboratory.answers() == before


def test_another_extractor_changes_scores_and_answers_and_nothing_else(laboratory, monkeypatch):
    before = laboratory.answers()
    monkeypatch.setitem(scorers.EXTRACTORS, "strict", lambda reply, question: "A")
    monkeypatch.setattr(scorers, "version", lambda: "newer")
    assert result(laboratory)["scorer"]["stale"] == {before["0", "mutual"]["scorer"]: len(before)}
    found, rows = again(laboratory)
    assert {each.arm for each in found.changed} >= {"short:small", "short:large"}
    assert {each.extractors for each in found.changed} == {("strict",)}
    assert len(rows) == len(before)  # unchanged answers have the new version, too
    after = laboratory.answers()
    assert result(laboratory)["scorer"] == {"version": "newer", "stale": {}}
    changing = {"answer", "parsed", "score", "scores", "scorer"}
    for key, answer in before.items():
        assert {name for name in answer if answer[name] != after[key][name]} <= changing
        assert after[key]["scores"]["strict"] == 1


def test_the_score_is_that_of_our_own_extractor(laboratory, monkeypatch):
    monkeypatch.setitem(scorers.EXTRACTORS, "ours", lambda reply, question: "B")
    found, _ = again(laboratory)
    assert {each.scores for each in found.changed} >= {(1.0, 0.0)}
    assert laboratory.answers()["0", "reason:large"]["score"] == 0


def test_an_answer_from_before_scorers_had_versions_counts_as_stale(laboratory):
    store = laboratory.store()
    answers = [{name: value for name, value in each.items() if name != "scorer"} for each in store.answers()]
    store.replace([AnswerRow(each["task"], each["id"], each["arm"], each) for each in answers])
    store.close()
    assert result(laboratory)["scorer"]["stale"] == {NOT_KNOWN: len(answers)}
    again(laboratory)
    assert result(laboratory)["scorer"]["stale"] == {}


def test_rows_that_were_replaced_have_their_checksum(laboratory, monkeypatch):
    monkeypatch.setattr(scorers, "version", lambda: "newer")
    again(laboratory)
    store = laboratory.store()
    mended = store.mend()
    store.close()
    assert (mended.calls, mended.answers) == (0, 0)
