"""A gateway with scripted models on a free port, and OpenAI's client for it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import openai
import uvicorn
import uvicorn.server

from cuecard.domain.call import Mode
from cuecard.gateway.admission.connections import LimitedProtocol
from cuecard.gateway.admission.limits import Gate, LocalState
from cuecard.gateway.app import AppSettings, Reloader, application
from cuecard.gateway.config import GatewaySettings, ImageSettings
from cuecard.gateway.pairs import Occupancy, Pairs, Service
from cuecard.gateway.records import Journal
from cuecard.gateway.tables import Key, PairSettings, Prices
from cuecard.models.base import Model
from cuecard.models.images.fetcher import Fetcher
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.policy import Policy

THOUGHT = "One cat on the mat, two in the tree, so there are three."
COUNT = "How many cats are there? Answer with a number."
DESCRIBE = "Describe the picture."


def model(
    name: str, short: str, reasoned: str | None = None, logprob: float | None = -0.05, **how: Any
) -> ScriptedModel:
    """A scripted model: answers `short` to short prompts and `reasoned` (default: `short`) to all others."""

    def says(prompt: Prompt) -> Says:
        answer = short if prompt.mode is Mode.SHORT else reasoned or short
        return Says(answer, THOUGHT, confidence_logprob=logprob, **how)

    return ScriptedModel(name, says)


def agreeing() -> dict[str, Model]:
    return {"small": model("tiny", "3"), "large": model("huge", "3")}


def disagreeing(**how: Any) -> dict[str, Model]:
    return {"small": model("tiny", "2", "4", **how), "large": model("huge", "5", "3", **how)}


def service(
    models: Mapping[str, Model],
    *,
    name: str = "cuecard",
    aliases: Collection[str] = (),
    occupancy: Occupancy | None = None,
    policy: Policy | None = None,
    prices: Mapping[str, Prices] | None = None,
    **settings: Any,
) -> Service:
    """A pair with these settings."""
    kept = PairSettings(aliases=list(aliases), **settings)
    own = {"policy": policy or Policy(), "prices": prices or {}, "occupancy": occupancy or Occupancy()}
    return Service(models, name=name, settings=kept, **own)


class QuickPolling:
    """asyncio for uvicorn, which looks ten times a second whether to stop: here a hundred times."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.01))


uvicorn.server.asyncio = QuickPolling()


@asynccontextmanager
async def gateway(
    models: Mapping[str, Model] | None = None,
    *,
    keys: Sequence[Key] = (),
    ping_s: float = 10.0,
    most_mib: int = 1,
    traces: Any = None,
    journal: Journal | None = None,
    http: type[LimitedProtocol] = LimitedProtocol,
    drain_s: int = 5,
    fetcher: Fetcher | None = None,
    images: ImageSettings | None = None,
    clock: Callable[[], float] = time.monotonic,
    hosts: Collection[str] | None = None,
    origins: Collection[str] = (),
    pairs: Pairs | None = None,
    gate: Gate | None = None,
    reloader: Reloader | None = None,
    tell: Callable[[str], None] | None = None,
    **settings: Any,
) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of a gateway that listens on 127.0.0.1."""
    pairs, gate = pairs or Pairs([service(models or agreeing(), **settings)]), gate or Gate(keys, LocalState(clock))
    kept: dict[str, Any] = {"fetcher": fetcher, "traces": traces, "journal": journal}
    kept |= {"hosts": hosts, "reloader": reloader, "tell": tell}
    server = GatewaySettings(most_body_mib=most_mib, ping_s=ping_s, origins=list(origins))
    app = application(pairs, AppSettings(gate=gate, images=images or ImageSettings(), server=server, **kept))
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=http, log_level="warning", lifespan="on", timeout_graceful_shutdown=drain_s)
    listening = uvicorn.Server(config)
    running = asyncio.create_task(listening.serve(sockets=[listener]))
    while not listening.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        try:
            yield client
        finally:
            listening.should_exit = True
            await running
