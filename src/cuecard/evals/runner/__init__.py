"""A run: every arm answers every item from calls that are made once. A run that stopped for any reason can be resumed.

An item's arms request the calls that are not stored, these are made, and the answers are composed from them: see
`compose`. With a concurrency of 1, one item is processed at a time and models drop their caches between items, so that
times are those of a first question.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from random import Random

from cuecard.domain.errors import BadInput, ModelError
from cuecard.domain.outcome import LatencyKind
from cuecard.evals.arm import Arm, budgets, foreign
from cuecard.evals.database import AnswerRow, ItemRow, Record, RowWriter, Store
from cuecard.evals.item import Item, Task
from cuecard.evals.requests import Seat, StoredCalls, untimed
from cuecard.evals.runner.compose import Composition, TaskItem, answer_record, foreign_request
from cuecard.evals.runner.scheduler import PooledWorker, Scheduler, WorkerLost, WorkerPool, for_each
from cuecard.evals.runner.worker import PACE_PAIRS
from cuecard.models.base import Model
from cuecard.strategies.policy import Schedule

PACE = "pace"
"""Name of the note under which the pace is stored."""
MOST_LOST = 5
"""After this many workers died on one item, the item is taken for the cause and the run ends."""
LOOK_BACK = 8
"""An item's partner is chosen among this many items before it."""


@dataclass(frozen=True)
class Plan:
    """Tasks, arms and models of a run. `limit` and `sample` choose items of each task."""

    tasks: Sequence[Task]
    arms: Sequence[Arm]
    seats: Mapping[str, Seat]
    limit: int | None = None
    sample: int | None = None
    at_once: int = 1
    live: bool = False
    backoff_s: float = 0.5
    share_machine: bool = False
    """The models are slower concurrently than alone: the slowdown is measured, for arms with concurrent calls."""
    batched: bool = False
    """A model in this process decodes several calls in one batch: calls have no times, and answers no latency."""


@dataclass
class RunProgress:
    """Progress of a run. `answered` counts items, including those answered before this process started."""

    total: int | None
    answered: int = 0
    fresh: int = 0
    """Items that at least one arm answered in this process."""
    live: int = 0
    """Items that all arms have answered live. Live answers begin when all items are answered from stored calls."""
    calls: int = 0
    began_s: float = field(default_factory=time.perf_counter)
    busy_share: float | None = None
    """Share of the slots' time that was spent in calls."""


Listen = Callable[[RunProgress, Sequence[Record]], None]
"""Called after every item with the records of its answers."""


async def run(plan: Plan, models: Mapping[str, Model], store: Store, listen: Listen) -> RunProgress:
    """`run_by` with this process as the only worker."""
    pool = WorkerPool.of(models, plan.at_once, time.perf_counter, timed=not plan.batched)
    return await run_by(pool, plan, store, listen)


async def run_by(pool: WorkerPool, plan: Plan, store: Store, listen: Listen) -> RunProgress:
    """Answer all items not answered yet. Raises CannotStore, ModelError (a model is lost), BadInput (broken data)."""
    writer = RowWriter(store)
    scheduler = Scheduler(writer.put, plan.backoff_s, not plan.batched)
    runner = _Runner(plan, pool, store, writer, scheduler, listen, RunProgress(expected(plan)))
    _note_begun(plan, store)
    writing = asyncio.create_task(writer.work())
    working = asyncio.create_task(runner.all())
    try:
        await asyncio.wait((writing, working), return_when=asyncio.FIRST_COMPLETED)
        if writing.done():
            writing.result()
        await working
    finally:
        working.cancel()
        await asyncio.wait((working,))
        if not writing.done():  # store all calls made so far, even if the run failed
            writer.finish()
            await writing
    for task in plan.tasks:
        store.note(f"complete {task.name}", True)
    progress = runner.progress
    progress.calls = scheduler.calls
    took_s = time.perf_counter() - progress.began_s
    progress.busy_share = pool.busy_s / (pool.slots * took_s) if progress.calls else None
    return progress


