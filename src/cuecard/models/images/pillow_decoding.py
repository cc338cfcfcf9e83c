"""Decoding with Pillow, in this process or in the child of `ImageDecoder`, which runs this file without Cuecard."""

from __future__ import annotations

import ctypes
import io
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from PIL import ExifTags, ImageOps, TiffImagePlugin, WebPImagePlugin  # noqa: F401 - registers WebP
from PIL import Image as PilImage

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SERVED = ("image/png", "image/jpeg", "image/webp")
"""Formats that every server accepts."""
MOST_DRAWN = 2**24
"""Maximum pixels of a picture that is drawn again; larger ones are scaled down."""
MOST_PIECES = 20_000
"""Maximum strips or tiles of a TIFF."""
Size = tuple[int, int]


class Refused(Exception):
    """An image that is not decoded."""

    def __init__(self, why: str, size: Size | None = None) -> None:
        """`why`: broken, pixels, memory, pieces; or slow, if the child was killed."""
        super().__init__(why)
        self.why, self.size = why, size


def taken(data: bytes, most_pixels: int, keep: bool) -> tuple[Size, str, bytes]:
    """Size, media type and bytes of an image: the same bytes if it is plain and may be kept, else a PNG.

    Raises Refused.
    """

    def made(picture: PilImage.Image) -> tuple[Size, str, bytes]:
        size, kind = picture.size, cast(Any, picture).get_format_mimetype()
        if keep and kind in SERVED and is_plain(picture):
            picture.load()
            return size, kind, data
        return size, "image/png", drawn(picture)

    with _decoding(data, most_pixels) as picture:
        try:
            return made(picture)
        except OSError:
            if not data.startswith(b"\xff\xd8"):
                raise
    keep = False
    with _decoding(_ended(data, most_pixels), most_pixels) as picture:
        return made(picture)


def rgb(data: bytes, most_pixels: int) -> PilImage.Image:
    """The picture in RGB, scaled down to at most MOST_DRAWN pixels. Raises Refused."""
    with _decoding(data, most_pixels) as picture:
        return _reduced(picture).convert("RGB")


@contextmanager
def _decoding(data: bytes, most_pixels: int) -> Iterator[PilImage.Image]:
    """The opened image. All errors of decoders become Refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decoders, about files that are still readable
            _refuse_pieces(data)
            with PilImage.open(io.BytesIO(data), formats=FORMATS) as picture:
                refuse_huge(picture.size, most_pixels)
                yield picture
    except Refused:
        raise
    except PilImage.DecompressionBombError as error:
        raise Refused("pixels") from error
    except Exception as error:  # a decoder may raise any exception on broken data
        no_memory = isinstance(error, MemoryError) or "memory" in str(error)
        raise Refused("memory" if no_memory else "broken") from error


def refuse_huge(size: Size, most_pixels: int) -> None:
    """Raises Refused for more than `most_pixels` pixels."""
    if size[0] * size[1] > most_pixels:
        raise Refused("pixels", size)


def _refuse_pieces(data: bytes) -> None:
    """Raises Refused for a TIFF of more than MOST_PIECES pieces, as each costs time and memory."""
    if data[:4] not in TiffImagePlugin.PREFIXES:
        return
    file = io.BytesIO(data)
    head = file.read(8)
    if 43 in head[2:4]:  # BigTIFF
        head += file.read(8)
    directory = TiffImagePlugin.ImageFileDirectory_v2(head)
    file.seek(directory.next)
    directory.load(file)
    for tag in (TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.TILEOFFSETS):
        if len(directory.get(tag, ())) > MOST_PIECES:
            raise Refused("pieces")


def _ended(data: bytes, most_pixels: int) -> bytes:
    """A JPEG cut off in its last eighth, with an end marker added, as browsers read it. Else raises Refused."""
    ended = data + b"\xff\xd9"
    with _decoding(ended, most_pixels) as picture:
        wide, high = picture.size
        last = picture.crop((0, high * 7 // 8, wide, high))
        # missing pixels are decoded to one grey
        if all(value in (127, 128) for value in _flat(last.getextrema())):
            raise Refused("broken")
    return ended


def _flat(extrema: Any) -> Iterator[float]:
    for each in extrema:
        yield from each if isinstance(each, tuple) else (each,)


def is_plain(picture: PilImage.Image) -> bool:
    """Whether this is one opaque, upright picture of 8 bits per channel, which all models see alike."""
    upright = picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
    still = getattr(picture, "n_frames", 1) == 1
    return upright and still and picture.mode in ("RGB", "L", "P", "1") and not picture.has_transparency_data


def drawn(picture: PilImage.Image) -> bytes:
    """The picture as a person sees it, as a PNG: upright, first frame, on white, 8 bits per channel."""
    upright = ImageOps.exif_transpose(_reduced(picture))
    if upright.mode.startswith(("I", "F")):
        upright = _eight_bits(upright)
    if upright.has_transparency_data:
        paper = PilImage.new("RGBA", upright.size, "white")
        upright = PilImage.alpha_composite(paper, upright.convert("RGBA"))
    buffer = io.BytesIO()
    upright.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _reduced(picture: PilImage.Image) -> PilImage.Image:
    """The picture scaled down to at most MOST_DRAWN pixels, before it is copied otherwise."""
    wide, high = picture.size
    scale = math.sqrt(MOST_DRAWN / (wide * high or 1))
    if scale >= 1:
        return picture
    if picture.mode in ("1", "P", "PA") or (picture.mode in ("L", "RGB") and picture.has_transparency_data):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    size = max(1, int(wide * scale)), max(1, int(high * scale))
    return picture.resize(size, PilImage.Resampling.LANCZOS, reducing_gap=2.0)


def _eight_bits(picture: PilImage.Image) -> PilImage.Image:
    """16 bits scaled to 8, where a plain conversion would clip at 255; 32 bits and floats scaled by their own range."""
    low, high = (0.0, 65535.0) if picture.mode.startswith("I;16") else cast(tuple[float, float], picture.getextrema())
    scale = 255 / ((high - low) or 1)
    return picture.convert("F").point(lambda value: value * scale - low * scale).convert("L")


# --- the child --------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run jobs from stdin one by one until it ends."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # if memory runs out, the kernel kills this process and not its parent
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    for line in iter(source.readline, b""):
        job = json.loads(line)
        reply, more = _done(job, source.read(job["bytes"]))
        sink.write(json.dumps({**reply, "bytes": len(more)}).encode() + b"\n" + more)
        sink.flush()
        del reply, more
        _give_back()


def _done(job: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    if "do" not in job:
        PilImage.preinit()
        return {}, b""
    _limit(job["memory_bytes"], job["seconds"])
    try:
        if job["do"] == "rgb":
            picture = rgb(data, job["most_pixels"])
            return {"size": picture.size}, picture.tobytes()
        size, kind, made = taken(data, job["most_pixels"], job["keep"])
        return {"size": size, "kind": kind, "same": made is data}, b"" if made is data else made
    except Refused as refused:
        return {"refused": refused.why, "size": refused.size}, b""
    except MemoryError:
        return {"refused": "memory", "size": None}, b""


def _limit(memory_bytes: int, seconds: float) -> None:
    """Limit the memory and CPU time that this process may still use; the parent limits wall-clock time."""
    try:
        import resource
    except ImportError:  # Windows
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    with suppress(OSError, ValueError):
        most_s = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (most_s, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    with suppress(OSError, ValueError), open("/proc/self/statm") as pages:
        most = int(pages.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _give_back() -> None:
    """Return free memory to the system, if the allocator supports it."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    main()
