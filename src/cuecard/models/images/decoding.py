"""Headers of PNG, JPEG and WebP, without decoding; and decoding with Pillow, in this process or in a child.

A header has the format, the size, and whether all models see the image alike. Reading it takes time linear in the bytes
and visits a bounded number of parts; unusual files are left to the decoder. The child of `ImageDecoder` runs this file
without Cuecard.
"""

from __future__ import annotations

import ctypes
import io
import json
import math
import os
import re
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

from PIL import ExifTags, ImageOps, TiffImagePlugin, WebPImagePlugin  # noqa: F401 - registers WebP
from PIL import Image as PilImage

MOST_BYTES = 32 * 2**20
MOST_PARTS, MOST_SCANS = 20_000, 32
MOST_NOTES, MOST_EXIF_BYTES = 2000, 2**20
"""Maximum number of parts without pixels, and bytes of EXIF data."""
MOST_WEBP_PIXELS = 2**24
"""Maximum of a plain WebP: decoders need several times as much memory as for the other formats."""
_PNG = b"\x89PNG\r\n\x1a\n"
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MARKER_HERE = re.compile(rb"\xff++[^\x00\xd0-\xd7]")
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_ORIENTATION, _SHORT = 274, 3
_SOF = (0xC0, 0xC1, 0xC2)
_OTHER_SOF = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


@dataclass(frozen=True)
class Header:
    """The header of a complete file in a format that every server accepts."""

    media_type: str
    width: int
    height: int
    is_plain: bool
    """Certainly one opaque, upright picture, grey, palette or RGB. False if only a decoder can tell."""

    @property
    def pixels(self) -> int:
        return self.width * self.height


def header_of(data: bytes) -> Header | None:
    """The header; None for other formats, truncated files and unusual structures."""
    try:
        if data.startswith(_PNG):
            header = _png(data)
        elif data.startswith(b"\xff\xd8"):
            header = _jpeg(data)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            header = _webp(data)
        else:
            return None
    except (ValueError, IndexError, struct.error):
        return None
    return header if header.pixels else None


