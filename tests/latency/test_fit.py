"""A fit recovers the coefficients behind the readings, despite noise and outliers, with its uncertainty."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from made_up import LARGE, MODELS, SMALL, made, profiled

from cuecard.domain.errors import BadInput
from cuecard.latency import fit, latency_model, readings
from cuecard.latency.latency_model import profile_of
from cuecard.latency.readings import Point, ProfileConfig, Reading, Readings


def test_without_noise_the_fit_is_the_profile_that_made_the_readings(tmp_path: Path) -> None:
    small, large = fit.fits(profiled(tmp_path), draws=0)
    for found, known in ((small, SMALL), (large, LARGE)):
        for name, value in known.items():
            assert getattr(found.profile, name) == pytest.approx(value, rel=0.02), name
        assert found.held_out["total"].median < 1e-4
        assert found.pixels_per_visual_token == 1024
        assert found.ranges["visual_tokens"] == (16, 1024)


def test_noise_and_outliers_leave_the_held_out_error_below_5_percent(tmp_path: Path) -> None:
    for found in fit.fits(profiled(tmp_path, noise=0.03, outliers=0.05), draws=0):
        assert found.held_out["total"].median < 0.05
        assert found.held_out["total"].points == 12


def test_intervals_of_bootstrap_draws_hold_the_true_value_and_are_wider_with_more_noise(tmp_path: Path) -> None:
    widths = []
    for noise in (0.01, 0.05):
        small, _ = fit.fits(profiled(tmp_path / str(noise), noise=noise), draws=60)
        assert len(small.draws) == 60
        low, high = small.interval("decode_s_per_token") or (0.0, 0.0)
        assert low * (1 - noise) < SMALL["decode_s_per_token"] < high * (1 + noise)
        widths.append(high - low)
    assert widths[0] < widths[1]


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    group = [each for each in made({"a": SMALL}, Random(1), 0.05, 0.0, (1, 8, 32)) if each.model == "a"]
    assert fit.fit(group, {}, draws=5) == fit.fit(group, {}, draws=5)
    assert fit.fit(group, {}, draws=5).draws != fit.fit(group, {}, draws=5, seed=1).draws


def test_one_image_size_gives_a_fixed_time_and_no_slope(tmp_path: Path) -> None:
    group = [each for each in made({"a": SMALL}, Random(1), 0.0, 0.0, (1, 8, 32)) if each.point.image_px == 448]
    found = fit.fit(group, {}, draws=0)
    assert set(found.parts["vision"]) == {"vision_fixed_s"}
    assert found.ranges["visual_tokens"] == (196, 196)


def test_one_output_length_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="one output length"):
        fit.fits(profiled(tmp_path, outputs=(8,)), draws=0)


def test_warm_up_and_failed_requests_are_left_out(tmp_path: Path) -> None:
    with Readings(tmp_path, ProfileConfig({"models": {"a": {}}})) as held:
        for reading in made({"a": SMALL}, Random(1), 0.0, 0.0, (1, 8, 32, 128)):
            held.append(reading)
            held.append(replace(reading, warmup=True, parts_s={"decode": 9.0}, total_s=9.0))
            held.append(replace(reading, error="reset", parts_s={}, total_s=9.0))
    (found,) = fit.fits(tmp_path, draws=0)
    assert found.readings == 36
    assert found.held_out["total"].median < 1e-3


def test_few_points_are_not_followed_into_their_noise(tmp_path: Path) -> None:
    group = [each for each in made({"a": SMALL}, Random(1), 0.05, 0.0, (1, 8, 32)) if each.point.image_px != 448]
    found = fit.fit(group, {}, draws=0)
    assert len(found.parts["decode"]) == 3
    assert found.profile.call_s(16, 56, 20) == pytest.approx(profile_of(SMALL).call_s(16, 56, 20), rel=0.1)


def test_readings_of_a_server_are_fitted_by_their_first_token(tmp_path: Path) -> None:
    with Readings(tmp_path, ProfileConfig({"models": {"served": {}}})) as held:
        for prompt in (100, 400, 1600):
            for output in (8, 64):
                parts = {"queue": 0.5, "ttft": 0.05 + 1e-4 * prompt, "decode": 0.01 * (output - 1), "tail": 0.002}
                point = Point(prompt_tokens=prompt, output_tokens=output, concurrency=1)
                held.append(Reading("served", "server", 0, 0, False, point, parts, sum(parts.values())))
    (found,) = fit.fits(tmp_path, draws=0)
    assert found.profile.call_s(0, 800, 32) == pytest.approx(0.052 + 1e-4 * 800 + 0.01 * 31, rel=0.01)
    assert found.held_out["total"].median < 0.01


def test_each_setting_has_a_fit_of_its_own_and_a_file_named_by_it(tmp_path: Path) -> None:
    with Readings(tmp_path, ProfileConfig({"models": {"org/a": {}}})) as held:
        for reading in made({"org/a": SMALL}, Random(1), 0.0, 0.0, (1, 8, 32)):
            held.append(reading)
            held.append(replace(reading, point=replace(reading.point, batch=8)))
    written = latency_model.write(fit.fits(tmp_path, draws=0), tmp_path / latency_model.FOLDER)
    assert sorted(path.name for path in written) == ["org_a-batch=1.json", "org_a-batch=8.json"]
    assert latency_model.plainest(latency_model.read_all(tmp_path), "org/a").setting["batch"] == 1


def test_a_fit_comes_back_from_its_file_as_it_was_and_is_called_estimated(tmp_path: Path) -> None:
    profiled(tmp_path)
    fits = fit.fits(tmp_path, draws=20)
    paths = latency_model.write(fits, tmp_path / latency_model.FOLDER)
    back = latency_model.read_all(tmp_path)
    assert [each.model for each in back] == list(MODELS)
    assert [each.profile for each in back] == [each.profile for each in fits]
    assert [each.held_out for each in back] == [each.held_out for each in fits]
    assert json.loads(paths[0].read_text())["label"] == "estimated"


@pytest.mark.parametrize("change", [{"ranges": None}, {"images": {"a": 1}}, {"model": 5}, {"parts": [1]}])
def test_a_fit_with_values_of_other_types_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    profiled(tmp_path)
    path, *_ = latency_model.write(fit.fits(tmp_path, draws=0), tmp_path / latency_model.FOLDER)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInput, match="is not a fit: TypeError"):
        latency_model.read(path)


def test_a_path_that_cannot_be_looked_up_is_no_profile_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="File name too long"):
        readings.about(tmp_path / ("x" * 300))


def test_fits_that_are_not_there_or_of_another_version_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no fits"):
        latency_model.read_all(tmp_path)
    (tmp_path / "fit.json").write_text('{"version": 99}')
    with pytest.raises(BadInput, match="version 99"):
        latency_model.read(tmp_path / "fit.json")


def test_the_parts_of_a_call_add_up_to_the_call(tmp_path: Path) -> None:
    small, _ = fit.fits(profiled(tmp_path, noise=0.02), draws=0)
    assert sum(small.parts_s(196, 300, 40).values()) == pytest.approx(small.profile.call_s(196, 300, 40))


def test_a_profile_with_nothing_but_warm_up_is_refused(tmp_path: Path) -> None:
    Readings(tmp_path, ProfileConfig({"models": {}})).close()
    with pytest.raises(BadInput, match="no readings"):
        fit.fits(tmp_path)
    assert readings.is_profile(tmp_path)


def test_the_embedded_pairs_committed_profile_is_foretold_within_5_percent_where_it_was_held_out() -> None:
    for found in fit.fits(Path(__file__).parents[2] / "benchmarks" / "results" / "profile-cpu", draws=0):
        assert found.held_out["total"].median < 0.05
        assert found.held_out["total"].points == 32
