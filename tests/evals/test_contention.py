"""The pace of two concurrent calls is measured in the same way as it is replayed."""

from __future__ import annotations

import asyncio

import pytest

from cuecard import virtual_time
from cuecard.domain.call import FinishReason, Usage
from cuecard.domain.errors import ModelBusy
from cuecard.domain.question import Question
from cuecard.evals.runner.replay import Machine
from cuecard.evals.runner.worker import pace_of
from cuecard.models.base import AnswerDelta, Finished, Limits
from cuecard.models.replay import Says, ScriptedModel

QUESTIONS = [Question(f"Which, {number}?") for number in range(3)]


class Working(ScriptedModel):
    """Every call takes `seconds` of work on a machine."""

    def __init__(self, machine: Machine, seconds: float) -> None:
        super().__init__("working", lambda prompt: Says())
        self._machine, self._seconds = machine, seconds

    async def stream(self, prompt, limits):
        await self._machine.work(self._seconds)
        yield AnswerDelta("A")
        yield Finished(Usage(), FinishReason.STOP, None)


def measured(*models):
    async def work():
        clock = asyncio.get_running_loop().time
        return await pace_of(dict(zip(("small", "large"), models, strict=True)), QUESTIONS, Limits(), clock)

    return virtual_time.run(work())


@pytest.mark.parametrize("kept", [0.5, 0.8, 1.0])
def test_the_pace_of_a_shared_machine_is_found(kept):
    machine = Machine(kept)
    assert measured(Working(machine, 1.0), Working(machine, 3.0)) == pytest.approx(kept)


def test_models_on_machines_of_their_own_keep_theirs():
    assert measured(Working(Machine(), 1.0), Working(Machine(), 3.0)) == pytest.approx(1.0)


def test_where_a_model_fails_nothing_is_known():
    failing = ScriptedModel("failing", lambda prompt: Says(error=ModelBusy("too much")))
    assert measured(failing, Working(Machine(), 1.0)) is None


def test_of_three_at_once_each_is_slowed_by_both_others():
    async def work():
        machine = Machine(0.5)
        await asyncio.gather(*(machine.work(1.0) for _ in range(3)))
        return asyncio.get_running_loop().time()

    assert virtual_time.run(work()) == pytest.approx(3.0)
