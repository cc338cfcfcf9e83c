"""Images as a user gives them: path, bytes, picture, data URL, URL when allowed; checked before a model sees them."""

from __future__ import annotations

import base64
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from PIL import Image as PilImage

from cuecard.domain.errors import BadInput, TooLarge
from cuecard.domain.question import Image
from cuecard.models.images import image_headers, pillow_decoding
from cuecard.models.images.decoder import DECODER, MOST_PIXELS
from cuecard.models.images.pillow_decoding import FORMATS, Refused

MOST_BYTES, FETCH_S = 32 * 2**20, 15
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
    """The image, if it is one that models can take; the same bytes where every model sees them alike."""
    refuse_bytes(data, name)
    header = image_headers.read(data)
    try:
        if header is not None:
            pillow_decoding.refuse_huge((header.width, header.height), MOST_PIXELS)
        _, kind, made = pillow_decoding.taken(data, MOST_PIXELS, keep=header is not None)
    except Refused as refused:
        raise _told(refused, name) from refused
    return Image(made, kind)


def opened(image: Image) -> PilImage.Image:
    """The picture as a model in this process takes it. Raises BadInput."""
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
    """The error for what no decoder reads."""
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
        pillow_decoding.refuse_huge(picture.size, MOST_PIXELS)
        return Image(pillow_decoding.drawn(picture))
    except Refused as refused:
        raise _told(refused, name) from refused
    except Exception as error:  # a picture of no size, or of a mode that nothing else knows
        raise BadInput(f"{name} cannot be drawn: {error}", f"give one of {', '.join(FORMATS)}") from error


def _too_large(name: str, size: str) -> TooLarge:
    most = f"{MOST_BYTES // 2**20} MiB and {MOST_PIXELS // 10**6} megapixels are taken"
    return TooLarge(f"{name} has {size}; at most {most}", "make it smaller")


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


def is_data_url(name: str) -> bool:
    return name[:5].lower() == "data:"


def decoded(url: str) -> bytes:
    """The bytes in a data URL, in any spelling of base64 that browsers read. Raises BadInput."""
    head, comma, body = url.partition(",")
    if not (comma and head.lower().endswith(";base64")):
        raise BadInput("a data URL must be base64", "use data:image/png;base64,…")
    try:
        text = b"".join(unquote_to_bytes(body).split()).rstrip(b"=")
        return base64.b64decode(text.translate(_URL_SAFE) + b"=" * (-len(text) % 4), validate=True)
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
