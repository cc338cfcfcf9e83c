"""Images decoded one at a time in a child process, which is bounded in memory and time."""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as PilImage

from cuecard.domain.question import Image
from cuecard.models.images import pillow_decoding
from cuecard.models.images.image_headers import Header, read
from cuecard.models.images.pillow_decoding import Refused, Size
from cuecard.worker import ChildWorker

MOST_PIXELS = 50_000_000
SMALL_PIXELS, QUICK_PIXELS = 2**20, 2**22
WEBP_BYTES_PER_PIXEL = 32
_SCRIPT = Path(pillow_decoding.__file__)
_ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
"""glibc: large blocks are mapped, so that they go back to the system when they are free."""


@dataclass(frozen=True)
class Bounds:
    """What one decode may take."""

    pixels: int = MOST_PIXELS
    memory_bytes: int = 768 * 2**20
    seconds: float = 10.0


class ImageDecoder:
    """A child process that decodes, started by the first image and replaced when it exceeds its bounds."""

    def __init__(self) -> None:
        self._worker = ChildWorker(_SCRIPT, environment=_ALLOCATOR)

    def taken(self, data: bytes, header: Header | None, bounds: Bounds) -> tuple[Image, Size]:
        """The image as models can take it, and its size before; the same bytes if it is plain. Raises Refused."""
        reply, made = self._done({"do": "taken", "keep": header is not None}, data, bounds)
        return Image(data if reply["same"] else made, reply["kind"]), (reply["size"][0], reply["size"][1])

    def rgb(self, data: bytes) -> PilImage.Image:
        """The picture as a model in this process takes it; small ones are decoded right here. Raises Refused."""
        header = read(data)
        # whole, at most a megapixel, few scans, one ICC profile: a few megabytes and milliseconds
        if header is not None and header.is_plain and header.pixels <= SMALL_PIXELS:
            return pillow_decoding.rgb(data, SMALL_PIXELS)
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
        except EOFError as error:  # the decoder fell over
            raise Refused("broken") from error
        if "refused" in reply:
            raise Refused(reply["refused"], tuple(reply["size"]) if reply["size"] else None)
        return reply, more


def refuse_hungry(header: Header, bounds: Bounds) -> None:
    """Raises Refused for what needs too much memory to decode."""
    if header.media_type == "image/webp" and header.pixels * WEBP_BYTES_PER_PIXEL > bounds.memory_bytes:
        raise Refused("memory", (header.width, header.height))


DECODER, QUICK_DECODER = ImageDecoder(), ImageDecoder()
"""Those of this process: for any image, and for those that are known to be small, which wait for no slow one."""
atexit.register(DECODER.close)
atexit.register(QUICK_DECODER.close)
