"""Break-even points: both sides take the same time, by the profiles and by strategies in virtual time."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from made_up import LARGE, SMALL, made, profiled
from typer.testing import CliRunner

from cuecard.cli import app
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Route
from cuecard.latency import breakeven, fit
from cuecard.latency.breakeven import TRANSFER, BreakEvenQuery, Costs, tokens_alone
from cuecard.latency.latency_model import Fit, profile_of
from cuecard.latency.simulation import Chances, RequestSize, Way, outcomes
from cuecard.strategies.policy import Schedule

WORK = RequestSize(visual=196, prompt=240, answer=4)
PROFILES = {"small": profile_of(SMALL), "large": profile_of(LARGE)}


@cache
def fits() -> tuple[Fit, Fit]:
    readings = list(made({"tiny-2b": SMALL, "tiny-8b": LARGE}, random.Random(3), 0.02, 0.0, (1, 8, 32, 128)))
    small, large = ([each for each in readings if each.model == name] for name in ("tiny-2b", "tiny-8b"))
    return fit.fit(small, {}, draws=25), fit.fit(large, {}, draws=25)


@cache
def found() -> breakeven.PairBreakEven:
    return breakeven.pair(*fits(), BreakEvenQuery(WORK, 0.86, 0.4, (1, 8, 64, 256), 22, (16, 1024)))


@pytest.mark.parametrize("output", [2, 16, 300])
def test_alone_both_models_take_as_long_at_the_break_even_point(output: int) -> None:
    small, large = PROFILES["small"], PROFILES["large"]
    tokens = tokens_alone(small, large, 196, 240, output)
    below, above = small.call_s(196, 240, math.floor(tokens)), small.call_s(196, 240, math.ceil(tokens))
    assert below <= large.call_s(196, 240, output) <= above


def test_a_small_model_that_reads_slower_than_the_large_one_answers_has_none() -> None:
    slow = profile_of(SMALL | {"fixed_s": 5.0})
    assert tokens_alone(slow, PROFILES["large"], 196, 240, 4) == 0.0


def test_a_small_model_that_writes_for_nothing_is_never_slower() -> None:
    free = profile_of(SMALL | {"decode_s_per_token": 0.0, "decode_s_per_context_token": 0.0})
    assert tokens_alone(free, PROFILES["large"], 196, 240, 4) == math.inf


@pytest.mark.parametrize("strategy", ["transfer", "mutual"])
@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("reasoning", [20, 56, 150, 700])
def test_interpolated_and_extrapolated_costs_of_a_strategy_match_a_run(
    strategy: str, schedule: Schedule, reasoning: int
) -> None:
    (run,) = outcomes(PROFILES, WORK, [Way(strategy, schedule, reasoning, Route.TRANSFERRED)])
    known = Schedule.OVERLAP if (strategy, schedule) == ("transfer", Schedule.EAGER) else schedule
    cost = costs().mean_s(strategy, known, None, reasoning)
    assert cost == pytest.approx(run.total_s, rel=0.02)


@cache
def costs() -> Costs:
    return Costs.of(PROFILES, WORK)


@pytest.mark.parametrize("schedule", list(Schedule))
def test_at_the_break_even_point_mutual_verification_takes_as_long_as_the_large_model(
    schedule: Schedule,
) -> None:
    chances = Chances(0.6, 0.4)
    tokens = round(costs().crossing("mutual", schedule, chances, 128))
    ways = [Way("mutual", schedule, tokens, route) for route in chances.routes]
    took = [each.total_s for each in outcomes(PROFILES, WORK, ways)]
    mean = sum(share * seconds for share, seconds in zip(chances.routes.values(), took, strict=True))
    assert mean == pytest.approx(PROFILES["large"].call_s(196, 240, 128), rel=0.02)


@pytest.mark.slow
def test_transfer_never_beats_the_large_model_answering_as_short_and_agreement_moves_mutual_on() -> None:
    by = {(each.strategy, each.schedule, each.agree, each.output): each.crossing.tokens for each in found().together}
    for schedule in TRANSFER:
        assert by["transfer", schedule, None, 1] == 0
    for schedule in Schedule:
        row = [by["mutual", schedule, rate, 64] for rate in (0.0, 0.4, 0.8, 0.86, 0.9)]
        assert row == sorted(row)
        assert by["mutual", schedule, 1.0, 64] == math.inf


def test_every_crossing_lies_within_its_interval() -> None:
    crossings = [each.crossing for each in (*found().alone, *found().together)]
    assert all(each.low is not None and each.high is not None for each in crossings)
    assert all((each.low or 0) * 0.97 <= each.tokens <= (each.high or 0) * 1.03 for each in crossings)
    assert found().draws == 22


def test_extrapolations_beyond_the_readings_are_listed() -> None:
    assert any("256 output tokens, measured 1 to 128" in line for line in found().extrapolated)


def test_break_even_points_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    breakeven.write([found()], tmp_path / "b.json")
    assert breakeven.read(tmp_path / "b.json") == [found()]
    assert json.loads((tmp_path / "b.json").read_text())["label"] == "estimated"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not a file of break-even points: JSONDecodeError"),
        ('{"version": 9, "pairs": []}', "is of version 9, this cuecard reads 1"),
        ('{"version": 1}', "is not a file of break-even points: KeyError"),
        ('{"version": 1, "pairs": [{"small": "a"}]}', "is not a file of break-even points: TypeError"),
        ('{"version": 1, "pairs": [{"model": "a"}]}', "is not a file of break-even points: KeyError: 'model'"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_with_the_reason(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(BadInput, match=reason):
        breakeven.read(tmp_path / "b.json")


def test_models_of_different_batches_are_not_compared() -> None:
    small, large = fits()
    with pytest.raises(BadInput, match="different batches"):
        breakeven.pair(replace(small, setting={"batch": 8}), large, BreakEvenQuery(WORK))


def test_the_command_makes_missing_fits_and_writes_beside_the_readings(tmp_path: Path) -> None:
    profiled(tmp_path)
    args = ["breakeven", str(tmp_path), "--agree", "0.86", "--draws", "0", "--output-tokens", "1,32"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    (pair,) = breakeven.read(tmp_path / breakeven.FILE)
    assert (pair.small, pair.large, pair.agree) == ("tiny-2b", "tiny-8b", 0.86)
    assert {each.visual for each in pair.alone} == {16, 196, 1024}


def test_the_command_takes_two_directories(tmp_path: Path) -> None:
    profiled(tmp_path / "a", models={"tiny-2b": SMALL})
    profiled(tmp_path / "b", models={"tiny-8b": LARGE})
    args = ["breakeven", str(tmp_path / "a"), str(tmp_path / "b"), "--draws", "0", "--output-tokens", "8"]
    result = CliRunner().invoke(app, [*args, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["pairs"][0]["large"] == "tiny-8b"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--agree", "1.2"], "between 0 and 1"),
        (["--output-tokens", "1,x"], "whole numbers"),
        (["--small", "tiny-9b"], "no fit of tiny-9b"),
    ],
)
def test_invalid_queries_are_refused(tmp_path: Path, args: list[str], message: str) -> None:
    profiled(tmp_path)
    result = CliRunner().invoke(app, ["breakeven", str(tmp_path), "--draws", "0", *args])
    assert isinstance(result.exception, BadInput)
    assert message in str(result.exception)
