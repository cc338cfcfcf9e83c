"""A child process for a model's calls, so that the two models of a pair do not share one interpreter lock (GIL).

The embedded pair's operations take microseconds, and between two of them a thread needs the lock. On two cores, two
models in threads of one process slow each other down by about half; in two processes they do not.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any

from cuecard.domain.errors import ModelError

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
        """The items that the model's steps of this name yield. Raises their errors, ModelError if it is lost."""
        answers, loop, number = asyncio.Queue[Answers](), asyncio.get_running_loop(), next(self._numbers)
        self._calls[number] = lambda answer: loop.call_soon_threadsafe(answers.put_nowait, answer)
        ended = False
        try:
            if not self._send((number, name, arguments)):
                raise ModelError(f"{self.name}: its process has ended")
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
        code = f"from cuecard.models.local.process_child import serve; serve({theirs.fileno()}, {self._given!r})"
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
            _deliver(deliver, ([ModelError(f"{self.name}: its process has ended")], True))


def _deliver(deliver: Callable[[Answers], object], answers: Answers) -> None:
    with suppress(RuntimeError):  # the event loop that waited is closed
        deliver(answers)