def _png(data: bytes) -> Header:
    chunks = _png_chunks(data)
    kind, body = next(chunks)
    if kind != b"IHDR":
        raise ValueError("the first chunk is another")
    width, height, depth, colour = struct.unpack_from(">IIBB", body)
    is_plain, seen, notes = colour == 2 or (colour in (0, 3) and depth <= 8), {b"IHDR"}, 0
    for kind, body in chunks:
        notes += kind != b"IDAT"
        if notes > MOST_NOTES:
            raise ValueError("too many chunks")
        if kind in seen and kind in (b"IHDR", b"iCCP", b"eXIf"):
            raise ValueError("a chunk that there may be one of")
        seen.add(kind)
        if kind in (b"tRNS", b"acTL"):
            is_plain = False
        elif kind == b"eXIf":
            is_plain &= _is_upright(bytes(body))
        elif kind in (b"iTXt", b"tEXt", b"zTXt"):
            is_plain &= _says_nothing(kind, bytes(body))
    if b"IDAT" not in seen:
        raise ValueError("no pixels")
    return Header("image/png", width, height, is_plain)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    at, view = len(_PNG), memoryview(data)
    for _ in range(MOST_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if struct.unpack_from(">I", data, end)[0] != zlib.crc32(view[at + 4 : end]):
            raise ValueError("a chunk is damaged")
        yield kind, view[at + 8 : end]
        if kind == b"IEND":
            return
        at = end + 4
    raise ValueError("too many chunks")


def _says_nothing(kind: bytes, text: bytes) -> bool:
    """Whether the text in a PNG chunk certainly does not rotate the picture."""
    keyword, _, rest = text.partition(b"\0")
    if keyword.startswith(b"Raw profile type"):
        return False
    if keyword == b"XML:com.adobe.xmp":
        return kind == b"iTXt" and rest.startswith(b"\0") and _is_upright_by_xmp(rest)
    return True


def _jpeg(data: bytes) -> Header:
    size: tuple[int, int] | None = None
    is_plain, scans, exifs, at = True, 0, 0, 2
    for _ in range(MOST_NOTES):
        if (found := _MARKER_HERE.match(data, at)) is None:
            raise ValueError("no marker where one has to be")
        at, marker = found.end(), data[found.end() - 1]
        if marker == 0xD9:
            if size is None or not scans:
                raise ValueError("no pixels")
            return Header("image/jpeg", *size, is_plain)
        (length,) = struct.unpack_from(">H", data, at)
        body, at = data[at + 2 : at + length], at + length
        if marker in _SOF:
            depth, height, width, channels = struct.unpack_from(">BHHB", body)
            if size is not None or depth != 8:
                raise ValueError("two frames, or more than 8 bits")
            size, is_plain = (width, height), is_plain and channels in (1, 3)
        elif marker in _OTHER_SOF:
            raise ValueError("a rare kind of JPEG")
        elif marker == 0xDA:
            scans += 1
            if size is None or scans > MOST_SCANS or (found := _NEXT_MARKER.search(data, at)) is None:
                raise ValueError("broken off, or in too many scans")
            at = found.start()
        else:
            exifs += marker == 0xE1 and body.startswith(b"Exif\0")
            is_plain &= exifs <= 1 and _turns_nothing(marker, body)
    raise ValueError("too many segments")


def _turns_nothing(marker: int, body: bytes) -> bool:
    """Whether a JPEG segment certainly neither rotates the picture nor holds further pictures."""
    if marker == 0xE1:
        return _is_upright(body[6:]) if body.startswith(b"Exif\0") else _is_upright_by_xmp(body)
    return not (marker == 0xE2 and body.startswith(b"MPF\0"))


def _webp(data: bytes) -> Header:
    end = struct.unpack_from("<I", data, 4)[0] + 8
    if end > len(data):
        raise ValueError("broken off")
    canvas: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    is_plain, has_exif, at = True, False, 12
    for _ in range(MOST_NOTES):
        if at >= end:
            break
        kind, length = struct.unpack_from("<4sI", data, at)
        body, at = data[at + 8 : at + 8 + length], at + 8 + length + length % 2
        if kind == b"VP8X" and canvas is None and size is None:
            canvas = 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
            is_plain &= not body[0] & 0b0001_0010  # transparency, animation
        elif kind in (b"VP8 ", b"VP8L") and size is None:
            *frame, is_opaque = _vp8(body) if kind == b"VP8 " else _vp8l(body)
            size, is_plain = (frame[0], frame[1]), is_plain and is_opaque
        elif kind == b"EXIF" and not has_exif:
            has_exif = True
            is_plain &= _is_upright(body.removeprefix(b"Exif\0\0"))
        elif kind == b"XMP ":
            is_plain &= _is_upright_by_xmp(body)
        elif kind in (b"ANMF", b"ALPH", b"EXIF"):
            is_plain = False
    else:
        raise ValueError("too many chunks")
    if (found := canvas or size) is None or (size is None and is_plain) or (size is not None and size != found):
        raise ValueError("no pixels, or of another size")
    return Header("image/webp", *found, is_plain and found[0] * found[1] <= MOST_WEBP_PIXELS)


def _vp8(body: bytes) -> tuple[int, int, bool]:
    width, height = struct.unpack_from("<HH", body, 6)
    if body[3:6] != b"\x9d\x01\x2a":
        raise ValueError("no key frame")
    return width & 0x3FFF, height & 0x3FFF, True


def _vp8l(body: bytes) -> tuple[int, int, bool]:
    signature, bits = struct.unpack_from("<BI", body)
    if signature != 0x2F:
        raise ValueError("no lossless picture")
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), not bits >> 28 & 1


def _is_upright(exif: bytes) -> bool:
    """Whether EXIF data certainly does not rotate the picture, and its entries do not overlap (decoders copy each)."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) > MOST_EXIF_BYTES:
        return False
    (at,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, at)
    left = len(exif)
    for index in range(count):
        tag, kind, number, value = struct.unpack_from(f"{order}HHIH", exif, at + 2 + 12 * index)
        left -= number
        if left < 0:
            return False
        if tag == _ORIENTATION and (kind, number, value) != (_SHORT, 1, 1):
            return False
    return True


def _is_upright_by_xmp(text: bytes) -> bool:
    return all(turn == b"1" for turn in _XMP_ORIENTATION.findall(text))


# --- decoding with Pillow ---------------------------------------------------------------------------------------------

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
