"""Workers on a Ray cluster: processes that load the models, make calls and return records.

Workers store nothing: only the evaluating process writes. A worker that dies is replaced, and its items go to other
workers meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cuecard.domain.errors import BadInput, CuecardError, ModelUnreachable, required
from cuecard.domain.question import Question
from cuecard.evals.arm import Arm
from cuecard.evals.database import Record
from cuecard.evals.requests import Seat, error_of, error_record, seat_of
from cuecard.evals.runner.compose import TaskItem
from cuecard.evals.runner.scheduler import WorkerLost, WorkerPool
from cuecard.evals.runner.worker import LocalWorker, WorkOrder
from cuecard.models import probe, spec
from cuecard.models.base import Limits

T = TypeVar("T")
LOCAL = "local"
ONCE_MORE = 3
"""Replacements per run for each worker: at most this many times the number of workers."""
Specifications = Mapping[str, str | Mapping[str, Any]]


@dataclass(frozen=True)
class Sizes:
    """Layout of the workers. `address`: a cluster's address, `auto`, or `local` (this machine, only for this run)."""

    workers: int = 1
    address: str = LOCAL
    apart: bool = False
    """Each model in its own process; otherwise one process per worker holds all models."""
    gpus: float = 0.0
    """GPUs per process, as Ray counts them (fractions are possible)."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise BadInput(f"there must be at least 1 worker, not {self.workers}")
        if self.gpus < 0:
            raise BadInput(f"a process cannot have {self.gpus:g} GPUs")


class RayActor(LocalWorker):
    """A process of the cluster: loads some of the models and makes their calls."""

    def __init__(self, models: Specifications, alone: bool, timed: bool) -> None:
        super().__init__({}, alone=alone, timed=timed)
        self._specifications = models

    async def load(self) -> tuple[str, dict[str, Seat]] | Record:
        """The host name and the models' seats, by role; an error record if a model cannot be loaded."""
        try:
            self.models = {role: spec.load(given, role) for role, given in self._specifications.items()}
            if probe.wanted():
                await probe.settle(self.models.values(), wait_s=None)
            seats = {role: seat_of(role, self._specifications[role], model) for role, model in self.models.items()}
        except CuecardError as error:
            return error_record(error)
        return socket.gethostname(), seats


@dataclass(eq=False)
class RayWorker:
    """The driver's handle of a worker: the processes of its models, by role."""

    ray: Any
    actors: Mapping[str, Any]
    lost: Callable[[RayWorker, str], Awaitable[None]]
    """Called with the reason when the worker has died."""

    async def make(self, order: WorkOrder) -> Record:
        return await self._of(self.actors[order.request.seat.role].make.remote(order))

    async def live(self, item: TaskItem, arm: Arm, foreign_card: str | None) -> Record:
        return await self._of(next(iter(self.actors.values())).live.remote(item, arm, foreign_card))

    async def pace(self, questions: Sequence[Question], limits: Limits) -> float | None:
        return await self._of(next(iter(self.actors.values())).pace.remote(questions, limits))

    async def load(self) -> tuple[str, dict[str, Seat]]:
        """The host name and all seats, by role. Raises CuecardError if a model cannot be loaded."""
        machine, seats = "", dict[str, Seat]()
        loading = [self._of(actor.load.remote()) for actor in dict.fromkeys(self.actors.values())]
        for each in await asyncio.gather(*loading):
            if not isinstance(each, tuple):
                raise error_of(each)
            machine, seats = each[0], seats | each[1]
        return machine, seats

    def end(self) -> None:
        for actor in self.actors.values():
            self.ray.kill(actor)

    async def _of(self, result: Awaitable[T]) -> T:
        """The result of a remote call. Raises WorkerLost, CuecardError."""
        try:
            return await result
        except (self.ray.exceptions.RayActorError, self.ray.exceptions.NodeDiedError) as error:
            await self.lost(self, _line(error, -1))
            raise WorkerLost from error
        except self.ray.exceptions.RayError as error:
            raise CuecardError(f"a worker failed: {_line(error, -1)}") from error


