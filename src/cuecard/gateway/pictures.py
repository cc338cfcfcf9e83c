"""Images of requests, from data URLs and the web, within what an image, a request and the process may take.

Of images that every model takes as they are, only the structure is read. The others are decoded in a child process
with bounds on its time and memory, one at a time, which the event loop awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cuecard.domain.errors import BadInput, RateLimited, TooLarge
from cuecard.domain.question import Image
from cuecard.gateway.config import Images
from cuecard.gateway.fetch import Fetcher
from cuecard.models import image_headers, images
from cuecard.models.decoder import DECODER, Bounds, Decoder, refuse_huge
from cuecard.models.drawing import Refused, Size
from cuecard.models.image_headers import Header

WAIT_S = 60.0
"""How long an image waits for those before it."""


@dataclass(frozen=True)
class _Given:
    name: str
    data: bytes
    header: Header | None


class Pictures:
    """Makes images of the addresses in a request."""

    def __init__(self, limits: Images, fetcher: Fetcher | None, decoder: Decoder = DECODER) -> None:
        self.most = limits.most
        self._limits, self._fetcher, self._decoder = limits, fetcher, decoder
        self._turn = asyncio.Lock()

    async def images(self, urls: Sequence[str]) -> Mapping[str, Image]:
        """The images at these addresses, which differ. Raises BadInput, TooLarge, RateLimited."""
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

    async def _given(self, url: str, name: str) -> _Given:
        if images.is_data_url(url):
            return await asyncio.to_thread(_read, url, name)
        if not url.startswith(("http://", "https://")):
            raise BadInput("an image is neither a data URL nor a web address", "send data:image/png;base64,…")
        if self._fetcher is None:
            raise BadInput("images are not fetched from the web here", "send the image itself, as a data URL")
        data = await self._fetcher.data(url)
        return await asyncio.to_thread(_looked_at, data, name)

    def _left(self, given: Sequence[_Given]) -> int:
        """The pixels that images of unknown size may still have. Raises TooLarge."""
        left = round(self._limits.request_megapixels * 1e6)
        for each in given:
            if each.header is None:
                continue
            most = self._bounds().pixels
            if each.header.pixels > most:
                raise self._refusal(Refused("pixels", (each.header.width, each.header.height)), each.name)
            left -= each.header.pixels
        if left < 0:
            raise self._too_many()
        return left

    async def _decoded(self, given: _Given, left: int) -> tuple[Image, Size]:
        bounds = self._bounds()
        if given.header is None:
            bounds = self._bounds(min(bounds.pixels, left))
        try:
            if given.header is not None:
                refuse_huge(given.header, bounds)
            return await self._in_turn(given, bounds)
        except Refused as refused:
            if refused.why == "pixels" and bounds.pixels < self._bounds().pixels:
                raise self._too_many() from refused
            raise self._refusal(refused, given.name) from refused

    async def _in_turn(self, given: _Given, bounds: Bounds) -> tuple[Image, Size]:
        """Decode it after those before it; when the request is given up meanwhile, the turn ends with the decode."""
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
            work.exception()  # seen, also where nobody waits for it any more

    def _bounds(self, pixels: int | None = None) -> Bounds:
        limits = self._limits
        most = round(limits.most_megapixels * 1e6) if pixels is None else pixels
        return Bounds(most, limits.decode_mib * 2**20, limits.decode_s)

    def _refusal(self, refused: Refused, name: str) -> BadInput:
        limits = self._limits
        size = " (it has {}x{} pixels)".format(*refused.size) if refused.size else ""
        match refused.why:
            case "pixels":
                told = f"{name} has more than {limits.most_megapixels:g} megapixels{size}"
                return TooLarge(told, _limited("most_megapixels"))
            case "memory":
                told = f"{name} needs more than {limits.decode_mib} MiB to be decoded{size}"
                return TooLarge(told, _limited("decode_mib"))
            case "slow":
                told = f"{name} takes longer than {limits.decode_s:g} s to be decoded"
                return BadInput(told, _limited("decode_s"))
            case "pieces":
                return images.broken(name, "it is cut into too many pieces")
            case _:
                return images.broken(name)

    def _too_many(self) -> TooLarge:
        told = f"the images together have more than {self._limits.request_megapixels:g} megapixels"
        return TooLarge(told, _limited("request_megapixels"))


def _limited(setting: str) -> str:
    return f"make it smaller; the limit is {setting} under [images] in cuecard.toml"


def _read(url: str, name: str) -> _Given:
    return _looked_at(images.decoded(url), name)


def _looked_at(data: bytes, name: str) -> _Given:
    images.refuse_bytes(data, name)
    return _Given(name, data, image_headers.read(data))
