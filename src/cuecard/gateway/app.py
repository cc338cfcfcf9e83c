"""The gateway as an ASGI application: its routes, its lifecycle, and the responses to errors.

The path of a chat completion from its route to a model's server, a function call a line:

    endpoints.Endpoints.answer            admit the client, read the body
    → admission.connections.while_connected   a context: cancels the work when the client leaves
    → endpoints.Endpoints._by_pair        parse the request, choose the pair; a stream begins here
    → streaming.Exchange.answer           plan, charge and account
    → strategies.run.answer               run the strategy, rescue what can be rescued
    → strategies.paper.short              or another strategy
    → strategies.team.Player.short
    → strategies.team.Player._call        time and record the call
    → models.pool.Pool.stream             choose a replica, retry; under `max_cost`, charge the call to its budget

A streamed answer takes the same path from `Exchange.answer` on, in a task of `streaming.streamed`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from cuecard.domain.errors import BadInput, CuecardError
from cuecard.gateway.admission.connections import EXPOSED, ClientGone, CloseUnread, OriginCheck
from cuecard.gateway.admission.limits import Gate, LocalState
from cuecard.gateway.admission.shared_state import SharedState
from cuecard.gateway.config import AuditSettings, Config, GatewaySettings, ImageSettings
from cuecard.gateway.endpoints import CHAT, MESSAGES, Endpoints, ErrorHandlers, WireFormat, no_path, wrong_method
from cuecard.gateway.metrics import Audit, GatewayMetrics
from cuecard.gateway.pairs import Pairs
from cuecard.gateway.records import Accounting, Journal, Traces, traces_from_environment
from cuecard.gateway.wire import chat, messages, responses
from cuecard.gateway.wire.body import ImageLoader
from cuecard.models import probe
from cuecard.models.base import Model
from cuecard.models.images.fetcher import Fetcher

Handler = Callable[[Request], Awaitable[Response]]
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


@dataclass(frozen=True, kw_only=True)
class AppSettings:
    """The parts of an application besides its pairs."""

    gate: Gate | None = None
    """None: no key is needed."""
    fetcher: Fetcher | None = None
    """None: images are not fetched from the web."""
    audit: Audit | None = None
    journal: Journal | None = None
    traces: Traces | None = None
    server: GatewaySettings = field(default_factory=GatewaySettings)
    images: ImageSettings = field(default_factory=ImageSettings)
    hosts: Collection[str] | None = None
    """Accepted host names besides this machine's own; None: any if there are keys, else no others."""
    tell: Callable[[str], None] | None = None
    """Called with lines about probes; None: servers are not probed."""
    reloader: Reloader | None = None
    """Applies changes of the configuration file."""


def application(pairs: Pairs, settings: AppSettings | None = None) -> Starlette:
    """The gateway as an ASGI application."""
    settings = settings or AppSettings()
    gate, audit = settings.gate or Gate([]), settings.audit or Audit(pairs.first, AuditSettings())
    accounting = Accounting(GatewayMetrics(pairs), audit, settings.journal, settings.traces)
    images = ImageLoader(settings.images, settings.fetcher)
    errors, origins = ErrorHandlers(accounting), settings.server.origins
    hosts = () if settings.hosts is None and gate.is_open else settings.hosts
    cors = Middleware(  # pages of these sites may send requests, and read responses
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=EXPOSED,
        allow_private_network=True,
    )
    check = Middleware(OriginCheck, hosts=hosts, origins=origins, refuse=errors.forbidden)
    return Starlette(
        routes=_routes(Endpoints(pairs, gate, accounting, images, settings.server)),
        exception_handlers={
            CuecardError: errors.refused,
            ClientGone: errors.client_gone,
            404: no_path,
            405: wrong_method,
            Exception: errors.broken,
        },
        middleware=[Middleware(CloseUnread), *([cors] if origins else ()), check],
        lifespan=partial(_lifecycle, pairs, gate, accounting, settings),
    )


