"""Request bodies: read within limits, and parsed together with their images."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from cuecard.answers import schemas
from cuecard.domain.errors import BadInput, TooLarge, TooSlow, WrongForm
from cuecard.domain.question import Image
from cuecard.gateway.admission.connections import BODY_S, ClientGone
from cuecard.gateway.wire.images import ImageLoader
from cuecard.gateway.wire.request import Fetch, ParsedRequest
from cuecard.gateway.wire.usage import Json
from cuecard.gateway.wire.values import reading

MARKS = {
    b"\x1f\x8b": "compressed (gzip)",
    b"\x28\xb5\x2f\xfd": "compressed (zstd)",
    b"\xff\xfe": "not UTF-8, but UTF-16",
    b"\xfe\xff": "not UTF-8, but UTF-16",
}
"""First bytes of bodies that are refused."""
MOST_DIGITS, MOST_DEPTH, MOST_VALUES = 300, 100, 1_000_000
Parse = Callable[[object, Fetch], ParsedRequest]


@dataclass(frozen=True)
class RequestBody:
    """A request's JSON."""

    value: object
    may_have_images: bool

    @property
    def object(self) -> Json:
        """The JSON of a request that was parsed, which is an object."""
        assert isinstance(self.value, dict)
        return self.value


async def json_of(request: Request, most_bytes: int) -> RequestBody:
    """The body of a request. Raises BadInput, TooLarge, TooSlow, WrongForm."""
    coding = request.headers.get("content-encoding", "")
    if coding.strip().lower() not in ("", "identity"):
        raise WrongForm(f"the body is compressed ({coding[:40]!r}), and is not unpacked here")
    data = await _body(request, most_bytes)
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:  # parsed values take far more memory than their bytes
        raise BadInput(f"the body has more than {MOST_VALUES} values, or as many commas", "send less")
    escaped = b"\\u" in data
    try:
        value = json.loads(_text(data), parse_constant=_finite, parse_float=_finite, parse_int=_whole)
        if escaped:  # half a surrogate pair, which UTF-8 cannot encode
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        why = "half a character" if isinstance(error, UnicodeEncodeError) else error
        raise BadInput(f"the body is not JSON: {why}", "send JSON in UTF-8") from error
    _refuse_deep(value)
    return RequestBody(value, b"image" in data or escaped)  # the word "image" could be escaped


def _text(data: bytes) -> str:
    for mark, what in MARKS.items():
        if data.startswith(mark):
            raise WrongForm(f"the body is {what}")
    if not data.strip():
        raise BadInput("the body is empty", "send JSON in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput("the body is not JSON: it is no text in UTF-8", "send JSON in UTF-8") from error


def _finite(text: str) -> float:
    """A finite float: Python reads NaN, Infinity and 1e999 as well. Raises BadInput."""
    if not math.isfinite(value := float(text)):
        raise BadInput(f"{text[:40]} is not a finite number", "send a smaller one")
    return value


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise BadInput(f"a number of {len(text)} digits is too large", "send a smaller one")
    return int(text)


def _refuse_deep(value: object) -> None:
    """Raises BadInput for JSON that is nested too deep for recursive readers."""
    level = [value]
    for _ in range(MOST_DEPTH):
        nested = [each for each in level if isinstance(each, dict | list)]
        if not nested:
            return
        level = [inner for each in nested for inner in (each.values() if isinstance(each, dict) else each)]
    raise BadInput(f"the body is nested more than {MOST_DEPTH} deep", "send less")


async def understood(body: RequestBody, parse: Parse, loader: ImageLoader, most_text: int) -> ParsedRequest:
    """Parse a request with its images; its schema must be valid, and its text at most `most_text` characters long.

    It is parsed twice if it has images: for their URLs, and again with the fetched images. Raises BadInput.
    """
    wanted: list[str] = []

    def noted(url: str) -> Image:
        wanted.append(url)
        if len(wanted) > loader.most:
            hint = "send fewer; the limit is most under [images] in cuecard.toml"
            raise TooLarge(f"there are more than {loader.most} images", hint)
        return Image(b"")

    parsed = parse(body.value, noted if body.may_have_images else _no_image)
    if (given := parsed.question.characters) > most_text:
        more = f"{given} characters of text are more than the {most_text} that are taken"
        raise BadInput(more, "send less, or raise server.most_text in cuecard.toml")
    if wanted:
        parsed = parse(body.value, (await loader.images(list(dict.fromkeys(wanted)))).__getitem__)
    if parsed.question.schema is not None:
        with reading("response_format" if parsed.tools is None else "tools"):
            await schemas.check(parsed.question.schema)
    return parsed


def _no_image(url: str) -> Image:
    raise AssertionError("a request with an image has the word in it")


async def _body(request: Request, most_bytes: int) -> bytes:
    value = request.headers.get("content-length", "0")
    if value.isdigit() and int(value) > most_bytes:
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
