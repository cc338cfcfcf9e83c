"""A worker pool: how items are assigned, what happens to the items of a lost worker, and when a run has to end."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import count

import pytest
from laboratory import LARGE, SMALL, Laboratory, MadeUp, says

from cuecard.domain.errors import ModelError, ModelUnreachable
from cuecard.evals.arm import parse_all
from cuecard.evals.runner import MOST_LOST, Plan, run_by
from cuecard.evals.runner.scheduler import WorkerLost, WorkerPool
from cuecard.evals.runner.worker import LocalWorker
from cuecard.models.replay import ScriptedModel


class Mortal(LocalWorker):
    """Lost after `dies_at` calls, and leaves the pool; a replacement from `heirs` joins, if any."""

    def __init__(self, pool: WorkerPool, lab: Laboratory, dies_at: int, heirs: list[int]) -> None:
        models = {
            "small": ScriptedModel("small", says(SMALL, 0.001)),
            "large": ScriptedModel("large", says(LARGE, 0.001)),
        }
        super().__init__(models, alone=True)
        self.pool, self.lab, self.heirs, self.left = pool, lab, heirs, dies_at
        self.made = Counter[str]()
        lab.options["alive"] = lab.options.get("alive", 0) + 1

    async def make(self, order):
        self.left -= 1
        if self.left < 0:
            if self.pool.lose(self):
                self.lab.options["alive"] -= 1
                if self.heirs:
                    await self.pool.join(Mortal(self.pool, self.lab, self.heirs.pop(0), self.heirs), "here")
                elif not self.lab.options["alive"]:
                    await self.pool.end(ModelUnreachable("all workers died"))
            raise WorkerLost
        self.lab.options.setdefault("made", []).append(order.request.key)
        return await super().make(order)


def run(lab: Laboratory, dying: list[int], heirs: list[int]) -> None:
    lab.options["alive"] = 0

    async def work() -> None:
        pool = WorkerPool(1, time.perf_counter, len(dying))
        for dies_at in dying:
            await pool.join(Mortal(pool, lab, dies_at, heirs), "here")
        await run_by(pool, Plan([lab.task], parse_all(lab.arms), lab.seats), store, lambda *_: None)

    store = lab.store()
    try:
        asyncio.run(work())
    finally:
        store.close()


def test_items_of_lost_workers_are_answered_by_others_and_every_call_is_made_once(tmp_path):
    lab = Laboratory(tmp_path, task=MadeUp(12))
    run(lab, [7, 11, 10**9], [9, 10**9])
    assert Counter(arm for _, arm in lab.answers()) == dict.fromkeys(lab.arms, 12)
    made = lab.options["made"]
    assert len(made) == len(set(made)) == 12 * 5


def test_equal_questions_of_other_items_outlive_the_worker_that_was_asked_first(tmp_path):
    class Twins(MadeUp):
        def items(self):
            for item in super().items():
                yield type(item)(f"{item.id} a", item.question, ("A",), "exact", item.cluster)
                yield type(item)(f"{item.id} b", item.question, ("A",), "exact", item.cluster)

    lab = Laboratory(tmp_path, task=Twins(6))
    run(lab, [3, 8, 10**9], [5, 10**9])
    assert Counter(arm for _, arm in lab.answers()) == dict.fromkeys(lab.arms, 12)
    made = lab.options["made"]
    assert len(made) == len(set(made)) == 6 * 5


def test_when_no_worker_is_left_the_run_ends_and_resumes_later(tmp_path):
    lab = Laboratory(tmp_path, task=MadeUp(12))
    with pytest.raises(ModelUnreachable, match="all workers died"):
        run(lab, [7, 11], [])
    made = len(lab.options["made"])
    assert 7 + 11 - 2 <= made <= 7 + 11
    again = Laboratory(tmp_path, task=MadeUp(12))
    assert again.run().calls == 12 * 5 - made


def test_an_item_over_which_workers_die_one_after_the_other_ends_the_run(tmp_path):
    lab = Laboratory(tmp_path, task=MadeUp(1))
    with pytest.raises(ModelError, match=f"{MOST_LOST} workers died one after the other over made-up/0"):
        run(lab, [0], [0] * 10)


async def test_an_item_goes_to_the_worker_with_fewest_and_waits_for_room():
    pool, order = WorkerPool(1, time.perf_counter, 2), count()
    first, second = (LocalWorker({}, alone=True) for _ in range(2))
    await pool.join(first, "one")
    await pool.join(second, "two")
    assert (pool.room, pool.slots) == (2, 2)
    async with pool.worker() as one:
        async with pool.worker() as other:
            assert {one.worker, other.worker} == {first, second}
            waiting = asyncio.create_task(_placed(pool, order))
            await asyncio.sleep(0)
            assert not waiting.done()
        assert await waiting is other.worker


async def _placed(pool: WorkerPool, order) -> object:
    async with pool.worker() as place:
        next(order)
        return place.worker
