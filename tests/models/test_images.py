"""Images as users pass them: usable ones are accepted, others rejected with a hint."""

from __future__ import annotations

import base64
import io
import struct
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, features
from PIL import Image as PilImage

from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image
from cuecard.models.images import images
from cuecard.models.images.images import MOST_BYTES, load

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(picture: PilImage.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(size: tuple[int, int] = (8, 6), colour: Any = RED, mode: str = "RGB") -> PilImage.Image:
    return PilImage.new(mode, size, colour)


def seen(image: Image) -> PilImage.Image:
    """The image that a model decodes."""
    with PilImage.open(io.BytesIO(image.data)) as picture:
        return picture.convert("RGB")


# --- accepted images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_plain_image_keeps_its_bytes(kind: str) -> None:
    data = encoded(plain(), kind)
    assert load(data) == Image(data, f"image/{kind.lower()}")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_a_format_that_servers_do_not_know_becomes_png(kind: str) -> None:
    image = load(encoded(plain(), kind))
    assert image.media_type == "image/png"
    assert image.data.startswith(b"\x89PNG")
    assert seen(image).getpixel((1, 1)) == RED


def test_every_way_to_give_an_image_gives_the_same(tmp_path: Path) -> None:
    data = encoded(plain())
    path = tmp_path / "a picture, with spaces: ä.png"
    path.write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    wrapped = "data:image/png;base64," + base64.encodebytes(data).decode()
    given = [path, str(path), data, bytearray(data), memoryview(data), url, wrapped, Image(data)]
    assert {load(source) for source in given} == {Image(data)}
    assert load(data).data_url == url


@pytest.mark.parametrize("head", ["data:image/png;base64,", "DATA:image/PNG;BASE64,", "data:;charset=x;Base64,"])
def test_a_data_url_may_be_spelled_as_browsers_read_it(head: str) -> None:
    data = encoded(PilImage.effect_noise((64, 64), 80))
    text = base64.b64encode(data).decode()
    assert "+" in text
    assert "/" in text
    spelled = [
        text.rstrip("="),
        base64.urlsafe_b64encode(data).decode(),
        base64.urlsafe_b64encode(data).decode().rstrip("="),
        quote(text, safe=""),
        text.replace("=", "%3d").replace("/", "%2f"),
        "\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
    ]
    assert {load(head + each) for each in spelled} == {Image(data)}


def test_a_picture_in_memory_is_taken() -> None:
    assert seen(load(plain())).getpixel((0, 0)) == RED


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [plain(colour=colour) for colour in (RED, (0, 0, 255), WHITE)]
    for kind in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
        image = load(data)
        with PilImage.open(io.BytesIO(image.data)) as picture:
            assert getattr(picture, "n_frames", 1) == 1
        assert seen(image).getpixel((1, 1)) == RED


def test_transparency_is_laid_on_white() -> None:
    clear = plain(colour=(0, 0, 0, 0), mode="RGBA")
    clear.putpixel((1, 1), (0, 0, 0, 255))
    palette = clear.quantize(4)
    for data in (encoded(clear), encoded(clear, "WEBP", lossless=True), encoded(clear.convert("LA")), encoded(palette)):
        picture = seen(load(data))
        assert (picture.getpixel((1, 1)), picture.getpixel((5, 5))) == ((0, 0, 0), WHITE)
    assert seen(load(clear)).getpixel((5, 5)) == WHITE


def test_sixteen_bits_become_eight_without_being_cut_off() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    deep = PilImage.fromarray(ramp.astype(np.uint16))
    floats = PilImage.fromarray((ramp / 65535).astype(np.float32))
    for source in (encoded(deep), encoded(deep, "TIFF"), deep, encoded(floats, "TIFF"), floats):
        values = np.asarray(seen(load(source)))[..., 0].astype(int)
        assert (values[0, 0], values[-1, -1]) in {(0, 255), (0, 254)}
        assert values[32, 0] == pytest.approx(127, abs=2)


def test_a_dark_sixteen_bit_image_stays_dark() -> None:
    dark = PilImage.fromarray(np.full((4, 4), 2570, np.uint16))
    assert seen(load(encoded(dark))).getpixel((0, 0)) == (10, 10, 10)


def test_ink_colours_become_light_colours() -> None:
    picture = seen(load(encoded(plain(colour=(0, 255, 255, 0), mode="CMYK"), "JPEG")))
    assert picture.mode == "RGB"
    red, green, blue = picture.getpixel((1, 1))
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photograph_taken_sideways_is_turned_upright(kind: str) -> None:
    picture = plain((40, 20), WHITE)
    picture.paste(RED, (0, 0, 20, 20))
    exif = PilImage.Exif()
    exif[ExifTags.Base.Orientation] = 6  # displayed rotated by 90° clockwise
    image = load(encoded(picture, kind, exif=exif))
    upright = seen(image)
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5))[1] < 60
    assert upright.getpixel((10, 35))[1] > 200
    assert load(image.data) == image


