"""Schemes at equal budgets: mixtures, the oracle, the choice on other questions, and the command's output."""

from __future__ import annotations

import json
import random
from contextlib import closing
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laboratory import Laboratory, MadeUp
from typer.testing import CliRunner

from cuecard import virtual_time
from cuecard.cli import app
from cuecard.domain.errors import BadInput
from cuecard.evals.analysis.ledger import Price
from cuecard.evals.analysis.matched_budgets import (
    ROUTES,
    Comparison,
    MatchedBudgets,
    Scheme,
    arms_of,
    chosen,
    folds,
    hull,
    matched_budgets,
    mixture,
    oracle,
    schemes,
)
from cuecard.evals.analysis.summary import summary as summary_of
from cuecard.evals.arm import parse_all
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.run import answer

SOME = ("short:large", "reason:large", "transfer", "mutual", "cascade")


# --- mixtures and the oracle ------------------------------------------------------------------------------------------

POINTS = [(1.0, 0.5), (2.0, 0.6), (3.0, 0.9), (3.0, 0.4), (5.0, 0.8)]


def test_the_hull_leaves_out_what_a_mixture_of_others_beats():
    assert [POINTS[place] for place in hull(POINTS)] == [(1.0, 0.5), (3.0, 0.9)]


@pytest.mark.parametrize(
    ("budget", "played"),
    [(0.5, [(0, 1.0)]), (1.0, [(0, 1.0)]), (2.0, [(0, 0.5), (2, 0.5)]), (3.0, [(2, 1.0)]), (9.0, [(2, 1.0)])],
)
def test_a_mixture_spends_the_budget_on_the_two_nearest_settings_of_the_hull(budget, played):
    assert mixture(POINTS, budget) == played


points = st.lists(
    st.tuples(st.integers(1, 9).map(float), st.integers(0, 4).map(lambda n: n / 4)), min_size=1, max_size=5
)


@settings(deadline=None)
@given(points, st.floats(1, 10))
def test_no_mixture_of_two_settings_within_the_budget_is_more_accurate(some, budget):
    best = sum(share * some[place][1] for place, share in mixture(some, budget))
    for (cost, score), (other_cost, other_score), tenths in product(some, some, range(11)):
        share = tenths / 10
        if share * cost + (1 - share) * other_cost <= budget:
            assert share * score + (1 - share) * other_score <= best + 1e-9


@settings(deadline=None)
@given(st.lists(points, min_size=1, max_size=4), st.floats(1, 10))
def test_no_choice_of_one_option_a_question_beats_the_oracle(options, budget):
    best = oracle(options, budget)
    for choice in product(*options):
        if sum(cost for cost, _ in choice) <= budget * len(options):
            assert best is not None
            assert sum(score for _, score in choice) <= sum(best.scores) + 1e-9
    if best is not None:
        assert sum(best.costs) <= budget * len(options) + 1e-6
    else:
        assert sum(min(cost for cost, _ in own) for own in options) > budget * len(options)


def test_the_oracle_buys_first_what_gains_most_for_its_cost():
    options = [[(1.0, 0.0), (2.0, 1.0)], [(1.0, 0.0), (4.0, 1.0)]]
    assert oracle(options, 1.5).scores == (1.0, 0.0)
    assert oracle(options, 2.0).scores == pytest.approx((1.0, 1 / 3))
    assert oracle(options, 3.0).scores == (1.0, 1.0)


def test_folds_keep_clusters_whole_and_hold_every_question_once():
    clusters = [f"image {random.Random(i).randrange(9)}" for i in range(40)]
    dealt = folds(clusters)
    assert sorted(i for fold in dealt for i in fold) == list(range(40))
    assert all(len({place for place, fold in enumerate(dealt) if i in fold}) == 1 for i in range(40))
    for name in set(clusters):
        assert len({place for place, fold in enumerate(dealt) for i in fold if clusters[i] == name}) == 1


# --- schemes ----------------------------------------------------------------------------------------------------------


def test_every_setting_of_every_scheme_is_an_arm():
    assert len(parse_all(arms_of(schemes()))) == len(arms_of(schemes()))


def test_what_budgets_and_the_oracle_are_made_of_is_run_with_any_scheme():
    assert set(ROUTES) <= set(arms_of(chosen(["cascade"])))


def test_an_unknown_scheme_is_refused_with_the_nearest_one():
    with pytest.raises(BadInput, match="unknown scheme 'cascad'") as refused:
        chosen(["cascad"])
    assert "cascade" in str(refused.value)


