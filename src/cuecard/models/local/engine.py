"""One thread per model that advances its calls in turn, one token each, so that the event loop stays free.

A call is a generator of events and of steps to compute; the steps of all calls are computed together. Closing the
stream cancels the call: the engine drops it before its next token.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cuecard.domain.errors import CuecardError, ModelClosed, ModelError, ModelRefused


@dataclass(eq=False)
class Step:
    """A token to append to a call's sequence. `alone`: not batched, as the call samples, independently of other calls.

    `together` appends the tokens of all steps of one model.
    """

    sequence: Any
    token: int
    alone: bool
    together: Callable[[Sequence[Step]], None]


@dataclass(eq=False)
class Job:
    """One running call, and the callback to the event loop that waits for it."""

    steps: Callable[[], Generator[Any]]
    send: Callable[[list[Any], bool], object]
    """Takes new items, and whether the call has ended."""
    cancelled: bool = False
    running: Generator[Any] | None = None
    step: Step | None = None
    """The step that it waits for."""
    decodes: bool = False
    """It has yielded a step: from now on, items between two steps are sent together."""
    fresh: list[Any] = field(default_factory=list)

    def post(self, item: Any) -> None:
        self.fresh.append(item)
        if not self.decodes:
            self.flush()

    def flush(self, *, ended: bool = False) -> None:
        items, self.fresh = self.fresh, []
        if items or ended:
            try:
                self.send(items, ended)
            except (RuntimeError, OSError):  # the loop, or the process that waits, is closed
                self.cancelled = True


class Engine:
    """Runs jobs round robin in its own thread; it does not reference the model, so that an unused model is freed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._lock = threading.Lock()

    async def run(self, steps: Callable[[], Generator[Any]]) -> AsyncGenerator[Any]:
        """The items that the steps yield, as they come; foreign errors are raised as ModelError."""
        answers, loop = asyncio.Queue[tuple[list[Any], bool]](), asyncio.get_running_loop()
        job = Job(steps, lambda *answer: loop.call_soon_threadsafe(answers.put_nowait, answer))
        self.take(job)
        ended = False
        try:
            while not ended:
                items, ended = await answers.get()
                for item in items:
                    if isinstance(item, BaseException):
                        raise item
                    yield item
        finally:
            job.cancelled = True

    def stop(self) -> None:
        """End the thread after its current step; running jobs, and later ones, end with ModelClosed."""
        with self._lock:
            self._stopped = True
            self._inbox.put(None)
        if self._thread is not None:
            self._thread.join()

    def take(self, job: Job) -> None:
        """Add a job, which advances step by step in turn with others. Raises ModelClosed."""
        with self._lock:  # so that no job is added after the last one that the thread reads
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
            job.flush(ended=True)

    def _receive(self, jobs: list[Job]) -> bool:
        """Add jobs from the inbox, and wait for one if there are none; False if the engine has to stop."""
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
        """Advance one job to its next step; False if it has ended."""
        if job.cancelled:
            self._drop(job)
            return False
        try:
            if job.running is None:
                job.running = job.steps()
            while not isinstance(item := next(job.running), Step):
                job.post(item)
            job.step, job.decodes = item, True
            job.flush()
            return True
        except StopIteration:
            job.flush(ended=True)
        except Exception as error:
            job.post(self._mapped(error))
            job.flush(ended=True)
        return False

    def _stepped(self, jobs: list[Job]) -> list[Job]:
        """Compute the jobs' steps together; -> the jobs, or [] if that failed and ended them."""
        try:
            if steps := [job.step for job in jobs if job.step is not None]:
                steps[0].together(steps)
        except Exception as error:
            for job in jobs:
                self._drop(job)
                job.post(self._mapped(error))
                job.flush(ended=True)
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


@contextmanager
def refusing(source: str) -> Iterator[None]:
    """Within the context a checkpoint is loaded; foreign errors are raised as ModelRefused, in one line."""
    try:
        yield
    except CuecardError:
        raise
    except Exception as error:  # files, formats, packages and memory: each fails in its own way
        raise ModelRefused(
            f"{source} does not load: {first_line(error)}", "is the checkpoint whole, and is there memory for it?"
        ) from error


def lacking(source: str, names: Sequence[str]) -> ModelRefused:
    """The error of a checkpoint without these weights."""
    return ModelRefused(f"{source} lacks {len(names)} of its weights: {min(names)} …", "is it whole?")


def first_line(error: Exception) -> str:
    """The first line of an error's message; its class name if there is no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
