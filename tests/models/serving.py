"""An OpenAIModel with a mock server that records requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.models.openai import OpenAIModel
from cuecard.models.prompt import TAGS, reason, short
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Reply

IMAGES = (Image(b"png one"), Image(b"jpg two", "image/jpeg"))
QUESTION = Question("Which bar?", IMAGES, ("May", "June"), AnswerKind.CHOICE)
SHORT, REASON = short(QUESTION, TAGS), reason(QUESTION, TAGS)
THOUGHT = "The bar of May is the tallest of all."


@asynccontextmanager
async def served(
    *script: Reply, server: MockServer | None = None, model: str = "qwen3-vl-8b", **settings: Any
) -> AsyncIterator[tuple[OpenAIModel, MockServer]]:
    """A model and its mock server, both closed at the end."""
    server = server or MockServer(script, models=[model])
    async with server as url:
        client = OpenAIModel(url, model, **settings)
        try:
            yield client, server
        finally:
            await client.aclose()
