"""Acceptance tables: weights are recovered, probabilities are calibrated, and too few data are reported."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from cuecard.domain.errors import BadInput
from cuecard.evals.analysis.acceptance import (
    CALIBRATED_RULES,
    RULES,
    ShortAnswers,
    accepts,
    expected_error,
    fit,
    rule_results,
    rules_for,
)
from cuecard.models.acceptance_table import SHARED, AcceptanceTable, KindWeights, sigmoid
from cuecard.strategies.policy import UNCALIBRATED, Calibrated

TRUE = AcceptanceTable(
    "tiny",
    "huge",
    0.3,
    0.9,
    0.4,
    -0.6,
    (
        (SHARED, KindWeights(-1.5, 1.2, 10**9)),
        ("number", KindWeights(-1.9, 1.6, 10**9)),
        ("yes_no", KindWeights(-1.1, 0.8, 10**9)),
    ),
)


def drawn(count: int, seed: int = 1, table: AcceptanceTable = TRUE) -> list[ShortAnswers]:
    """Answers that are right with the table's probability; a fifth have no confidence of the small model."""
    rng, made = random.Random(seed), []
    for place in range(count):
        kind, same = rng.choice(["number", "yes_no"]), rng.random() < 0.6
        large, small = sigmoid(rng.gauss(1.5, 2)), sigmoid(rng.gauss(0.5, 1.5))
        sure = None if rng.random() < 0.2 else small
        right = rng.random() < table.probability(kind, same, large, sure)
        made.append(ShortAnswers(str(place), True, right, same, True, large, kind=kind, small_confidence=sure))
    return made


def test_known_weights_are_recovered():
    found = fit(drawn(20_000), "tiny", "huge").table
    for name in ("log_large", "log_not_large", "logit_small", "no_small"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), abs=0.15), name
    for kind in ("number", "yes_no"):
        own, true = dict(found.kinds)[kind], dict(TRUE.kinds)[kind]
        assert own.agree == pytest.approx(true.agree, abs=0.15)
        assert own.intercept == pytest.approx(true.intercept, abs=0.2)
    assert (found.small, found.large, found.questions) == ("tiny", "huge", 20_000)


def test_the_large_models_probability_alone_holds_where_the_small_models_answer_is_not_known():
    table, others = fit(drawn(4000), "tiny", "huge").table, drawn(20_000, seed=2)
    for least in (0.8, 0.9, 0.95):
        taken = [each for each in others if table.alone(each.kind, each.confidence or 0.0) >= least]
        assert len(taken) > 100
        assert sum(each.large_right for each in taken) / len(taken) > least
    assert all(
        table.most(each.kind, sure) >= table.probability(each.kind, each.same, sure, each.small_confidence)
        for each in others[:1000]
        if (sure := each.confidence) is not None
    )


def test_probabilities_hold_on_other_questions_and_cross_fitted_figures_say_so():
    fitted = fit(drawn(2000), "tiny", "huge")
    others = drawn(20_000, seed=2)
    for rule in CALIBRATED_RULES:
        found = rule_results(rule, others, fitted.table)
        assert found.accepted > 100
        # each accepted answer is right with probability >= p, so their mean accuracy is higher
        assert found.wrong / found.accepted < 1 - rule.least + 0.005
    pairs = [
        (fitted.table.probability(each.kind, each.same, each.confidence or 0, each.small_confidence), each.large_right)
        for each in others
    ]
    assert expected_error(pairs) < 0.02
    whole, *kinds = fitted.kinds
    assert (whole.kind, {each.kind for each in kinds}) == (SHARED, {"number", "yes_no"})
    assert whole.questions == sum(each.questions for each in kinds) == 2000
    assert whole.ece < 0.03
    brier = sum((chance - right) ** 2 for chance, right in pairs) / len(pairs)
    assert whole.brier == pytest.approx(brier, abs=0.02)
    assert (dict(fitted.table.kinds)["number"].questions, dict(fitted.table.kinds)[SHARED].brier) == (
        next(each.questions for each in kinds if each.kind == "number"),
        round(whole.brier, 4),
    )


