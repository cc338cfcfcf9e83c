"""The one writer of a running evaluation: rows go to the store on a thread, as many as there are in one transaction."""

from __future__ import annotations

import asyncio

from cuecard.evals.storage.database import Row, Store

MOST_WAITING = 1024
MOST_AT_ONCE = 256


class Writer:
    """Rows are written in the order in which they come, so an answer is never there before its calls."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue, self._room = asyncio.Queue[Row | None](), asyncio.Semaphore(MOST_WAITING)

    async def put(self, row: Row) -> None:
        """Leave a row to be written; waits while too many are waiting already."""
        await self._room.acquire()
        self._queue.put_nowait(row)

    async def work(self) -> None:
        """Write until `finish`. Raises CannotStore."""
        going_on = True
        while going_on:
            rows = [await self._queue.get()]
            while len(rows) < MOST_AT_ONCE and not self._queue.empty():
                rows.append(self._queue.get_nowait())
            going_on = None not in rows
            held = [row for row in rows if row is not None]
            await asyncio.to_thread(self._store.put, held)
            for _ in held:
                self._room.release()

    def finish(self) -> None:
        """What waits is still written, then `work` ends."""
        self._queue.put_nowait(None)
