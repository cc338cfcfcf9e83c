"""What the evaluation counts, on answers that are given."""

from __future__ import annotations

import pytest

from cuecard.demo import boards
from cuecard.demo.evaluate import ARMS, acceptance, examine, paired, report
from cuecard.domain.call import Mode
from cuecard.domain.outcome import Route
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel
from cuecard.stats.inference import mcnemar, wilson_bounds
from cuecard.strategies.policy import DEFAULT_ACCEPTANCE

SURE, UNSURE = -0.01, -1.5


@pytest.fixture
async def result():
    """A pair that agrees on every third question, is wrong alike on every fifth, and reasons rightly."""
    exercises = boards.exercises(30, 5, "validation")
    truths = {exercise.question.images[0].digest: (i, exercise.truth) for i, exercise in enumerate(exercises)}

    def model(role: str) -> ScriptedModel:
        def says(prompt: Prompt) -> Says:
            index, truth = truths[prompt.images[0].digest]
            wrong = {"yes": "no", "no": "yes", "A": "B", "B": "A", "C": "A", "red": "blue"}.get(truth, "red")
            wrong = wrong if not truth.isdigit() else str(int(truth) + 1)
            if prompt.mode is not Mode.SHORT:
                return Says(truth, "First this. Then that.", confidence_logprob=SURE)
            if index % 5 == 0:
                return Says(wrong, confidence_logprob=UNSURE)
            return Says(truth if role == "large" or index % 3 == 0 else wrong, confidence_logprob=SURE)

        return ScriptedModel(role, says)

    trials = await examine({role: model(role) for role in ("small", "large")}, exercises, ARMS, lambda: None)
    return trials, [exercise.question for exercise in exercises]


async def test_counts_conserve(result):
    trials, asked = result
    told = report(trials, asked, len(asked), 5)
    assert sum(told["routes"].values()) == told["boards"] == 30
    assert sum(part["boards"] for part in told["kinds"].values()) == 30
    for name in ("accepted", "accepted_wrong", "agree_accepted", "agree_accepted_wrong"):
        assert sum(part[name] for part in told["kinds"].values()) == told[name]


async def test_two_keys_stop_what_both_get_wrong(result):
    trials, asked = result
    told = report(trials, asked, len(asked), 5)
    assert (told["agree_accepted_wrong"], told["accepted_wrong"]) == (6, 0)
    assert told["arms"]["mutual"]["accuracy"] == 1
    assert told["arms"]["mutual_agree"]["accuracy"] == pytest.approx(24 / 30)


async def test_what_a_rule_would_do_is_what_it_did(result):
    trials, asked = result
    told, rules = report(trials, asked, len(asked), 5), acceptance(trials, asked)
    assert rules["agree"]["accepted"] == told["agree_accepted"]
    assert rules["agree"]["wrong"] == told["agree_accepted_wrong"]
    assert rules["agree"]["accuracy"] == pytest.approx(told["arms"]["mutual_agree"]["accuracy"])
    routes = [trial.outcome.route for trial in trials if trial.arm == "mutual"]
    assert rules[str(DEFAULT_ACCEPTANCE)]["accepted"] == routes.count(Route.AGREED)


def test_intervals_and_tests_are_those_of_the_books():
    low, high = wilson_bounds(81, 263)  # Newcombe 1998, table I, method 3
    assert (low, high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert wilson_bounds(0, 20)[0] == 0
    assert mcnemar(10, 2) == pytest.approx(0.0386, abs=5e-5)
    assert mcnemar(0, 0) == 1


async def test_a_paired_difference_counts_the_questions_that_differ(result):
    trials, _ = result
    told = paired(trials, "transfer", "small_short")
    assert told["worse"] == 0
    assert told["difference"] == pytest.approx(told["better"] / 30)