# --- a run ------------------------------------------------------------------------------------------------------------


def model(name: str, right: float, token_s: float) -> ScriptedModel:
    """Right after reasoning on nine of ten questions; short answers are right on a share of them, with confidence."""

    def says(prompt: Prompt) -> Says:
        number = int(prompt.turns[-1].text.split("Question ")[1].split(":")[0])
        drawn = random.Random(f"{name} {number}")
        knows = drawn.random() < right
        reasons = prompt.mode != "short"
        answer = "A" if (number % 10 if reasons else knows) else "B"
        reasoning = "I look at it closely. " * (2 + number % 3) if prompt.mode == "reason" else ""
        return Says(answer, reasoning, 0.0, token_s, confidence_logprob=-0.01 if knows or reasons else -2.0)

    return ScriptedModel(name, says)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> MatchedBudgets:
    some = chosen(SOME, (4,))
    pair = model("tiny", 0.3, 0.001), model("huge", 0.6, 0.004)
    laboratory = Laboratory(tmp_path_factory.mktemp("run"), MadeUp(60), arms_of(some), *pair)
    laboratory.run()
    prices = {"tiny": Price(1, 1), "huge": Price(4, 4)}
    with closing(laboratory.store()) as store:
        return matched_budgets(laboratory.config, store, Comparison(some, prices=prices))


@pytest.mark.slow
def test_every_measure_that_is_known_is_compared_at_every_budget(compared):
    (task,) = compared.tasks
    assert [each.measure for each in task.measures] == ["tokens", "price", "time"]
    for measure in task.measures:
        assert [budget.share for budget in measure.budgets] == [0.25, 0.5, 0.75, 1.0, 2.0]
        for budget in measure.budgets:
            assert {each.scheme for each in budget.schemes} | set(budget.too_dear) == set(SOME)


@pytest.mark.slow
def test_what_is_played_costs_no_more_than_the_budget_on_the_questions_that_chose_it(compared):
    (task,) = compared.tasks
    for measure in task.measures:
        for budget in measure.budgets:
            assert all(each.spent <= budget.amount * 1.15 for each in budget.schemes)


@pytest.mark.slow
def test_no_scheme_beats_the_oracle_that_routes_between_all_of_its_arms(compared):
    (task,) = compared.tasks
    for measure in task.measures:
        for budget in measure.budgets:
            for name in ("short:large", "reason:large"):
                at = budget.of(name)
                assert at is None or (at.accuracy.estimate <= budget.oracle and at.regret.estimate >= 0)


@pytest.mark.slow
def test_the_scheme_of_comparison_has_no_difference_and_the_others_have_one(compared):
    (task,) = compared.tasks
    budget = task.measures[0].budgets[-1]
    assert budget.of("mutual").difference is None
    others = [each for each in budget.schemes if each.scheme != "mutual"]
    assert others
    assert all(each.difference is not None and each.p_adjusted >= each.p for each in others)


@pytest.mark.slow
def test_a_dear_scheme_is_named_where_it_cannot_be_played(compared):
    (task,) = compared.tasks
    tokens = task.measures[0]
    assert "reason:large" in tokens.budgets[0].too_dear
    assert tokens.budgets[3].of("reason:large").spent == pytest.approx(tokens.budgets[3].amount)


@pytest.mark.slow
def test_the_front_rises_with_the_cost_and_beaten_settings_name_what_beats_them(compared):
    (task,) = compared.tasks
    for measure in task.measures:
        front = [point for point in measure.front if point.on_front]
        assert front
        assert all(
            one.cost.estimate <= other.cost.estimate and one.accuracy.estimate <= other.accuracy.estimate
            for one, other in pairwise(front)
        )
        for point in measure.front:
            assert 0 <= point.draws_on_front <= 1
            if not point.on_front:
                assert point.difference.estimate <= 0


@pytest.mark.slow
def test_calls_are_shared_by_all_arms(compared):
    (task,) = compared.tasks
    assert task.calls_stored < task.calls_used


@pytest.mark.slow
def test_an_arm_without_answers_is_refused(tmp_path):
    laboratory = Laboratory(tmp_path, MadeUp(4), ROUTES, model("tiny", 0.3, 0.1), model("huge", 0.6, 0.1))
    laboratory.run()
    unanswered = Comparison([Scheme("mutual", ("mutual",))])
    with closing(laboratory.store()) as store, pytest.raises(BadInput, match="mutual has answered nothing"):
        matched_budgets(laboratory.config, store, unanswered)


