"""SIGTERM taken as Ctrl-C is: what is under way is cancelled, what was made is stored; the exit code tells which."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


class Stopping:
    """Who asked to stop. Code that runs in `run` is cancelled, all else sees KeyboardInterrupt."""

    def __init__(self) -> None:
        self._signal = signal.SIGINT
        self._task: asyncio.Task[Any] | None = None

    @property
    def code(self) -> int:
        """The exit code, as a shell gives it to whom a signal ends: 130 or 143."""
        return 128 + self._signal

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """As `asyncio.run`. Raises KeyboardInterrupt when either signal came."""
        try:
            return asyncio.run(self._watched(work))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            self._task = None

    async def _watched(self, work: Coroutine[Any, Any, T]) -> T:
        self._task = asyncio.current_task()
        return await work

    def take(self, number: int, frame: FrameType | None) -> None:
        """A handler of SIGTERM."""
        self._signal = signal.Signals(number)
        if self._task is None:
            raise KeyboardInterrupt
        self._task.get_loop().call_soon_threadsafe(self._task.cancel)


@contextmanager
def stopping() -> Iterator[Stopping]:
    """While it lasts, SIGTERM does what Ctrl-C does."""
    made = Stopping()
    before = signal.signal(signal.SIGTERM, made.take)
    try:
        yield made
    finally:
        signal.signal(signal.SIGTERM, before)
