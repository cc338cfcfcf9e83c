"""The showcase on simulated models, in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from cuecard import cli, virtual_time
from cuecard.demo import showcase as room
from cuecard.domain.call import Call, FinishReason, Mode, Usage
from cuecard.domain.errors import BadInput, CuecardError
from cuecard.domain.outcome import LatencyKind, Outcome, Route
from cuecard.models import spec
from cuecard.models.base import Model
from cuecard.models.prompt import Prompt
from cuecard.models.simulated import Profile, Script, ScriptFor, SimulatedModel
from cuecard.report.showcase.records import Showcase

BOARDS, PHOTOS = 10, 4


def pair(seed: int = 0) -> dict[str, Model]:
    """Short answers are guesses for whatever needs a jump; reasoning is right; the reader believes what it reads."""
    asked = room.questions(BOARDS, PHOTOS, seed)
    known = {(e.question.text, e.question.images[0].digest): e for e in asked}

    def says(role: str) -> ScriptFor:
        def said(prompt: Prompt) -> Script:
            text, image = prompt.turns[-1].text, prompt.images[0].digest
            exercise = next((e for (asked, seen), e in known.items() if seen == image and text.startswith(asked)), None)
            if exercise is None:
                return Script("0")
            reasoning = exercise.reasoning or "Let us look at the image. So the answer is plain."
            easy = "jump" not in exercise.task and (role == "large" or len(text) % 2 == 0)
            if prompt.mode is Mode.SHORT and not easy:
                return Script("red" if role == "small" else "7", answer_logprob=-2.0)
            return Script(exercise.truth, reasoning, -0.01)

        return said

    small = SimulatedModel("sim-small", Profile(0.002, 0.0001, 0.001), says("small"), Random(0))
    large = SimulatedModel("sim-large", Profile(0.004, 0.0002, 0.003), says("large"), Random(1))
    return {"small": small, "large": large}


@pytest.fixture(scope="module")
def shown() -> Showcase:
    return virtual_time.run(room.showcase(pair(), BOARDS, PHOTOS, 0, lambda: None))


def test_the_routes_of_every_strategy_sum_to_the_number_of_questions(shown: Showcase) -> None:
    assert len(shown.rows) == len(room.ARMS)
    for row in shown.rows:
        assert sum(row.routes.values()) == row.questions == BOARDS + PHOTOS
    assert set(shown.row("mutual, overlap").routes) == {Route.AGREED, Route.CONFIRMED, Route.TRANSFERRED}


def test_a_question_that_a_strategy_did_not_answer_is_an_error_not_a_smaller_mean() -> None:
    with pytest.raises(CuecardError, match="did not answer each of the 3 questions"):
        room.row("mutual, eager", [], [], 3)


def test_every_strategy_answered_every_question_once(shown: Showcase) -> None:
    assert sorted((a.asked, a.strategy) for a in shown.answers) == sorted(
        (index, name) for index in range(BOARDS + PHOTOS) for name in room.ARMS
    )


def test_speed_up_is_against_the_large_models_own_reasoning_of_the_same_run(shown: Showcase) -> None:
    alone = shown.row("reason:large")
    assert alone.speed_up == 1
    for row in shown.rows:
        assert row.speed_up == pytest.approx(alone.mean_s / row.mean_s)


def test_latencies_of_simulated_models_are_called_estimated(shown: Showcase) -> None:
    assert {row.latency for row in shown.rows} == {LatencyKind.ESTIMATED}


def test_the_parts_of_a_latency_sum_to_it(shown: Showcase) -> None:
    for row in shown.rows:
        assert sum(row.parts_s.values()) == pytest.approx(row.mean_s)


def test_the_time_line_is_of_a_transferred_request(shown: Showcase) -> None:
    assert shown.sample is not None
    assert shown.sample.outcomes["mutual, overlap"].route is Route.TRANSFERRED
    assert {"reason:large", "mutual, thrifty", "mutual, eager"} < set(shown.sample.outcomes)


def test_the_gallery_has_every_route_and_both_sources(shown: Showcase) -> None:
    assert {exhibit.outcome.route for exhibit in shown.gallery} == set(shown.row(shown.headline).routes)
    assert {exhibit.source == "easy-VQA" for exhibit in shown.gallery} == {True, False}


def test_the_same_seed_asks_the_same_questions_and_another_seed_others() -> None:
    first, again, other = (room.questions(5, 5, seed) for seed in (0, 0, 1))
    assert first == again
    assert all(one != two for one, two in zip(first, other, strict=True))


def test_who_was_busy_when_covers_the_request_without_counting_a_second_twice() -> None:
    def call(role: str, start_s: float, end_s: float) -> Call:
        return Call(role, role, Mode.SHORT, start_s, None, end_s, Usage(), FinishReason.STOP)

    calls = (call("small", 0.0, 0.4), call("large", 0.1, 0.2), call("large", 0.5, 1.5))
    spent = room.busy(Outcome("", Route.AGREED, "mutual", calls, 1.0, ""))
    assert spent == pytest.approx({"small": 0.3, "small + large": 0.1, "neither": 0.1, "large": 0.5})


def test_tick_comes_once_a_question() -> None:
    ticks: list[None] = []
    virtual_time.run(room.showcase(pair(), 2, 1, 0, lambda: ticks.append(None)))
    assert len(ticks) == 3


# --- the command -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [("-1", "3"), ("3", "-1"), ("0", "0"), ("0", "9674")])
def test_numbers_of_questions_that_cannot_be_are_bad_input(numbers: tuple[str, str], tmp_path: Path) -> None:
    arguments = ["demo", "--boards", numbers[0], "--easy-vqa", numbers[1], "--out", str(tmp_path / "demo")]
    result = CliRunner().invoke(cli.app, arguments)
    assert isinstance(result.exception, BadInput)
    assert not (tmp_path / "demo").exists()


def test_a_folder_that_cannot_be_made_is_bad_input_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path / "file" / "demo")])
    assert isinstance(result.exception, BadInput)


def test_the_command_writes_the_page_and_the_numbers_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = pair()
    monkeypatch.setattr(spec, "load", lambda given, role: models[role])
    monkeypatch.setattr(asyncio, "run", virtual_time.run)
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(cli.app, ["demo", "--boards", "3", "--easy-vqa", "1", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert '"questions": 4' in (tmp_path / "results.json").read_text()
    assert str(tmp_path / "report.html") in result.stdout
    assert max(map(len, result.stdout.split("\nreport:")[0].splitlines())) <= 80
