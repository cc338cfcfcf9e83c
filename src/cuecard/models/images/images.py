"""Images from users (path, bytes, picture, data URL, URL if allowed), checked before a model gets them.

A decoder decodes one image at a time in a child process with bounded memory and time.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from PIL import Image as PilImage

from cuecard.domain.errors import BadInput, TooLarge
from cuecard.domain.question import Image
from cuecard.models.images import decoding
from cuecard.models.images.decoding import FORMATS, MOST_BYTES, Header, Refused, Size
from cuecard.worker import ChildWorker

FETCH_S = 60.0
MOST_PIXELS = 50_000_000
SMALL_PIXELS, QUICK_PIXELS = 2**20, 2**22
WEBP_BYTES_PER_PIXEL = 32
_SCRIPT = Path(decoding.__file__)
_ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
"""glibc: large blocks are mapped, so that the system gets them back when they are freed."""
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def load(source: Any, allow_urls: bool = False) -> Image:
    """One image from a path, bytes, a PIL picture, a data URL, or (only if allowed) an http URL. Raises BadInput."""
    if isinstance(source, Image):
        return source
    if isinstance(source, PilImage.Image):
        return _drawn(source, "the picture")
    if isinstance(source, bytes | bytearray | memoryview):
        return checked(bytes(source), "the image")
    name = str(source)
    if not name:
        raise BadInput("an image is given without a name", "give a path")
    if is_data_url(name):
        return checked(decoded(name), "the data URL")
    if name.startswith(("http://", "https://")):
        if not allow_urls:
            raise BadInput(f"{_short(name)} is a URL, and fetching is off", "download it, or allow URLs (--allow-urls)")
        return checked(_fetched(name), _short(name))
    return checked(_file(Path(name)), _short(name))


def checked(data: bytes, name: str) -> Image:
    """The image in a form that models accept; the same bytes if all models see them alike. Raises BadInput."""
    refuse_bytes(data, name)
    header = decoding.header_of(data)
    try:
        if header is not None:
            decoding.refuse_huge((header.width, header.height), MOST_PIXELS)
        _, kind, made = decoding.taken(data, MOST_PIXELS, keep=header is not None)
    except Refused as refused:
        raise _told(refused, name) from refused
    return Image(made, kind)


def opened(image: Image) -> PilImage.Image:
    """The picture in RGB, for a model in this process. Raises BadInput."""
    try:
        return DECODER.rgb(image.data)
    except Refused as refused:
        raise _told(refused, "an image") from refused


def refuse_bytes(data: bytes, name: str) -> None:
    """Raises BadInput for a file that is empty or too long."""
    if not data:
        raise BadInput(f"{name} is empty", "give a PNG, JPEG or WebP image")
    if len(data) > MOST_BYTES:
        raise _too_large(name, f"{len(data) / 2**20:.0f} MiB")


def broken(name: str, why: str = "it is broken, or not an image") -> BadInput:
    """The error for data that no decoder reads."""
    return BadInput(f"{name} cannot be read: {why}", f"give one of {', '.join(FORMATS)}")


def _told(refused: Refused, name: str) -> BadInput:
    match refused.why:
        case "pixels":
            return _too_large(name, "{}x{} pixels".format(*refused.size) if refused.size else "too many pixels")
        case "memory" | "slow":
            return TooLarge(f"{name} takes too much memory or time to decode", "make it smaller")
        case "pieces":
            return broken(name, "it is cut into too many pieces")
        case _:
            return broken(name)


def _drawn(picture: PilImage.Image, name: str) -> Image:
    try:
        decoding.refuse_huge(picture.size, MOST_PIXELS)
        return Image(decoding.drawn(picture))
    except Refused as refused:
        raise _told(refused, name) from refused
    except Exception as error:  # a picture without size, or of an unusual mode
        raise BadInput(f"{name} cannot be drawn: {error}", f"give one of {', '.join(FORMATS)}") from error


def _too_large(name: str, size: str) -> TooLarge:
    most = f"{MOST_BYTES // 2**20} MiB and {MOST_PIXELS // 10**6} megapixels are taken"
    return TooLarge(f"{name} has {size}; at most {most}", "make it smaller")


def _short(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:199]}…"


def _file(path: Path) -> bytes:
    name = _short(str(path))
    try:
        if not path.is_file() and path.exists():  # a directory, a pipe, a device that never ends
            raise BadInput(f"{name} is not a file", "is the path right?")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise _too_large(name, f"{size / 2**20:.0f} MiB")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read the image {name}: {error.strerror}", "is the path right?") from error
    except ValueError as error:
        raise BadInput(f"{name!r} is not a path") from error


def is_data_url(name: str) -> bool:
    return name[:5].lower() == "data:"


def decoded(url: str) -> bytes:
    """The bytes in a data URL, in any variant of base64 that browsers read. Raises BadInput."""
    head, comma, body = url.partition(",")
    if not (comma and head.lower().endswith(";base64")):
        raise BadInput("a data URL must be base64", "use data:image/png;base64,…")
    try:
        text = b"".join(unquote_to_bytes(body).split()).rstrip(b"=")
        return base64.b64decode(text.translate(_URL_SAFE) + b"=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise BadInput("the data URL is not valid base64") from error


def _fetched(url: str) -> bytes:
    from cuecard.models.images.fetcher import Fetcher  # aiohttp takes long to import

    async def fetch() -> bytes:
        fetcher = Fetcher(is_allowed=lambda _: True, ports=range(2**16), seconds=FETCH_S, trust_env=True)
        try:
            return await fetcher.data(url)
        finally:
            await fetcher.aclose()

    with ThreadPoolExecutor(1) as thread:  # an event loop may run in this thread
        return thread.submit(asyncio.run, fetch()).result()


# --- the decoder ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bounds:
    """Limits of one decode."""

    pixels: int = MOST_PIXELS
    memory_bytes: int = 768 * 2**20
    seconds: float = 10.0


class ImageDecoder:
    """A child process that decodes, started by the first image and replaced when it exceeds its bounds."""

    def __init__(self) -> None:
        self._worker = ChildWorker(_SCRIPT, environment=_ALLOCATOR)

    def taken(self, data: bytes, header: Header | None, bounds: Bounds) -> tuple[Image, Size]:
        """The image in a form that models accept, and its original size; the same bytes if plain. Raises Refused."""
        reply, made = self._done({"do": "taken", "keep": header is not None}, data, bounds)
        return Image(data if reply["same"] else made, reply["kind"]), (reply["size"][0], reply["size"][1])

    def rgb(self, data: bytes) -> PilImage.Image:
        """The picture in RGB; small ones are decoded in this process, others in the child. Raises Refused."""
        header = decoding.header_of(data)
        # whole, at most a megapixel, few scans, one ICC profile: a few megabytes and milliseconds
        if header is not None and header.is_plain and header.pixels <= SMALL_PIXELS:
            return decoding.rgb(data, SMALL_PIXELS)
        reply, pixels = self._done({"do": "rgb"}, data, Bounds(seconds=30.0))
        return PilImage.frombuffer("RGB", tuple(reply["size"]), pixels, "raw", "RGB", 0, 1)

    def close(self) -> None:
        """End the child; a later image starts another."""
        self._worker.close()

    def _done(self, job: Mapping[str, Any], data: bytes, bounds: Bounds) -> tuple[Mapping[str, Any], bytes]:
        most = {"most_pixels": bounds.pixels, "memory_bytes": bounds.memory_bytes, "seconds": bounds.seconds}
        try:
            reply, more = self._worker.do({**job, **most}, bounds.seconds, data)
        except TimeoutError as error:
            raise Refused("slow") from error
        except EOFError as error:  # the child crashed
            raise Refused("broken") from error
        if "refused" in reply:
            raise Refused(reply["refused"], tuple(reply["size"]) if reply["size"] else None)
        return reply, more


def refuse_hungry(header: Header, bounds: Bounds) -> None:
    """Raises Refused for an image that needs too much memory to decode."""
    if header.media_type == "image/webp" and header.pixels * WEBP_BYTES_PER_PIXEL > bounds.memory_bytes:
        raise Refused("memory", (header.width, header.height))


DECODER, QUICK_DECODER = ImageDecoder(), ImageDecoder()
"""The decoders of this process: for any image, and for small ones only, so that these do not wait for slow ones."""
atexit.register(DECODER.close)
atexit.register(QUICK_DECODER.close)
