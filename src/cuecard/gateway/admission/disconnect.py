"""What happens to a request's work when its client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Receive

T = TypeVar("T")


class ClientGone(Exception):
    """The client left before its answer was whole."""


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The result of some work, which is cancelled, and over, when the client leaves first. Raises ClientGone."""
    try:
        async with asyncio.timeout(None) as presence:
            watching = asyncio.create_task(_watch(receive, presence))
            try:
                return await work
            finally:
                watching.cancel()
    except TimeoutError as error:
        if presence.expired():
            raise ClientGone from error
        raise


async def _watch(receive: Receive, presence: asyncio.Timeout) -> None:
    """Ends `presence` when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    presence.reschedule(asyncio.get_running_loop().time())
