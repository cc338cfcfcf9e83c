"""An event loop in virtual time: its clock jumps from timer to timer, so sleeps take no real time.

Overlap, cancellation and streaming take the same virtual time as they would take in reality. Works for everything that
waits on timers (`asyncio.sleep`, `asyncio.timeout`). Work that needs an external result awaits `outside`: the `Run`
pauses there, and its clock stands still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Deadlock(RuntimeError):
    """All tasks wait for each other, and no timer is left to wake one."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """`time()` starts at 0 and jumps from timer to timer. Opens no file descriptors, so many loops can be paused."""

    virtual = True

    def __init__(self) -> None:
        super().__init__()
        self._selector = self  # the base loop calls its `select` to wait
        self._now_s = 0.0
        self._outside: list[asyncio.Future[None]] = []

    def time(self) -> float:
        return self._now_s

    def select(self, timeout: float | None) -> list[object]:
        """Move the clock to the next timer instead of waiting for it, or pause. Returns no file events."""
        if timeout != 0:
            if not all(future.done() for future in self._outside):
                self.stop()
            elif timeout is None:
                raise Deadlock("nothing is left to wait for")
            else:
                self._now_s += timeout
        return []

    def _process_events(self, event_list: list[object]) -> None:
        """Do nothing: there are no file events."""

    def _write_to_self(self) -> None:
        """Do nothing: the loop never sleeps, so no thread has to wake it."""

    def outside(self) -> asyncio.Future[None]:
        """A future that is done when the loop is resumed; until then the loop stops instead of moving its clock."""
        self._outside.append(future := self.create_future())
        return future

    def resume(self) -> None:
        """Run until `stop` is called, or until nothing is left to do at this time and a future of `outside` waits."""
        for future in self._outside:
            if not future.done():
                future.set_result(None)
        self._outside.clear()
        self.run_forever()


async def outside() -> None:
    """Wait until this `Run` is resumed; no virtual time passes meanwhile."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    await loop.outside()


class Run(Generic[T]):
    """Work in its own virtual time; pauses when all of it waits for `outside`. It must be closed."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._loop = VirtualTimeLoop()
        self._task = self._loop.create_task(work)
        self._task.add_done_callback(self._stop)

    def resume(self) -> bool:
        """Run until the work is done (True) or pauses (False). May be called from any thread. Raises Deadlock."""
        if not self._task.done():
            self._loop.resume()
        return self._task.done()

    def result(self) -> T:
        """The return value of the work. Raises the error that the work raised."""
        return self._task.result()

    def close(self) -> None:
        """Cancel the work if it is not done, wait for it to end, and close the loop."""
        self._task.remove_done_callback(self._stop)
        self._task.cancel()
        self._loop.run_until_complete(asyncio.wait([self._task]))
        if not self._task.cancelled():
            self._task.exception()  # mark it as retrieved: the caller may not need the result
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _stop(self, task: asyncio.Task[T]) -> None:
        self._loop.stop()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run, in virtual time. Raises Deadlock if all tasks wait and no timer is left."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
