"""Images of requests, from data URLs and the web, within limits for an image, a request and the process.

If every model accepts an image unchanged, only its structure is parsed. Other images are decoded in a child process
with limits on time and memory, in two queues, each one image at a time: one for small images, one for all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cuecard.domain.errors import BadInput, RateLimited, TooLarge
from cuecard.domain.question import Image
from cuecard.gateway.config.config import ImageSettings
from cuecard.models.images import image_headers, images, pillow_decoding
from cuecard.models.images.fetcher import Fetcher
from cuecard.models.images.image_headers import Header
from cuecard.models.images.images import DECODER, QUICK_DECODER, QUICK_PIXELS, Bounds, ImageDecoder
from cuecard.models.images.pillow_decoding import Refused, Size

WAIT_S = 60.0
"""Most seconds that an image waits for the decoder."""


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
                pillow_decoding.refuse_huge((each.header.width, each.header.height), self._bounds.pixels)
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
        limits = self._limits
        size = " (it has {}x{} pixels)".format(*refused.size) if refused.size else ""
        match refused.why:
            case "pixels":
                message = f"{name} has more than {limits.most_megapixels:g} megapixels{size}"
                return TooLarge(message, _limited("most_megapixels"))
            case "memory":
                message = f"{name} needs more than {limits.decode_mib} MiB to be decoded{size}"
                return TooLarge(message, _limited("decode_mib"))
            case "slow":
                message = f"{name} takes longer than {limits.decode_s:g} s to be decoded"
                return BadInput(message, _limited("decode_s"))
            case "pieces":
                return images.broken(name, "it is cut into too many pieces")
            case _:
                return images.broken(name)

    def _too_many(self) -> TooLarge:
        message = f"the images together have more than {self._limits.request_megapixels:g} megapixels"
        return TooLarge(message, _limited("request_megapixels"))


def _limited(setting: str) -> str:
    return f"make it smaller; the limit is {setting} under [images] in cuecard.toml"


def _checked(data: bytes, name: str) -> _ImageData:
    images.refuse_bytes(data, name)
    return _ImageData(name, data, image_headers.read(data))
