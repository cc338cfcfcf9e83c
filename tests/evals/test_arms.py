"""Arms as they are written."""

from __future__ import annotations

import pytest

from cuecard.domain.errors import BadInput
from cuecard.evals.arm import budgets, parse, parse_all
from cuecard.models.prompt import CardFormat
from cuecard.strategies import policy_file
from cuecard.strategies.policy import Policy, Schedule, policy_with
from cuecard.strategies.policy_file import PolicyFile


def test_an_arm_says_strategy_schedule_card_budget_rule_and_placebo():
    arm = parse("mutual/eager/notes/budget=128/accept=agree+confidence(0.6)/placebo=shuffled")
    assert (arm.strategy, arm.placebo) == ("mutual", "shuffled")
    assert (arm.policy.schedule, arm.policy.card) == (Schedule.EAGER, CardFormat.NOTES)
    assert (arm.policy.limits.reasoning_tokens, str(arm.policy.accept)) == (128, "agree+confidence(0.6)")


def test_what_an_arm_does_not_say_is_as_the_run_has_it():
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
def test_what_nobody_knows_is_refused_with_the_nearest_that_there_is(text, hint):
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
