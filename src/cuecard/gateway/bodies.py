"""Bodies of requests: read within limits, and understood together with their images."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from cuecard.domain.errors import BadInput, TooLarge, TooSlow
from cuecard.domain.question import Image
from cuecard.gateway.account import Json
from cuecard.gateway.chat import Asked, Fetch
from cuecard.gateway.guard import BODY_S
from cuecard.gateway.leaving import ClientGone
from cuecard.gateway.pictures import Pictures

Parse = Callable[[object, Fetch], Asked]


@dataclass(frozen=True)
class Body:
    """What a request says, as JSON."""

    said: object
    may_have_images: bool


async def json_of(request: Request, most_bytes: int) -> Body:
    """The body of a request. Raises BadInput, TooLarge."""
    data = await _body(request, most_bytes)
    escaped = b"\\u" in data
    try:
        said = json.loads(data.decode())
        if escaped:  # half a character, which no text that leaves here can hold
            json.dumps(said, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the body is not JSON: {error}", "send JSON in UTF-8") from error
    return Body(said, b"image" in data or escaped)  # the word could also be there escaped


def trace_of(request: Request) -> Json:
    return {name: request.headers[name] for name in ("traceparent", "tracestate") if name in request.headers}


async def understood(body: Body, parse: Parse, pictures: Pictures) -> Asked:
    """A request as it is meant. It is read twice if it has images: to see which, and when they are there."""
    if not body.may_have_images:
        return parse(body.said, _no_image)
    wanted: list[str] = []

    def noted(url: str) -> Image:
        wanted.append(url)
        if len(wanted) > pictures.most:
            told = "send fewer; the limit is most under [images] in cuecard.toml"
            raise TooLarge(f"there are more than {pictures.most} images", told)
        return Image(b"")

    asked = parse(body.said, noted)
    if not wanted:
        return asked
    got = await pictures.images(list(dict.fromkeys(wanted)))
    return parse(body.said, got.__getitem__)


def _no_image(url: str) -> Image:
    raise AssertionError("a request with an image has the word in it")


async def _body(request: Request, most_bytes: int) -> bytes:
    said = request.headers.get("content-length", "0")
    if said.isdigit() and int(said) > most_bytes:
        raise _too_large(most_bytes)
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                data += part
                if len(data) > most_bytes:
                    raise _too_large(most_bytes)
    except TimeoutError as error:
        raise TooSlow(f"the body took longer than {BODY_S:.0f} s") from error
    except ClientDisconnect as error:
        raise ClientGone from error
    return bytes(data)


def _too_large(most: int) -> TooLarge:
    hint = "send fewer or smaller images; the limit is most_body_mib under [server] in cuecard.toml"
    return TooLarge(f"the body is larger than {most / 2**20:.0f} MiB", hint)