@dataclass(eq=False)
class Cluster:
    """The workers of one run, from their start to their end."""

    models: Specifications
    sizes: Sizes
    at_once: int
    timed: bool
    tell: Callable[[str], None]
    """Called with a readable message when a worker dies or cannot start."""
    seats: dict[str, Seat] = field(default_factory=dict)
    _ray: Any = None
    _workers: list[RayWorker] = field(default_factory=list)
    _hiring: set[asyncio.Task[None]] = field(default_factory=set)
    _hired: int = 0

    async def start(self) -> WorkerPool:
        """A pool in which at least one worker is ready. Raises MissingExtra, BadInput, CuecardError of a model."""
        self._ray = await asyncio.to_thread(_connected, self.sizes, len(self._layout()))
        # again, because Ray's own handler aborts a process that has not ended 3 s after SIGTERM
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        self.pool = WorkerPool(self.at_once, time.perf_counter, self.sizes.workers)
        for _ in range(self.sizes.workers):
            self._hire()
        async with self.pool.worker():  # raises the error if no worker can start
            return self.pool

    async def close(self) -> None:
        """End all workers, and the cluster if it is local to this run."""
        for task in self._hiring:
            task.cancel()
        if self._ray is not None:
            for worker in self._workers:
                worker.end()
            await asyncio.to_thread(self._ray.shutdown)

    def _layout(self) -> list[tuple[str, ...]]:
        """The roles in each process of a worker."""
        return [(role,) for role in self.models] if self.sizes.apart else [tuple(self.models)]

    def _hire(self) -> None:
        self._hired += 1
        task = asyncio.create_task(self._joined())
        self._hiring.add(task)
        task.add_done_callback(self._hiring.discard)

    async def _joined(self) -> None:
        options = {"num_cpus": 1, "num_gpus": self.sizes.gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        kind, actors = self._ray.remote(**options)(RayActor), dict[str, Any]()
        for roles in self._layout():
            given = {role: spec.anywhere(self.models[role]) for role in roles}
            actors |= dict.fromkeys(roles, kind.remote(given, self.at_once == 1, self.timed))
        worker = RayWorker(self._ray, actors, self._lost)
        self._workers.append(worker)
        try:
            machine, seats = await worker.load()
            self.seats = self.seats or seats
            if seats != self.seats:
                raise BadInput(
                    f"the models on {machine} are others than on the first worker", "the same files everywhere"
                )
        except WorkerLost:
            return
        except CuecardError as error:
            await self._gone(worker, error, str(error))
        else:
            await self.pool.join(worker, machine)

    async def _lost(self, worker: RayWorker, why: str) -> None:
        if worker in self._workers:
            self.tell("a worker died: what it had in hand goes to others")
            await self._gone(worker, None, why)

    async def _gone(self, worker: RayWorker, error: CuecardError | None, why: str) -> None:
        self._workers = [each for each in self._workers if each is not worker]
        self.pool.lose(worker)
        worker.end()
        if error is None and self._hired < self.sizes.workers * (1 + ONCE_MORE):
            self._hire()
        elif not self._workers:
            dead = ModelUnreachable(f"all {self._hired} workers died, the last one so: {why}", "look at their machines")
            await self.pool.end(error or dead)
        elif error is not None:
            self.tell(f"a worker could not begin: {error}")


def _connected(sizes: Sizes, processes: int) -> Any:
    """Ray, connected to the cluster. Raises MissingExtra, BadInput."""
    ray = required("ray", "running on a cluster", "pip install '.[ray]' in a checkout")
    required("ray.exceptions", "running on a cluster")
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}.items():
        os.environ.setdefault(name, value)  # a process that requests no GPU sees all GPUs
    needed = sizes.workers * processes
    own = {"num_cpus": max(needed, os.cpu_count() or 1), "include_dashboard": False} if sizes.address == LOCAL else {}
    try:
        ray.init(sizes.address, log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except Exception as error:  # Ray raises a different error for each reason
        problem = f"no Ray cluster at {sizes.address}: {_line(error, 0)}"
        raise BadInput(problem, "give --ray-address, or none for a local one") from error
    there = ray.cluster_resources()
    for what, each in {"CPU": 1.0, "GPU": sizes.gpus}.items():
        if there.get(what, 0) < needed * each:
            ray.shutdown()
            problem = f"{needed} processes with {each:g} {what} each do not fit: the cluster has {there.get(what, 0):g}"
            raise BadInput(problem, "take fewer workers")
    return ray


def _line(error: Exception, place: int) -> str:
    """One line of an error, at most 300 characters: the first states what Ray could not do, the last why."""
    return (str(error).strip().splitlines() or [type(error).__name__])[place].strip()[:300]
