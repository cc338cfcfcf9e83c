"""Images as a user gives them: path, bytes, picture, data URL, URL when allowed; checked before a model sees them."""

from __future__ import annotations

import base64
import binascii
import io
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Any

from PIL import Image as PilImage

from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image

MOST_BYTES, MOST_PIXELS, FETCH_S = 32 * 2**20, 50_000_000, 15
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def load(source: Any, allow_urls: bool = False) -> Image:
    """One image from a path, bytes, a PIL picture, a data URL, or (only if allowed) an http URL. Raises BadInput."""
    if isinstance(source, Image):
        return source
    if isinstance(source, PilImage.Image):
        buffer = io.BytesIO()
        source.convert("RGB").save(buffer, "PNG")
        return checked(buffer.getvalue(), "the picture")
    if isinstance(source, bytes):
        return checked(source, "the image")
    name = str(source)
    if name.startswith("data:"):
        return checked(_decoded(name), "the data URL")
    if name.startswith(("http://", "https://")):
        if not allow_urls:
            raise BadInput(
                f"{name} is a URL, and fetching is off", "download it yourself, or allow URLs (--allow-urls)"
            )
        return checked(_fetched(name), name)
    return checked(_file(Path(name)), name)


def checked(data: bytes, name: str) -> Image:
    """The image, if it is one that models can take."""
    if not data:
        raise BadInput(f"{name} is empty", "give a PNG, JPEG or WebP image")
    if len(data) > MOST_BYTES:
        raise BadInput(
            f"{name} has {len(data) / 2**20:.0f} MiB; at most {MOST_BYTES // 2**20} are taken", "make it smaller"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PilImage.DecompressionBombWarning)
            with PilImage.open(io.BytesIO(data), formats=FORMATS) as picture:
                wide, high = picture.size
                if wide * high > MOST_PIXELS:
                    raise BadInput(
                        f"{name} is {wide}x{high}; at most {MOST_PIXELS / 1e6:.0f} megapixels are taken",
                        "make it smaller",
                    )
                picture.load()
                kind = picture.get_format_mimetype() or "image/png"
    except (OSError, SyntaxError, ValueError, PilImage.DecompressionBombError) as error:
        raise BadInput(
            f"{name} cannot be read: it is broken, or not an image", f"give one of {', '.join(FORMATS)}"
        ) from error
    if kind not in ("image/png", "image/jpeg", "image/webp"):
        return load(PilImage.open(io.BytesIO(data)))  # servers know the common three
    return Image(data, kind)


def data_url(image: Image) -> str:
    """The image as a data URL, the form that every server takes."""
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"


def _file(path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadInput(
                f"{path} has {path.stat().st_size / 2**20:.0f} MiB; at most {MOST_BYTES // 2**20} are taken",
                "make it smaller",
            )
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read the image {path}: {error.strerror}", "is the path right?") from error
    except ValueError as error:
        raise BadInput(f"{str(path)[:80]!r} is not a path") from error


def _decoded(url: str) -> bytes:
    head, _, body = url.partition(",")
    try:
        if not head.endswith(";base64"):
            raise BadInput("a data URL must be base64", "use data:image/png;base64,…")
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise BadInput("the data URL is not valid base64") from error


def _fetched(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=FETCH_S) as answer:
            data: bytes = answer.read(MOST_BYTES + 1)
            return data
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise BadInput(f"cannot fetch {url}: {reason}") from error
