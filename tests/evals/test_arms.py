"""The notation of arms."""

from __future__ import annotations

import json

import pytest

from cuecard.domain.errors import BadInput
from cuecard.evals.analysis.scores import arm_named
from cuecard.evals.arm import budgets, parse, parse_all, policies_of
from cuecard.models.prompt import CardFormat
from cuecard.strategies import policy_file
from cuecard.strategies.policy import Policy, Schedule
from cuecard.strategies.policy_file import Origin, PolicyFile, policy_with


def test_an_arm_names_strategy_schedule_card_budget_rule_and_placebo():
    arm = parse("mutual/eager/notes/budget=128/accept=agree+confidence(0.6)/placebo=shuffled")
    assert (arm.strategy, arm.placebo) == ("mutual", "shuffled")
    assert (arm.policy.schedule, arm.policy.card) == (Schedule.EAGER, CardFormat.NOTES)
    assert (arm.policy.limits.reasoning_tokens, str(arm.policy.accept)) == (128, "agree+confidence(0.6)")


def test_options_that_an_arm_leaves_out_are_those_of_the_run():
    base = policy_with(Policy(), budget=64, accept="agree")
    assert parse("transfer", base).policy == base
    assert parse("vote/samples=3", base).policy.samples == 3
    assert budgets(parse_all(["transfer", "transfer/budget=128"], base)) == (128, 64)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("mutal", "did you mean mutual"),
        ("mutual/eagre", "did you mean eager"),
        ("mutual/budgt=3", "did you mean budget"),
        ("mutual/budget=many", "budget=N"),
        ("mutual/budget=0", "default"),
        ("transfer/placebo=shufled", "did you mean shuffled"),
        ("transfer/placebo=corrupt(0.1)", "did you mean corrupted(SHARE)"),
        ("transfer/placebo=corrupted(2)", "write corrupted(SHARE)"),
        ("transfer/placebo=altered(verbs)", "numbers, places"),
        ("mutual/accept=perhaps", "agree"),
        ("mutual/equal=short:small", "vote/equal=ARM"),
    ],
)
def test_unknown_words_are_refused_with_the_nearest_known_one(text, hint):
    with pytest.raises(BadInput) as refused:
        parse(text)
    assert hint in refused.value.hint


def test_an_arm_that_is_measured_by_another_needs_it_and_comes_after_it():
    assert [arm.name for arm in parse_all(["vote/equal=mutual", "mutual"])] == ["mutual", "vote/equal=mutual"]
    with pytest.raises(BadInput, match="which is not run"):
        parse_all(["vote/equal=mutual", "transfer"])


def test_the_same_arm_twice_is_run_once():
    assert len(parse_all(["mutual", " mutual ", ""])) == 1


def test_a_policy_that_was_tuned_is_an_arm(tmp_path):
    file = tmp_path / "policy.toml"
    policy_file.write(file, PolicyFile("mutual", {"schedule": "eager", "accept": "agree+confidence(0.85)"}))
    arm = parse(f"policy:{file}")
    assert (arm.strategy, arm.policy.schedule, str(arm.policy.accept)) == ("mutual", "eager", "agree+confidence(0.85)")
    with pytest.raises(BadInput, match="cannot read"):
        parse("policy:nowhere.toml")


def test_the_name_of_a_policys_arm_has_the_digest_of_what_the_file_says(tmp_path):
    file = tmp_path / "policy.toml"
    policy_file.write(file, PolicyFile("mutual", {"budget": 64}))
    first = parse(f"policy:{file}")
    assert first.name == f"policy:{file}@{first.file.digest}"
    assert parse(first.name) == first
    policy_file.write(file, PolicyFile("mutual", {"budget": 64}, Origin(run="another")))
    assert parse(f"policy:{file}").name == first.name, "where it comes from is no part of what it does"
    policy_file.write(file, PolicyFile("mutual", {"budget": 32}))
    second = parse(f"policy:{file}")
    assert second.name != first.name
    with pytest.raises(BadInput, match="has changed"):
        parse(first.name)
    assert parse(first.name, policies={first.name: first.file}) == first


def test_a_run_keeps_what_its_policy_files_said(tmp_path):
    file = tmp_path / "policy.toml"
    policy_file.write(file, PolicyFile("mutual", {"budget": 64}))
    first = parse(f"policy:{file}")
    config = json.loads(json.dumps({"policies": {first.name: first.file.as_object()}, "arms": [first.name]}))
    file.unlink()
    assert parse(first.name, policies=policies_of(config)) == first
    arms = {first.name: first}
    assert arm_named(arms, f"policy:{file}") == first.name