def test_data_without_any_overlap_make_no_certainty():
    sure = [ShortAnswers(str(place), True, True, True, True, 0.99, kind="number") for place in range(60)]
    unsure = [replace(each, cluster=f"x{each.cluster}", same=False, confidence=0.2, large_right=False) for each in sure]
    table = fit([*sure, *unsure], "tiny", "huge").table
    assert 0.9 < table.probability("number", True, 0.99, None) < 0.995
    assert table.probability("number", True, 1.0, 1.0) <= 121 / 122
    assert table.probability("number", False, 0.2, None) < 0.1


def test_a_kind_with_few_questions_keeps_close_to_what_all_share():
    rare = [
        ShortAnswers(f"r{place}", True, True, True, True, 0.6, kind="choice", small_confidence=0.5)
        for place in range(4)
    ]
    table = fit([*drawn(1500), *rare], "tiny", "huge").table
    own, shared = dict(table.kinds)["choice"], dict(table.kinds)[SHARED]
    assert own.intercept == pytest.approx(shared.intercept, abs=0.8)
    assert table.probability("short_text", True, 0.8, 0.7) == table.probability("free_text", True, 0.8, 0.7)


def test_agreement_and_a_surer_large_model_never_count_against_an_answer():
    rng = random.Random(3)
    odd = [
        replace(each, large_right=rng.random() < (0.3 if each.same else 0.6) + 0.2 * ((each.confidence or 0) < 0.5))
        for each in drawn(800)
    ]
    table = fit(odd, "tiny", "huge").table
    assert min(table.log_large, table.log_not_large, dict(table.kinds)[SHARED].agree) >= 0


def test_questions_are_judged_without_those_about_the_same_image():
    # kind 0 has one image, and is always right there: judged without this image, it is no better than other kinds
    answers = [replace(each, kind=f"kind {place % 8}", cluster=f"{place % 8}") for place, each in enumerate(drawn(800))]
    answers = [replace(each, large_right=True) if each.kind == "kind 0" else each for each in answers]
    alike = [replace(each, cluster=f"{place}") for place, each in enumerate(answers)]
    apart, mixed = ({each.kind: each for each in fit(own, "tiny", "huge").kinds} for own in (answers, alike))
    assert apart["kind 0"].brier > 1.2 * mixed["kind 0"].brier
    assert fit(alike, "tiny", "huge").table == fit(alike[::-1], "tiny", "huge").table


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "there are 0 questions, 0 right and 0 wrong"),
        (drawn(49), "there are 49 questions"),
        ([replace(each, large_right=True) for each in drawn(500)], "there are 500 questions, 500 right and 0 wrong"),
        ([replace(each, large_right=False) for each in drawn(500)], "0 right and 500 wrong"),
        ([replace(each, confidence=None) for each in drawn(500)], "needs probabilities, and huge gives none"),
        (
            [replace(each, cluster="one image") for each in drawn(500)],
            "of 5 clusters (images): there are 1",
        ),
        ([replace(each, readable=False) for each in drawn(500)], "there are 0 questions"),
    ],
)
def test_data_that_show_too_little_are_refused_in_one_line(answers, message):
    with pytest.raises(BadInput) as refused:
        fit(answers, "tiny", "huge")
    assert message in refused.value.message
    assert refused.value.hint


def test_the_report_shows_calibrated_rules_where_a_table_is_known():
    answers = drawn(50)
    assert rules_for(answers) == RULES
    assert rules_for(answers, TRUE) == (*RULES, *CALIBRATED_RULES)
    silent = [replace(each, confidence=None) for each in answers]
    assert rules_for(silent, TRUE) == RULES[:1]
    assert rules_for([], TRUE) == ()


def test_a_rule_of_two_accepts_what_one_of_them_accepts():
    alone = ShortAnswers("a", True, True, False, True, 0.995)
    assert accepts(UNCALIBRATED, alone)
    assert not accepts(UNCALIBRATED, replace(alone, confidence=0.95))
    assert accepts(UNCALIBRATED, replace(alone, confidence=0.95, same=True))
    assert not accepts(UNCALIBRATED, replace(alone, readable=False))
    assert accepts(Calibrated(0.9), replace(alone, confidence=None, same=True))
    assert not accepts(Calibrated(0.0), replace(alone, confidence=None))
