"""Errors in the form that the clients of a path read."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from cuecard.domain.errors import CuecardError
from cuecard.gateway.wire import chat, usage
from cuecard.gateway.wire.anthropic import messages

MESSAGES = "/v1/messages"


def response(
    path: str, error: CuecardError, status: int | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The response to a request that has failed; `status`: where it is not the error's own."""
    status, own = status or error.http_status, dict(headers or {})
    if path == MESSAGES or path.startswith(f"{MESSAGES}/"):
        body = messages.problem(error, status)
        return JSONResponse(body, status, headers=own | usage.request_id(body["request_id"]))
    return JSONResponse(chat.problem(error), status, headers=own)
