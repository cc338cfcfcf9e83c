"""An event loop whose clock jumps: sleeps cost nothing, and overlap, cancellation and streaming cost what they would.

Works for everything that waits by timers (`asyncio.sleep`, `asyncio.timeout`). Work that needs something from outside
awaits `outside`: a `Run` pauses there with its clock standing still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Deadlock(RuntimeError):
    """All tasks wait for each other, and no timer is left that could wake one."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """Its `time()` begins at 0 and jumps from timer to timer. It opens no files, so that many loops can be paused."""

    virtual = True

    def __init__(self) -> None:
        super().__init__()
        self._selector = self  # what a base loop waits with
        self._now_s = 0.0
        self._outside: list[asyncio.Future[None]] = []

    def time(self) -> float:
        return self._now_s

    def select(self, timeout: float | None) -> list[object]:
        """Instead of waiting for the next timer, moves the clock to it, or pauses. No files have events."""
        if timeout != 0 and not self._pause():
            if timeout is None:
                raise Deadlock("nothing is left to wait for")
            self._now_s += timeout
        return []

    def _process_events(self, event_list: list[object]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """No thread has to wake a loop that never sleeps."""

    def outside(self) -> asyncio.Future[None]:
        """Done once the loop is resumed; until then it stops instead of moving its clock."""
        self._outside.append(future := self.create_future())
        return future

    def resume(self) -> None:
        """Run until `stop` is called, or nothing is left to do at this time and something waits for the outside."""
        for future in self._outside:
            if not future.done():
                future.set_result(None)
        self._outside.clear()
        self.run_forever()

    def _pause(self) -> bool:
        if all(future.done() for future in self._outside):
            return False
        self.stop()
        return True


async def outside() -> None:
    """Wait until this `Run` is resumed; no virtual time passes meanwhile."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    await loop.outside()


class Run(Generic[T]):
    """Work in virtual time of its own that pauses where all of it waits for the outside. It has to be closed."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._loop = VirtualTimeLoop()
        self._task = self._loop.create_task(work)
        self._task.add_done_callback(self._stop)

    def resume(self) -> bool:
        """Go on until the work is over (True) or pauses. Any thread may do so. Raises Deadlock."""
        if not self._task.done():
            self._loop.resume()
        return self._task.done()

    def result(self) -> T:
        """What the work has returned. Raises what it has raised."""
        return self._task.result()

    def close(self) -> None:
        """Cancel the work if it is not over, and wait for it to end; it leaves no tasks of its own behind."""
        self._task.remove_done_callback(self._stop)
        self._task.cancel()
        self._loop.run_until_complete(asyncio.wait([self._task]))
        if not self._task.cancelled():
            self._task.exception()  # retrieved, as the result may not be wanted
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _stop(self, task: asyncio.Task[T]) -> None:
        self._loop.stop()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run, in virtual time. Raises Deadlock when nothing can ever happen again."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
