"""One thread per model that advances its calls in turn, or a child process, so that the event loop stays free.

A call is a generator of events and of steps to compute; the steps of all calls are computed together. Closing the
stream cancels the call: the engine drops it before its next token.

With a child process for a model's calls, the two models of a pair do not share one interpreter lock (GIL).
The embedded pair's operations take microseconds, and between two of them a thread needs the lock. On two cores, two
models in threads of one process slow each other down by about half; in two processes they do not.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from typing import Any

from cuecard.domain.errors import CuecardError, ModelClosed, ModelError, ModelRefused, one_line


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
        problem = ModelError(f"{self.name}: {type(error).__name__}: {one_line(error)}")
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
            f"{source} does not load: {one_line(error)}", "is the checkpoint whole, and is there memory for it?"
        ) from error


def lacking(source: str, names: Sequence[str]) -> ModelRefused:
    """The error of a checkpoint without these weights."""
    return ModelRefused(f"{source} lacks {len(names)} of its weights: {min(names)} …", "is it whole?")


CALLS_BEFORE = 8
"""Calls before the process is started: starting it takes longer than answering one question."""
STOP_S = 5.0
"""Seconds that it has to end after its current step."""
VARIABLE = "CUECARD_NO_PROCESSES"

READY, SEEN = 0, -1
"""Message numbers that belong to no call."""

Answers = tuple[list[Any], bool]
"""New items of a call, and whether it has ended."""


def may_start() -> bool:
    """Whether this is a POSIX machine with more than one core, and the environment allows child processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores > 1 and os.name == "posix" and not os.environ.get(VARIABLE)


class ProcessEnded(ModelError):
    """The process ended before the call did."""


class ModelProcess:
    """Starts after some calls, and runs the calls that follow; if it ends, they run in this process again."""

    def __init__(
        self, name: str, source: str, prefix_cache_mib: float | None = None, calls_before: int = CALLS_BEFORE
    ) -> None:
        self.name, self._given, self._calls_before = name, (source, prefix_cache_mib), calls_before
        self._numbers, self._calls = itertools.count(1), dict[int, Callable[[Answers], object]]()
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._asked, self._ready, self._stopped = 0, False, False
        self._connection: Connection[Any, Any] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self.on_seen: Callable[..., object] = lambda digest, distances: None
        """Takes an image's distances, as `SeenImages.keep`, which the process sends during prefill."""

    def takes_calls(self) -> bool:
        """Whether the process runs the next call. Counts the call, and starts the process after enough of them."""
        with self._lock:
            self._asked += 1
            if self._connection is None and self._asked > self._calls_before and not self._stopped:
                self._start()
            return self._ready

    async def run(self, name: str, *arguments: Any) -> AsyncGenerator[Any]:
        """The items that the model's steps of this name yield. Raises their errors, ProcessEnded if it is lost."""
        answers, loop, number = asyncio.Queue[Answers](), asyncio.get_running_loop(), next(self._numbers)
        self._calls[number] = lambda answer: loop.call_soon_threadsafe(answers.put_nowait, answer)
        ended = False
        try:
            if not self._send((number, name, arguments)):
                raise ProcessEnded(f"{self.name}: its process has ended")
            while not ended:
                items, ended = await answers.get()
                for item in items:
                    if isinstance(item, BaseException):
                        raise item
                    yield item
        finally:
            self._calls.pop(number, None)
            if not ended:
                self._send((number, None, ()))

    def forget(self) -> None:
        """Drop the prefixes of the process."""
        self._send((0, "forget", ()))

    def stop(self) -> None:
        """End the process, and start no other; running calls end with an error."""
        with self._lock:
            self._stopped, self._ready = True, False
        self._send((0, "stop", ()))
        if self._child is not None:
            try:
                self._child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        code = f"from cuecard.models.local.model import serve; serve({theirs.fileno()}, {self._given!r})"
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            pass_fds=[theirs.fileno()],
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), VARIABLE: "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process, which ends its children itself
        )
        theirs.close()
        threading.Thread(target=self._listen, args=(self._connection, self._child), daemon=True).start()

    def _send(self, message: tuple[int, str | None, tuple[Any, ...]]) -> bool:
        """Send a message; False if there is no process. If the process ends later, the listener ends the calls."""
        with self._sending, suppress(OSError):
            if self._connection is not None:
                self._connection.send(message)
                return True
        return False

    def _listen(self, connection: Connection[Any, Any], child: subprocess.Popen[bytes]) -> None:
        with suppress(EOFError, OSError):
            while True:
                number, items, ended = connection.recv()
                if number == READY:
                    self._ready = True
                elif number == SEEN:
                    self.on_seen(*items)
                elif deliver := self._calls.get(number):
                    _deliver(deliver, (items, ended))
        with self._lock, self._sending:
            self._ready, self._connection, self._asked = False, None, 0
            connection.close()
        child.wait()
        for deliver in list(self._calls.values()):
            _deliver(deliver, ([ProcessEnded(f"{self.name}: its process has ended")], True))


def _deliver(deliver: Callable[[Answers], object], answers: Answers) -> None:
    with suppress(RuntimeError):  # the event loop that waited is closed
        deliver(answers)
