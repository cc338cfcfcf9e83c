"""The guarantee holds: in at least 95% of repetitions, the chosen arm keeps the accuracy; and the check can fail."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cuecard.domain.errors import BadInput
from cuecard.evals.analysis.tune import EXPLORE, Goal, Observation, Table, table, tune
from cuecard.stats import bet_p, questions_for_bet

pytestmark = pytest.mark.slow

REPETITIONS = 1000
GOAL = Goal(keep=0.97, confidence=0.95)
BASE = 0.8


def drawn(rng: np.random.Generator, questions: int, worse: list[float], size: int = 1) -> Table:
    """A baseline with 80% right answers, and an arm for each of `worse`, its accuracy that far below the goal's.

    An arm is right on 4% of all questions where the baseline is wrong, and wrong on 4% and more where it is right.
    Questions come in clusters of `size`; half of the difficulties are those of the cluster.
    """
    clusters = np.repeat(np.arange(questions // size), size)

    def uniform() -> np.ndarray:
        own, shared = rng.random(len(clusters)), rng.random(questions // size)[clusters]
        return np.where(rng.random(len(clusters)) < (0.5 if size > 1 else 0.0), shared, own)

    right = uniform() < BASE
    scores = [right]
    for below in worse:
        lost = (0.04 + BASE - (GOAL.keep * BASE - below)) / BASE  # share of the baseline's right answers
        found = 0.04 / (1 - BASE)
        scores.append(np.where(right, uniform() >= lost, uniform() < found))
    costs = np.tile(1 - 0.05 * np.arange(len(scores))[:, None], len(clusters)) + rng.normal(0, 0.01, len(clusters))
    names = tuple(f"image {c}" for c in clusters)
    arms = ("baseline", *(f"arm {place}" for place in range(len(worse))))
    return Table(arms, names, tuple(f"q {i}" for i in range(len(names))), np.array(scores, float), costs)


def careful(seen: Table) -> str | None:
    chosen = tune(seen, "baseline", GOAL).chosen
    return chosen.arm if chosen else None


def by_the_mean(seen: Table) -> str | None:
    """The cheapest arm whose observed accuracy meets the goal."""
    met = [
        arm for arm, loss in zip(seen.arms, GOAL.losses(seen.scores[0], seen.scores), strict=True) if loss.mean() <= 0
    ]
    return met[-1] if met else None


def uncorrected(seen: Table) -> str | None:
    """The cheapest arm that passes its own test at the full level, without correction, on all the data."""
    losses = GOAL.losses(seen.scores[0], seen.scores)
    met = [
        arm
        for arm, own in zip(seen.arms[1:], losses[1:], strict=True)
        if bet_p(own, 0.97, own.std(), GOAL.confidence) <= 0.05
    ]
    return met[-1] if met else None


def violations(choose: Callable[[Table], str | None], worse: list[float], questions: int = 400, size: int = 1) -> float:
    """Share of repetitions in which an arm is chosen whose true accuracy is below the goal's."""
    rng = np.random.default_rng(2024)
    bad = {f"arm {place}" for place, below in enumerate(worse) if below > 0}
    return sum(choose(drawn(rng, questions, worse, size)) in bad for _ in range(REPETITIONS)) / REPETITIONS


BARELY = [1e-4] * 12  # all arms miss the goal by very little: the hardest case


@pytest.mark.parametrize(
    ("worse", "size"),
    [
        (BARELY, 1),
        ([-0.02, -0.02, -0.01, 1e-4, 1e-4, 0.01, 0.02], 1),
        (BARELY, 4),
        ([-0.02, -0.02, -0.01, 1e-4, 1e-4, 0.01, 0.02], 4),
    ],
    ids=["all miss", "from safe to bad", "all miss, clustered", "from safe to bad, clustered"],
)
def test_what_is_chosen_keeps_the_accuracy_in_at_least_95_of_100_repetitions(worse, size):
    assert violations(careful, worse, size=size) <= 0.05


def test_the_check_can_fail_choices_that_forget_the_search_break_the_promise():
    assert violations(by_the_mean, BARELY) > 0.9
    assert violations(uncorrected, BARELY) > 0.2


@pytest.mark.parametrize(
    ("values", "chances"),
    [((-1.0, 0.1, 0.0), (0.02, 0.2, 0.78)), ((-0.1, 1.0, 0.0), (0.2, 0.02, 0.78)), ((-0.5, 0.5), (0.5, 0.5))],
    ids=["rare gains", "rare losses", "no ties"],
)
def test_one_test_keeps_its_level_for_graded_and_skewed_losses_of_mean_0(values, chances):
    rng = np.random.default_rng(6)
    draws = rng.choice(values, (REPETITIONS, 300), p=chances)
    assert np.mean([bet_p(losses, 1.0, draws.std(), Goal(1.0).confidence) <= 0.05 for losses in draws]) <= 0.05


