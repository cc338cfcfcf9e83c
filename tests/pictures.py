"""Images for tests: all formats and modes, and images that are costly to decode."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import ExifTags, PngImagePlugin
from PIL import Image as PilImage

XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def encoded(picture: PilImage.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(wide: int = 64, high: int = 48) -> PilImage.Image:
    return PilImage.effect_noise((wide, high), 80).convert("RGB")


def exif(turn: int) -> PilImage.Exif:
    made = PilImage.Exif()
    made[ExifTags.Base.Orientation], made[ExifTags.Base.Make] = turn, "Maker"
    return made


def deep() -> PilImage.Image:
    """An image with 16 bits per pixel."""
    return PilImage.fromarray(np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16))


def clear() -> PilImage.Image:
    """A half-transparent image."""
    picture = noise()
    picture.putalpha(PilImage.linear_gradient("L").resize(picture.size))
    return picture


def png_text(text: str) -> PngImagePlugin.PngInfo:
    made = PngImagePlugin.PngInfo()
    made.add_itxt("XML:com.adobe.xmp", text)
    made.add_text("Software", "test")
    return made


def every_kind() -> Mapping[str, bytes]:
    """Description -> small image file, for all formats, modes and orientations."""
    frames = {"save_all": True, "append_images": [noise().rotate(90)]}
    made = {
        f"{kind} {mode} {turn}": encoded(noise().convert(mode), kind, **({"exif": exif(turn)} if turn else {}))
        for kind, modes in (("PNG", "RGB L P 1 LA"), ("JPEG", "RGB L CMYK"), ("WEBP", "RGB L"))
        for mode in modes.split()
        for turn in (0, 1, 6)
    }
    return made | {
        "PNG 16 bits": encoded(deep()),
        "PNG transparent": encoded(clear()),
        "PNG palette and transparency": encoded(clear().quantize(8)),
        "PNG transparent colour": encoded(noise(), transparency=(1, 2, 3)),
        "PNG animated": encoded(noise(), **frames),
        "PNG turned by XMP": encoded(noise(), pnginfo=png_text(XMP.decode())),
        "PNG with XMP": encoded(noise(), pnginfo=png_text("<x:xmpmeta/>")),
        "JPEG progressive": encoded(noise(), "JPEG", progressive=True),
        "JPEG turned by XMP": encoded(noise(), "JPEG", xmp=XMP),
        "JPEG with a profile": encoded(noise(), "JPEG", icc_profile=b"x" * 100_000),
        "JPEG of two pictures": encoded(noise(), "MPO", **frames),
        "JPEG and something behind it": encoded(noise(), "JPEG") + b"\xff\xd8\xff" * 50,
        "WEBP lossless": encoded(noise(), "WEBP", lossless=True),
        "WEBP lossless with a profile": encoded(noise(), "WEBP", lossless=True, icc_profile=b"x" * 101),
        "WEBP transparent": encoded(clear(), "WEBP"),
        "WEBP lossless, transparent": encoded(clear(), "WEBP", lossless=True),
        "WEBP animated": encoded(noise(), "WEBP", **frames),
        "WEBP turned by XMP": encoded(noise(), "WEBP", xmp=XMP),
        "GIF": encoded(noise(), "GIF"),
        "GIF animated": encoded(noise(), "GIF", **frames),
        "BMP": encoded(noise(), "BMP"),
        "TIFF": encoded(noise(), "TIFF"),
        "TIFF, 16 bits, packed": encoded(deep(), "TIFF", compression="tiff_adobe_deflate"),
        "TIFF turned": encoded(noise(), "TIFF", exif=exif(6)),
    }


def jpeg_of_exif(entries: int, size: int, pieces: int = 1) -> bytes:
    """A JPEG with EXIF entries that all point to one offset."""
    body = struct.pack("<H", entries)
    for tag in range(entries):
        body += struct.pack("<HHII", 1000 + tag, 7, size, 8)
    whole = (b"II*\0" + struct.pack("<I", 8) + body + bytes(4)).ljust(size + 8, b"\0")
    step = -(-len(whole) // pieces)
    parts = [b"Exif\0\0" + whole[at : at + step] for at in range(0, len(whole), step)]
    data = encoded(noise(), "JPEG")
    jfif = 2 + 18
    return data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", 2 + len(part)) + part for part in parts) + data[jfif:]


def cut_jpeg(**options: Any) -> bytes:
    """A JPEG without its last 20 bytes."""
    return encoded(noise(640, 480), "JPEG", **options)[:-20]


def png_chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(more: bytes) -> bytes:
    """A PNG of one pixel, with additional chunks after its header."""
    data = encoded(PilImage.new("RGB", (1, 1)))
    return data[:33] + more + data[33:]


def huge_webps(count: int) -> list[bytes]:
    """Transparent lossless images of 7000x7000 pixels in one colour; they differ only in ignored bytes."""
    whole = bytes.fromhex("524946461e000000574542505650384c110000002f57dbd51607d0842634a1098188e87f0000")
    return [whole + index.to_bytes(4, "little") for index in range(count)]


def gif_of_comments(count: int) -> bytes:
    """A GIF with a comment in one-byte blocks before its picture."""
    data = encoded(noise(), "GIF")
    head = 13 + 3 * 2 ** (1 + (data[10] & 7))
    return data[:head] + b"\x21\xfe" + b"\1x" * count + b"\0" + data[head:]


def tiff_of_tiles(side: int) -> bytes:
    """A grey TIFF in tiles of 1x1 pixels that all point to one offset."""
    tags, count = 10, side * side
    where = 8 + 2 + 12 * tags + 4
    entries = [
        (256, 4, 1, side),
        (257, 4, 1, side),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
        (322, 4, 1, 1),
        (323, 4, 1, 1),
        (324, 4, count, where),
        (325, 4, count, where + 4 * count),
    ]
    directory = struct.pack("<H", tags) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 8) * count + struct.pack("<I", 1) * count
