"""The order of a profile's rounds, completion of a point, drift, and whole models estimated from slices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cuecard.latency.readings import Point, Reading, whole
from cuecard.latency.rounds import Grid, drifted, drifts, is_narrow, turned, workloads

POINT = Point(batch=1, output_tokens=8, prompt_tokens=60)


def reading(round: int, total: float, position: int = 0, **more: object) -> Reading:
    parts = {"vision": 0.2 * total, "prefill": 0.3 * total, "decode": 0.5 * total}
    made = Reading("a", "in-process", round, position, False, POINT, parts, sum(parts.values()))
    return replace(made, **more)  # type: ignore[arg-type]


def test_a_grid_has_every_combination_of_its_factors() -> None:
    grid = Grid((1, 8), (None, 128), text_tokens=(16, 32), batch=(1, 2))
    assert len(set(workloads(grid))) == 16


def test_a_point_counts_the_image_its_marks_and_what_is_cached() -> None:
    work = workloads(Grid((4,), (128,), text_tokens=(10,), cached_text_tokens=(100,)))[0]
    point = work.point(visual=16, head=18, dtype="float32")
    assert (point.visual_tokens, point.prompt_tokens, point.cached_tokens) == (16, 128, 118)


def test_each_round_takes_the_cases_in_the_other_order() -> None:
    assert [turned("AB", round) for round in range(3)] == [["A", "B"], ["B", "A"], ["A", "B"]]


def test_a_point_is_narrow_when_its_interval_is_and_never_of_fewer_than_five() -> None:
    assert not is_narrow([1.0] * 4, 0.03)
    assert is_narrow([1.0] * 5, 0.03)
    assert not is_narrow([1.0, 1.0, 1.0, 1.0, 1.2], 0.03)
    assert is_narrow([1.0, 1.01] * 20, 0.03)


def test_a_machine_that_slows_down_is_reported_as_drift() -> None:
    steady = [replace(reading(round, 1.0), model="b") for round in range(9)]
    slowing = [reading(round, 1.0 + 0.02 * round) for round in range(9)]
    drift = drifts([*steady, *slowing])
    assert drift == {"b": 1.0, "a": pytest.approx(1.14 / 1.02)}
    assert drifted(drift) == ["a"]


def test_two_slices_become_one_estimate_of_all_layers() -> None:
    def sliced(layers: int, position: int) -> Reading:
        parts = {"preprocess": 0.5, "vision": 0.1 + 0.2 * layers, "prefill": 1.0 + 0.1 * layers, "decode": 2.0 * layers}
        point = replace(POINT, layers_timed=layers, layers_total=20)
        return Reading("a", "in-process", 0, position, False, point, parts, sum(parts.values()))

    plain = reading(0, 1.0, 7)
    found = whole([sliced(4, 0), sliced(8, 1), plain], {"a": 10})
    assert found[1] == plain
    expected = {"preprocess": 0.5, "vision": 2.1, "prefill": 3.0, "decode": 40.0}
    assert found[0].parts_s == pytest.approx(expected)
    assert found[0].total_s == pytest.approx(sum(expected.values()))
    assert (found[0].point.layers_timed, found[0].point.layers_total) == (8, 20)


def test_a_slice_without_its_half_is_left_out() -> None:
    assert whole([reading(0, 1.0, point=replace(POINT, layers_timed=4, layers_total=20))], {}) == []