def _routes(endpoints: Endpoints) -> list[BaseRoute]:
    memory = responses.ItemMemory()
    response = WireFormat(partial(responses.parse, memory=memory), partial(responses.ResponseWriter, memory=memory))
    completion = WireFormat(chat.parse_completion, chat.CompletionWriter)
    message = WireFormat(messages.parse, messages.MessageWriter)
    return [
        *_paths("/v1/chat/completions", partial(endpoints.answer, CHAT), "POST"),
        *_paths("/v1/responses", partial(endpoints.answer, response), "POST"),
        *_paths("/v1/completions", partial(endpoints.answer, completion), "POST"),
        *_paths(MESSAGES, partial(endpoints.answer, message), "POST"),
        *_paths(f"{MESSAGES}/count_tokens", endpoints.count_tokens, "POST"),
        *_paths("/v1/decision", endpoints.decision, "POST"),
        *_paths("/v1/models", endpoints.models),
        Route("/v1/models/{name:path}", endpoints.model),
        *_paths("/health", endpoints.health),
        *_paths("/ready", endpoints.ready),
        *_paths("/metrics", endpoints.metrics),
        *_paths("/stats", endpoints.stats),
        *_dashboard(),
    ]


def _paths(path: str, handler: Handler, method: str = "GET") -> list[Route]:
    """Routes of a path with and without a slash at its end, as clients send both."""
    return [Route(each, handler, methods=[method]) for each in (path, f"{path}/")]


class DashboardFiles(StaticFiles):
    """The dashboard's own files."""

    def file_response(self, *args: Any, **more: Any) -> Response:
        response = super().file_response(*args, **more)
        response.headers.update(PAGE_HEADERS)
        return response


def _dashboard() -> list[BaseRoute]:
    html = (files("cuecard.gateway") / "dashboard" / "page.html").read_text(encoding="utf-8")

    async def page(request: Request) -> Response:
        return HTMLResponse(html, headers=PAGE_HEADERS)

    async def to_page(request: Request) -> Response:
        return RedirectResponse("../dashboard")  # its links are relative

    own = Mount("/dashboard", DashboardFiles(packages=[("cuecard.gateway", "dashboard")]))
    return [Route("/dashboard", page), Route("/dashboard/", to_page), own]


