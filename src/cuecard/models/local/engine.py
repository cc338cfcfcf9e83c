"""One thread per model that advances its calls in turn, a token each, so that the event loop stays free.

A call is a generator of events, and of the steps that it wants to have computed: those of all calls are computed
together. Closing the stream cancels the call: the engine drops it before its next token.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from cuecard.domain.errors import CuecardError, ModelClosed, ModelError
from cuecard.models.local.fused_decoder import Step

_END = object()


@dataclass(eq=False)
class Job:
    """One call under way, and the way back to the event loop that waits for it."""

    steps: Callable[[], Generator[Any]]
    loop: asyncio.AbstractEventLoop
    out: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    running: Generator[Any] | None = None
    step: Step | None = None
    """What it waits for."""

    def post(self, item: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(self.out.put_nowait, item)
        except RuntimeError:  # the loop is closed
            self.cancelled = True


class Engine:
    """Runs jobs in a thread of its own, round robin; it holds no model, so that a model without references is freed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._lock = threading.Lock()

    async def run(self, steps: Callable[[], Generator[Any]]) -> AsyncGenerator[Any]:
        """What the steps yield, as it comes; foreign errors come out as ModelError."""
        job = Job(steps, asyncio.get_running_loop())
        self._take(job)
        try:
            while (item := await job.out.get()) is not _END:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            job.cancelled = True

    def stop(self) -> None:
        """End the thread after the step it is in; jobs under way, and later ones, end with an error."""
        with self._lock:
            self._stopped = True
            self._inbox.put(None)
        if self._thread is not None:
            self._thread.join()

    def _take(self, job: Job) -> None:
        with self._lock:  # so that no job comes in behind the last one that the thread looks at
            if self._stopped:
                raise self._closed()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"cuecard {self.name}", daemon=True)
                self._thread.start()
            self._inbox.put(job)

    def _work(self) -> None:
        jobs: list[Job] = []
        while self._receive(jobs):
            jobs = self._stepped([job for job in jobs if self._advance(job)])
        for job in jobs:
            self._drop(job)
            job.post(self._closed())

    def _receive(self, jobs: list[Job]) -> bool:
        """Add what has come in, and wait for it if there is nothing else to do; False when the engine is to stop."""
        while not jobs or not self._inbox.empty():
            job = self._inbox.get()
            if job is None:
                return False
            jobs.append(job)
        return True

    def _closed(self) -> ModelClosed:
        return ModelClosed(f"{self.name} was closed")

    def _drop(self, job: Job) -> None:
        if job.running is not None:
            job.running.close()

    def _advance(self, job: Job) -> bool:
        """One job up to the next step that it wants; False when it has ended."""
        if job.cancelled:
            self._drop(job)
            return False
        try:
            if job.running is None:
                job.running = job.steps()
            while not isinstance(item := next(job.running), Step):
                job.post(item)
            job.step = item
            return True
        except StopIteration:
            job.post(_END)
        except Exception as error:
            job.post(self._mapped(error))
        return False

    def _stepped(self, jobs: list[Job]) -> list[Job]:
        """The jobs, with what they waited for; none of them if it failed."""
        try:
            if steps := [job.step for job in jobs if job.step is not None]:
                steps[0].together(steps)
        except Exception as error:
            for job in jobs:
                self._drop(job)
                job.post(self._mapped(error))
            return []
        for job in jobs:
            job.step = None
        return jobs

    def _mapped(self, error: Exception) -> CuecardError:
        """Errors of torch or a tokenizer as ModelError, in one line."""
        if isinstance(error, CuecardError):
            return error
        problem = ModelError(f"{self.name}: {type(error).__name__}: {first_line(error)}")
        problem.__cause__ = error
        return problem


def first_line(error: Exception) -> str:
    """What an error says, in one line; its class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
