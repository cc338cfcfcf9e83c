"""What the gateway shows of itself: the served models, its health, metrics, and the dashboard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

import cuecard
from cuecard.gateway.admission.keys import ApiClient
from cuecard.gateway.config.config import PAIR, unknown_model
from cuecard.gateway.pairs import Pairs
from cuecard.gateway.telemetry.accounting import Accounting
from cuecard.gateway.upstream.pool import Pool
from cuecard.gateway.wire.usage import Json

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


class Status:
    """The handlers of these routes; `health` and `ready` need no key."""

    def __init__(self, pairs: Pairs, accounting: Accounting, authenticate: Callable[[Request], ApiClient]) -> None:
        self._pairs, self._accounting, self._authenticate = pairs, accounting, authenticate

    async def models(self, request: Request) -> Response:
        names = self._pairs.known_as(self._authenticate(request).key)
        return JSONResponse({"object": "list", "data": [_listed(name) for name in names]})

    async def model(self, request: Request) -> Response:
        names = self._pairs.known_as(self._authenticate(request).key)
        if (name := request.path_params["name"].rstrip("/")) not in names:
            raise unknown_model(name, names)
        return JSONResponse(_listed(name))

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": cuecard.__version__})

    async def ready(self, request: Request) -> Response:
        """Whether models are still probed, and which of them are down: 503 unless one can answer."""
        probing: asyncio.Task[Any] | None = request.app.state.probing
        if probing is not None and not probing.done():
            return JSONResponse({"status": "probing", "down": []}, 503)
        models = {
            role if pair.name == PAIR else f"{pair.name}/{role}": model
            for pair in self._pairs
            for role, model in pair.models.items()
        }
        pools = {place: model for place, model in models.items() if isinstance(model, Pool)}
        down = [place for place, pool in pools.items() if not pool.up]
        state: Json = {"status": "down" if len(down) == len(models) else "degraded" if down else "ok", "down": down}
        if wrong := {place: pool.wrong_paths for place, pool in pools.items() if pool.wrong_paths}:
            state["wrong_paths"] = wrong
        return JSONResponse(state, 503 if state["status"] == "down" else 200)

    async def metrics(self, request: Request) -> Response:
        self._authenticate(request)
        text = self._accounting.metrics.exposition(self._accounting.audit.as_dict())
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def stats(self, request: Request) -> Response:
        self._authenticate(request)
        metrics = self._accounting.metrics
        audit = self._accounting.audit.as_dict()
        return JSONResponse(metrics.stats() | {"audit": audit, "recent": metrics.last(50)})


class DashboardFiles(StaticFiles):
    """The dashboard's own files."""

    def file_response(self, *args: Any, **more: Any) -> Response:
        response = super().file_response(*args, **more)
        response.headers.update(PAGE_HEADERS)
        return response


def dashboard() -> list[BaseRoute]:
    """The routes of the dashboard."""
    html = (files("cuecard.gateway") / "dashboard" / "page.html").read_text(encoding="utf-8")

    async def page(request: Request) -> Response:
        return HTMLResponse(html, headers=PAGE_HEADERS)

    async def to_page(request: Request) -> Response:
        return RedirectResponse("../dashboard")  # its links are relative

    return [
        Route("/dashboard", page),
        Route("/dashboard/", to_page),
        Mount("/dashboard", DashboardFiles(packages=[("cuecard.gateway", "dashboard")])),
    ]


def _listed(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "cuecard"}