def test_a_wrong_guess_of_the_spread_costs_power_but_never_the_level():
    rng = np.random.default_rng(8)
    for spread in (0.01, 0.2, 5.0):
        passed = 0
        for _ in range(REPETITIONS):
            losses = rng.choice([-1.0, 0.0, 1.0], 300, p=[0.05, 0.9, 0.05])
            passed += bet_p(losses, 1.0, spread, Goal(1.0).confidence) <= 0.05
        assert passed / REPETITIONS <= 0.05


def test_the_number_of_questions_it_asks_for_is_about_the_number_that_it_needs():
    rng = np.random.default_rng(9)
    many = drawn(rng, 40000, [-0.02])
    losses = GOAL.losses(many.scores[0], many.scores)[1]
    wanted = questions_for_bet(losses, many.clusters, GOAL.confidence, EXPLORE)
    assert wanted is not None
    found = [careful(drawn(rng, wanted, [-0.02])) == "arm 0" for _ in range(200)]
    assert 0.68 <= np.mean(found) <= 0.92
    assert questions_for_bet(-losses, many.clusters, GOAL.confidence, EXPLORE) is None


def test_with_enough_questions_it_finds_the_cheapest_that_is_good_and_lists_the_tests():
    seen = drawn(np.random.default_rng(10), 12000, [-0.02, -0.02, 0.05])
    result = tune(seen, "baseline", GOAL)
    assert result.chosen is not None
    assert result.chosen.arm == "arm 1"
    assert result.tested[-1] == "arm 1"
    assert result.questions == 12000
    assert result.explored == 4000
    assert [look.arm for look in result.candidates] == ["arm 2", "arm 1", "arm 0"]
    assert result.candidates[0].needs is None


def test_with_few_questions_it_reports_how_many_would_suffice():
    result = tune(drawn(np.random.default_rng(11), 90, [-0.005]), "baseline", GOAL)
    assert result.chosen is None
    assert result.candidates[0].needs is None or result.candidates[0].needs > 90
    two = Table(("baseline", "same"), ("a", "b"), ("1", "2"), np.ones((2, 2)), np.array([[1.0, 1.0], [0.5, 0.5]]))
    result = tune(two, "baseline", GOAL)
    assert result.chosen is None
    assert result.candidates[0].needs is not None
    assert result.candidates[0].needs > 100  # two questions without an error show nothing


def test_of_schedules_that_give_the_same_answers_the_fastest_is_chosen():
    seen = drawn(np.random.default_rng(12), 6000, [-0.03])
    scores, costs = seen.scores[[0, 1, 1, 1]], seen.costs[[0, 1, 1, 1]] * np.array([1, 0.9, 0.5, 0.7])[:, None]
    schedules = Table(("baseline", "thrifty", "eager", "overlap"), seen.clusters, seen.items, scores, costs)
    result = tune(schedules, "baseline", GOAL)
    assert result.chosen is not None
    assert result.chosen.arm == "eager"
    assert result.tested == ("thrifty", "overlap", "eager")  # dearest first


def test_the_order_of_the_questions_changes_nothing():
    seen = drawn(np.random.default_rng(13), 800, [-0.03, -0.01], size=4)
    turned = Table(seen.arms, seen.clusters[::-1], seen.items[::-1], seen.scores[:, ::-1], seen.costs[:, ::-1])
    one, other = tune(seen, "baseline", GOAL), tune(turned, "baseline", GOAL)
    assert one.tested == other.tested
    assert [look.p for look in one.candidates] == pytest.approx([look.p for look in other.candidates])


def test_a_table_holds_the_questions_that_all_have_answered():
    both = [Observation(str(i), "c", arm, 1.0, i + 1.0, 3, None) for arm in ("a", "b") for i in range(3)]
    seen = table([*both, Observation("9", "c", "a", 0.0, 1.0)])
    assert seen.items == ("0", "1", "2")
    assert seen.costs[0].tolist() == [1, 2, 3]
    assert table(both, "tokens").costs[1].tolist() == [3, 3, 3]
    with pytest.raises(BadInput, match="no price"):
        table(both, "cost")
    with pytest.raises(BadInput, match="no question"):
        table([both[0], Observation("9", "c", "b", 0.0, 1.0)])
    with pytest.raises(BadInput, match="nothing to tune"):
        table([])
    with pytest.raises(BadInput, match="no arm 'reason'"):
        tune(seen, "reason", GOAL)


@pytest.mark.parametrize("wrong", [{"keep": 0}, {"keep": 1.1}, {"margin": -0.1}, {"margin": 1}, {"confidence": 1}])
def test_a_goal_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(BadInput):
        Goal(**wrong)
    assert str(Goal(0.99, 0.005)) == "99% of the accuracy less 0.5 points"
