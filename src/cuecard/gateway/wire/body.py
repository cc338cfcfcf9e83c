"""Request bodies: read within limits, and parsed together with their images, from data URLs and the web.

If every model accepts an image unchanged, only its structure is parsed. Other images are decoded in a child process
with limits on time and memory, in two queues, each one image at a time: one for small images, one for all others.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import ClientDisconnect, Request

from cuecard.answers import schemas
from cuecard.domain.errors import BadInput, RateLimited, TooLarge, TooSlow, WrongForm
from cuecard.domain.question import Image
from cuecard.gateway.admission.connections import BODY_S, ClientGone
from cuecard.gateway.config import ImageSettings
from cuecard.gateway.wire.parameters import reading
from cuecard.gateway.wire.request import Fetch, ParsedRequest
from cuecard.models.images import decoding, images
from cuecard.models.images.decoding import Header, Refused, Size
from cuecard.models.images.fetcher import Fetcher
from cuecard.models.images.images import DECODER, QUICK_DECODER, QUICK_PIXELS, Bounds, ImageDecoder
from cuecard.models.openai.response_body import is_shallow

MARKS = {
    b"\x1f\x8b": "compressed (gzip)",
    b"\x28\xb5\x2f\xfd": "compressed (zstd)",
    b"\xff\xfe": "not UTF-8, but UTF-16",
    b"\xfe\xff": "not UTF-8, but UTF-16",
}
"""First bytes of bodies that are refused."""
MOST_DIGITS, MOST_DEPTH, MOST_VALUES = 300, 100, 1_000_000
Parse = Callable[[object, Fetch], ParsedRequest]


async def json_of(request: Request, most_bytes: int) -> Any:
    """The body of a request. Raises BadInput, TooLarge, TooSlow, WrongForm."""
    coding = request.headers.get("content-encoding", "")
    if coding.strip().lower() not in ("", "identity"):
        raise WrongForm(f"the body is compressed ({coding[:40]!r}), and is not unpacked here")
    data = await _body(request, most_bytes)
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:  # parsed values take far more memory than their bytes
        raise BadInput(f"the body has more than {MOST_VALUES} values, or as many commas", "send less")
    try:
        value = json.loads(_text(data), parse_constant=_finite, parse_float=_finite, parse_int=_whole)
        if b"\\u" in data:  # half a surrogate pair, which UTF-8 cannot encode
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        why = "half a character" if isinstance(error, UnicodeEncodeError) else error
        raise BadInput(f"the body is not JSON: {why}", "send JSON in UTF-8") from error
    if not is_shallow(value, MOST_DEPTH):
        raise BadInput(f"the body is nested more than {MOST_DEPTH} deep", "send less")
    return value


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


async def understood(body: object, parse: Parse, loader: ImageLoader, most_text: int) -> ParsedRequest:
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

    parsed = parse(body, noted)
    if (given := parsed.question.characters) > most_text:
        more = f"{given} characters of text are more than the {most_text} that are taken"
        raise BadInput(more, "send less, or raise server.most_text in cuecard.toml")
    if wanted:
        parsed = parse(body, (await loader.images(list(dict.fromkeys(wanted)))).__getitem__)
    if parsed.question.schema is not None:
        with reading("response_format" if parsed.tools is None else "tools"):
            await schemas.check(parsed.question.schema)
    return parsed


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


# --- images -----------------------------------------------------------------------------------------------------------

WAIT_S = 60.0
"""Most seconds that an image waits for the decoder."""
LIMITS: Mapping[str, tuple[str, str, type[BadInput]]] = {
    "pixels": ("most_megapixels", "has more than {:g} megapixels", TooLarge),
    "memory": ("decode_mib", "needs more than {} MiB to be decoded", TooLarge),
    "slow": ("decode_s", "takes longer than {:g} s to be decoded", BadInput),
}
"""Why an image is refused -> the setting that limits it, what is wrong, and the error."""


@dataclass(frozen=True)
class _ImageData:
    name: str
    data: bytes
    header: Header | None


class _DecodeQueue:
    """A decoder that takes one image at a time."""

    def __init__(self, its: ImageDecoder) -> None:
        self._decoder, self._turn = its, asyncio.Lock()

    async def taken(self, given: _ImageData, bounds: Bounds) -> tuple[Image, Size]:
        """Decode an image in its turn, which ends with the decoder, even if cancelled. Raises Refused, RateLimited."""
        try:
            async with asyncio.timeout(WAIT_S):
                await self._turn.acquire()
        except TimeoutError as late:
            raise RateLimited(f"{given.name} waited {WAIT_S:g} s for other images to be decoded") from late
        work = asyncio.ensure_future(asyncio.to_thread(self._decoder.taken, given.data, given.header, bounds))
        work.add_done_callback(self._over)
        return await asyncio.shield(work)

    def _over(self, work: asyncio.Future[tuple[Image, Size]]) -> None:
        self._turn.release()
        if not work.cancelled():
            work.exception()  # retrieved, even if no request waits for it any more


class ImageLoader:
    """Loads the images that a request names by URL."""

    def __init__(self, limits: ImageSettings, fetcher: Fetcher | None) -> None:
        self.most = limits.most
        self._limits, self._fetcher = limits, fetcher
        self._bounds = Bounds(round(limits.most_megapixels * 1e6), limits.decode_mib * 2**20, limits.decode_s)
        self._lane, self._quick_lane = _DecodeQueue(DECODER), _DecodeQueue(QUICK_DECODER)

    async def images(self, urls: Sequence[str]) -> Mapping[str, Image]:
        """The images at these distinct URLs. Raises BadInput, TooLarge, RateLimited."""
        names = [f"image {number}" if len(urls) > 1 else "the image" for number in range(1, len(urls) + 1)]
        getting = [asyncio.ensure_future(self._given(*each)) for each in zip(urls, names, strict=True)]
        try:
            given = await asyncio.gather(*getting)
        finally:
            for task in getting:
                task.cancel()
            await asyncio.gather(*getting, return_exceptions=True)
        left = self._left(given)
        made = {}
        for url, each in zip(urls, given, strict=True):
            if each.header is not None and each.header.is_plain:
                made[url] = Image(each.data, each.header.media_type)
                continue
            made[url], (wide, high) = await self._decoded(each, left)
            left -= wide * high if each.header is None else 0
        return made

    async def _given(self, url: str, name: str) -> _ImageData:
        if images.is_data_url(url):
            return await asyncio.to_thread(lambda: _checked(images.decoded(url), name))
        if not url[:8].lower().startswith(("http://", "https://")):
            raise BadInput("an image is neither a data URL nor a web address", "send data:image/png;base64,…")
        if self._fetcher is None:
            raise BadInput(
                "images are not fetched from the web here",
                "send the image itself, in base64, or set urls = true under [images]",
            )
        data = await self._fetcher.data(url)
        return await asyncio.to_thread(_checked, data, name)

    def _left(self, given: Sequence[_ImageData]) -> int:
        """The pixels left for images of unknown size. Raises BadInput, TooLarge."""
        left = round(self._limits.request_megapixels * 1e6)
        for each in given:
            if each.header is None:
                continue
            try:
                decoding.refuse_huge((each.header.width, each.header.height), self._bounds.pixels)
                if not each.header.is_plain:
                    images.refuse_hungry(each.header, self._bounds)
            except Refused as refused:
                raise self._refusal(refused, each.name) from refused
            left -= each.header.pixels
        if left < 0:
            raise self._too_many()
        return left

    async def _decoded(self, given: _ImageData, left: int) -> tuple[Image, Size]:
        bounds, lane = self._bounds, self._lane
        if given.header is None:
            bounds = replace(bounds, pixels=min(bounds.pixels, left))
        elif given.header.pixels <= QUICK_PIXELS:
            lane = self._quick_lane
        try:
            return await lane.taken(given, bounds)
        except Refused as refused:
            if refused.why == "pixels" and bounds.pixels < self._bounds.pixels:
                raise self._too_many() from refused
            raise self._refusal(refused, given.name) from refused

    def _refusal(self, refused: Refused, name: str) -> BadInput:
        if refused.why == "pieces":
            return images.broken(name, "it is cut into too many pieces")
        if refused.why not in LIMITS:
            return images.broken(name)
        setting, what, kind = LIMITS[refused.why]
        size = " (it has {}x{} pixels)".format(*refused.size) if refused.size else ""
        return kind(f"{name} {what.format(getattr(self._limits, setting))}{size}", _limited(setting))

    def _too_many(self) -> TooLarge:
        message = f"the images together have more than {self._limits.request_megapixels:g} megapixels"
        return TooLarge(message, _limited("request_megapixels"))


def _limited(setting: str) -> str:
    return f"make it smaller; the limit is {setting} under [images] in cuecard.toml"


def _checked(data: bytes, name: str) -> _ImageData:
    images.refuse_bytes(data, name)
    return _ImageData(name, data, decoding.header_of(data))