@asynccontextmanager
async def _lifecycle(
    pairs: Pairs, gate: Gate, accounting: Accounting, settings: AppSettings, app: Starlette
) -> AsyncIterator[None]:
    """Run the application's background tasks, and close all of its resources at the end."""
    tasks: set[asyncio.Task[Any]] = set()

    def start(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        tasks.add(task := asyncio.create_task(work))
        task.add_done_callback(tasks.discard)
        return task

    def probed(models: Collection[Model]) -> asyncio.Task[Any] | None:
        """Probe served models in the background; until then, the defaults apply."""
        tell = settings.tell
        return None if tell is None else start(probe.settle(models, wait_s=None, tell=tell))

    app.state.probing = probed([model for pair in pairs for model in pair.served])
    start(gate.state.run())
    if settings.reloader is not None:
        start(settings.reloader.follow(accounting.metrics.reloaded, probed))
    yield
    for task in (ending := list(tasks)):
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
    for each in (accounting.audit, pairs, gate.state, settings.fetcher):
        if each is not None:
            await each.aclose()
    if settings.journal is not None:
        settings.journal.close()
    if settings.traces is not None:
        await asyncio.to_thread(settings.traces.close)


# --- the configuration ------------------------------------------------------------------------------------------------


def assembled(config: Config, pairs: Pairs, gate: Gate, host: str, tell: Callable[[str], None] | None) -> AppSettings:
    """The parts besides the pairs, for a gateway that listens on `host`; `tell`: as in AppSettings.

    Raises BadInput, MissingExtra.
    """
    return AppSettings(
        gate=gate,
        audit=Audit(pairs.first, config.audit),
        journal=None if (log := config.journal).path is None else Journal(**log.model_dump()),
        fetcher=Fetcher(hosts=config.images.hosts) if config.images.urls else None,
        traces=traces_from_environment(),
        server=config.server,
        images=config.images,
        hosts=config.hosts(host),
        tell=tell,
    )


def gate_of(config: Config) -> Gate:
    """The gate with the configured keys, and where their limits are counted. Raises BadInput, MissingExtra."""
    settings = config.state
    if settings.url is None:
        return Gate(config.keys, LocalState(path=config.ledger_path))
    own = settings.model_dump(include={"timeout_s", "lease_s", "prefix"})
    return Gate(config.keys, SharedState(settings.url, allow=settings.on_failure == "allow", **own))


# --- changes of the configuration -------------------------------------------------------------------------------------

POLL_S = 1.0
RESTART = ("server", "images", "audit", "journal", "state")
"""Tables whose changes need a restart of the gateway."""


class Reloader:
    """Applies changes of the configuration file. A change that cannot be read or served is only logged."""

    def __init__(
        self,
        file: Path,
        read: Callable[[], Config],
        running: Config,
        pairs: Pairs,
        gate: Gate,
        *,
        tell: Callable[[str], None],
        poll_s: float = POLL_S,
    ) -> None:
        """`read` reads the file; `running` is the configuration that the gateway started with."""
        self._file, self._read, self._started = file, read, running
        self._pairs, self._gate, self._tell, self._poll_s = pairs, gate, tell, poll_s
        self._applied = self._seen = stamp(file)

    async def follow(self, count: Callable[[str], None], arrived: Callable[[Collection[Model]], Any]) -> None:
        """Reload at each SIGHUP or change of the file, until this is cancelled.

        `count` is called with each result, `ok` or `failed`; `arrived` with the new models.
        """
        signalled, loop = asyncio.Event(), asyncio.get_running_loop()
        with suppress(AttributeError, ValueError, RuntimeError):  # on Windows, or in a thread: only the file is watched
            loop.add_signal_handler(signal.SIGHUP, signalled.set)
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(signalled.wait(), self._poll_s)
                before, self._seen = self._seen, stamp(self._file)
                # a file that changed and was the same in two polls is not being written
                if signalled.is_set() or self._seen == before != self._applied:
                    signalled.clear()
                    await self._reload(count, arrived)
        finally:
            with suppress(AttributeError, ValueError, RuntimeError):
                loop.remove_signal_handler(signal.SIGHUP)

    async def _reload(self, count: Callable[[str], None], arrived: Callable[[Collection[Model]], Any]) -> None:
        self._applied = self._seen = stamp(self._file)
        try:
            config = await asyncio.to_thread(self._read)
            if self._started.keys and not config.keys:
                raise BadInput("it has no [[keys]] any more", "restart the gateway to let everybody in")
            if config.ledger_path is not None:
                self._gate.state.keep_in(config.ledger_path)
            new = await self._pairs.renew(config)
        except Exception as error:
            words = error if isinstance(error, CuecardError) else f"{type(error).__name__}: {error}"
            self._tell(f"{self._file} was not taken over, what was read before holds: {words}".replace("\n", " "))
            count("failed")
            return
        self._gate.renew(config.keys)
        words = f"{self._file} was read again: pairs {', '.join(config.pairs)}; {len(config.keys)} keys"
        tables = [(name, getattr(self._started, name), getattr(config, name)) for name in RESTART]
        late = [f"{name}.{key}" for name, was, now in tables for key, value in was if value != getattr(now, key)]
        self._tell(f"{words}; these need a restart: {', '.join(late)}" if late else words)
        count("ok")
        arrived(new)


def stamp(file: Path) -> tuple[int, int, int] | None:
    """Modification time, size and inode of the file, which change when the file does; None if there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
