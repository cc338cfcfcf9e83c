"""Image headers: what the parser reads agrees with the decoders; files that it cannot judge are left to them."""

from __future__ import annotations

import io
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage

import pictures
from cuecard.models.images import decoding

KINDS = pictures.every_kind()
JPEG, PNG, WEBP = KINDS["JPEG RGB 0"], KINDS["PNG RGB 0"], KINDS["WEBP RGB 0"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_header_says_is_what_a_decoder_finds(kind: str) -> None:
    header = decoding.header_of(KINDS[kind])
    with PilImage.open(io.BytesIO(KINDS[kind])) as picture:
        is_plain = picture.get_format_mimetype() in decoding.SERVED and decoding.is_plain(picture)
        if picture.format in ("GIF", "BMP", "TIFF"):
            assert header is None
        else:
            assert header is not None
            assert (header.width, header.height, header.is_plain) == (*picture.size, is_plain)


@pytest.mark.filterwarnings("ignore")  # decoders warn about damaged but readable files
@given(st.sampled_from(sorted(KINDS)), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=3), st.data())
@settings(max_examples=200, deadline=None)
def test_a_header_of_damaged_bytes_never_says_another_size(
    kind: str, changes: list[tuple[int, int]], draw: st.DataObject
) -> None:
    damaged = bytearray(KINDS[kind])
    for at, value in changes:
        damaged[at % min(len(damaged), 200)] = value
    header = decoding.header_of(bytes(damaged[: draw.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))]))
    if header is None:
        return
    try:
        with PilImage.open(io.BytesIO(damaged), formats=decoding.FORMATS) as picture:
            assert picture.size == (header.width, header.height)
    except (PilImage.UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return  # no decoder reads it


@pytest.mark.parametrize(
    "data",
    [
        b"",
        *(data[:-1] for data in (JPEG, PNG, WEBP)),
        *(data[:20] for data in (JPEG, PNG, WEBP)),
        PNG[:50] + b"x" + PNG[51:],
        pictures.png_with(pictures.png_chunk(b"IHDR", PNG[16:29])),
        pictures.png_with(pictures.png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(900_000))) * 2),
        PNG[:33] + PNG[-12:],
        JPEG[:2] + JPEG[JPEG.index(b"\xff\xc0") :][:19] + JPEG[2:],
        JPEG.replace(b"\xff\xc0", b"\xff\xc9"),
        JPEG[:-2] + JPEG[JPEG.index(b"\xff\xda") : -2] * 40 + b"\xff\xd9",
    ],
)
def test_what_is_cut_damaged_or_odd_is_left_to_a_decoder(data: bytes) -> None:
    assert decoding.header_of(data) is None


@pytest.mark.parametrize(("entries", "size", "pieces"), [(4000, 50_000, 1), (3, 100_000, 2)])
def test_exif_data_that_grows_when_it_is_read_is_left_to_a_decoder(entries: int, size: int, pieces: int) -> None:
    header = decoding.header_of(pictures.jpeg_of_exif(entries, size, pieces))
    assert header == decoding.Header("image/jpeg", 64, 48, False)
    plain = decoding.header_of(pictures.jpeg_of_exif(100, 10, 1))
    assert plain == decoding.Header("image/jpeg", 64, 48, True)


def test_a_large_webp_is_not_kept_as_it_is() -> None:
    header = decoding.header_of(pictures.encoded(PilImage.new("RGB", (4097, 4097)), "WEBP", lossless=True, method=0))
    assert header == decoding.Header("image/webp", 4097, 4097, False)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff\xe0\0\2" * 4_000_000,
        b"\xff\xd8" + b"\xff\xe1\0\x0aExif\0\0II" * 1_000_000,
        b"\xff\xd8" + b"\xff" * 16_000_000,
        JPEG[:-2] + b"\xff" * 16_000_000,
        JPEG[:-2] + b"\xff\0" * 8_000_000,
        pictures.png_with(pictures.png_chunk(b"tEXt", b"a\0") * 1_000_000),
        b"RIFF\xf0\xff\xff\0WEBP" + b"ABCD\0\0\0\0" * 2_097_152,
    ],
    ids=["segments", "EXIF", "fill", "fill in a scan", "stuffed", "chunks", "RIFF"],
)
def test_files_of_very_many_parts_are_given_up_soon(data: bytes) -> None:
    began = time.monotonic()
    assert decoding.header_of(data) is None
    assert time.monotonic() - began < 2
