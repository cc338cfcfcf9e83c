"""An event loop in a thread of its own, which runs coroutines of other threads and of other event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent import futures
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines. When it is stopped, each that still runs is cancelled, and its caller gets an error."""

    def __init__(self, name: str, stopped: Callable[[], Exception]) -> None:
        """`stopped`: makes the error of a caller whose coroutine is ended by `stop`."""
        self._stopped = stopped
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping, self._lock = False, threading.Lock()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result, blocking. Interrupted (Ctrl-C), it cancels the coroutine, which has ended when this returns."""
        ended, cancel = self._begin(work)
        try:
            return ended.result()
        except BaseException:
            if not ended.done():
                cancel()
                futures.wait([ended])
            raise

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """As `run`, awaited in another event loop; cancelled there, the coroutine has ended when this returns."""
        ended, cancel = self._begin(work)
        here = asyncio.wrap_future(ended)
        try:
            return await asyncio.shield(here)
        except asyncio.CancelledError:
            if not here.done():
                cancel()
                await asyncio.wait([here])
            here.exception()  # retrieved: the caller gets CancelledError
            raise

    def stop(self, last: Coroutine[Any, Any, T]) -> T:
        """Cancel what runs and wait for it, run a last coroutine, end the thread."""
        with self._lock:
            if self._stopping:
                last.close()
                raise self._stopped()
            self._stopping = True
        try:
            return asyncio.run_coroutine_threadsafe(self._end(last), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _begin(self, work: Coroutine[Any, Any, T]) -> tuple[futures.Future[T], Callable[[], object]]:
        """The coroutine's future, and a function that cancels it from any thread."""
        ended: futures.Future[T] = futures.Future()
        begun: list[asyncio.Task[T]] = []

        def begin() -> None:
            task = self._loop.create_task(work)
            begun.append(task)
            self._tasks.add(task)
            task.add_done_callback(end)

        def end(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                ended.set_exception(self._stopped() if self._stopping else asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                ended.set_exception(error)
            else:
                ended.set_result(task.result())

        with self._lock:  # nothing comes in behind what `stop` cancels
            if self._stopping:
                work.close()
                raise self._stopped()
            self._loop.call_soon_threadsafe(begin)
        return ended, lambda: self._loop.call_soon_threadsafe(lambda: begun[0].cancel())

    async def _end(self, last: Coroutine[Any, Any, T]) -> T:
        while running := list(self._tasks):
            for task in running:
                task.cancel()
            await asyncio.wait(running)
        return await last
