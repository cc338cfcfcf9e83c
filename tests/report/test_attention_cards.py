"""Cut cards in a report: each compared with the whole card, and a figure of accuracy by the share of words kept."""

from __future__ import annotations

import ablation
import ablation_figures
import pytest
from runs import run_directory

from cuecard.evals import run_folder
from cuecard.evals.analysis.results import run_results
from cuecard.report.evaluation.figures import cut_cards, kept

CUTS = [f"transfer/keep={keep}/select={select}" for keep in ("0.2", "0.6") for select in ("last", "first")]
ARMS = ("short:large", "reason:large", "transfer", "mutual", *CUTS, "mutual/keep=0.2/select=last")
ODD = ("transfer/keep=0.6/select=last/placebo=wrong", "transfer/keep=0.6/select=last/ending=removed")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = run_directory(tmp_path_factory.mktemp("cuts") / "run", arms=(*ARMS, *ODD))
    about, store = run_folder.opened(path)
    try:
        return run_results(about["config"], store).tasks[0]
    finally:
        store.close()


def test_a_cut_card_is_compared_with_the_same_arm_with_the_whole_card(task):
    cuts = {each.arm: each.against for each in task.differences if each.family == "cuts"}
    assert cuts == {**dict.fromkeys((*CUTS, ODD[1]), "transfer"), "mutual/keep=0.2/select=last": "mutual"}
    assert task.difference(CUTS[0], "cuts").pairs == 12


def test_the_figure_shows_each_share_and_says_which_arm_it_is_of(task):
    [drawn] = cut_cards(task)
    assert "accuracy of transfer by the share" in drawn.caption
    assert "20% of the card by last 91.7%" in drawn.svg
    assert len(kept(task)) == len(CUTS) + 2


def test_without_cuts_there_is_no_figure(task, tmp_path):
    path = run_directory(tmp_path / "run", arms=ARMS[:4])
    about, store = run_folder.opened(path)
    try:
        assert cut_cards(run_results(about["config"], store).tasks[0]) == []
    finally:
        store.close()


def test_what_masking_did_is_drawn_with_what_nothing_of_the_card_leaves():
    figures = [[[1.0, -0.1], [0.0, -2.0]]] * len(ablation.CHOICES)
    record = {
        "cluster": "a",
        "whole": [1.0, -0.1],
        "nothing": [0.0, -2.0],
        "masked": [figures] * len(ablation.MASKED_SHARES),
    }
    rows = ablation.masking_table([record, record | {"cluster": "b"}, {"cluster": "c", "skipped": "no reasoning"}])
    drawn = ablation_figures.masking(rows, "two questions")
    assert rows[0] == rows[0] | {"tokens": "none of it", "unchanged": 0.0, "questions": 2}
    assert "key 5% hidden: 100%" in drawn.svg
    assert "two questions" in drawn.caption
