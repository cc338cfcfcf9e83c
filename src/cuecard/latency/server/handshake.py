"""The first meeting with a server: is it there, does it stream and count, what does it refuse, how long prompts are.

Raises what `Connection` raises; after this, requests are timed and no error is looked into any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from random import Random
from typing import Any

from cuecard.domain.call import Usage
from cuecard.domain.errors import BrokenStream, Unsupported
from cuecard.latency.server import prompts
from cuecard.models.openai.client import KEY_HINT
from cuecard.models.openai.connection import Connection
from cuecard.models.openai.request_body import LOSSES
from cuecard.models.spec import Served

_ENOUGH = 4
"""Tokens to write, so that a stream differs from an answer in one piece."""


@dataclass(frozen=True)
class Met:
    """What is known of a model behind a server. `prompt_tokens`: by image size and words."""

    served: Served
    url: str
    """Without a user and password."""
    prompt_tokens: Mapping[tuple[int | None, int], int]
    refused: frozenset[str]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is lost by what the server refuses."""
        return tuple(f"{self.served.name}: the server refuses {key}: {LOSSES[key]}" for key in sorted(self.refused))

    def visual(self, image_px: int | None, words: int) -> int:
        """What an image adds to the same words."""
        return max(0, self.prompt_tokens[image_px, words] - self.prompt_tokens[None, words])


async def met(
    served: Served,
    api_key: str | None,
    sizes: Sequence[int | None],
    words: Sequence[int],
    limit_s: float,
    ignore_eos: bool,
) -> Met:
    """Asks once with every image size and number of words. Raises BadInput, ModelError."""
    connection = Connection(served.base_url, served.name, api_key, limit_s, KEY_HINT)
    try:
        counted: dict[tuple[int | None, int], int] = {}
        for size in dict.fromkeys((None, *sizes)):
            for count in words:
                body = prompts.body(served.name, size, count, _ENOUGH, Random(0), ignore_eos=ignore_eos)
                usage = await _usage(connection, body, limit_s)
                if usage.prompt_tokens is None or usage.completion_tokens is None:
                    raise Unsupported(
                        f"{connection.url} streams without telling how many tokens it read and wrote",
                        "a server that heeds stream_options.include_usage is needed",
                    )
                counted[size, count] = usage.prompt_tokens
        return Met(served, connection.url, counted, connection.refused)
    finally:
        await connection.aclose()


async def _usage(connection: Connection, body: dict[str, Any], limit_s: float) -> Usage:
    """What the server counted."""
    found = Usage()
    deadline = asyncio.get_running_loop().time() + limit_s
    try:
        async with aclosing(connection.chunks(lambda refused: prompts.without(body, refused), deadline)) as chunks:
            async for chunk in chunks:
                found = chunk.usage or found
    except BrokenStream as error:
        raise Unsupported(
            f"{connection.url} does not stream: {error.message}", "a server that streams is needed"
        ) from error
    return found