def test_an_image_that_is_upright_by_its_exif_keeps_its_bytes() -> None:
    exif = PilImage.Exif()
    exif[ExifTags.Base.Orientation] = 1
    data = encoded(plain(), "JPEG", exif=exif)
    assert load(data).data == data


@pytest.mark.parametrize(
    "picture", [plain((1, 1)), plain((1, 500)), plain(mode="1", colour=1), plain(mode="L", colour=9)]
)
def test_small_and_simple_images_are_taken(picture: PilImage.Image) -> None:
    assert seen(load(encoded(picture))).size == picture.size


# --- rejected images --------------------------------------------------------------------------------------------------


def png_that_claims(wide: int, high: int) -> bytes:
    """A PNG of a few bytes with this size in its header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"hello, I am a text", "broken, or not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "broken, or not an image"),
        (b"%PDF-1.7", "broken, or not an image"),
        (encoded(plain((64, 64)))[:80], "broken, or not an image"),
        (encoded(PilImage.effect_noise((64, 64), 50), "JPEG")[:600], "broken, or not an image"),
        (encoded(plain())[:8], "broken, or not an image"),
        (png_that_claims(8000, 8000), "8000x8000 pixels; at most .* 50 megapixels"),
        (png_that_claims(30_000, 30_000), "30000x30000 pixels; at most .* 50 megapixels"),
        (png_that_claims(2**31 - 1, 2**31 - 1), "broken|pixels"),
        (png_that_claims(0, 5), "broken, or not an image"),
        (bytes(MOST_BYTES + 1), "32 MiB; at most 32 MiB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("as_file", [False, True])
def test_what_is_no_usable_image_is_refused(data: bytes, words: str, as_file: bool, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=words) as caught:
        load(path if as_file else data)
    assert caught.value.hint
    assert str(caught.value).startswith(str(path) if as_file else "the image")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no/such/image.png", "cannot read the image no/such/image.png: No such file"),
        (Path("/"), "/ is not a file"),
        ("/dev/zero", "/dev/zero is not a file"),
        ("nul\0byte.png", "is not a path"),
        pytest.param("x" * 5000, "cannot read the image x+…: File name too long", id="very long"),
        ("data:image/png,abc", "must be base64"),
        ("data:image/png;base64", "must be base64"),
        ("data:image/png;base64,%%%", "not valid base64"),
        ("data:image/png;base64,ä", "not valid base64"),
        ("data:image/png;base64,", "is empty"),
        ("data:text/plain;base64,aGVsbG8=", "the data URL cannot be read"),
        ("http://example.org/a.png", "fetching is off"),
        ("https://example.org/a.png", "fetching is off"),
        (plain((0, 5)), "cannot be drawn"),
        (None, "cannot read the image None"),
        (3, "cannot read the image 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_source_that_gives_no_image_is_refused(source: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        load(source)
    assert len(str(caught.value)) < 400


def test_a_picture_in_memory_that_is_huge_is_refused() -> None:
    with pytest.raises(BadInput, match="8000x8000 pixels"):
        load(plain((8000, 8000), 0, "L"))


FUZZED = [
    encoded(PilImage.effect_noise((24, 24), 80).convert(mode), kind)
    for kind, mode in (
        ("PNG", "RGBA"),
        ("JPEG", "RGB"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("TIFF", "RGB"),
        ("WEBP", "RGBA"),
    )
    if kind != "WEBP" or features.check("webp")
]


@given(st.sampled_from(FUZZED), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_images_are_taken_or_refused_and_nothing_else(
    data: bytes, changes: list[tuple[int, int]], draw: st.DataObject
) -> None:
    damaged = bytearray(data)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    length = draw.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))
    try:
        image = load(bytes(damaged[:length]))
    except BadInput:
        return
    assert seen(image).mode == "RGB"


# --- URLs -------------------------------------------------------------------------------------------------------------


class Files(BaseHTTPRequestHandler):
    """Serves one image, one redirect to a file, and one truncated response."""

    def do_GET(self) -> None:
        if self.path == "/red.png":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(encoded(plain()))
        elif self.path == "/file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
        elif self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "99")
            self.end_headers()
        elif self.path == "/nonsense":
            self.wfile.write(b"this is not HTTP\r\n\r\n")
        else:
            self.send_error(404)

    def log_message(self, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Files) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def test_a_url_is_fetched_if_that_is_allowed(address: str) -> None:
    assert load(f"{address}/red.png", allow_urls=True) == Image(encoded(plain()))


@pytest.mark.parametrize("path", ["/missing", "/file", "/cut", "/nonsense", "/with space"])
def test_a_url_that_gives_no_image_is_refused(path: str, address: str) -> None:
    with pytest.raises(BadInput):
        load(address + path, allow_urls=True)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.png", "http://", "http://[::1", "http://host:port/a.png"])
def test_a_url_that_leads_nowhere_is_refused(url: str) -> None:
    with pytest.raises(BadInput):
        load(url, allow_urls=True)


def test_the_limits_on_images_are_ones_that_a_server_bears() -> None:
    assert images.MOST_BYTES <= 32 * 2**20
    assert images.MOST_PIXELS <= 50_000_000
