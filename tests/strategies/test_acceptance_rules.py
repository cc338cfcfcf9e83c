"""Acceptance rules: notation, the default, and acceptance by the probability of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from cuecard import virtual_time
from cuecard.domain.call import Call, Mode
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.acceptance_table import SHARED, AcceptanceTable, KindWeights
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel
from cuecard.pair import Pair
from cuecard.strategies.policy import CALIBRATED, UNCALIBRATED, Acceptance, AnyRule, Calibrated, Policy, Schedule
from cuecard.strategies.run import answer

HOW_MANY = Question("How many cats are there?", kind=AnswerKind.NUMBER)
# agreement has weight 3, the confidences of both models small weights
TABLE = AcceptanceTable("tiny", "huge", 0.5, 0.5, 0.1, -0.2, ((SHARED, KindWeights(0.0, 3.0, questions=1000)),))


def model(name: str, short: str, sure: float | None, table: AcceptanceTable | None = None) -> ScriptedModel:
    def says(prompt: Prompt) -> Says:
        logprob = None if sure is None else math.log(sure)
        return Says(short if prompt.mode is Mode.SHORT else "9", "So it is.", confidence_logprob=logprob)

    made = ScriptedModel(name, says)
    made.abilities = replace(made.abilities, acceptance=table)
    return made


def ask(
    small: ScriptedModel, large: ScriptedModel, policy: Policy | None = None, question: Question = HOW_MANY
) -> Outcome:
    return virtual_time.run(answer(question, {"small": small, "large": large}, "mutual", policy or Policy()))


ALONE = replace(
    TABLE,
    kinds=((SHARED, KindWeights(0.0, 3.0, questions=1000, alone=0.0)),),
    alone_log_large=1.0,
    alone_log_not_large=1.0,
)
"""TABLE with weights of the large model's probability for the case without a short answer of the small model."""


def called(outcome: Outcome) -> list[tuple[str, str]]:
    return [(call.role, call.mode) for call in outcome.calls if call.finish_reason is not None]


@pytest.mark.parametrize(
    "rule",
    [
        "agree",
        "confidence(0.8)",
        "agree+confidence(0.6)",
        "calibrated(0.98)",
        "agree+confidence(0.9)|confidence(0.99)",
        "calibrated(0.97)|agree|confidence(0.999)",
    ],
)
def test_rules_are_written_as_they_are_read(rule):
    assert str(Acceptance.parse(rule)) == rule
    assert Acceptance.parse(str(Acceptance.parse(rule.replace("|", " | ")))) == Acceptance.parse(rule)


def test_a_rule_that_is_named_twice_is_one_rule():
    assert Acceptance.parse("agree|agree") == Acceptance(True, None)
    assert Acceptance.parse("agree|calibrated(0.9)") == AnyRule((Acceptance(True, None), Calibrated(0.9)))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("agree|", "unknown acceptance rule 'agree|'"),
        ("|", "unknown acceptance rule"),
        ("calibrated", "unknown acceptance rule"),
        ("calibrated()", "unknown acceptance rule"),
        ("agree+calibrated(0.9)", "unknown acceptance rule"),
        ("calibrated(1.5)", "the probability in 'calibrated(1.5)' is not between 0 and 1"),
        ("calibrated(0.9.9)", "the probability in"),
        ("agree|confidence(2)", "the confidence in"),
        ("|".join(["agree"] * 9), "an acceptance rule of 9 rules"),
    ],
)
def test_what_is_no_rule_is_refused(rule, message):
    with pytest.raises(BadInput) as refused:
        Acceptance.parse(rule)
    assert message in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize(
    ("small", "large", "sure", "accepted"),
    [
        ("3", "3", 0.95, "the short answers agree and the large model is sure of its own (0.95, at least 0.9 wanted)"),
        ("3", "3", 0.8, None),
        ("2", "3", 0.95, None),
        ("2", "3", 0.995, "the large model is sure of its own (0.99, at least 0.99 wanted)"),
        ("3", "3", None, "the short answers agree; the large model gives no probabilities, so agreement alone decided"),
        ("2", "3", None, None),
    ],
)
def test_without_a_table_agreement_with_confidence_or_more_confidence_alone_is_wanted(small, large, sure, accepted):
    found = ask(model("tiny", small, 0.9), model("huge", large, sure))
    assert (found.route is Route.AGREED) == (accepted is not None)
    assert accepted is None or found.reason == accepted


