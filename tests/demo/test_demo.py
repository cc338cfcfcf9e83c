"""The demo's run on simulated models, in virtual time, and its command."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cuecard import cli, virtual_time
from cuecard.demo.live import ARMS, HEADLINE, SAMPLED, LiveRun, Tally, examine, interleaved, regimes
from cuecard.demo.tasks import BoardsTask
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput, ModelUnreachable
from cuecard.domain.outcome import LatencyKind, Route
from cuecard.evals.analysis.examples import Example
from cuecard.evals.analysis.results import BASELINE, RunResults, run_results
from cuecard.evals.database import Record
from cuecard.evals.item import Task
from cuecard.evals.study import Study
from cuecard.models import spec
from cuecard.models.base import Model
from cuecard.models.prompt import Prompt
from cuecard.models.simulated import Profile, Script, ScriptFor, SimulatedModel

SHAPES, BOARDS = 4, 10


def pair(shapes: int = SHAPES, boards: int = BOARDS) -> dict[str, Model]:
    """Simulated models: wrong short answers to jumps (small: also to some others), right answers after reasoning."""
    tasks = *regimes(shapes, boards, 0), BoardsTask("boards", -1, 1, "validation", "examined")
    items = [item for task in tasks for item in task.items()]

    def scripts(role: str) -> ScriptFor:
        def script(prompt: Prompt) -> Script:
            text, image = prompt.turns[-1].text, prompt.images[0].digest
            item = next(i for i in items if i.cluster == image and text.startswith(i.question.text))
            easy = "jump" not in (item.category or "") and (role == "large" or len(text) % 2 == 0)
            if prompt.mode is Mode.SHORT and not easy:
                return Script("red" if role == "small" else "7", answer_logprob=-2.0)
            return Script(item.golds[0], f"Let us look. So the answer is {item.golds[0]}.", -0.01)

        return script

    small = SimulatedModel("sim-small", Profile(0.002, 0.0001, 0.001), scripts("small"), Random(0))
    large = SimulatedModel("sim-large", Profile(0.004, 0.0002, 0.003), scripts("large"), Random(1))
    return {"small": small, "large": large}


def examined(tasks: list[Task], models: dict[str, Model], records: list[Record] | None = None) -> tuple[LiveRun, Any]:
    """Run the demo; returns the run and its configuration."""
    study = Study({"small": "demo-small", "large": "demo-large"}, [task.name for task in tasks], ARMS)
    plan = study.plan(tasks, study.seats(models))
    run = virtual_time.run(examine(plan, models, (records if records is not None else []).append))
    return run, study.config(plan)


@pytest.fixture(scope="module")
def shown() -> Iterator[tuple[LiveRun, RunResults, dict[str, list[Example]]]]:
    run, config = examined(regimes(SHAPES, BOARDS, 0), pair())
    with run.store() as store:
        yield run, run_results(config, store), run.examples(config, store)


def test_every_arm_answers_every_question_once_and_its_routes_sum_to_them(shown) -> None:
    run, found, _ = shown
    assert {task.task: task.items for task in found.tasks} == {"shapes": SHAPES, "boards": BOARDS}
    for task in found.tasks:
        assert tuple(task.arms) == ARMS
        for arm in task.arms.values():
            assert sum(route.questions for route in arm.routes) == arm.answered == task.items
    routes = {route.route for task in found.tasks for route in task.arms[HEADLINE].routes}
    assert {Route.AGREED, Route.TRANSFERRED} <= routes <= {Route.AGREED, Route.CONFIRMED, Route.TRANSFERRED}
    assert len(run.outcomes) == len(ARMS) * (SHAPES + BOARDS)


def test_latencies_of_simulated_models_are_called_estimated(shown) -> None:
    assert {arm.kind for task in shown[1].tasks for arm in task.arms.values()} == {LatencyKind.ESTIMATED}


def test_the_time_lines_are_of_a_transferred_request_of_each_task_that_has_one(shown) -> None:
    run, _, known = shown
    samples = run.samples(known)
    assert samples[-1].example.task == "boards"
    for sample in samples:
        assert sample.outcomes[HEADLINE].route is Route.TRANSFERRED
        assert set(sample.outcomes) == set(SAMPLED)
        assert sample.example in known[sample.example.task]


def test_every_question_has_the_reasoning_of_the_small_model_as_its_card(shown) -> None:
    for known in shown[2].values():
        assert all(example.card == f"Let us look. So the answer is {example.golds[0]}." for example in known)


def test_both_regimes_ask_the_same_for_the_same_seed_and_one_without_questions_is_left_out() -> None:
    first, again, other = ([item for task in regimes(5, 5, seed) for item in task.items()] for seed in (0, 0, 1))
    assert first == again
    assert not {item.cluster for item in first[5:]} & {item.cluster for item in other[5:]}
    assert [task.name for task in regimes(0, 3, 0)] == ["boards"]
    assert [task.name for task in regimes(3, 0, 0)] == ["shapes"]


def test_questions_of_both_regimes_take_turns() -> None:
    study = Study({"small": "demo-small", "large": "demo-large"}, ["shapes", "boards"], ARMS)
    placed = list(interleaved(study.plan(regimes(2, 6, 0), study.seats(pair()))))
    assert [at.task for _, at in placed].count("boards") == 6
    assert "shapes" in [at.task for _, at in placed[:3]]
    assert [place for place, at in placed if at.task == "boards"] == list(range(6))


def test_figures_that_are_shown_meanwhile_end_as_those_of_the_results(shown) -> None:
    records: list[Record] = []
    examined(regimes(SHAPES, BOARDS, 0), pair(), records)
    assert len(records) == len(ARMS) * (SHAPES + BOARDS)
    tally = Tally()
    assert tally.figures("boards", ARMS)[BASELINE].right is None
    for record in records:
        tally.add(record)
    for task in shown[1].tasks:
        figures = tally.figures(task.task, ARMS)
        for arm in task.plain:
            assert figures[arm.arm].right == pytest.approx(arm.accuracy.estimate)
            assert figures[arm.arm].latency_s == pytest.approx(arm.latency.estimate)
        assert figures[BASELINE].times_faster == 1


def test_a_failure_ends_the_run_with_its_error() -> None:
    class Lost(SimulatedModel):
        async def stream(self, prompt: Prompt, limits: Any):  # type: ignore[override]
            raise ModelUnreachable("no such server")
            yield

    lost = Lost("lost", Profile(0.002, 0.0001, 0.001), lambda prompt: Script("0"), Random(0))
    with pytest.raises(ModelUnreachable, match="no such server"):
        examined(regimes(0, 1, 0), {"small": lost, "large": lost})


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [("-1", "3"), ("3", "-1"), ("0", "0"), ("0", "9674")])
def test_numbers_of_questions_that_cannot_be_are_bad_input(numbers: tuple[str, str], tmp_path: Path) -> None:
    arguments = ["demo", "--boards", numbers[0], "--shapes", numbers[1], "--out", str(tmp_path / "demo")]
    result = CliRunner().invoke(cli.app, arguments)
    assert isinstance(result.exception, BadInput)
    assert not (tmp_path / "demo").exists()


def test_a_folder_that_cannot_be_made_is_bad_input_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path / "file" / "demo")])
    assert isinstance(result.exception, BadInput)


def test_a_folder_with_other_files_is_refused_and_one_of_an_earlier_demo_is_not(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    (tmp_path / "report.html").write_text("")
    result = CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path)])
    assert isinstance(result.exception, BadInput)
    assert "thesis.tex" in str(result.exception)
    assert "report.html" not in str(result.exception)
    (tmp_path / "thesis.tex").unlink()
    result = CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path), "--small", "http://"])
    assert "holds files" not in str(result.exception)


@contextmanager
def simulated() -> Iterator[pytest.MonkeyPatch]:
    """The command loads simulated models, in virtual time."""
    models = pair(2, 3)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spec, "load", lambda given, role: models[role])
        patched.setattr(asyncio, "run", virtual_time.run)
        patched.setenv("COLUMNS", "80")
        yield patched


def invoked(out: Path) -> Result:
    return CliRunner().invoke(cli.app, ["demo", "--shapes", "2", "--boards", "3", "--out", str(out)])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The command's result, and its folder."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    with simulated():
        return invoked(out), out


def test_the_command_writes_the_page_and_the_numbers_and_prints_where(done: tuple[Result, Path]) -> None:
    result, out = done
    assert result.exit_code == 0, result.output
    assert "(estimated)" in result.stdout
    page = (out / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "estimated (from simulated models in virtual time)" in page
    assert "Let us look. So the answer is" in page
    first = page.split("<nav")[0]
    assert "Does the pair pay on shapes?" in first
    assert "Does the pair pay on boards?" in first
    numbers = json.loads((out / "results.json").read_text())
    assert numbers["questions"] == 5
    assert len(numbers["answers"]) == 5 * len(ARMS)
    assert str(out / "report.html") in result.stdout
    assert max(map(len, result.stdout.split("\nreport:")[0].splitlines())) <= 80


def test_the_command_prints_one_table_a_verdict_of_each_regime_and_elsewhere_how_far_it_is(
    done: tuple[Result, Path],
) -> None:
    result, _ = done
    text = " ".join(result.stdout.split())
    heads = [line.split() for line in result.stdout.splitlines() if "latency" in line]
    assert heads[0] == ["arm", *["right", "latency", "speed-up"] * 2]
    for regime, count in (("shapes", 2), ("boards", 3)):
        assert f"On {regime} the pair is not shown to pay" in text
        assert f"{count} questions: too few to tell" in text
    assert "Against the large model reasoning for itself" in text
    assert "reason:large, the baseline" in text
    assert "prefill" in text
    assert "5 of 5 questions answered" in result.stderr
    assert "questions answered" not in result.stdout


def test_an_interrupt_prints_one_line_and_keeps_nothing(tmp_path: Path) -> None:
    def interrupted(run: Any) -> Any:
        async def soon() -> None:
            task = asyncio.create_task(run)
            await asyncio.sleep(2.0)
            task.cancel()  # as asyncio.run does on SIGINT
            await asyncio.wait([task])
            raise KeyboardInterrupt

        virtual_time.run(soon())

    with simulated() as patched:
        patched.setattr(asyncio, "run", interrupted)
        result = invoked(tmp_path)
    assert result.exit_code == 128 + signal.SIGINT
    assert re.fullmatch(r"stopped: \d of 5 questions were answered; nothing is kept", result.stderr.splitlines()[-1])
    assert not list(tmp_path.iterdir())
