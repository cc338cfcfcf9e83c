"""Image decoding in a child process gives the same result as in this one, within time and memory limits."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from PIL import Image as PilImage

import pictures
from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image
from cuecard.models.images import decoding, images
from cuecard.models.images.decoding import Refused
from cuecard.models.images.images import SMALL_PIXELS, Bounds, ImageDecoder

KINDS = pictures.every_kind()
MIB = 2**20


@pytest.fixture(scope="module")
def decoder() -> Iterator[ImageDecoder]:
    made = ImageDecoder()
    yield made
    made.close()


def taken(decoder: ImageDecoder, data: bytes, bounds: Bounds | None = None) -> Image:
    return decoder.taken(data, decoding.header_of(data), bounds or Bounds())[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_makes_of_an_image_what_this_process_makes_of_it(kind: str, decoder: ImageDecoder) -> None:
    assert taken(decoder, KINDS[kind]) == images.load(KINDS[kind])


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_last_bytes_is_read(decoder: ImageDecoder, progressive: bool) -> None:
    image = taken(decoder, pictures.cut_jpeg(progressive=progressive))
    with PilImage.open(io.BytesIO(image.data)) as picture:
        picture.load()
        assert (picture.format, picture.size) == ("PNG", (640, 480))


def test_half_a_jpeg_is_refused(decoder: ImageDecoder) -> None:
    whole = pictures.cut_jpeg()
    for data in (whole[: len(whole) // 2], whole[:700], pictures.cut_jpeg(progressive=True)[:700]):
        with pytest.raises(Refused, match="broken"):
            taken(decoder, data)


@pytest.mark.parametrize("data", [b"nothing", b"%PDF-1.7", KINDS["TIFF"][:50], KINDS["PNG RGB 0"][:80]])
def test_what_is_broken_is_refused(decoder: ImageDecoder, data: bytes) -> None:
    with pytest.raises(Refused, match="broken"):
        taken(decoder, data)


def test_too_many_pixels_are_refused_with_their_size(decoder: ImageDecoder) -> None:
    for kind in ("GIF", "BMP", "TIFF", "PNG transparent"):
        with pytest.raises(Refused, match="pixels") as caught:
            taken(decoder, KINDS[kind], Bounds(pixels=64 * 48 - 1))
        assert caught.value.size == (64, 48)


def test_a_decode_is_bounded_in_memory_and_the_next_one_works(decoder: ImageDecoder) -> None:
    wide = pictures.encoded(PilImage.new("RGBA", (4000, 4000)), compress_level=1)
    for data in (wide, pictures.encoded(PilImage.new("RGB", (4000, 4000)), "TIFF", compression="tiff_lzw")):
        with pytest.raises(Refused, match="memory"):
            taken(decoder, data, Bounds(memory_bytes=48 * MIB))
    assert taken(decoder, KINDS["GIF"]) == images.load(KINDS["GIF"])


def test_a_decode_is_bounded_in_time_and_the_next_one_works(decoder: ImageDecoder) -> None:
    with pytest.raises(Refused, match="slow"):
        taken(decoder, pictures.gif_of_comments(2_000_000), Bounds(seconds=0.2))
    assert taken(decoder, KINDS["GIF"]) == images.load(KINDS["GIF"])


def test_a_tiff_in_very_many_pieces_is_refused(decoder: ImageDecoder) -> None:
    assert decoding.taken(pictures.tiff_of_tiles(30), 10**6, True)[0] == (30, 30)
    with pytest.raises(Refused, match="pieces"):
        taken(decoder, pictures.tiff_of_tiles(1000))
    with pytest.raises(BadInput, match="too many pieces"):
        images.load(pictures.tiff_of_tiles(1000))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "LA", "CMYK", "I;16"])
def test_a_large_picture_that_is_drawn_anew_becomes_smaller(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MOST_DRAWN", 300 * 100)
    picture = PilImage.new("RGB", (600, 200), "white")
    picture.paste((255, 0, 0), (0, 0, 300, 200))
    whole = picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert(mode)
    with PilImage.open(io.BytesIO(decoding.drawn(whole))) as small:
        assert (small.size, small.mode) == ((300, 100), "RGB")
    turned = pictures.encoded(picture, "JPEG", exif=pictures.exif(6))
    with PilImage.open(io.BytesIO(images.load(turned).data)) as small:
        assert small.size == (100, 300)
        assert min(small.getpixel((50, 20))) < 60
        assert min(small.getpixel((50, 280))) > 200


def test_large_pictures_for_models_in_this_process_are_decoded_in_the_child(decoder: ImageDecoder) -> None:
    side = int(SMALL_PIXELS**0.5) + 1
    for size in ((64, 48), (side, side)):
        picture = PilImage.linear_gradient("L").resize(size).convert("RGB")
        for kind in ("PNG", "BMP"):
            made = decoder.rgb(pictures.encoded(picture, kind))
            assert (made.mode, made.size, made.tobytes()) == ("RGB", size, picture.tobytes())
    with pytest.raises(BadInput, match="cannot be read"):
        images.opened(Image(b"nothing"))