@pytest.mark.parametrize("wrong", [{"against": "verdict"}, {"budgets": (0.0,)}, {"budgets": ()}])
def test_a_comparison_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(BadInput):
        Comparison([Scheme("mutual", ("mutual",))], **wrong)


# --- baselines, composed ----------------------------------------------------------------------------------------------

BASELINES = ("ladder", "vote/samples=4/window=2", "panel/samples=2", "steps", "steps/overlap", "force", "force:small")


def stepwise(name: str, grades: dict[str, str]) -> ScriptedModel:
    """Reasons in four steps, less those already in the prompt; grades a step by a word in it."""
    steps = [f"In the {where} corner there is one {what} more." for where, what in zip("ABCD", "wxyz", strict=True)]

    def says(prompt: Prompt) -> Says:
        if prompt.mode == "grade":
            return Says(next((grade for word, grade in grades.items() if word in prompt.card), "9"))
        done = sum(step[:-1] in prompt.opening for step in steps)
        reasoning = " ".join(f"{step[:-1]} {name}." for step in steps[done:]) if prompt.mode == "reason" else ""
        return Says("A", reasoning, 0.0, 0.0005, confidence_logprob=-1.0)

    return ScriptedModel(name, says)


def test_baselines_composed_of_stored_calls_do_what_they_do_with_models(tmp_path):
    def pair() -> tuple[ScriptedModel, ScriptedModel]:
        return stepwise("tiny", {}), stepwise("huge", {" x ": "1"})

    laboratory = Laboratory(tmp_path, MadeUp(1), BASELINES, *pair())
    laboratory.run()
    with closing(laboratory.store()) as store:
        summary_of(laboratory.config, store)  # raises if tokens or routes do not add up
    answers = laboratory.answers()
    (item,) = MadeUp(1).items()
    for arm in parse_all(BASELINES):
        live = virtual_time.run(
            answer(item.question, dict(zip(("small", "large"), pair(), strict=True)), arm.strategy, arm.policy)
        )
        composed = answers["0", arm.name]
        assert (composed["route"], composed["reason"]) == (live.route, live.reason), arm.name
        modes = [sorted(f"{call.role} {call.mode}" for call in live.calls)]
        assert [sorted(f"{call['role']} {call['mode']}" for call in composed["calls"])] == modes, arm.name


# --- the command ------------------------------------------------------------------------------------------------------


def command(*words: str) -> object:
    return CliRunner().invoke(app, ["study", *words], env={"COLUMNS": "120", "NO_COLOR": "1"})


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_command_compares_the_embedded_pair_resumes_and_writes_a_page(tmp_path: Path):
    words = ["matched-budget", "boards:count=6", "--out", str(tmp_path / "run"), "--schemes", "mutual,cascade,steps"]
    shown = command(*words, "--price", "demo-small=1,1", "--price", "demo-large=4,4")
    assert shown.exit_code == 0, shown.output
    assert "for the same generated tokens" in shown.output
    assert "oracle route" in shown.output
    page = (tmp_path / "run" / "matched-budget.html").read_text()
    assert "Every setting, the cheapest first" in page
    assert (tmp_path / "run" / "tables" / "budgets.csv").exists()
    stored = json.loads((tmp_path / "run" / "matched-budget.json").read_text())
    again = command(*words, "--json")
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)
    assert [each["measure"] for each in found["tasks"][0]["measures"]] == ["tokens", "time"]
    assert found["tasks"][0]["calls_stored"] == stored["tasks"][0]["calls_stored"]


def test_a_file_is_a_study_with_and_without_the_command(tmp_path: Path):
    for words in (["none.toml"], ["file", "none.toml"], ["--live", "none.toml"]):
        refused = command(*words)
        assert "none.toml" in str(refused.exception or refused.output)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--schemes", "cascad"], "unknown scheme"),
        (["--budgets", "much"], "are not numbers above 0"),
        (["--budgets", "-1"], "are not numbers above 0"),
        (["--against", "nothing"], "is not among the schemes"),
        (["--cuts", "0"], "whole numbers from 1"),
    ],
)
def test_a_wrong_option_is_refused_before_a_model_is_loaded(words, message, tmp_path):
    refused = command("matched-budget", "boards", "--out", str(tmp_path / "run"), *words)
    assert message in str(refused.exception)
    assert not (tmp_path / "run").exists()