def test_with_a_table_the_default_is_its_probability_and_the_reason_names_it():
    agreed = ask(model("tiny", "3", 0.9), model("huge", "3", 0.9, TABLE))
    chance = TABLE.probability("number", True, 0.9, 0.9)
    assert CALIBRATED.least <= chance < 1
    assert agreed.route is Route.AGREED
    assert agreed.reason == (
        f"the large model's answer is right with probability {math.floor(1000 * chance) / 1000:.3f} by the table"
        " (at least 0.98 wanted)"
    )
    assert ask(model("tiny", "2", 0.9), model("huge", "3", 0.9, TABLE)).route is not Route.AGREED
    # enough for the default rule without a table, but not by this table
    assert ask(model("tiny", "2", 0.9), model("huge", "3", 0.995, TABLE)).route is not Route.AGREED


def test_a_policys_table_goes_before_the_checkpoints():
    lenient = replace(TABLE, kinds=((SHARED, KindWeights(6.0, 0.0, questions=1000)),))
    differ = model("tiny", "2", 0.9), model("huge", "3", 0.9, TABLE)
    assert ask(*differ, Policy(table=lenient)).route is Route.AGREED
    assert ask(*differ, Policy(table=replace(lenient, small="other"))).route is not Route.AGREED


def test_a_table_for_another_small_model_is_none():
    models = {"small": model("other", "3", 0.9), "large": model("huge", "3", 0.9, TABLE)}
    assert Policy().accept_of(models) == UNCALIBRATED
    assert Policy().table_of(models) is None
    assert Policy().accept_of(models | {"small": model("tiny", "3", 0.9)}) == CALIBRATED
    assert Policy().accept_of({"large": models["large"]}) == UNCALIBRATED


@pytest.mark.parametrize("rule", ["calibrated(0.9)", "agree|calibrated(0.9)"])
@pytest.mark.parametrize(
    ("table", "why"), [(None, "there is none"), (replace(TABLE, small="other"), "is for other and huge")]
)
def test_a_calibrated_rule_without_a_table_for_the_pair_is_refused_before_any_call(rule, table, why):
    models = {"small": model("tiny", "3", 0.9), "large": model("huge", "3", 0.9, table)}
    calls: list[Call] = []
    with pytest.raises(BadInput) as refused:
        virtual_time.run(answer(HOW_MANY, models, policy=Policy(accept=Acceptance.parse(rule)), calls=calls))
    assert f"{rule} needs an acceptance table for tiny and huge" in refused.value.message
    assert why in refused.value.message
    assert "cuecard tune" in refused.value.hint
    assert not calls
    with Pair(models["small"], models["large"]) as pair, pytest.raises(BadInput, match="needs an acceptance table"):
        pair.ask(HOW_MANY, accept=rule)
    assert not any(one.prompts for one in models.values())


def test_without_the_large_models_probabilities_agreement_alone_decides_with_a_table_too():
    same = ask(model("tiny", "3", 0.9), model("huge", "3", None, TABLE))
    assert same.route is Route.AGREED
    assert "no probabilities, so agreement alone decided" in same.reason
    assert ask(model("tiny", "2", 0.9), model("huge", "3", None, TABLE)).route is not Route.AGREED