@dataclass
class _Runner:
    plan: Plan
    pool: WorkerPool
    store: Store
    writer: RowWriter
    scheduler: Scheduler
    listen: Listen
    progress: RunProgress
    pacing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def all(self) -> None:
        for work in (self._compose, self._live) if self.plan.live else (self._compose,):
            await for_each(task_items(self.plan), self.pool.room, work)

    async def _compose(self, item: tuple[int, TaskItem]) -> None:
        ord, at = item
        answered = self.store.answered(at.task, at.item.id)
        todo = [arm for arm in self.plan.arms if arm.name not in answered]
        if todo or self.plan.sample is not None:
            images = at.item.question.images if todo else ()
            await self.writer.put(ItemRow(at.task, at.item.id, ord, item_record(at.item), images))
        stored = (self.store.answer(at.task, at.item.id, arm.name) for arm in self.plan.arms if arm.name in answered)
        records = [record for record in stored if record is not None]
        if todo:
            records += await self._answers(at, todo)
        self.progress.answered += 1
        self.progress.fresh += bool(todo)
        self.listen(self.progress, records)

    async def _answers(self, at: TaskItem, arms: Sequence[Arm]) -> list[Record]:
        """The records of these arms' answers, which are also stored."""
        calls = StoredCalls(self.store.call, budgets(self.plan.arms), await self._pace(at, arms))
        measures = {arm.equal for arm in arms}
        needed = [arm for arm in self.plan.arms if arm in arms or arm.name in measures]
        with closing(Composition(at, needed, self.plan.seats, calls)) as composition:

            async def work(worker: PooledWorker) -> None:
                # on a thread, because virtual time runs its own event loop
                while requests := await asyncio.to_thread(composition.advance):
                    await self.scheduler.make(requests, at, calls, worker)

            await self._by_a_worker(at, work)
        outcomes = [composition.outcomes[arm.name] for arm in arms]

        def scored() -> list[Record]:
            records = [answer_record(at, each, LatencyKind.COMPOSED) for each in outcomes]
            return [untimed(record, calls.call) for record in records] if self.plan.batched else records

        records = await asyncio.to_thread(scored)
        for record in records:
            await self.writer.put(AnswerRow(at.task, at.item.id, record["arm"], record))
        return records

    async def _by_a_worker(self, at: TaskItem, work: Callable[[PooledWorker], Awaitable[None]]) -> None:
        """Run `work` with a worker; repeat with another if it is lost. Raises ModelError after `MOST_LOST` losses."""
        for _ in range(MOST_LOST):
            with suppress(WorkerLost):
                async with self.pool.worker() as worker:
                    return await work(worker)
        why = f"{MOST_LOST} workers died one after the other over {at.name}"
        raise ModelError(why, "look at their machines' memory and logs; the same command resumes the run then")

    async def _pace(self, at: TaskItem, arms: Sequence[Arm]) -> float | None:
        """Relative speed of a call beside another one, measured once per run; None if no calls run concurrently."""
        schedules = {arm.policy.schedule_of(self.plan.seats) for arm in arms}
        if not self.plan.share_machine or schedules == {Schedule.THRIFTY}:
            return None
        async with self.pacing:
            if PACE not in (notes := self.store.notes()):
                first = [each.item.question for _, each in islice(task_items(self.plan), PACE_PAIRS)]

                async def work(pooled: PooledWorker) -> None:
                    self.store.note(PACE, await pooled.worker.pace(first, arms[0].policy.limits))

                await self._by_a_worker(at, work)
                notes = self.store.notes()
        pace: float | None = notes[PACE]
        return pace

    async def _live(self, item: tuple[int, TaskItem]) -> None:
        ord, at = item
        answered, arms = self.store.answered(at.task, at.item.id), self.plan.arms
        turn = ord % len(arms)  # rotate the order, so that drift of the machine affects all arms alike
        for arm in (*arms[turn:], *arms[:turn]):
            if arm.live not in answered and arm.equal is None:
                await self._by_a_worker(at, partial(self._live_arm, at, arm))
        self.progress.live += 1
        self.listen(self.progress, [])

    async def _live_arm(self, at: TaskItem, arm: Arm, pooled: PooledWorker) -> None:
        card = None
        if arm.placebo == foreign.__name__ and at.partner is not None:
            calls = StoredCalls(self.store.call, budgets(self.plan.arms))
            if (stored := calls.get(foreign_request(at, arm, self.plan.seats))) is not None:
                card = stored[1]["reasoning"] or ""
        async with pooled.slots.use("live"):
            record = await pooled.worker.live(at, arm, card)
        await self.writer.put(AnswerRow(at.task, at.item.id, record["arm"], record))


