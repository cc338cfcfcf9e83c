"""Headers of PNG, JPEG and WebP, without decoding: format, size, and whether all models see the image alike.

Time is linear in the bytes, and the number of parts is bounded. Unusual files are left to a decoder.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

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


def read(data: bytes) -> Header | None:
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
