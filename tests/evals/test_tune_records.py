"""From a run's records to a policy file: thresholds that were not run, failures, groups, and the command."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from typer.testing import CliRunner

from cuecard import disk
from cuecard.cli.evals.tune import tune as command
from cuecard.domain.errors import BadInput
from cuecard.evals.analysis.ledger import Price
from cuecard.evals.analysis.scores import arm_named
from cuecard.evals.analysis.tune import candidates, file_of, observations
from cuecard.evals.arm import base_of, parse
from cuecard.evals.database import AnswerRow, ItemRow, Store
from cuecard.strategies.policy import Acceptance, Policy
from cuecard.strategies.policy_file import read

OPEN, SHUT = "mutual/eager/accept=agree", "mutual/eager/accept=agree+confidence(1)"


def item(id: str, **more: Any) -> dict[str, Any]:
    return {
        "task": "boards",
        "id": id,
        "golds": ["1"],
        "cluster": f"image {id}",
        "group": None,
        "category": None,
    } | more


def answer(id: str, arm: str, score: float | None = 1.0, seconds: float = 1.0, **more: Any) -> dict[str, Any]:
    call = {"role": "large", "model": "big", "mode": "short", "key": "k", "start_s": 0.0, "first_token_s": seconds / 2}
    call |= {"end_s": seconds, "prompt_tokens": 100, "cached_tokens": 0, "completion_tokens": 10, "reasoning_tokens": 0}
    made = {"task": "boards", "id": id, "arm": arm, "status": "ok", "route": "direct", "confidence": None}
    made |= {"score": score, "latency": {"total_s": seconds, "kind": "composed"}}
    return made | {"calls": [call | {"finish_reason": "stop"}]} | more


def test_a_threshold_that_was_not_run_does_as_the_lower_one_where_it_is_reached_and_else_as_the_higher_one():
    sure = answer("1", OPEN, seconds=0.1, route="agreed", confidence=0.9)
    unsure = answer("2", OPEN, 0.0, 0.1, route="agreed", confidence=0.6)
    other = answer("3", OPEN, 1.0, 3.0, route="transferred", confidence=0.8)
    slow = [answer(id, SHUT, 1.0, 3.0, route="transferred") for id in "123"]
    found = candidates([sure, unsure, other, *slow])
    between = found["mutual/eager/accept=agree+confidence(0.8)"]
    assert between.arm.policy.accept == Acceptance(True, 0.8)
    assert [between.answers["boards", id] for id in "123"] == [sure, slow[1], other]
    assert found["mutual/eager/accept=agree+confidence(0.95)"].answers["boards", "1"] is slow[0]
    assert "mutual/eager/accept=agree+confidence(0.5)" in found


def test_a_model_without_probabilities_is_accepted_by_agreement_at_every_threshold():
    agreed = answer("1", OPEN, route="agreed", confidence=None)
    found = candidates([agreed, answer("1", SHUT, route="agreed", confidence=None)])
    assert found["mutual/eager/accept=agree+confidence(0.9)"].answers["boards", "1"] is agreed


def test_thresholds_are_not_mixed_between_schedules_budgets_or_rules():
    arms = ["mutual/accept=agree", "mutual/eager/accept=agree+confidence(1)", "mutual/accept=confidence(1)"]
    arms.append("mutual/budget=9/accept=agree+confidence(1)")
    assert set(candidates([answer("1", arm) for arm in arms])) == set(arms)


def test_placebos_live_arms_and_arms_measured_by_others_are_no_candidates():
    arms = ["transfer", "transfer/placebo=empty", "transfer@live", "vote/equal=reason:large"]
    assert list(candidates([answer("1", arm) for arm in arms])) == ["transfer"]


def test_what_fails_is_wrong_and_where_the_baseline_fails_there_is_nothing_to_keep():
    failing = answer("1", "transfer", None, status="error", route=None)
    records = [failing, answer("1", "reason:large"), answer("2", "transfer"), answer("2", "reason:large")]
    records += [answer("3", "transfer"), answer("3", "reason:large", None, status="error", route=None)]
    records += [answer("4", "transfer", None), answer("4", "reason:large", None)]  # not scored
    seen = observations(candidates(records), [item(id) for id in "1234"], "reason:large")
    assert {(one.item, one.arm): one.score for one in seen} == {
        ("boards/1", "transfer"): 0.0,
        ("boards/1", "reason:large"): 1.0,
        ("boards/2", "transfer"): 1.0,
        ("boards/2", "reason:large"): 1.0,
    }


def test_what_fails_costs_no_less_than_the_baseline():
    quick = answer("1", "transfer", None, 0.01, status="error", route=None)
    records = [quick, answer("1", "reason:large", seconds=2.0)]
    seen = observations(candidates(records), [item("1")], "reason:large", {"big": Price(1, 10)})
    failed = next(one for one in seen if one.arm == "transfer")
    assert (failed.score, failed.latency_s, failed.cost) == (0.0, 2.0, pytest.approx(200 / 1e6))


def test_a_price_is_not_known_where_a_call_was_not_counted():
    cancelled = answer("1", "short:large")
    call = cancelled["calls"][0] | {"finish_reason": "cancelled", "prompt_tokens": None, "completion_tokens": None}
    uncounted = cancelled | {"calls": [*cancelled["calls"], call | {"cached_tokens": None, "reasoning_tokens": None}]}
    (seen,) = observations(candidates([uncounted]), [item("1")], "short:large", {"big": Price(1, 10)})
    assert seen.cost is None


def test_the_rotations_of_a_question_are_one_question_that_is_right_if_all_are():
    items = [item(id, group="g", cluster="c") for id in "12"] + [item("3", group="h")]
    records = [answer("1", "short:large", 1.0, 1.0), answer("2", "short:large", 0.0, 3.0), answer("3", "short:large")]
    seen = observations(candidates(records), items, "short:large", {"big": Price(1, 10)})
    assert [(one.item, one.score, one.latency_s) for one in seen] == [
        ("boards/group g", 0.0, 2.0),
        ("boards/group h", 1.0, 1.0),
    ]
    assert seen[0].tokens == 110
    assert seen[0].cost == pytest.approx(200 / 1e6)
    assert observations(candidates(records), items, "short:large")[0].cost is None


def test_an_arm_is_found_by_any_way_to_write_it():
    arms = {name: parse(name) for name in ("reason", "mutual/eager/budget=5")}
    assert arm_named(arms, "reason:large") == "reason"
    assert arm_named(arms, "mutual/budget=5/eager") == "mutual/eager/budget=5"
    with pytest.raises(BadInput, match="no arm 'transfer'"):
        arm_named(arms, "transfer")


@pytest.mark.parametrize(
    "name", [OPEN, "transfer/notes/budget=128", "vote/samples=3", "short:small", "cascade/thrifty"]
)
def test_a_policy_file_of_an_arm_makes_the_arms_policy(name):
    arm = candidates([answer("1", name)])[name].arm
    assert file_of(arm).policy() == arm.policy
    assert file_of(arm).strategy == arm.strategy


def test_what_a_runs_arms_have_in_common_stands_in_its_configuration():
    base = base_of({"policy": {"accept": "agree", "limits": {"reasoning_tokens": 99, "answer_tokens": 7}}})
    arm = candidates([answer("1", "mutual/eager")], base)["mutual/eager"].arm
    options = file_of(arm).options
    assert (options["budget"], options["answer_tokens"], options["accept"]) == (99, 7, "agree")
    assert base_of({}) == Policy()


@pytest.fixture
def run(tmp_path):
    """600 questions; short answers are right if the model is confident, and the rest needs reasoning."""
    rng, rows = random.Random(4), []
    for place in range(600):
        id, sure = str(place), rng.random()
        good = sure > 0.6 or rng.random() < 0.4
        rows.append(ItemRow("boards", id, place, {k: v for k, v in item(id).items() if k not in ("task", "id")}))
        slow = {"route": "transferred", "confidence": 0.9}
        result = [answer(id, "reason:large", float(rng.random() < 0.93), 4.0), answer(id, SHUT, 1.0, 2.0, **slow)]
        result.append(answer(id, OPEN, float(good), 0.5, route="agreed", confidence=sure))
        rows += [AnswerRow("boards", id, one["arm"], one) for one in result]
    store = Store(tmp_path / "run.sqlite")
    store.put(rows)
    store.close()
    disk.save(tmp_path / "run.json", {"version": 1, "config": {"arms": ["reason:large", OPEN, SHUT]}})
    return tmp_path


def tuned(*options: Any) -> Any:
    import typer

    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [*map(str, options)], env={"COLUMNS": "160"})


def test_the_command_writes_a_policy_with_its_guarantee(run):
    done = tuned(run, "--out", run / "policy.toml", "--keep", "0.98")
    assert done.exit_code == 0, done.output
    policy = read(run / "policy.toml")
    assert policy.strategy == "mutual"
    assert policy.options["schedule"] == "eager"
    threshold = Acceptance.parse(policy.options["accept"]).confidence
    assert threshold is not None
    assert 0.55 < threshold <= 0.85
    assert (policy.origin.questions, policy.origin.baseline, policy.origin.keep) == (600, "reason:large", 0.98)
    assert policy.origin.p <= 0.05
    assert "with 95% confidence at least 98% of the accuracy of reason:large" in policy.origin.guarantee
    assert "95% confidence" in done.output
    assert str(run) not in (run / "policy.toml").read_text()


def test_the_command_as_json_lists_every_candidate_and_test(run):
    result = json.loads(tuned(run, "--json", "--for", "tokens", "--keep", "0.98").output)
    assert result["chosen"] is None or result["chosen"]["cost"] < result["baseline"]["cost"]
    result = json.loads(tuned(run, "--json", "--keep", "0.98").output)
    assert result["chosen"]["arm"] in result["tested"]
    assert result["times_cheaper"]["low"] > 1
    assert len(result["candidates"]) > 10


def test_when_the_data_do_not_suffice_the_command_states_how_many_questions_would(run):
    done = tuned(run, "--keep", "1", "--confidence", "0.9999999", "--out", run / "policy.toml")
    assert done.exit_code == 1
    assert "no cheaper policy is shown to keep" in done.output
    assert "would need about" in done.output
    assert not (run / "policy.toml").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--for", "cost"], "no price is known"),
        (["--keep", "1.5"], "keep"),
        (["--against", "short:small"], "no arm 'short:small'"),
        (["--task", "mmstar"], "no items of mmstar"),
        (["--price", "big"], "is no price"),
        (["--margin", "0.995"], "nothing has to be kept"),
    ],
)
def test_wrong_options_of_the_command_are_refused(run, options, message):
    refused = tuned(run, *options).exception
    assert isinstance(refused, BadInput)
    assert message in str(refused)


def test_an_unknown_goal_is_refused(run):
    refused = tuned(run, "--for", "speed")
    assert refused.exit_code == 2
    assert "speed" in refused.output


def test_with_prices_it_is_tuned_for_cost(run):
    done = tuned(run, "--for", "cost", "--price", "big=1,10", "--json")
    assert json.loads(done.output)["baseline"]["cost"] == pytest.approx(200 / 1e6)
