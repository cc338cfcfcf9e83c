"""Images as a user gives them: path, bytes, picture, data URL, URL when allowed; checked before a model sees them."""

from __future__ import annotations

import base64
import io
import urllib.error
import urllib.request
import warnings
from http.client import HTTPException
from pathlib import Path
from typing import Any, cast

from PIL import ExifTags, ImageOps
from PIL import Image as PilImage

from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image

MOST_BYTES, MOST_PIXELS, FETCH_S = 32 * 2**20, 50_000_000, 15
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SERVED = ("image/png", "image/jpeg", "image/webp")
"""What every server takes."""


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
    if name.startswith("data:"):
        return checked(_decoded(name), "the data URL")
    if name.startswith(("http://", "https://")):
        if not allow_urls:
            raise BadInput(f"{_short(name)} is a URL, and fetching is off", "download it, or allow URLs (--allow-urls)")
        return checked(_fetched(name), _short(name))
    return checked(_file(Path(name)), _short(name))


def checked(data: bytes, name: str) -> Image:
    """The image, if it is one that models can take; the same bytes where every model sees them alike."""
    if not data:
        raise BadInput(f"{name} is empty", "give a PNG, JPEG or WebP image")
    if len(data) > MOST_BYTES:
        raise _too_large(name, f"{len(data) / 2**20:.0f} MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decoders, about files that are readable all the same
            with PilImage.open(io.BytesIO(data), formats=FORMATS) as picture:
                _refuse_huge(picture, name)
                picture.load()
                kind = picture.get_format_mimetype()
                return Image(data, kind) if kind in SERVED and _is_plain(picture) else _drawn(picture, name)
    except BadInput:
        raise
    except PilImage.DecompressionBombError as error:
        raise _too_large(name, "too many pixels") from error
    except Exception as error:  # a decoder may raise anything about broken data
        raise BadInput(
            f"{name} cannot be read: it is broken, or not an image", f"give one of {', '.join(FORMATS)}"
        ) from error


def _is_plain(picture: PilImage.Image) -> bool:
    """One opaque picture, upright, 8 bits a channel: no model can see it otherwise than another."""
    upright = picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
    still = getattr(picture, "n_frames", 1) == 1
    return upright and still and picture.mode in ("RGB", "L", "P", "1") and not picture.has_transparency_data


def _drawn(picture: PilImage.Image, name: str) -> Image:
    """The picture as a person sees it, as a PNG: upright, its first frame, on white, 8 bits a channel."""
    _refuse_huge(picture, name)
    try:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith(("I", "F")):
            upright = _eight_bits(upright)
        if upright.has_transparency_data:
            paper = PilImage.new("RGBA", upright.size, "white")
            upright = PilImage.alpha_composite(paper, upright.convert("RGBA"))
        buffer = io.BytesIO()
        upright.convert("RGB").save(buffer, "PNG")
    except Exception as error:  # a picture of no size, or of a mode that nothing else knows
        raise BadInput(f"{name} cannot be drawn: {error}", f"give one of {', '.join(FORMATS)}") from error
    return Image(buffer.getvalue())


def _eight_bits(picture: PilImage.Image) -> PilImage.Image:
    """16 bits as 8, which a mere conversion would cut off at 255; 32 bits and floats between their own extremes."""
    low, high = (0.0, 65535.0) if picture.mode.startswith("I;16") else cast(tuple[float, float], picture.getextrema())
    scale = 255 / ((high - low) or 1)
    return picture.convert("F").point(lambda value: value * scale - low * scale).convert("L")


def _refuse_huge(picture: PilImage.Image, name: str) -> None:
    wide, high = picture.size
    if wide * high > MOST_PIXELS:
        raise _too_large(name, f"{wide}x{high} pixels")


def _too_large(name: str, size: str) -> BadInput:
    most = f"{MOST_BYTES // 2**20} MiB and {MOST_PIXELS // 10**6} megapixels are taken"
    return BadInput(f"{name} has {size}; at most {most}", "make it smaller")


def _short(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:199]}…"


def data_url(image: Image) -> str:
    """The image as a data URL, the form that every server takes."""
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"


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


def _decoded(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not (comma and head.endswith(";base64")):
        raise BadInput("a data URL must be base64", "use data:image/png;base64,…")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except ValueError as error:
        raise BadInput("the data URL is not valid base64") from error


def _fetched(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=FETCH_S) as answer:
            data: bytes = answer.read(MOST_BYTES + 1)
            return data
    except (OSError, ValueError, HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise BadInput(f"cannot fetch {_short(url)}: {reason}") from error
