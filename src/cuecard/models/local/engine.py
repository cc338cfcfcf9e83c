"""One thread per model that advances its calls in turn, a token each, so that the event loop stays free.

A call is a generator of events, and of the steps that it wants to have computed: those of all calls are computed
together. Closing the stream cancels the call: the engine drops it before its next token.
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
    """A call that wants a token appended. `alone`: it is sampled, and its draws are not to depend on others.

    `together` appends those of all its model's calls.
    """

    sequence: Any
    token: int
    alone: bool
    together: Callable[[Sequence[Step]], None]


@dataclass(eq=False)
class Job:
    """One call under way, and the way back to the event loop that waits for it."""

    steps: Callable[[], Generator[Any]]
    send: Callable[[list[Any], bool], object]
    """Takes what is new, and whether the call has ended."""
    cancelled: bool = False
    running: Generator[Any] | None = None
    step: Step | None = None
    """What it waits for."""
    decodes: bool = False
    """It has taken a step: what it yields between two steps is sent at once."""
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
    """Runs jobs in a thread of its own, round robin; it holds no model, so that a model without references is freed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._lock = threading.Lock()

    async def run(self, steps: Callable[[], Generator[Any]]) -> AsyncGenerator[Any]:
        """What the steps yield, as it comes; foreign errors come out as ModelError."""
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
        """End the thread after the step it is in; jobs under way, and later ones, end with an error."""
        with self._lock:
            self._stopped = True
            self._inbox.put(None)
        if self._thread is not None:
            self._thread.join()

    def take(self, job: Job) -> None:
        """Have a job advanced, a step in turn with others. Raises ModelClosed."""
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
            job.flush(ended=True)

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
        """The jobs, with what they waited for; none of them if it failed."""
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
    """Loads a checkpoint; whatever fails comes out as ModelRefused, in one line."""
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
    """What an error says, in one line; its class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
