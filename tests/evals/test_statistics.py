"""Intervals have their coverage, tests keep their level, sample sizes reach their power."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from cuecard.domain.errors import BadInput
from cuecard.stats import (
    compare,
    holm,
    mean_difference,
    mean_interval,
    non_inferiority,
    quantile,
    ratio_interval,
    share_interval,
    tango_interval,
    tango_p,
    wilson,
)


def test_wilson_is_newcombes_worked_example():
    # Newcombe 1998, Statistics in Medicine 17:857, table I: 81 of 263, and 0 of 20
    found = wilson(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20).low == pytest.approx(0, abs=1e-12)
    assert wilson(0, 20).high == pytest.approx(0.1611, abs=5e-5)


def test_of_no_answers_nothing_is_known():
    found = wilson(0, 0)
    assert math.isnan(found.estimate)
    assert (found.low, found.high) == (0, 1)


def test_a_bootstrap_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(1).normal(10, 2, 400)
    found = mean_interval(list(values))
    half = 1.96 * values.std(ddof=1) / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_bca_agrees_with_scipy_on_skewed_seconds():
    scipy_stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(2).exponential(1, 60)
    ours = mean_interval(list(values))
    theirs = scipy_stats.bootstrap((values,), np.mean, n_resamples=20000, method="BCa", rng=1).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_the_same_seed_gives_the_same_interval_and_another_a_near_one():
    values = [float(x % 7) for x in range(200)]
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert mean_interval(values, seed=4).low == pytest.approx(mean_interval(values, seed=3).low, abs=0.03)


def test_questions_of_one_image_count_as_one_where_they_share_their_fate():
    rng = random.Random(0)
    fates = [float(rng.random() < 0.7) for _ in range(100)]
    scores = [fate for fate in fates for _ in range(6)]
    images = [str(i) for i in range(100) for _ in range(6)]
    alone, together = share_interval(scores), share_interval(scores, images)
    assert alone.method == "Wilson"
    assert "cluster" in together.method
    assert together.high - together.low == pytest.approx(math.sqrt(6) * (alone.high - alone.low), rel=0.1)


def test_cluster_intervals_cover_and_intervals_that_forget_the_clusters_do_not():
    rng, covered, forgot = np.random.default_rng(5), 0, 0
    images = [str(i) for i in range(60) for _ in range(5)]
    for seed in range(300):
        hard = rng.random(60) < 0.5
        scores = [float(each) for each in (rng.random((60, 5)) < np.where(hard, 0.4, 0.9)[:, None]).ravel()]
        kept = ratio_interval(scores, [1.0] * 300, images, seed=seed, draws=600)
        lost = wilson(round(sum(scores)), 300)
        covered += kept.low <= 0.65 <= kept.high
        forgot += lost.low <= 0.65 <= lost.high
    assert covered / 300 >= 0.91
    assert forgot / 300 < 0.9


def test_where_all_answers_are_right_the_interval_is_not_a_point():
    found = share_interval([1.0] * 60, [str(i // 6) for i in range(60)])
    assert found == pytest.approx(wilson(10, 10), abs=0) or (found.low, found.high) == (wilson(10, 10).low, 1.0)
    assert found.low < 0.8


def test_one_cluster_gives_no_interval():
    assert mean_interval([1.0, 0.0, 1.0], ["a", "a", "a"]).low is None
    assert mean_interval([], []).high is None
    assert share_interval([1.0, 1.0], ["a", "a"]).low is None


def test_a_speed_up_is_a_ratio_of_means_and_covers_the_true_one():
    rng, covered = np.random.default_rng(7), 0
    for seed in range(200):
        slow, fast = rng.lognormal(1, 0.5, 120), rng.lognormal(0, 0.5, 120)
        found = ratio_interval(list(slow), list(fast), seed=seed, draws=600)
        assert found.estimate == pytest.approx(slow.mean() / fast.mean())
        covered += found.low <= math.e <= found.high
    assert covered / 200 >= 0.9


def test_a_ratio_over_nothing_has_no_value():
    assert math.isnan(ratio_interval([1.0, 2.0], [0.0, 0.0]).estimate)


def test_paired_intervals_are_narrower_than_what_two_arms_alone_would_give():
    rng = random.Random(1)
    base = [rng.gauss(5, 2) for _ in range(200)]
    other = [b + rng.gauss(0.2, 0.1) for b in base]
    paired = mean_difference(other, base).interval
    assert 0 < paired.low < 0.2 < paired.high
    assert paired.high - paired.low < 0.1


def test_mcnemars_p_is_the_score_test_of_the_questions_that_differ():
    ones, others = [1.0] * 10 + [0.0] * 2 + [1.0] * 50, [0.0] * 10 + [1.0] * 2 + [1.0] * 50
    result = compare(ones, others)
    assert (result.better, result.worse, result.same) == (10, 2, 50)
    assert result.p == pytest.approx(math.erfc(8 / math.sqrt(12) / math.sqrt(2)))
    assert result.test == result.difference.method == "Tango's score test"
    assert result.difference.estimate == pytest.approx(8 / 62)


def test_clustered_or_graded_scores_are_tested_over_whole_clusters():
    ones = [1.0] * 6 + [0.0] * 6
    assert compare(ones, [0.0] * 12, ["a"] * 6 + ["b"] * 6).p == pytest.approx(0.5)  # t = 1 with one degree of freedom
    graded = compare([0.5, 1.0, 0.2], [0.4, 0.9, 0.3])
    assert graded.test == graded.difference.method == "cluster-robust t test"
    alike = mean_difference([1.0] * 8, [0.0] * 8)
    assert (alike.p, alike.test, alike.interval.low) == (pytest.approx(2 / 2**8), "sign test of clusters", None)
    assert mean_difference([0.0, 0.0], [0.0, 0.0]).p == 1.0


@pytest.mark.parametrize("clusters", [None, [str(i // 2) for i in range(40)]])
def test_an_interval_excludes_zero_exactly_where_its_own_p_is_small(clusters):
    rng, seen = random.Random(2), set()
    for _ in range(300):
        drift = rng.random() / 3
        ones = [float(rng.random() < 0.5 + drift) for _ in range(40)]
        found = compare(ones, [float(rng.random() < 0.5) for _ in range(40)], clusters)
        excluded = not found.difference.low <= 0 <= found.difference.high
        assert excluded == (found.p <= 0.05), found
        seen.add(excluded)
    assert seen == {True, False}


def test_the_robust_test_keeps_its_level_where_clusters_hang_together():
    rng, images = np.random.default_rng(3), [str(i) for i in range(40) for _ in range(4)]
    rejected = 0
    for _ in range(300):
        drift = np.repeat(rng.normal(0, 1, 40), 4) + rng.normal(0, 0.3, 160)
        rejected += mean_difference(list(drift), [0.0] * 160, images).p <= 0.05
    assert rejected / 300 <= 0.08


def test_holm_is_the_step_down_of_the_textbook():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert holm({}) == {}


def test_tangos_test_is_his_worked_example():
    # Tango 1998, section 5: 43 of 44 pairs alike, 1 worse under the new, margin 0.1: Z = 1.709
    assert tango_p(0, 1, 44, 0.1) == pytest.approx(0.0437, abs=2e-3)


def test_tangos_interval_is_the_one_published_and_has_a_width_where_nothing_differs():
    # Fagerland, Lydersen and Laake 2013, BMC Med. Res. Methodol. 13:91, airway data: 1 against 7 of 21
    found = tango_interval(1, 7, 21)
    assert (found.low, found.high) == pytest.approx((-0.517, -0.026), abs=1e-3)
    alike = compare([1.0] * 24, [1.0] * 24).difference
    assert alike.low == pytest.approx(-0.138, abs=1e-3)
    assert alike.high == pytest.approx(0.138, abs=1e-3)
    fewer = compare([1.0] * 24, [1.0] * 24, [str(i // 3) for i in range(24)]).difference
    assert fewer.high > alike.high  # eight images


@pytest.mark.parametrize("others", [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
def test_questions_about_a_single_image_show_no_difference_and_have_no_interval(others):
    found = compare([1.0, 1.0], others, ["board", "board"])
    assert (found.difference.low, found.difference.high, found.p) == (None, None, 1.0)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_tangos_interval_covers_the_difference_of_few_questions(share):
    rng, covered = np.random.default_rng(4), 0
    for better, worse, _ in rng.multinomial(24, [share, share / 2, 1 - 1.5 * share], size=1000):
        found = tango_interval(int(better), int(worse), 24)
        covered += found.low <= share / 2 <= found.high
    assert covered / 1000 >= 0.93


def test_non_inferiority_keeps_its_level_at_the_margin_and_finds_what_is_equal():
    rng, false, found = np.random.default_rng(11), 0, 0
    for _ in range(1000):
        worse = rng.multinomial(800, [0.03, 0.06, 0.91])  # three points worse: at the margin
        false += tango_p(worse[0], worse[1], 800, 0.03) <= 0.05
        equal = rng.multinomial(800, [0.045, 0.045, 0.91])
        found += tango_p(equal[0], equal[1], 800, 0.03) <= 0.05
    assert false / 1000 <= 0.065
    assert found / 1000 > 0.8


def test_non_inferiority_names_its_method():
    equal = [1.0, 0.0] * 100
    assert non_inferiority(equal, equal, 0.05).method == "Tango's score test"
    assert non_inferiority(equal, equal, 0.05).shown
    assert "clusters" in non_inferiority(equal, equal, 0.05, [str(i // 2) for i in range(200)]).method
    graded = [0.3 + (i % 5) / 10 for i in range(200)]
    result = non_inferiority([g + (i % 3 - 1) / 50 for i, g in enumerate(graded)], graded, 0.05)
    assert result.method == "cluster-robust t test"
    assert result.shown
    assert not non_inferiority([0.0] * 30, [1.0] * 30, 0.05).shown
    with pytest.raises(BadInput, match="margin"):
        non_inferiority(equal, equal, 0)


def test_quantiles_lie_between_neighbours():
    assert [quantile([1.0, 2.0, 3.0], level) for level in (0, 0.5, 0.75, 1)] == [1.0, 2.0, 2.5, 3.0]
    assert quantile([1.0, math.inf, math.inf], 0.75) == math.inf


def test_arms_of_different_length_are_refused():
    with pytest.raises(BadInput, match="1 and 2 questions"):
        compare([1.0], [1.0, 0.0])
    with pytest.raises(BadInput, match="cluster"):
        mean_interval([1.0, 0.0], ["a"])