def test_a_small_model_without_probabilities_has_a_weight_of_its_own():
    strict = replace(TABLE, no_small=-5.0)
    assert ask(model("tiny", "3", None), model("huge", "3", 0.9, TABLE)).route is Route.AGREED
    assert ask(model("tiny", "3", None), model("huge", "3", 0.9, strict)).route is not Route.AGREED
    assert ask(model("tiny", "3", 0.9), model("huge", "3", 0.9, strict)).route is Route.AGREED


def test_an_answer_that_cannot_be_read_is_never_accepted():
    lenient = replace(TABLE, kinds=((SHARED, KindWeights(9.0, 0.0, questions=1000)),))
    assert ask(model("tiny", "none of it", 0.9), model("huge", "none of it", 0.99, lenient)).route is not Route.AGREED


@pytest.mark.parametrize("table", [None, TABLE])
def test_free_text_that_cannot_be_compared_is_transferred_without_short_calls(table):
    small, large = model("tiny", "a cat", 0.99), model("huge", "a cat", 0.999, table)
    outcome = ask(small, large, question=Question("Describe it.", kind=AnswerKind.FREE_TEXT))
    assert outcome.route is Route.TRANSFERRED
    modes: Mapping[Mode, int] = {call.mode: 1 for call in outcome.calls}
    assert Mode.SHORT not in modes


# --- use of the small model's short answer ----------------------------------------------------------------------------

SHORTS = [("large", "short"), ("small", "short")]
TRANSFER = [("small", "reason"), ("large", "read")]


@pytest.mark.parametrize(
    ("rule", "sure", "calls"),
    [
        ("agree", 0.5, [*SHORTS, *TRANSFER]),
        ("confidence(0.9)", 0.95, SHORTS[:1]),
        ("confidence(0.9)", 0.5, [*SHORTS[:1], *TRANSFER]),
        ("agree+confidence(0.9)", 0.95, [*SHORTS, *TRANSFER]),
        ("agree+confidence(0.9)", 0.5, [*SHORTS[:1], *TRANSFER]),
        ("agree+confidence(0.9)|confidence(0.99)", 0.995, SHORTS[:1]),
        ("agree+confidence(0.9)|confidence(0.99)", 0.95, [*SHORTS, *TRANSFER]),
        ("calibrated(0.98)", 0.99, SHORTS[:1]),
        ("calibrated(0.98)", 0.95, [*SHORTS, *TRANSFER]),
        ("calibrated(0.98)", 0.2, [*SHORTS[:1], *TRANSFER]),
    ],
)
def test_the_small_models_short_answer_is_made_only_where_it_can_decide(rule, sure, calls):
    policy = Policy(accept=Acceptance.parse(rule), schedule=Schedule.THRIFTY)
    assert called(ask(model("tiny", "2", 0.9), model("huge", "3", sure, ALONE), policy)) == calls


def test_beside_the_large_models_the_small_models_short_answer_is_cancelled_once_it_cannot_count():
    slow = ScriptedModel("tiny", lambda prompt: Says("3", token_s=9, confidence_logprob=-0.1))
    policy = Policy(accept=Acceptance.parse("confidence(0.9)"), schedule=Schedule.OVERLAP)
    outcome = ask(slow, model("huge", "3", 0.95), policy)
    assert (outcome.route, outcome.total_s) == (Route.AGREED, 0)
    assert [call.role for call in outcome.calls if call.cancelled] == ["small"]


def test_a_table_without_weights_for_the_large_model_alone_wants_both_answers():
    policy = Policy(accept=Calibrated(0.98), schedule=Schedule.THRIFTY)
    assert called(ask(model("tiny", "3", 0.9), model("huge", "3", 0.999, TABLE), policy)) == SHORTS


def test_a_rule_without_a_condition_accepts_nothing():
    policy = Policy(accept=Acceptance(agreement=False, confidence=None))
    assert ask(model("tiny", "3", 0.9), model("huge", "3", 0.99), policy).route is Route.TRANSFERRED