# --- items ------------------------------------------------------------------------------------------------------------


def expected(plan: Plan) -> int | None:
    """The number of items of the run; None if a task does not know its count."""
    counts = [_expected(task, plan.limit) for task in plan.tasks]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _expected(task: Task, limit: int | None) -> int | None:
    return min((each for each in (task.count, limit) if each is not None), default=None)


def _note_begun(plan: Plan, store: Store) -> None:
    """Store each task's number of questions, and mark the task as not complete."""
    notes = store.notes()
    for task in plan.tasks:
        store.note(f"questions {task.name}", _expected(task, plan.limit))
        if not notes.get(f"complete {task.name}"):
            store.note(f"complete {task.name}", False)


def task_items(plan: Plan) -> Iterator[tuple[int, TaskItem]]:
    """Every chosen item of every task, with its index in the task and its partner (see `_partner`)."""
    for task in plan.tasks:
        items = chosen(task, plan.limit, plan.sample)
        first = list(islice(items, 2))
        before = deque(first[1:], LOOK_BACK)  # the first item has none before it, so it gets the next one
        for ord, item in enumerate(chain(first, items)):
            yield ord, TaskItem(task.name, item, _partner(item, before))
            before.append(item)


def _partner(item: Item, before: Iterable[Item]) -> Item | None:
    """The latest earlier item of another cluster; an item of the same answer kind is preferred."""
    others = [each for each in before if each.cluster != item.cluster]
    alike = [each for each in others if each.question.kind is item.question.kind]
    partners = alike or others
    return partners[-1] if partners else None


def chosen(task: Task, limit: int | None, sample: int | None) -> Iterator[Item]:
    """All items, the first `limit` items, or a random sample of at most `limit` (seed `sample`); groups stay whole.

    Raises BadInput if there are no items, or two items have the same id.
    """
    if limit is None:
        picked: Iterable[Item] = task.items()
    elif sample is None:
        picked = _first(task.items(), limit)
    else:
        wanted = _by_chance(task, limit, sample)
        picked = (item for item in task.items() if (item.group or item.id) in wanted)
    seen: set[str] = set()
    for item in picked:
        if item.id in seen:
            raise BadInput(f"{task.name} has two items {item.id!r}", "give every item an id of its own")
        seen.add(item.id)
        yield item
    if not seen and sample is not None and any(True for _ in task.items()):
        raise BadInput(f"every group of {task.name} has more than {limit} questions", "raise the limit")
    if not seen:
        raise BadInput(f"{task.name} has no questions", f"`cuecard tasks {task.name} --check` shows what is there")


def _first(items: Iterator[Item], limit: int) -> Iterator[Item]:
    group = None
    for count, item in enumerate(items):
        if count >= limit and (item.group is None or item.group != group):
            return
        group = item.group
        yield item


def _by_chance(task: Task, limit: int, seed: int) -> set[str]:
    sizes = Counter(item.group or item.id for item in task.items())
    wanted, taken = set[str](), 0
    for group in Random(seed).sample(sorted(sizes), len(sizes)):
        if taken + sizes[group] <= limit:
            wanted.add(group)
            taken += sizes[group]
    return wanted


def item_record(item: Item) -> Record:
    """The item in the store's format; images are given by their digests."""
    question = item.question
    return {
        "text": question.text,
        "options": list(question.options),
        "kind": question.kind,
        "system": question.system,
        "golds": list(item.golds),
        "scorer": item.scorer,
        "cluster": item.cluster,
        "group": item.group,
        "category": item.category,
        "split": item.split,
        "extra": item.extra,
        "images": [image.digest for image in question.images],
    }
